"""The only place that opens pictures: which formats are read, told by content and not by ending.

They are raster formats whose decoders start no other program. EPS, for example, would start Ghostscript.
"""

from __future__ import annotations

import io
import os
import re
import warnings
from pathlib import Path
from typing import BinaryIO

from PIL import Image, UnidentifiedImageError, features

from convnext_ablation.page import uri_of

HEAD = 64  # first bytes of a file, enough to tell its format

# by Pillow's names; phones' MPO begin as JPEG
_SIGNATURES = {
    "AVIF": rb".{4}ftyp(avi[fs]|.*avi[fs])",
    "BMP": rb"BM.{12}[\x0c\x28\x34\x38\x40\x6c\x7c]\0\0\0",
    "DDS": rb"DDS \x7c\0\0\0",
    "GIF": rb"GIF8[79]a",
    "ICO": rb"\0\0\x01\0[^\0]\0",
    "JPEG": rb"\xff\xd8\xff",
    "JPEG2000": rb"\xff\x4f\xff\x51|\0\0\0\x0cjP  \r\n\x87\n",
    "PCX": rb"\n[\0\x02\x03\x05][\0\x01][\x01\x02\x04\x08]",
    "PNG": rb"\x89PNG\r\n\x1a\n",
    "PPM": rb"P([1-6f]|0CMYK|yP|yRGBA|yCMYK)[ \t\n\r\v\f#]",  # PBM, PGM and PFM, too
    "PSD": rb"8BPS\0\x01",
    "QOI": rb"qoif",
    "SGI": rb"\x01\xda[\0\x01][\x01\x02]",
    "SUN": rb"\x59\xa6\x6a\x95",
    "TIFF": rb"II[*+]\0|MM\0[*+]",
    "WEBP": rb"RIFF.{4}WEBPVP8[ XL]",
}
_CODECS = {"AVIF": "avif", "JPEG2000": "jpg_2000", "WEBP": "webp"}  # that this Pillow may lack

Image.init()
FORMATS = tuple(
    name
    for name in _SIGNATURES
    if name in Image.OPEN and (name not in _CODECS or features.check(_CODECS[name]))
)
_PATTERNS = {name: re.compile(_SIGNATURES[name], re.DOTALL) for name in FORMATS}

# up to twice `Image.MAX_IMAGE_PIXELS` is accepted, and Pillow refuses what is beyond it
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)


def picture_format(head: bytes) -> str | None:
    """Pillow's name of the format of a file by its first `HEAD` bytes; None if it isn't read."""
    return next((name for name, pattern in _PATTERNS.items() if pattern.match(head)), None)


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
        return Image.open(file, formats=FORMATS)
    except UnidentifiedImageError as error:  # which tells the address of the buffer, each time another
        raise ValueError("cannot identify image file") from error
    except Image.DecompressionBombError as error:
        raise ValueError(str(error)) from error


def picture_uri(path: Path, side: int) -> str:
    """An image as a small JPEG in a data URI; empty if it can't be decoded.

    Args:
        path: The file.
        side: Width and height are at most so many pixels.
    """
    try:
        with open_picture(path) as image:
            small = image.convert("RGB")
    except Exception:  # decoders raise anything
        return ""
    small.thumbnail((side, side))
    return uri_of(small)
