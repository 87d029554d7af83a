"""Time of `convnext-ablation predict` against timm's `inference.py`, from the command to the results file.

Images are synthetic JPEGs of `--size` pixels a side, as `prepare` writes them. Networks have random weights
and initial BatchNorm statistics. Both commands read the same folder and checkpoint on the CPU, with their
default batch sizes and workers, and take turns. Their top-1 classes are compared. Besides wall-clock time on
all cores, CPU time is reported, which depends less on other load.

    git clone https://github.com/huggingface/pytorch-image-models timm
    python benchmarks/prediction_speed.py --timm timm --output results/prediction_speed.csv
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import timm
import torch
from common import (
    MACHINE,
    VERSIONS,
    Row,
    add_timm,
    parsed,
    parser_of,
    ratio_columns,
    read_rows,
    write_photographs,
    write_rows,
)

import convnext_ablation  # noqa: F401  registers the networks
from convnext_ablation.timing import Times

CLASSES = 200


def main() -> None:
    """Measures, and writes the CSV file."""
    parser = parser_of(__doc__)
    add_timm(parser)
    parser.add_argument("--models", nargs="+", default=["model_i", "model_iv", "model_v"])
    parser.add_argument("--size", type=int, default=224, help="pixels a side of the pictures")
    parser.add_argument("--images", type=int, default=5_000)
    parser.add_argument("--rounds", type=int, default=5)
    options = parsed(parser, models=["model_v_atto"], size=32, images=8, rounds=1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        # in one class folder, without which timm's script finds no images
        pictures = [folder / "pictures" / "all" / f"{number:05d}.jpg" for number in range(options.images)]
        write_photographs(pictures, quality=95, size=(options.size, options.size))
        rows = [measure(folder, model, options) for model in options.models]
    common = {"size": options.size, "images": options.images, "rounds": options.rounds}
    common |= {"machine": MACHINE, **VERSIONS}
    write_rows(options.output, [{**row, **common} for row in rows])


def measure(folder: Path, model: str, options: argparse.Namespace) -> Row:
    """Times both commands in turn; returns a row."""
    torch.manual_seed(0)
    checkpoint = folder / f"{model}.pth"
    torch.save(timm.create_model(model, num_classes=CLASSES).state_dict(), checkpoint)
    common = [folder / "pictures", "--model", model, "--checkpoint", checkpoint, "--num-classes", CLASSES]
    common += ["--img-size", options.size, "--device", "cpu", "--results-dir", folder]
    theirs = ["convnext_ablation.stock", options.timm / "inference.py", *common, "--include-index"]
    theirs += ["--no-console-results", "--results-file", "timm.csv"]
    ours = ["convnext_ablation.cli.main", "predict", *common, "--results-file", "ours.csv", "--force"]
    times = [(seconds(theirs), seconds(ours)) for _ in range(options.rounds)]
    row = {"model": model, "same_top1": f"{same_top1(folder):.4f}"}
    for kind, name in enumerate(("seconds", "processor_seconds")):
        timms, mine = (Times(tuple(taken[kind] for taken in both)) for both in zip(*times, strict=True))
        names = [f"{figure}_{name}" for figure in ("times_faster", "lowest", "highest")]
        row |= {f"timm_{name}": f"{timms.median:.1f}", f"ours_{name}": f"{mine.median:.1f}"}
        row |= ratio_columns(mine.times_faster_than(timms), names)
    print(row, flush=True)
    return row


def seconds(command: Sequence[object]) -> tuple[float, float]:
    """Wall-clock and CPU time of a module's command."""
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run([sys.executable, "-m", *map(str, command)], check=True, capture_output=True)
    wall, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def same_top1(folder: Path) -> float:
    """Share of images for which both predict the same class."""
    theirs, ours = (
        {row["filename"]: row["index"] for row in read_rows(folder / name)}
        for name in ("timm.csv", "ours.csv")
    )
    return sum(theirs[name] == index for name, index in ours.items()) / len(theirs)


if __name__ == "__main__":
    main()
