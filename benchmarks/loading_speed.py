"""Images a CPU second of our loader against a plain pipeline on the originals.

What counts is the CPU time of all processes together, user and system, for one epoch with one worker, from
files to batches that are normalised. Each measurement is a process of its own; the two ways take turns. Both
have the allocator keep its memory, as studies do: to give each batch's back to the system and get it again
takes longer than to normalise it.

- plain: 500x375 JPEGs through torchvision: decode, resize to 256x256, random crop of 224, flip, normalise
- folder: our loader from JPEGs squashed to 256x256 beforehand

    python benchmarks/loading_speed.py --output results/loading_speed.csv
"""

from __future__ import annotations

import argparse
import csv
import io
import os
import resource
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import PIL
import timm
import torch
import torchvision
from PIL import Image, ImageFilter
from torchvision import transforms

from convnext_ablation.machine import KEEP_MEMORY, available_cores, processor_name
from convnext_ablation.training.arguments import TrainingArguments
from convnext_ablation.training.images import TrainingImages
from convnext_ablation.training.loaders import training_loader
from convnext_ablation.training.settings import read_recipe
from convnext_ablation.training.splits import open_split

RECIPE = Path(__file__).parents[1] / "convnext_ablation" / "recipes" / "cub200_224.yaml"
WAYS = ("plain", "folder")
TARGETS = {"folder": 2.0}  # times as fast as plain
SIZE, SQUASHED, CROP = (500, 375), (256, 256), 224
RESAMPLING = Image.Resampling.BILINEAR
CLASSES = 10
DIFFERENT = 200  # images; the others are copies, each in a file of its own


def photograph(seed: int) -> Image.Image:
    """Something that takes as long to decode as a photograph: smooth, with edges and some noise."""
    rng = np.random.default_rng(seed)
    width, height = SIZE
    coarse = Image.fromarray(rng.integers(0, 256, (12, 16, 3), np.uint8)).resize(
        SIZE, Image.Resampling.BICUBIC
    )
    shapes = Image.fromarray(rng.integers(0, 256, (6, 8, 3), np.uint8)).resize(SIZE, Image.Resampling.NEAREST)
    edges = Image.fromarray(rng.integers(0, 2, (24, 32), np.uint8) * 255)
    mask = edges.resize(SIZE, Image.Resampling.BILINEAR).point(lambda value: 255 * (value > 127))
    image = Image.composite(coarse, shapes, mask).filter(ImageFilter.GaussianBlur(0.7))
    noisy = np.asarray(image, np.int16) + rng.normal(0, NOISE, (height, width, 3)).astype(np.int16)
    return Image.fromarray(noisy.clip(0, 255).astype(np.uint8))


NOISE = 16.0  # makes JPEGs of quality 90 as large as those of CUB-200-2011, about 100 kB


def write_images(folder: Path, count: int) -> tuple[float, float]:
    """Writes the originals and the squashed ones; returns the mean size of their files in kB."""
    encode = partial(Image.Image.save, format="JPEG", quality=90)
    files: dict[str, list[bytes]] = {"original": [], "squashed": []}
    for number in range(min(count, DIFFERENT)):
        image = photograph(number)
        for kind, version in (("original", image), ("squashed", image.resize(SQUASHED, RESAMPLING))):
            encode(version, buffer := io.BytesIO())
            files[kind].append(buffer.getvalue())
    for kind, contents in files.items():
        for number in range(count):
            path = folder / kind / "train" / f"{number % CLASSES:02d}" / f"{number:05d}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(contents[number % len(contents)])
    sizes = [sum(map(len, contents)) / len(contents) / 1000 for contents in files.values()]
    return sizes[0], sizes[1]


def plain_loader(folder: Path, batch: int, workers: int) -> Iterable[Any]:
    """What one writes who uses torchvision as its tutorials do."""
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


def make_loader(way: str, folder: Path, batch: int, workers: int) -> Iterable[Any]:
    """Makes the loader of one of `WAYS`."""
    return (plain_loader if way == "plain" else our_loader)(folder, batch, workers)


def cpu_seconds() -> float:
    """CPU time of this process and of those that it started and that have ended, user and system."""
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def measure_speed(way: str, folder: Path, batch: int, workers: int) -> float:
    """Reads an epoch; returns how many images a CPU second that were, starting the worker included."""
    loader = make_loader(way, folder, batch, workers)
    start, images = cpu_seconds(), 0
    batches = iter(loader)
    for read, _ in batches:
        images += len(read)
    del batches, loader  # ends the worker, whose time counts from then on
    return images / (cpu_seconds() - start)


def run_alone(way: str, folder: Path, options: argparse.Namespace) -> str:
    """Measures in a process of its own; returns what that prints last."""
    settings = ["--batch-size", str(options.batch_size), "--workers", str(options.workers)]
    command = [sys.executable, __file__, "--measure", way, str(folder), *settings]
    environment = {**os.environ, **KEEP_MEMORY, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, env=environment, check=True)
    return done.stdout.splitlines()[-1]


def compare(options: argparse.Namespace) -> None:
    """Measures the ways in turn, and writes a row for each."""
    speeds: dict[str, list[float]] = {way: [] for way in WAYS}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        original, squashed = write_images(folder, options.images)
        print(f"JPEGs of {original:.0f} kB, squashed {squashed:.0f} kB", flush=True)
        for number in range(options.rounds):
            for way in WAYS:
                speeds[way].append(float(run_alone(way, folder, options)))
            print(f"round {number}: {', '.join(f'{way} {speeds[way][-1]:.0f}' for way in WAYS)}", flush=True)
    rows = [row(way, speeds, options, original, squashed) for way in WAYS]
    for line in rows:
        target = f", target {TARGETS[line['way']]:g}" if line["way"] in TARGETS else ""
        print(f"{line['way']}: {line['images_per_cpu_second']} images/CPU s, {line['ratio']} x plain{target}")
    if options.output:
        with open(options.output, "w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)


def row(
    way: str, speeds: dict[str, list[float]], options: argparse.Namespace, original: float, squashed: float
) -> dict[str, Any]:
    """What the CSV file says of one way; ratios are of the same round."""
    ratios = [ours / plain for ours, plain in zip(speeds[way], speeds["plain"], strict=True)]
    return {
        "way": way,
        "images_per_cpu_second": f"{median(speeds[way]):.0f}",
        "lowest": f"{min(speeds[way]):.0f}",
        "highest": f"{max(speeds[way]):.0f}",
        "ratio": f"{median(ratios):.2f}",
        "lowest_ratio": f"{min(ratios):.2f}",
        "highest_ratio": f"{max(ratios):.2f}",
        "rounds": options.rounds,
        "images": options.images,
        "batch_size": options.batch_size,
        "workers": options.workers,
        "jpeg_kb": f"{original:.0f}" if way == "plain" else f"{squashed:.0f}",
        "machine": f"{processor_name()}, {available_cores()} cores, 1 thread",
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
        "timm": timm.__version__,
        "pillow": PIL.__version__,
    }


def main() -> None:
    """Does what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, help="CSV file to write")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--batch-size", type=int, default=16, help="the recipe's if not given")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--measure", nargs=2, metavar=("WAY", "FOLDER"), help="one measurement")
    options = parser.parse_args()
    if options.measure:
        torch.set_num_threads(1)
        way, folder = options.measure
        print(measure_speed(way, Path(folder), options.batch_size, options.workers))
    else:
        compare(options)


if __name__ == "__main__":
    main()
