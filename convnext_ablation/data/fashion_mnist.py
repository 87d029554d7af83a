"""Fashion-MNIST: 70,000 greyscale photographs of clothes in 10 classes, 28x28 pixels.

Han Xiao, Kashif Rasul, Roland Vollgraf: "Fashion-MNIST: a Novel Image Dataset for Benchmarking Machine
Learning Algorithms", arXiv:1708.07747; MIT licence. The 60,000 official training images are split into train
and val at random, stratified by class.
"""

from __future__ import annotations

import gzip
import shutil
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image

from convnext_ablation.data.folder import Record
from convnext_ablation.data.photographs import DataSet
from convnext_ablation.dataclass_options import option
from convnext_ablation.errors import UserError

# in the order of the official labels 0 to 9
CLASSES = tuple("t-shirt_top trouser pullover dress coat sandal shirt sneaker bag ankle_boot".split())

_DEBIAN_FOLDER = Path("/usr/share/datasets/fashion-mnist")


@dataclass(frozen=True)
class FashionMNIST(DataSet):
    """Fashion-MNIST with its options; for equal `val`, a smaller train split is a subset of a larger one."""

    name = "fashion-mnist"
    summary = "photographs of clothes in 10 classes, from Debian's package or downloaded"

    seed: int = option(0, "seed for the train/val split")
    train: int = option(5400, "training images per class")
    val: int = option(600, "validation images per class, held out of the official training images")
    test: int = option(1000, "test images per class")

    def __post_init__(self) -> None:
        """Validates the options."""
        self.check_least(seed=0, train=1, val=1, test=1)
        sizes = {"train + val": (self.train + self.val, 6000), "test": (self.test, 1000)}
        for what, (count, most) in sizes.items():
            if count > most:
                raise UserError(f"fashion-mnist: {what} is {count} images per class; there are {most}")

    def records(self, scratch: Path) -> Iterator[tuple[Record, np.ndarray]]:
        """Yields each image's record and pixels, (28, 28) uint8."""
        files = _read_files(scratch)
        sizes = {"train": {"val": self.val, "train": self.train}, "t10k": {"test": self.test}}
        for official, splits in sizes.items():
            pixels, labels = files[official]
            for label, class_name in enumerate(CLASSES):
                entropy = [self.seed, zlib.crc32(official.encode()), label]
                rng = np.random.Generator(np.random.PCG64(entropy))
                rows = rng.permutation(np.flatnonzero(labels == label))
                for split, count in splits.items():
                    taken, rows = rows[:count], rows[count:]
                    for row in sorted(taken.tolist()):
                        id_ = f"{split}/{class_name}/{row:05d}.png"
                        source = f"{official}-images-idx3-ubyte.gz#{row}"
                        yield Record(id_, split, class_name, source), pixels[row]

    def encode(self, pixels: np.ndarray, file: BinaryIO) -> Sequence[str]:
        """Writes one image as a grey PNG."""
        Image.fromarray(pixels).save(file, "png")
        return ()


def _read_files(scratch: Path) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Pixels, (N, 28, 28) uint8, and labels, (N,), of the official sets ``train`` and ``t10k``."""
    from torchvision.datasets import FashionMNIST as Official

    raw = scratch / "FashionMNIST" / "raw"  # torchvision doesn't download files it finds here
    raw.mkdir(parents=True, exist_ok=True)
    try:
        for packed in _DEBIAN_FOLDER.glob("*.gz"):
            with gzip.open(packed) as file, open(raw / packed.stem, "wb") as to:
                shutil.copyfileobj(file, to)
        sets = {name: Official(scratch, name == "train", download=True) for name in ("train", "t10k")}
    except (EOFError, OSError, RuntimeError, ValueError, zlib.error) as error:
        hint = "on Debian, `apt-get install --reinstall dataset-fashion-mnist` brings it"
        raise UserError(f"Fashion-MNIST can't be unpacked or downloaded ({error}); {hint}") from error
    return {name: (each.data.numpy(), each.targets.numpy()) for name, each in sets.items()}
