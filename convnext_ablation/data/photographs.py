"""What data sets of photographs have in common: originals with labels and splits, stored resized.

What is stored is RGB, as `pictures.as_seen` has it. Resizing is Pillow's antialiased bilinear one: ``squash``
at 256 gives to the bit what torchvision's ``Resize((256, 256))`` gives, and ``short-side`` what
``Resize(256)`` gives.
"""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, ClassVar

from PIL import Image

from convnext_ablation.console import Progress
from convnext_ablation.data.archives import Published
from convnext_ablation.data.folder import Record, decode
from convnext_ablation.data.layout import SPLITS
from convnext_ablation.data.pictures import as_seen, with_ending
from convnext_ablation.data.walk import files_below
from convnext_ablation.dataclass_options import option
from convnext_ablation.errors import UserError, shown, unknown_name
from convnext_ablation.files import sha256_of

FITS = ("squash", "short-side")
# options of Pillow's encoders: lossless formats at their fastest
FORMATS: dict[str, dict[str, Any]] = {
    "jpeg": {"quality": 95},
    "png": {"compress_level": 1},
    "webp": {"lossless": True, "quality": 0, "method": 0},
}
_MOST_SIDE = 16_384  # of images that are stored
_SUFFIXES = {"jpeg": ".jpg", "png": ".png", "webp": ".webp"}

Box = tuple[float, float, float, float]  # left, top, right, bottom, in pixels


class BrokenPictureError(UserError):
    """A picture can't be decoded whole."""

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(f"{path} is not a readable image (fix or remove it): {reason}")
        self.path = path
        self.reason = reason


class DataSet:
    """What `prepare` needs of a data set: a frozen dataclass.

    Fields made by `convnext_ablation.dataclass_options.option` become options of the command line.
    """

    name: ClassVar[str]
    summary: ClassVar[str]
    splits: ClassVar[tuple[str, ...]] = SPLITS
    published: ClassVar[Mapping[str, Published]] = {}  # its archives, by the fields that name them

    @classmethod
    def published_size(cls) -> tuple[dict[str, int], int] | None:
        """Images of each split, and classes, that the defaults make; None if unknown beforehand."""
        return None

    def records(self, scratch: Path) -> Iterable[tuple[Record, Any]]:
        """All images, each as its record, without a hash, and what `encode` needs; may use `scratch`."""
        raise NotImplementedError

    def encode(self, key: Any, file: BinaryIO) -> Sequence[str]:
        """Writes the file of one image, the same bytes for the same key; by any thread, in any order.

        Returns:
            How its pixels differ from the stored ones of the original, an entry for each kind.

        Raises:
            BrokenPictureError: The original can't be decoded.
        """
        raise NotImplementedError

    @classmethod
    def needed(cls, options: Mapping[str, Any]) -> dict[str, Published]:
        """The published archives that these options need."""
        return {which: each for which, each in cls.published.items() if options.get(each.only_for, True)}

    def sources(self) -> dict[str, Any]:
        """The paths that a set is made of, by the options that name them, among other values."""
        return vars(self)

    def originals(self) -> Iterator[tuple[str, Path]]:
        """The files and folders that a set is made of, by the options that name them."""
        for name, value in self.sources().items():
            path = Path(value) if name == "source" and value else value
            if isinstance(path, Path) and (path := path.expanduser()).exists():
                yield name, path

    def state(self) -> dict[str, list[str]]:
        """Place of the originals by their options, and what tells whether they change while this runs."""
        return {name: [str(path.resolve()), _listing(path, times=True)] for name, path in self.originals()}

    def content(self) -> dict[str, str]:
        """SHA-256 of the originals by their options, so that others aren't taken for them, wherever they lie.

        That of a file is its content's; that of a folder stands for the names and sizes of the files below
        it. Archives that are compared with the published ones are left out.
        """
        published = {} if getattr(self, "unofficial", False) else self.published
        found = {}
        for name, path in self.originals():
            if path.is_dir():
                found[name] = _listing(path)
            elif name not in published:
                with Progress(f"hashing {path.name}", path.stat().st_size, "B") as progress:
                    found[name] = sha256_of(path, progress.update)
        return found

    def check_place(self, out: Path) -> None:
        """Raises a `UserError` if the set would be written below the folder of its own images."""
        for name, path in self.originals():
            if out.is_relative_to(path.resolve()):
                option = self.option_of(name)
                raise UserError(f"{out} is in {path}, the folder of {option}; choose a place outside of it")

    def option_of(self, name: str) -> str:
        """The option that an original was found by: its own, or that of the folder of all archives."""
        return f"--{name.replace('_', '-')}" if vars(self).get(name) is not None else "--archives"

    def check_least(self, **least: int) -> None:
        """Raises a `UserError` if a number is less than it may be, or images would be too large."""
        for name, minimum in least.items():
            value = getattr(self, name, None)
            if value is not None and value < minimum:
                raise UserError(f"{self.name}: {name} is {value}; give {minimum} or more")
            if name == "size" and value is not None and value > _MOST_SIDE:
                raise UserError(f"{self.name}: {name} is {shown(value)}; give at most {_MOST_SIDE} pixels")


@dataclass(frozen=True)
class Photograph:
    """An original: what names it in its data set, where it stands there, and its file."""

    id: str
    path: str
    class_name: str
    split: str
    piece: Any  # its method `read` gives the file
    box: Box | None = None
    group: str = ""  # those of one stay in one split
    name: str = ""  # where it lies below what the user named, if that isn't `path`


def pixels(text: str) -> int | None:
    """A size as the command line takes it: a number, or none."""
    return None if text == "none" else int(text)


@dataclass(frozen=True)
class Photographs(DataSet):
    """Common options and the way from originals to stored images."""

    size: int | None = option(
        256, "side in pixels that images are resized to, or none to keep the originals", parse=pixels
    )
    fit: str = option("squash", "whether that is both sides, or the shorter one", choices=FITS)
    format: str = option(
        "jpeg", "how they are stored: jpeg at quality 95, or lossless", choices=tuple(FORMATS)
    )
    skip_bad_images: int = option(
        0, "leave out up to so many pictures that can't be decoded, and list them", identity=False
    )
    max_pixels: int | None = option(
        None, "take pictures of up to so many pixels; 178,956,970 if not given", identity=False
    )
    # why files and rows are left out, by their names; filled by `photographs` and `encode`
    skipped: dict[str, str] = field(
        default_factory=dict, init=False, compare=False, metadata={"identity": False}
    )

    def __post_init__(self) -> None:
        """Checks the options."""
        self.check_least(size=8, skip_bad_images=0, max_pixels=1)
        if self.size is None and self.max_pixels is not None:
            raise UserError(f"{self.name}: max_pixels is for pictures that are resized; give a size, too")
        for name, value, known in (("fit", self.fit, FITS), ("format", self.format, FORMATS)):
            if value not in known:
                raise unknown_name(name, value, known)

    def photographs(self, scratch: Path) -> Iterable[Photograph]:
        """All originals with the split that each belongs to; archives are unzipped to `scratch`."""
        raise NotImplementedError

    def records(self, scratch: Path) -> Iterator[tuple[Record, Photograph]]:
        """All images of the set, each as its record and what `encode` needs."""
        for original in self.photographs(scratch):
            path = PurePosixPath(original.path)
            name = f"{path.stem}{_SUFFIXES[self.format]}"
            if self._keeps(original):
                name = with_ending(path.name, original.piece.read)
            id_ = f"{original.split}/{original.class_name}/{name}"
            yield Record(id_, original.split, original.class_name, original.path), original

    def encode(self, original: Photograph, file: BinaryIO) -> Sequence[str]:
        """Writes the stored file of one image, cropped to its box as far as that lies in the image."""
        # Pillow lets go of the interpreter while it decodes, resizes, and encodes to a file of the system
        data = original.piece.read()
        try:
            image = decode(data, checksums=False)
            box = original.box and _inside(original.box, image.size, original.path)
            image, changes = as_seen(image, box=box)
        except UserError:
            raise
        except Exception as error:  # decoders raise anything
            raise BrokenPictureError(original.name or original.path, " ".join(str(error).split())) from error
        if self._keeps(original):
            file.write(data)
        else:
            self._resized(image).save(file, self.format, **FORMATS[self.format])
        return changes

    def _keeps(self, original: Photograph) -> bool:
        """Whether an original is stored byte for byte."""
        return self.size is None and original.box is None

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


def _inside(box: Box, size: tuple[int, int], name: str) -> tuple[int, int, int, int]:
    if not all(map(math.isfinite, box)):
        raise UserError(f"{name}: its bounding box {box} is not of numbers; fix the list of boxes")
    left, top = max(0, round(box[0])), max(0, round(box[1]))
    right, bottom = min(size[0], round(box[2])), min(size[1], round(box[3]))
    if left >= right or top >= bottom:
        raise UserError(f"{name}: its bounding box {box} lies outside of its {size[0]}x{size[1]} pixels")
    return left, top, right, bottom


def _listing(path: Path, times: bool = False) -> str:
    """Hash over the size of a file, or the names and sizes of the files below a folder; and their `times`."""
    digest = hashlib.sha256()
    for name in files_below(path, dangling=True) if path.is_dir() else [""]:
        with suppress(OSError):  # a link to nothing
            stat = os.stat(path / name)
            line = f"{'/'.join(os.path.split(name))}\0{stat.st_size}\0{stat.st_mtime_ns if times else ''}\n"
            digest.update(line.encode(errors="surrogateescape"))
    return digest.hexdigest()
