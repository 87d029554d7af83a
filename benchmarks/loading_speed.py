"""Images per CPU second of our loader against a plain pipeline on the originals.

The measure is user and system time of all processes for one epoch with one worker, from files to normalised
batches. Each measurement has its own process; the two ways take turns. In both, the allocator keeps freed
memory, as in studies: returning it to the system for every batch takes longer than normalising the batch.

- plain: 500x375 JPEGs through torchvision: decode, resize to 256x256, random crop of 224, flip, normalise
- folder: our loader, from JPEGs resized to 256x256 beforehand

    python benchmarks/loading_speed.py --output results/loading_speed.csv
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Any

import PIL
import torch
import torchvision
from common import (
    MACHINE,
    VERSIONS,
    Row,
    in_turn,
    parsed,
    parser_of,
    ratio_columns,
    write_photographs,
    write_rows,
)
from torchvision import transforms

from convnext_ablation.machine import KEEP_MEMORY
from convnext_ablation.timing import Times
from convnext_ablation.training.arguments import TrainingArguments
from convnext_ablation.training.images import TrainingImages
from convnext_ablation.training.loaders import training_loader
from convnext_ablation.training.settings import read_recipe
from convnext_ablation.training.splits import open_split

RECIPE = Path(__file__).parents[1] / "convnext_ablation" / "recipes" / "cub200_224.yaml"
WAYS = ("plain", "folder")
SQUASHED, CROP = (256, 256), 224
CLASSES = 10


def write_images(folder: Path, count: int) -> dict[str, float]:
    """Writes original and resized images; returns their mean file sizes in kB, by way."""
    names = [f"train/{number % CLASSES:02d}/{number:05d}.jpg" for number in range(count)]
    originals, squashed = ([folder / kind / name for name in names] for kind in ("original", "squashed"))
    return {
        "plain": write_photographs(originals, quality=90),
        "folder": write_photographs(squashed, quality=90, size=SQUASHED),
    }


def plain_loader(folder: Path, batch: int, workers: int) -> Iterable[Any]:
    """A loader as in torchvision's tutorials."""
    steps = [
        transforms.Resize(SQUASHED),
        transforms.RandomCrop(CROP),
        transforms.RandomHorizontalFlip(),
        transforms.ToTensor(),
        transforms.Normalize([0.5] * 3, [0.5] * 3),
    ]
    images = torchvision.datasets.ImageFolder(str(folder / "original" / "train"), transforms.Compose(steps))
    return torch.utils.data.DataLoader(images, batch, shuffle=True, num_workers=workers, drop_last=True)


def our_loader(folder: Path, batch: int, workers: int) -> Iterable[Any]:
    """The loader of `train.py` with the recipe for CUB-200-2011."""
    recipe = {
        **read_recipe(str(RECIPE)),
        "batch_size": batch,
        "workers": workers,
        "device": "cpu",
        "amp": False,
    }
    arguments = TrainingArguments(**recipe | {"data_dir": str(folder / "squashed")})
    images = TrainingImages(open_split(arguments, "train"), batch, arguments.seed, 0, 1)
    config = {"input_size": (3, CROP, CROP), "mean": arguments.mean, "std": arguments.std}
    config["interpolation"] = arguments.interpolation
    return training_loader(images, arguments, config, CLASSES, torch.device("cpu"))


def cpu_seconds() -> float:
    """User and system time of this process and its finished children."""
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def seconds_an_image(way: str, folder: Path, batch: int, workers: int) -> float:
    """CPU seconds per image over one epoch, including the start of the worker."""
    loader = (plain_loader if way == "plain" else our_loader)(folder, batch, workers)
    start, images = cpu_seconds(), 0
    batches = iter(loader)
    for read, _ in batches:
        images += len(read)
    del batches, loader  # ends the worker, so that its time counts
    return (cpu_seconds() - start) / images


def run_alone(way: str, folder: Path, options: argparse.Namespace) -> float:
    """Measures in a separate process."""
    settings = ["--batch-size", str(options.batch_size), "--workers", str(options.workers)]
    command = [sys.executable, __file__, "--measure", way, str(folder), *settings, "--output", "-"]
    environment = {**os.environ, **KEEP_MEMORY, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, env=environment, check=True)
    return float(done.stdout.splitlines()[-1])


def row(way: str, times: dict[str, Times], kilobytes: float, options: argparse.Namespace) -> Row:
    """A way's row of the CSV file; ratios are paired by round."""
    taken, ratio = times[way], times[way].times_faster_than(times["plain"])
    return {
        "way": way,
        "images_per_cpu_second": f"{1 / taken.median:.0f}",
        "lowest": f"{1 / taken.highest:.0f}",
        "highest": f"{1 / taken.lowest:.0f}",
        **ratio_columns(ratio, ("ratio", "lowest_ratio", "highest_ratio"), digits=2),
        "rounds": options.rounds,
        "images": options.images,
        "batch_size": options.batch_size,
        "workers": options.workers,
        "jpeg_kb": f"{kilobytes:.0f}",
        "machine": f"{MACHINE}, 1 thread",
        "torchvision": torchvision.__version__,
        "pillow": PIL.__version__,
        **VERSIONS,
    }


def main() -> None:
    """Times the ways in turn, or one of them once."""
    parser = parser_of(__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--batch-size", type=int, default=16, help="the recipe's if not given")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--measure", nargs=2, help=argparse.SUPPRESS)
    options = parsed(parser, rounds=1, images=32)
    if options.measure:
        torch.set_num_threads(1)
        way, folder = options.measure
        print(seconds_an_image(way, Path(folder), options.batch_size, options.workers))
        return
    with tempfile.TemporaryDirectory() as name:
        kilobytes = write_images(Path(name), options.images)
        ways = {way: partial(run_alone, way, Path(name), options) for way in WAYS}
        times = in_turn(ways, options.rounds)
    rows = [row(way, times, kilobytes[way], options) for way in WAYS]
    write_rows(options.output, rows)
    for line in rows:
        print(f"{line['way']}: {line['images_per_cpu_second']} images/CPU s, {line['ratio']} x plain")


if __name__ == "__main__":
    main()
