"""How long `convnext-ablation predict` takes, against timm's `inference.py`, from the command to the file.

Photograph-like JPEGs of `--size` pixels a side, as `prepare` writes them; networks with random weights, and
with the means of their BatchNorm as they are. Both commands read the same folder and checkpoint on the CPU,
with batches and workers of their own defaults, and take turns. Their most probable classes are compared.
Besides wall-clock time on all cores there is processor time, which other work on the machine changes less.

    git clone https://github.com/huggingface/pytorch-image-models timm
    python benchmarks/prediction_speed.py --timm timm --output results/prediction_speed.csv
"""

from __future__ import annotations

import argparse
import csv
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median

import timm
import torch
from loading_speed import DIFFERENT, photograph

import convnext_ablation  # noqa: F401  registers the networks
from convnext_ablation.machine import available_cores, processor_name

CLASSES = 200


def main() -> None:
    """Measures, and writes the CSV file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--timm", type=Path, required=True, help="checkout of timm's repository")
    parser.add_argument("--output", type=Path, required=True, help="the CSV file")
    parser.add_argument("--models", nargs="+", default=["model_i", "model_iv", "model_v"])
    parser.add_argument("--size", type=int, default=224, help="pixels a side of the pictures")
    parser.add_argument("--images", type=int, default=5_000)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_pictures(folder / "pictures", options.images, options.size)
        rows = [measure(folder, model, options) for model in options.models]
    common = {
        "size": options.size,
        "images": options.images,
        "rounds": options.rounds,
        "machine": f"{processor_name()}, {available_cores()} cores",
        "torch": torch.__version__,
        "timm": timm.__version__,
    }
    with open(options.output, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, [*rows[0], *common], lineterminator="\n")
        writer.writeheader()
        writer.writerows({**row, **common} for row in rows)


def write_pictures(folder: Path, count: int, size: int) -> None:
    """Writes so many, of which some are alike, in one folder of a class, without which timm's finds none."""
    (folder / "all").mkdir(parents=True)
    files = []
    for seed in range(min(DIFFERENT, count)):
        photograph(seed).resize((size, size)).save(folder / "picture.jpg", quality=95)
        files.append((folder / "picture.jpg").read_bytes())
    (folder / "picture.jpg").unlink()
    for number in range(count):
        (folder / "all" / f"{number:05d}.jpg").write_bytes(files[number % len(files)])


def measure(folder: Path, model: str, options: argparse.Namespace) -> dict[str, str]:
    """Both in turn."""
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
    for kind in (0, 1):
        name = ("seconds", "processor_seconds")[kind]
        ratios = [timms[kind] / mine[kind] for timms, mine in times]
        row |= {
            f"timm_{name}": f"{median(timms[kind] for timms, _ in times):.1f}",
            f"ours_{name}": f"{median(mine[kind] for _, mine in times):.1f}",
            f"times_faster_{name}": f"{median(ratios):.3f}",
            f"lowest_{name}": f"{min(ratios):.3f}",
            f"highest_{name}": f"{max(ratios):.3f}",
        }
    print(row, flush=True)
    return row


def seconds(command: Sequence[object]) -> tuple[float, float]:
    """How long a module takes, on the wall's clock and of all processors."""
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run([sys.executable, "-m", *map(str, command)], check=True, capture_output=True)
    wall, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def same_top1(folder: Path) -> float:
    """The share of pictures that both give the same class."""
    found = []
    for name in ("timm.csv", "ours.csv"):
        with open(folder / name, newline="", encoding="utf-8") as file:
            found.append({row["filename"]: row["index"] for row in csv.DictReader(file)})
    return sum(found[0][name] == index for name, index in found[1].items()) / len(found[0])


if __name__ == "__main__":
    main()
