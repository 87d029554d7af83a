"""Images per second of our training loop against that of timm's `train.py`, measured in turn.

Both get the same data, model and loader. Each run is one epoch in its own process. The time is that of the
epoch's training, as reported by either script.

    python benchmarks/training_speed.py --timm path/to/timm/repository --output results/training_speed.csv
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
from common import MACHINE, VERSIONS, add_timm, in_turn, parsed, parser_of, ratio_columns, write_rows
from PIL import Image

from convnext_ablation.machine import KEEP_MEMORY
from convnext_ablation.training.checkpoints import load_checkpoint

ROOT = Path(__file__).parents[1]
# name: (side of the stored images in pixels, arguments of both scripts)
SETTINGS = {
    "model_v_atto, 32 px, no augmentation": (
        32,
        "--model model_v_atto --input-size 1 32 32 --mean 0.5 --std 0.5 --crop-pct 1.0 --no-aug -b 32 "
        "--input-img-mode L",
    ),
    "model_i_atto, 112 px, RandAugment, mixup, erasing": (
        128,
        "--model model_i_atto --input-size 3 112 112 --aa rand-m9-mstd0.5-inc1 --mixup 0.8 --cutmix 1.0 "
        "--reprob 0.25 -b 32",
    ),
    "resnet18, 112 px": (128, "--model resnet18 --input-size 3 112 112 -b 32"),
}
COMMON = "--num-classes 2 --opt adamw --lr 1e-3 --epochs 1 --warmup-epochs 0 --device cpu --log-interval 1000"


def write_images(folder: Path, side: int, count: int) -> None:
    """Writes a folder of noise images in two classes."""
    rng = np.random.default_rng(0)
    for split, images in (("train", count), ("validation", 2)):
        for name in ("a", "b"):
            (folder / split / name).mkdir(parents=True)
            for index in range(images // 2):
                pixels = rng.integers(0, 256, (side, side, 3), np.uint8)
                Image.fromarray(pixels).save(folder / split / name / f"{index}.jpg")


def seconds(script: Sequence[str], arguments: str, data: Path) -> float:
    """Seconds of one epoch's training."""
    output = Path(tempfile.mkdtemp(dir=data.parent))
    command = [sys.executable, *script, "--data-dir", str(data), *arguments.split(), "--output", str(output)]
    environment = {**os.environ, **KEEP_MEMORY, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*command, "--experiment", "run"], capture_output=True, text=True, env=environment, check=True
    )
    if script[0].endswith("train.py"):
        epochs = load_checkpoint(output / "run" / "last.pth.tar")["convnext_ablation"]["history"]
        return float(epochs[0]["train_seconds"])
    updates, mean = re.findall(r"Train: 0 \[ *\d+/(\d+).*?\((\d+\.\d+)s,", done.stdout + done.stderr)[-1]
    return float(mean) * int(updates)


def main() -> None:
    """Times both scripts in turn, and writes a row for each setting."""
    parser = parser_of(__doc__)
    add_timm(parser)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--images", type=int, default=640)
    parser.add_argument("--workers", type=int, default=1)
    options = parsed(parser, rounds=1, images=64)
    scripts = {
        "ours": [str(ROOT / "train.py")],
        "timm": ["-m", "convnext_ablation.stock", str(options.timm / "train.py")],
    }
    rows = []
    for name, (side, arguments) in list(SETTINGS.items())[: 1 if options.short else None]:
        settings = f"{COMMON} {arguments} -j {options.workers}"
        with tempfile.TemporaryDirectory() as folder:
            data = Path(folder) / "data"
            write_images(data, side, options.images)
            ways: dict[str, Callable[[], float]] = {
                script: partial(seconds, command, settings, data) for script, command in scripts.items()
            }
            times = in_turn(ways, options.rounds)
        ratio = times["ours"].times_faster_than(times["timm"])
        rows.append(
            {
                "setting": name,
                **{f"{way}_images_per_second": f"{options.images / times[way].median:.1f}" for way in ways},
                **ratio_columns(ratio, ("ratio", "lowest", "highest")),
                "rounds": options.rounds,
                "images": options.images,
                "machine": f"{MACHINE}, 1 thread, {options.workers} loader workers",
                **VERSIONS,
            }
        )
        print(rows[-1], flush=True)
    write_rows(options.output, rows)


if __name__ == "__main__":
    main()
