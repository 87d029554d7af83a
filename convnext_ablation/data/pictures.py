"""The only place that opens pictures: which formats are read, and which pixels of them a person sees.

Formats are recognised by content, not by extension. They are raster formats whose decoders start no other
program. EPS, for example, would start Ghostscript.
"""

from __future__ import annotations

import io
import os
import re
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from PIL import ExifTags, Image, ImageCms, UnidentifiedImageError

from convnext_ablation.page import uri_of

# by Pillow's names, without those that Pillow can't tell by content, such as TGA
_KNOWN = "AVIF BMP DDS GIF ICO JPEG JPEG2000 MPO PCX PNG PPM PSD QOI SGI SUN TIFF WEBP".split()
_HEAD = 16  # bytes by which Pillow tells formats

Image.init()
FORMATS = tuple(name for name in _KNOWN if name in Image.OPEN)
# of the names of files, which training goes by in a folder; timm's own scripts read .png, .jpg and .jpeg
ENDINGS = {
    ending: name for ending, name in Image.registered_extensions().items() if name in (*FORMATS, "MPO")
}

_UPRIGHT = {  # by the EXIF orientation
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_HOLDS_ORIENTATION = {"exif", "Raw profile type exif", "xmp", "XML:com.adobe.xmp"}
_BITS, _PHOTOMETRIC = 258, 262  # tags of TIFF
_SCALES = {"L;2": 85, "L;4": 17}  # from grey of few bits to 255
_CONVERTED_WRONGLY = re.compile("I$|F$|I;16|CMYK|LAB")  # modes that `Image.convert` would clip, or worse
_ALPHA = ("RGBA", "RGBa", "LA", "La", "PA")

# up to twice `Image.MAX_IMAGE_PIXELS` is accepted, and Pillow refuses what is beyond it
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
# the pixels may be sound
warnings.filterwarnings("ignore", "Corrupt EXIF data|Truncated File Read", UserWarning)


class TooLargeError(ValueError):
    """A picture has more pixels than are accepted."""


def is_called_picture(name: str) -> bool:
    """Whether a file's extension is one of these formats'; what it holds is another question."""
    return os.path.splitext(name)[1].lower() in ENDINGS


def with_ending(name: str, read: Callable[[], bytes]) -> str:
    """The name of a picture's file, with an extension of its format unless it has a picture's."""
    if is_called_picture(name):
        return name
    try:
        with open_picture(read()) as image:
            kind = image.format
    except Exception:  # broken, which shows when it is decoded
        return name
    if kind in ("JPEG", "MPO"):
        return f"{name}.jpg"
    return name + min((ending for ending, format in ENDINGS.items() if format == kind), key=len)


def is_picture(read: Callable[[int | None], bytes]) -> bool:
    """Whether a file's content, or so many first bytes, which `read` gives, is of one of these formats."""
    head = read(_HEAD)
    accepts = (Image.OPEN[name][1] for name in FORMATS)
    if not any(accept and accept(head) for accept in accepts):
        return False
    try:
        open_picture(read(None)).close()
    except TooLargeError:
        return True
    except Exception:  # Pillow's readers of headers raise many kinds
        return False
    return True


def open_picture(source: bytes | str | os.PathLike[str] | BinaryIO) -> Image.Image:
    """Opens a picture of one of `FORMATS`, without decoding it yet.

    Args:
        source: The file's content, its path, or the open file.

    Raises:
        ValueError: It is of none of these formats, or has more pixels than Pillow accepts.
        OSError: The file can't be read.
    """
    file = io.BytesIO(source) if isinstance(source, bytes) else source
    try:
        image = Image.open(file, formats=FORMATS)
    except UnidentifiedImageError as error:  # which tells the address of the buffer, each time another
        raise ValueError("cannot identify image file") from error
    except Image.DecompressionBombError as error:
        most = 2 * (Image.MAX_IMAGE_PIXELS or 0)
        what = f"has more than {most:,} pixels, perhaps a decompression bomb"
        raise TooLargeError(f"{what}; `prepare --max-pixels` takes more") from error
    if image.format == "TIFF":  # Pillow turns it upright as it decodes it, and forgets that it did
        image.info["turned"] = _orientation(image)
    elif image.format == "PNG" and image.tile and "transparency" in image.info:
        # Pillow keeps the transparent value as it is stored, and scales the pixels
        value, rawmode = image.info["transparency"], image.tile[0].args
        if rawmode in _SCALES:
            image.info["transparency"] = value * _SCALES[rawmode]
        elif rawmode == "RGB;16B":
            image.info["transparency"] = tuple(channel >> 8 for channel in value)
    return image


@contextmanager
def pixels_allowed(most: int | None) -> Iterator[None]:
    """Has pictures of up to so many pixels opened, instead of Pillow's 178,956,970, if a number is given."""
    before = Image.MAX_IMAGE_PIXELS
    if most is not None:
        Image.MAX_IMAGE_PIXELS = -(-most // 2)  # Pillow refuses what has more than twice that
    try:
        yield
    finally:
        Image.MAX_IMAGE_PIXELS = before


def as_seen(
    image: Image.Image, mode: str = "RGB", box: tuple[int, int, int, int] | None = None
) -> tuple[Image.Image, list[str]]:
    """The first frame of a picture as a person sees it.

    - It is turned upright by its EXIF orientation.
    - 16-bit greyscale is divided by 257. Integers of 32 bits and floats are taken in the least of the ranges
      0 to 1 (floats only), 0 to 255 and 0 to 65535 that holds them all, and else from the lowest to the
      highest of the picture.
    - CMYK is converted to sRGB by the embedded profile, and without one by Pillow's rule. Profiles of RGB and
      greyscale are not applied, as in timm and torchvision.
    - Transparency is composited on white, unless `mode` has an alpha channel.

    Args:
        image: From `open_picture`.
        mode: Mode of Pillow to convert to.
        box: Left, top, right and bottom to crop to, in pixels of the file, before it is turned upright.

    Returns:
        The picture, and what was changed for it: an entry for each kind.

    Raises:
        ValueError: Pixels are NaN or infinite, or there is a box in a TIFF that is turned.
    """
    changes = []
    if getattr(image, "is_animated", False) and image.format != "PSD":  # whose layers are no frames
        changes.append("first of several frames taken")
    image.load()
    turn = _UPRIGHT.get(image.info.get("turned") or _orientation(image))
    turned_by_pillow = "turned" in image.info
    if turn is not None and turned_by_pillow and box is not None:
        raise ValueError("has a bounding box and an orientation; save it upright, with its box")
    if image.mode != mode and _CONVERTED_WRONGLY.match(image.mode):
        image, change = _in_srgb(image) if image.mode in ("CMYK", "LAB") else _scaled(image)
        changes += change
    if mode not in _ALPHA and image.has_transparency_data:
        image, change = _on_white(image)
        changes += change
    image = image if image.mode == mode else image.convert(mode)  # which copies what it need not convert
    if box is not None:
        image = image.crop(box)
    if turn is not None:
        changes.append("turned upright by EXIF")
        image = image if turned_by_pillow else image.transpose(turn)
    return image, changes


def _orientation(image: Image.Image) -> int:
    """How EXIF or XMP says that a picture is to be turned; 1, not at all, if that can't be read."""
    if image.format != "TIFF" and not _HOLDS_ORIENTATION & image.info.keys():
        return 1
    try:
        return int(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # damaged EXIF raises anything, and the pixels may be sound
        return 1


def _scaled(image: Image.Image) -> tuple[Image.Image, list[str]]:
    pixels = np.asarray(image).astype(np.float64)
    if not np.isfinite(pixels).all():
        raise ValueError("has pixels that are NaN or infinite")
    tags: Any = getattr(image, "tag_v2", {})
    low, high = float(pixels.min()), float(pixels.max())
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PPM"):
        kind, bottom, top = "16-bit greyscale scaled", 0.0, 2.0 ** tags.get(_BITS, (16,))[0] - 1
    else:
        kind = "float" if image.mode == "F" else "32-bit"
        tops = [top for top in (1.0, 255.0, 65535.0) if top > 1 or image.mode == "F"]
        fitting = [top for top in tops if low >= 0 and high <= top]
        bottom, top = (0.0, fitting[0]) if fitting else (low, high)
        kind += f" greyscale scaled from {f'0 to {top:.0f}' if fitting else 'its lowest to its highest'}"
    scaled = np.rint((pixels - bottom) * (255 / ((top - bottom) or 1))).astype(np.uint8)
    grey = Image.fromarray(255 - scaled if tags.get(_PHOTOMETRIC) == 0 else scaled)
    if (clear := image.info.get("transparency")) is not None:
        grey.putalpha(Image.fromarray(np.where(pixels == clear, 0, 255).astype(np.uint8)))
    return grey, [kind]


def _in_srgb(image: Image.Image) -> tuple[Image.Image, list[str]]:
    """CMYK or LAB by its profile; CMYK by Pillow's rule if it has none that fits."""
    srgb, embedded = ImageCms.createProfile("sRGB"), image.info.get("icc_profile")
    if image.mode == "LAB":
        lab = ImageCms.buildTransform(ImageCms.createProfile("LAB"), srgb, "LAB", "RGB")
        return ImageCms.applyTransform(image, lab) or image, ["LAB converted"]
    try:
        profile = ImageCms.ImageCmsProfile(io.BytesIO(embedded or b""))
        to_srgb = ImageCms.buildTransform(profile, srgb, "CMYK", "RGB")
        return ImageCms.applyTransform(image, to_srgb) or image, ["CMYK converted by its profile"]
    except (ImageCms.PyCMSError, OSError, TypeError):
        return image.convert("RGB"), ["CMYK converted without a profile"]


def _on_white(image: Image.Image) -> tuple[Image.Image, list[str]]:
    clear = image.convert("RGBA" if image.mode != "La" else "LA").convert("RGBA")
    if clear.getchannel("A").getextrema()[0] == 255:
        return clear.convert("RGB"), []
    white = Image.new("RGBA", clear.size, "white")
    white.alpha_composite(clear)
    return white.convert("RGB"), ["transparency composited on white"]


def picture_uri(path: Path, side: int) -> str:
    """An image of at most `side` pixels a side, as a JPEG in a data URI; empty if it can't be decoded."""
    try:
        with open_picture(path) as image:
            small, _ = as_seen(image)
    except Exception:  # decoders raise anything
        return ""
    small.thumbnail((side, side))
    return uri_of(small)
