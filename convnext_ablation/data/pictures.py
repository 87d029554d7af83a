"""The only place that opens pictures: which formats are read, told by content and not by ending.

They are raster formats whose decoders start no other program. EPS, for example, would start Ghostscript.
"""

from __future__ import annotations

import io
import os
import warnings
from pathlib import Path
from typing import BinaryIO

from PIL import Image, UnidentifiedImageError

from convnext_ablation.page import uri_of

# by Pillow's names, without those that Pillow can't tell by content, such as TGA
_KNOWN = "AVIF BMP DDS GIF ICO JPEG JPEG2000 MPO PCX PNG PPM PSD QOI SGI SUN TIFF WEBP".split()

Image.init()
FORMATS = tuple(name for name in _KNOWN if name in Image.OPEN)
_ENDINGS = {ending for ending, name in Image.registered_extensions().items() if name in (*FORMATS, "MPO")}

# up to twice `Image.MAX_IMAGE_PIXELS` is accepted, and Pillow refuses what is beyond it
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)


def is_called_picture(name: str) -> bool:
    """Whether a file's ending is one of these formats'; what it holds is another question."""
    return os.path.splitext(name)[1].lower() in _ENDINGS


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
