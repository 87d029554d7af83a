"""Fashion-MNIST: 70,000 real photographs of clothes in 10 classes, 28x28 pixels in grey.

Han Xiao, Kashif Rasul, Roland Vollgraf: "Fashion-MNIST: a Novel Image Dataset for Benchmarking Machine
Learning Algorithms", arXiv:1708.07747; MIT licence. Debian packages the files as ``dataset-fashion-mnist``;
where that isn't installed, torchvision downloads them. The official training set of 60,000 images is split
into train and val, by a seed and evenly over the classes; test is the official one.
"""

from __future__ import annotations

import gzip
import hashlib
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import BinaryIO, ClassVar

import numpy as np
from PIL import Image

from convnext_ablation.data.folder import Record
from convnext_ablation.data.photographs import DataSet, zlib_version
from convnext_ablation.dataclass_options import option
from convnext_ablation.errors import UserError

# in the order of the official labels 0 to 9
CLASSES = tuple("t-shirt_top trouser pullover dress coat sandal shirt sneaker bag ankle_boot".split())

_PACKAGE = "dataset-fashion-mnist"
_DEBIAN_FOLDER = Path("/usr/share/datasets/fashion-mnist")
# SHA-256 of the unpacked files. Debian's .gz carry another gzip header than those that torchvision downloads
# (no name, another time), so the MD5 sums in torchvision don't fit them; what is packed in them is the same.
_SHA256 = {
    "train-images-idx3-ubyte.gz": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
    "train-labels-idx1-ubyte.gz": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
    "t10k-images-idx3-ubyte.gz": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
    "t10k-labels-idx1-ubyte.gz": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
}
_TRAIN_PER_CLASS = 6000
_TEST_PER_CLASS = 1000


@dataclass(frozen=True)
class FashionMNIST(DataSet):
    """The set as its parameters give it; a smaller `train` is a subset of a larger one, with the same val."""

    name: ClassVar[str] = "fashion-mnist"
    summary: ClassVar[str] = "photographs of clothes in 10 classes, from Debian's package or downloaded"

    seed: int = option(0, "seed of the split into train and val")
    train: int = option(5400, "training images per class")
    val: int = option(600, "validation images per class, taken off the official train")
    test: int = option(_TEST_PER_CLASS, "test images per class")

    def __post_init__(self) -> None:
        """Checks the numbers."""
        self.check_least(seed=0, train=1, val=1, test=1)
        for what, count, most in (
            ("train + val", self.train + self.val, _TRAIN_PER_CLASS),
            ("test", self.test, _TEST_PER_CLASS),
        ):
            if count > most:
                raise UserError(f"fashion-mnist: {what} is {count} images per class; there are {most}")

    def records(self, scratch: Path) -> Iterator[tuple[Record, np.ndarray]]:
        """All images of the set, each as its record and its pixels, (28, 28) of uint8."""
        files = _read_files(scratch)
        sizes = {"train": {"val": self.val, "train": self.train}, "t10k": {"test": self.test}}
        for official, splits in sizes.items():
            source = f"{official}-images-idx3-ubyte.gz"
            # behind a header of 4 bytes and 4 for each dimension; the hash has vouched for it
            pixels = np.frombuffer(files[source], np.uint8, offset=16).reshape(-1, 28, 28)
            labels = np.frombuffer(files[f"{official}-labels-idx1-ubyte.gz"], np.uint8, offset=8)
            for label, class_name in enumerate(CLASSES):
                entropy = [self.seed, zlib.crc32(official.encode()), label]
                rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence(entropy)))
                rows = rng.permutation(np.flatnonzero(labels == label))
                for split, count in splits.items():
                    taken, rows = rows[:count], rows[count:]
                    for row in sorted(taken.tolist()):
                        id_ = f"{split}/{class_name}/{row:05d}.png"
                        yield Record(id_, split, class_name, f"{source}#{row}"), pixels[row]

    def encode(self, pixels: np.ndarray, file: BinaryIO) -> None:
        """Writes one image as a grey PNG."""
        Image.fromarray(pixels).save(file, "png")

    def versions(self) -> dict[str, str]:
        """Versions of all that has a say in the bytes."""
        return {"numpy": np.__version__, "pillow": version("pillow"), "zlib": zlib_version()}


def _read_files(scratch: Path) -> dict[str, bytes]:
    """The four files, unpacked, and each made sure to be the published one."""
    folder = _DEBIAN_FOLDER if _DEBIAN_FOLDER.is_dir() else _download(scratch)
    files = {}
    reinstall = f"`apt-get install --reinstall {_PACKAGE}`"
    for name, expected in _SHA256.items():
        try:
            files[name] = gzip.decompress((folder / name).read_bytes())
        except (OSError, EOFError, zlib.error) as error:
            raise UserError(f"cannot unpack {folder / name} ({error}); {reinstall}") from error
        if hashlib.sha256(files[name]).hexdigest() != expected:
            raise UserError(f"{folder / name} is not the published file (SHA-256); {reinstall}")
    return files


def _download(folder: Path) -> Path:
    from torchvision.datasets import FashionMNIST as Downloader

    try:
        return Path(Downloader(folder, download=True).raw_folder)
    except (OSError, RuntimeError) as error:
        what = f"Fashion-MNIST could not be downloaded ({' '.join(str(error).split())})"
        raise UserError(f"{what}; on Debian, `apt-get install {_PACKAGE}` brings it") from error
