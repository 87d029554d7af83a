"""Base classes of image data sets: original images with labels and splits, stored resized.

Stored images are RGB, as converted by `pictures.as_seen`. Resizing is antialiased bilinear (Pillow). At 256,
``squash`` is bit-identical to torchvision's ``Resize((256, 256))``, and ``short-side`` to ``Resize(256)``.
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
# Pillow's encoder options; lossless formats at their fastest setting
FORMATS: dict[str, dict[str, Any]] = {
    "jpeg": {"quality": 95},
    "png": {"compress_level": 1},
    "webp": {"lossless": True, "quality": 0, "method": 0},
}
_MOST_SIDE = 16_384  # maximum `size` in pixels
_SUFFIXES = {"jpeg": ".jpg", "png": ".png", "webp": ".webp"}

Box = tuple[float, float, float, float]  # left, top, right, bottom, in pixels


class BrokenPictureError(UserError):
    """An image can't be decoded completely."""

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(f"{path} is not a readable image (fix or remove it): {reason}")
        self.path = path
        self.reason = reason


class DataSet:
    """Interface of data sets for `prepare`; subclasses are frozen dataclasses.

    Fields declared by `convnext_ablation.dataclass_options.option` become command-line options.
    """

    name: ClassVar[str]
    summary: ClassVar[str]
    splits: ClassVar[tuple[str, ...]] = SPLITS
    published: ClassVar[Mapping[str, Published]] = {}  # official archives, by option

    @classmethod
    def published_size(cls) -> tuple[dict[str, int], int] | None:
        """Images per split, and number of classes, with the default options; None if unknown."""
        return None

    def records(self, scratch: Path) -> Iterable[tuple[Record, Any]]:
        """Yields each image's record, without a hash, and the key for `encode`; may write to `scratch`."""
        raise NotImplementedError

    def encode(self, key: Any, file: BinaryIO) -> Sequence[str]:
        """Writes one image file; deterministic for a key, and thread-safe.

        Returns:
            The kinds of changes to the original's pixels.

        Raises:
            BrokenPictureError: The original can't be decoded.
        """
        raise NotImplementedError

    @classmethod
    def needed(cls, options: Mapping[str, Any]) -> dict[str, Published]:
        """The published archives needed for the given options."""
        return {which: each for which, each in cls.published.items() if options.get(each.only_for, True)}

    def sources(self) -> dict[str, Any]:
        """Values by option, including the paths of the original files."""
        return vars(self)

    def originals(self) -> Iterator[tuple[str, Path]]:
        """Yields the existing original files and folders, with the option that names each."""
        for name, value in self.sources().items():
            path = Path(value) if name == "source" and value else value
            if isinstance(path, Path) and (path := path.expanduser()).exists():
                yield name, path

    def state(self) -> dict[str, list[str]]:
        """Path of the originals by option, and a hash of names, sizes and times to detect changes."""
        return {name: [str(path.resolve()), _listing(path, times=True)] for name, path in self.originals()}

    def content(self) -> dict[str, str]:
        """SHA-256 of the originals by option, independent of their location.

        For a file it covers the content; for a folder, the names and sizes of the files below it. Archives
        checked against a published hash are left out.
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
        """Raises a `UserError` if `out` is inside a folder of the original images."""
        for name, path in self.originals():
            if out.is_relative_to(path.resolve()):
                option = self.option_of(name)
                raise UserError(f"{out} is in {path}, the folder of {option}; choose a place outside of it")

    def option_of(self, name: str) -> str:
        """The command-line option that located an original: its own, or ``--archives``."""
        return f"--{name.replace('_', '-')}" if vars(self).get(name) is not None else "--archives"

    def check_least(self, **least: int) -> None:
        """Raises a `UserError` if an option is below its minimum, or `size` is too large."""
        for name, minimum in least.items():
            value = getattr(self, name, None)
            if value is not None and value < minimum:
                raise UserError(f"{self.name}: {name} is {value}; give {minimum} or more")
            if name == "size" and value is not None and value > _MOST_SIDE:
                raise UserError(f"{self.name}: {name} is {shown(value)}; give at most {_MOST_SIDE} pixels")


@dataclass(frozen=True)
class Photograph:
    """An original image: its id and path in the data set, labels, and file."""

    id: str
    path: str
    class_name: str
    split: str
    piece: Any  # its method `read` returns the file's content
    box: Box | None = None
    group: str = ""  # images of a group stay in one split
    name: str = ""  # path below the folder or archive that the user gave, if it differs from `path`


def pixels(text: str) -> int | None:
    """Parses a size in pixels, or ``none``."""
    return None if text == "none" else int(text)


@dataclass(frozen=True)
class Photographs(DataSet):
    """Common options, and conversion of original to stored images."""

    size: int | None = option(
        256, "resize images to this size in pixels, or none to keep the originals", parse=pixels
    )
    fit: str = option("squash", "resize both sides to size, or the shorter side", choices=FITS)
    format: str = option("jpeg", "image format: jpeg at quality 95, or lossless", choices=tuple(FORMATS))
    skip_bad_images: int = option(0, "maximum number of undecodable images to skip and list", identity=False)
    max_pixels: int | None = option(
        None, "maximum pixels per image; 178,956,970 if not given", identity=False
    )
    # reasons for skipping files and rows, by name; filled while reading the originals and by `prepare`
    skipped: dict[str, str] = field(
        default_factory=dict, init=False, compare=False, metadata={"identity": False}
    )

    def __post_init__(self) -> None:
        """Validates the options."""
        self.check_least(size=8, skip_bad_images=0, max_pixels=1)
        if self.size is None and self.max_pixels is not None:
            raise UserError(f"{self.name}: max_pixels is for pictures that are resized; give a size, too")
        for name, value, known in (("fit", self.fit, FITS), ("format", self.format, FORMATS)):
            if value not in known:
                raise unknown_name(name, value, known)

    def photographs(self, scratch: Path) -> Iterable[Photograph]:
        """Returns all original images with their splits; archives may be decompressed to `scratch`."""
        raise NotImplementedError

    def records(self, scratch: Path) -> Iterator[tuple[Record, Photograph]]:
        """Yields each image's record and the original image for `encode`."""
        for original in self.photographs(scratch):
            path = PurePosixPath(original.path)
            name = f"{path.stem}{_SUFFIXES[self.format]}"
            if self._keeps(original):
                name = with_ending(path.name, original.piece.read)
            id_ = f"{original.split}/{original.class_name}/{name}"
            yield Record(id_, original.split, original.class_name, original.path), original

    def encode(self, original: Photograph, file: BinaryIO) -> Sequence[str]:
        """Writes one image, cropped to its box clipped to the image."""
        # Pillow releases the GIL while it decodes, resizes, and encodes to an OS-level file
        data = original.piece.read()
        try:
            image = decode(data, checksums=False)
            box = original.box and _inside(original.box, image.size, original.path)
            image, changes = as_seen(image, box=box)
        except UserError:
            raise
        except Exception as error:  # decoders may raise any exception
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
    """Hash of a file's size, or of the names and sizes of the files below a folder; `times` adds mtimes."""
    digest = hashlib.sha256()
    for name in files_below(path, dangling=True) if path.is_dir() else [""]:
        with suppress(OSError):  # a broken link
            stat = os.stat(path / name)
            line = f"{'/'.join(os.path.split(name))}\0{stat.st_size}\0{stat.st_mtime_ns if times else ''}\n"
            digest.update(line.encode(errors="surrogateescape"))
    return digest.hexdigest()
