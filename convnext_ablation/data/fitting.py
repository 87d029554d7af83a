"""Photographs as they are stored: resized once, cropped to a box if wanted, in one file format.

What is stored is RGB. Resizing is Pillow's antialiased bilinear one, as torchvision's ``Resize`` does it to a
decoded image, so ``squash`` at 256 gives what ``Resize((256, 256))`` gives, and ``short-side`` what
``Resize(256)`` gives, to the bit; JPEG then loses a little, PNG and WebP (both lossless) nothing.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import PurePosixPath
from typing import Any, BinaryIO

from PIL import Image, features

from convnext_ablation.data.folder import IMAGE_EXTENSIONS
from convnext_ablation.errors import UserError

__all__ = ["FITS", "FORMATS", "Box", "Fitting", "decode", "fitting_versions"]

FITS = ("squash", "short-side")
# options of Pillow's encoders: lossless formats at their fastest
FORMATS: dict[str, dict[str, Any]] = {
    "jpeg": {"quality": 95},
    "png": {"compress_level": 1},
    "webp": {"lossless": True, "quality": 0, "method": 0},
}
_SUFFIXES = {"jpeg": ".jpg", "png": ".png", "webp": ".webp"}

Box = tuple[float, float, float, float]  # left, top, right, bottom, in pixels


@dataclass(frozen=True)
class Fitting:
    """How photographs are stored.

    Args:
        size: Side in pixels: of the square, or of the shorter side. None keeps the original file, byte for
            byte, unless it is cropped or of a kind that timm's folder reader leaves out.
        fit: One of `FITS`.
        format: One of `FORMATS`.

    Raises:
        UserError: An argument is out of range.
    """

    size: int | None = 256
    fit: str = "squash"
    format: str = "jpeg"

    def __post_init__(self) -> None:
        """Checks the arguments."""
        if self.size is not None and self.size < 8:
            raise UserError(f"size is {self.size}; give 8 or more, or none to keep the originals")
        if self.fit not in FITS:
            raise UserError(f"fit is {self.fit!r}; give one of {', '.join(FITS)}")
        if self.format not in FORMATS:
            raise UserError(f"format is {self.format!r}; give one of {', '.join(FORMATS)}")

    def name(self, original: str, cropped: bool = False) -> str:
        """Name of the stored file of an original, which is called as it was but for the ending."""
        path = PurePosixPath(original)
        return path.name if self._keeps(path, cropped) else f"{path.stem}{_SUFFIXES[self.format]}"

    def _keeps(self, original: PurePosixPath, cropped: bool) -> bool:
        return self.size is None and not cropped and original.suffix.lower() in IMAGE_EXTENSIONS

    def store(self, data: bytes, name: str, file: BinaryIO, box: Box | None = None) -> None:
        """Writes the stored file of an original.

        Args:
            data: The original's bytes.
            name: Its path in the data set.
            file: What to write to. While it encodes JPEG to a file of the system, Pillow lets go of the
                interpreter; to one in memory it doesn't.
            box: What to crop to, as far as it lies in the image.

        Raises:
            UserError: It can't be decoded, or the box lies outside of it.
        """
        image = decode(data, name)
        if box is not None:
            image = image.crop(_inside(box, image.size, name))
        elif self._keeps(PurePosixPath(name), cropped=False):
            file.write(data)
            return
        self._resized(image).save(file, self.format, **FORMATS[self.format])

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


def fitting_versions() -> dict[str, str]:
    """Versions of all that has a say in the bytes of a stored photograph."""
    names = {"libjpeg-turbo": "libjpeg_turbo", "webp": "webp"}
    found = {name: str(features.version(feature)) for name, feature in names.items()}
    zlib = str(features.version("zlib_ng") or features.version("zlib"))
    return {"pillow": version("pillow"), "zlib": zlib, **found}
