"""What data sets of photographs have in common: originals with labels and splits, stored resized.

What is stored is RGB. Resizing is Pillow's antialiased bilinear one, as torchvision's ``Resize`` does it to a
decoded image, so ``squash`` at 256 gives what ``Resize((256, 256))`` gives, and ``short-side`` what
``Resize(256)`` gives, to the bit; JPEG then loses a little, PNG and WebP (both lossless) nothing.

Validation images are held out of the official training images, so many of each class, chosen by a hash of
the seed and the image's own id: the same on every machine and with every version of every library, and
whatever the order of the lists.
"""

from __future__ import annotations

import hashlib
import io
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, ClassVar, Protocol

from PIL import Image, features

from convnext_ablation.data.archives import Published
from convnext_ablation.data.folder import SPLITS, Record, is_image
from convnext_ablation.dataclass_options import option
from convnext_ablation.errors import UserError

FITS = ("squash", "short-side")
# options of Pillow's encoders: lossless formats at their fastest
FORMATS: dict[str, dict[str, Any]] = {
    "jpeg": {"quality": 95},
    "png": {"compress_level": 1},
    "webp": {"lossless": True, "quality": 0, "method": 0},
}
_SUFFIXES = {"jpeg": ".jpg", "png": ".png", "webp": ".webp"}

Box = tuple[float, float, float, float]  # left, top, right, bottom, in pixels


class DataSet:
    """What `prepare` needs of a data set: a frozen dataclass, as its objects travel to other processes.

    Fields made by `convnext_ablation.dataclass_options.option` become options of the command line.
    """

    name: ClassVar[str]
    summary: ClassVar[str]
    splits: ClassVar[tuple[str, ...]] = SPLITS
    in_threads: ClassVar[bool] = False  # whether `encode` lets go of the interpreter, and needs no processes
    published: ClassVar[Mapping[str, Published]] = {}  # its archives, by the fields that name them

    def records(self, scratch: Path) -> Iterable[tuple[Record, Any]]:
        """All images, each as its record, still without a hash, and whatever `encode` needs.

        What has to be downloaded or unpacked goes to the folder `scratch`.
        """
        raise NotImplementedError

    def encode(self, key: Any, file: BinaryIO) -> None:
        """Writes the file of one image, the same bytes for the same key; by any worker, in any order."""
        raise NotImplementedError

    def versions(self) -> dict[str, str]:
        """Versions of the software that has a say in the bytes."""
        raise NotImplementedError

    def check_least(self, **least: int) -> None:
        """Raises a `UserError` if a number is less than it may be."""
        for name, minimum in least.items():
            value = getattr(self, name)
            if value is not None and value < minimum:
                raise UserError(f"{self.name}: {name} is {value}; give {minimum} or more")


class Readable(Protocol):
    """A file, or what stands for one."""

    def read(self) -> bytes:
        """Its bytes."""


Key = tuple[Readable, str, Box | None]


@dataclass(frozen=True)
class Photograph:
    """An original: what names it in its data set, where it stands there, and its file."""

    id: str
    path: str
    class_name: str
    split: str
    piece: Readable
    box: Box | None = None


def pixels(text: str) -> int | None:
    """A size as the command line takes it: a number, or none."""
    return None if text == "none" else int(text)


@dataclass(frozen=True)
class Photographs(DataSet):
    """Common options and the way from originals to stored images."""

    in_threads: ClassVar[bool] = True  # Pillow lets go of the interpreter while it decodes and resizes

    size: int | None = option(
        256, "side in pixels that images are resized to, or none to keep the originals", parse=pixels
    )
    fit: str = option("squash", "whether that is both sides, or the shorter one", choices=FITS)
    format: str = option(
        "jpeg", "how they are stored: jpeg at quality 95, or lossless", choices=tuple(FORMATS)
    )

    def __post_init__(self) -> None:
        """Checks the options."""
        if self.size is not None and self.size < 8:
            raise UserError(f"size is {self.size}; give 8 or more, or none to keep the originals")
        if self.fit not in FITS:
            raise UserError(f"fit is {self.fit!r}; give one of {', '.join(FITS)}")
        if self.format not in FORMATS:
            raise UserError(f"format is {self.format!r}; give one of {', '.join(FORMATS)}")

    def photographs(self, scratch: Path) -> Iterable[Photograph]:
        """All originals with the split that each belongs to; what has to be unpacked goes to `scratch`."""
        raise NotImplementedError

    def records(self, scratch: Path) -> Iterator[tuple[Record, Key]]:
        """All images of the set, each as its record and what `encode` needs."""
        for original in self.photographs(scratch):
            path = PurePosixPath(original.path)
            name = path.name if self._keeps(path, original.box) else f"{path.stem}{_SUFFIXES[self.format]}"
            id_ = f"{original.split}/{original.class_name}/{name}"
            record = Record(id_, original.split, original.class_name, original.path)
            yield record, (original.piece, original.path, original.box)

    def encode(self, key: Key, file: BinaryIO) -> None:
        """Writes the stored file of one image, cropped to its box as far as that lies in the image.

        While it encodes JPEG to a file of the system, Pillow lets go of the interpreter; to one in memory it
        doesn't.
        """
        piece, name, box = key
        data = piece.read()
        image = decode(data, name)
        if self._keeps(PurePosixPath(name), box):
            file.write(data)
            return
        if box is not None:
            image = image.crop(_inside(box, image.size, name))
        self._resized(image).save(file, self.format, **FORMATS[self.format])

    def _keeps(self, path: PurePosixPath, box: Box | None) -> bool:
        """Whether an original is stored byte for byte."""
        return self.size is None and box is None and is_image(path.name)

    def _resized(self, image: Image.Image) -> Image.Image:
        if self.size is None:
            return image
        width = height = self.size
        if self.fit == "short-side":
            short, long = sorted(image.size)
            other = int(self.size * long / short)
            width, height = (self.size, other) if image.width <= image.height else (other, self.size)
        if (width, height) == image.size:
            return image
        return image.resize((width, height), Image.Resampling.BILINEAR)

    def versions(self) -> dict[str, str]:
        """Versions of all that has a say in the bytes."""
        names = {"libjpeg-turbo": "libjpeg_turbo", "webp": "webp"}
        found = {name: str(features.version(feature)) for name, feature in names.items()}
        return {"pillow": version("pillow"), "zlib": zlib_version(), **found}


def zlib_version() -> str:
    """Version of what Pillow packs PNG with."""
    return str(features.version("zlib_ng") or features.version("zlib"))


def decode(data: bytes, name: str) -> Image.Image:
    """Decodes an image of any mode to RGB, as timm and torchvision do.

    Raises:
        UserError: It can't be decoded, or is larger than Pillow takes for a photograph.
    """
    try:
        image: Image.Image = Image.open(io.BytesIO(data))
        if Image.MAX_IMAGE_PIXELS and image.width * image.height > Image.MAX_IMAGE_PIXELS:
            raise Image.DecompressionBombError(f"{image.width}x{image.height} pixels")
        image.load()
    except Exception as error:  # decoders raise anything
        reason = " ".join(str(error).split()).replace(repr(data), "the file")
        raise UserError(f"{name} is not a readable image ({reason}); get or mend it, or remove it") from error
    return image if image.mode == "RGB" else image.convert("RGB")


def _inside(box: Box, size: tuple[int, int], name: str) -> tuple[int, int, int, int]:
    left, top = max(0, round(box[0])), max(0, round(box[1]))
    right, bottom = min(size[0], round(box[2])), min(size[1], round(box[3]))
    if left >= right or top >= bottom:
        raise UserError(f"{name}: its bounding box {box} lies outside of its {size[0]}x{size[1]} pixels")
    return left, top, right, bottom


def hold_out(
    originals: Iterable[Photograph], per_class: int | None, seed: int, split: str = "val"
) -> list[Photograph]:
    """Moves so many training images of each class to another split, None for a tenth; at least one stays."""

    def rank(original: Photograph) -> bytes:
        return hashlib.sha256(f"{seed} {original.id}".encode()).digest()

    classes: dict[str, list[Photograph]] = defaultdict(list)
    for original in originals:
        classes[original.class_name if original.split == "train" else ""].append(original)
    done = classes.pop("", [])
    for members in classes.values():
        members.sort(key=rank)
        wanted = max(1, round(len(members) / 10)) if per_class is None else per_class
        count = min(wanted, len(members) - 1)
        done += [replace(original, split=split) for original in members[:count]]
        done += members[count:]
    return sorted(done, key=lambda original: original.path)


def check_counts(
    originals: Sequence[Photograph], official: Mapping[str, int], classes: int, where: str
) -> None:
    """Raises a `UserError` if the numbers of images and classes aren't the official ones."""
    expected = {**{f"{split} images": count for split, count in official.items()}, "classes": classes}
    found = Counter(f"{original.split} images" for original in originals)
    found["classes"] = len({original.class_name for original in originals})
    for what, count in expected.items():
        if found[what] != count:
            raise UserError(
                f"{where} has {found[what]:,} {what}, not the official {count:,}; get it from its home, or "
                "say --unofficial if you mean a part of it"
            )
