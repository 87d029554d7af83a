"""What the tests of publishing share: a tiny run, and the commands as the command line calls them."""

from __future__ import annotations

import argparse
import hashlib
import json
from pathlib import Path

import numpy as np
from PIL import Image

from convnext_ablation.cli import publish as publish_command
from convnext_ablation.cli import train as command
from convnext_ablation.cli import verify as verify_command
from convnext_ablation.data.folder import Record, write_manifest

SHADES = {"dark": 60, "light grey": 120, "white": 180}
COUNTS = {"train": 6, "val": 3, "test": 4}  # a class
RECIPE = """
input_size: [3, 32, 32]
mean: [0.5, 0.5, 0.5]
std: [0.25, 0.25, 0.25]
crop_pct: 0.9
interpolation: bilinear
batch_size: 6
opt: momentum
lr: 2.0e-3
warmup_epochs: 0
val_split: val
test_split: test
workers: 0
device: cpu
"""


def draw_images(root: Path, name: str = "shades") -> Path:
    """Draws a prepared data set: noisy images in three shades, with its manifest."""
    rng = np.random.default_rng(0)
    records = []
    for split, count in COUNTS.items():
        for shade, grey in SHADES.items():
            (root / split / shade).mkdir(parents=True)
            for index in range(count):
                path = root / split / shade / f"{index}.png"
                pixels = np.clip(rng.normal(grey, 40.0, (32, 32, 3)), 0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(path)
                sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
                records.append(Record(path.relative_to(root).as_posix(), split, shade, "", sha256))
    write_manifest(root, records)
    (root / "classes.txt").write_text("\n".join(SHADES) + "\n")
    (root / "dataset.json").write_text(json.dumps({"name": name}))
    return root


def train(data: Path, output: Path, *more: object) -> Path:
    """Trains a run with the averaged weights evaluated."""
    recipe = output.parent / "shades.yaml"
    recipe.write_text(RECIPE)
    arguments = [data, "-c", recipe, "--output", output.parent, "--experiment", output.name, *more]
    assert command.main([str(argument) for argument in arguments]) == 0
    return output


def publish(*argv: object) -> None:
    _call(publish_command, argv)


def verify(*argv: object) -> None:
    _call(verify_command, (*argv, "--device", "cpu", "-j", 0))


def _call(module, argv: tuple[object, ...]) -> None:
    parser = argparse.ArgumentParser()
    module.add_arguments(parser)
    module.run(parser.parse_args([str(argument) for argument in argv]))
