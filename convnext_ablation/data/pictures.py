"""Opens images and converts them to the pixels that a person sees; all images are read through this module.

Formats are recognised by content, not by extension. Only raster formats are read whose decoders start no
other program. EPS, for example, would start Ghostscript.
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

# Pillow's names, without formats that it can't recognise by content, such as TGA
_KNOWN = "AVIF BMP DDS GIF ICO JPEG JPEG2000 MPO PCX PNG PPM PSD QOI SGI SUN TIFF WEBP".split()
_HEAD = 16  # bytes by which Pillow recognises formats

Image.init()
FORMATS = tuple(name for name in _KNOWN if name in Image.OPEN)
# file extensions by which training finds images; timm's own scripts read only .png, .jpg and .jpeg
ENDINGS = {
    ending: name for ending, name in Image.registered_extensions().items() if name in (*FORMATS, "MPO")
}

_UPRIGHT = {  # by EXIF orientation
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_HOLDS_ORIENTATION = {"exif", "Raw profile type exif", "xmp", "XML:com.adobe.xmp"}
_BITS, _PHOTOMETRIC = 258, 262  # TIFF tags
_SCALES = {"L;2": 85, "L;4": 17}  # factors from 2-bit and 4-bit grey to 0..255
_CONVERTED_WRONGLY = re.compile("I$|F$|I;16|CMYK|LAB")  # modes that `Image.convert` clips or distorts
_ALPHA = ("RGBA", "RGBa", "LA", "La", "PA")

# accept up to twice `Image.MAX_IMAGE_PIXELS`; Pillow refuses larger images
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
# the pixels may still be intact
warnings.filterwarnings("ignore", "Corrupt EXIF data|Truncated File Read", UserWarning)


class TooLargeError(ValueError):
    """An image has more pixels than allowed."""


def is_called_picture(name: str) -> bool:
    """Whether a file has the extension of a supported format; its content isn't checked."""
    return os.path.splitext(name)[1].lower() in ENDINGS


def with_ending(name: str, read: Callable[[], bytes]) -> str:
    """Appends the extension of the image's format to a file name without an image extension."""
    if is_called_picture(name):
        return name
    try:
        with open_picture(read()) as image:
            kind = image.format
    except Exception:  # a broken image, reported when it is decoded
        return name
    if kind in ("JPEG", "MPO"):
        return f"{name}.jpg"
    return name + min((ending for ending, format in ENDINGS.items() if format == kind), key=len)


def is_picture(read: Callable[[int | None], bytes]) -> bool:
    """Whether a file is an image of a supported format; `read(n)` returns its first n bytes, None for all."""
    head = read(_HEAD)
    accepts = (Image.OPEN[name][1] for name in FORMATS)
    if not any(accept and accept(head) for accept in accepts):
        return False
    try:
        open_picture(read(None)).close()
    except TooLargeError:
        return True
    except Exception:  # Pillow's header parsers raise many kinds
        return False
    return True


def open_picture(source: bytes | str | os.PathLike[str] | BinaryIO) -> Image.Image:
    """Opens an image of one of `FORMATS` without decoding it yet.

    Args:
        source: The file's content, its path, or an open file.

    Raises:
        ValueError: The format is unsupported, or the image has more pixels than allowed.
        OSError: The file can't be read.
    """
    file = io.BytesIO(source) if isinstance(source, bytes) else source
    try:
        image = Image.open(file, formats=FORMATS)
    except UnidentifiedImageError as error:  # its message holds a buffer address, which varies
        raise ValueError("cannot identify image file") from error
    except Image.DecompressionBombError as error:
        most = 2 * (Image.MAX_IMAGE_PIXELS or 0)
        what = f"has more than {most:,} pixels, perhaps a decompression bomb"
        raise TooLargeError(f"{what}; `prepare --max-pixels` takes more") from error
    if image.format == "TIFF":  # Pillow rotates TIFFs while decoding and drops the orientation
        image.info["turned"] = _orientation(image)
    elif image.format == "PNG" and image.tile and "transparency" in image.info:
        # Pillow scales the pixels, but not the transparent value
        value, rawmode = image.info["transparency"], image.tile[0].args
        if rawmode in _SCALES:
            image.info["transparency"] = value * _SCALES[rawmode]
        elif rawmode == "RGB;16B":
            image.info["transparency"] = tuple(channel >> 8 for channel in value)
    return image


@contextmanager
def pixels_allowed(most: int | None) -> Iterator[None]:
    """Sets the maximum number of pixels per image within a block; None keeps Pillow's 178,956,970."""
    before = Image.MAX_IMAGE_PIXELS
    if most is not None:
        Image.MAX_IMAGE_PIXELS = -(-most // 2)  # Pillow refuses images above twice that
    try:
        yield
    finally:
        Image.MAX_IMAGE_PIXELS = before


def as_seen(
    image: Image.Image, mode: str = "RGB", box: tuple[int, int, int, int] | None = None
) -> tuple[Image.Image, list[str]]:
    """Converts the first frame of an image to the pixels that a person sees.

    - The EXIF orientation is applied.
    - 16-bit greyscale is divided by 257. For 32-bit integers and floats, the input range is the smallest one
      that holds all values: 0 to 1 (floats only), 0 to 255 or 0 to 65535. If none does, it is the image's
      minimum to maximum.
    - CMYK is converted to sRGB by the embedded profile, and without one by Pillow's rule. Profiles of RGB and
      greyscale images are ignored, as in timm and torchvision.
    - Transparency is composited on white, unless `mode` has an alpha channel.

    Args:
        image: From `open_picture`.
        mode: Pillow mode to convert to.
        box: Crop box (left, top, right, bottom) in stored pixels, before rotation.

    Returns:
        The image, and the kinds of changes made.

    Raises:
        ValueError: Pixels are NaN or infinite, or `box` is given for a rotated TIFF.
    """
    changes = []
    if getattr(image, "is_animated", False) and image.format != "PSD":  # PSD layers aren't frames
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
    image = image if image.mode == mode else image.convert(mode)  # `convert` copies even for the same mode
    if box is not None:
        image = image.crop(box)
    if turn is not None:
        changes.append("turned upright by EXIF")
        image = image if turned_by_pillow else image.transpose(turn)
    return image, changes


def _orientation(image: Image.Image) -> int:
    """The EXIF or XMP orientation; 1 (upright) if missing or unreadable."""
    if image.format != "TIFF" and not _HOLDS_ORIENTATION & image.info.keys():
        return 1
    try:
        return int(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # damaged EXIF raises many kinds, and the pixels may be intact
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
    """Converts LAB or CMYK to sRGB; CMYK by its profile or, without a valid one, by Pillow's rule."""
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
    """A thumbnail of at most `side` pixels per side, as a JPEG data URI; empty if it can't be decoded."""
    try:
        with open_picture(path) as image:
            small, _ = as_seen(image)
    except Exception:  # decoders may raise any exception
        return ""
    small.thumbnail((side, side))
    return uri_of(small)
