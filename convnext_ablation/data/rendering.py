"""Text as a small grey image: in one of twenty typefaces, at random size, place and tilt, in random greys.

Nothing is downloaded: matplotlib brings the fonts.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from convnext_ablation.errors import UserError

# The text faces among matplotlib's fonts, by file name; the others are symbols.
FACES = tuple(
    """
DejaVuSans DejaVuSans-Bold DejaVuSans-BoldOblique DejaVuSans-Oblique DejaVuSansMono DejaVuSansMono-Bold
DejaVuSerif DejaVuSerif-Bold DejaVuSerif-BoldItalic DejaVuSerif-Italic
STIXGeneral STIXGeneralBol STIXGeneralBolIta STIXGeneralItalic cmb10 cmmi10 cmr10 cmss10 cmti10 cmtt10
""".split()
)

_OVERSAMPLING = 2  # text is drawn at twice the size: positions of half a pixel, and little hinting


@dataclass(frozen=True)
class Rendering:
    """How hard the images are; each pair is a range from which every image draws uniformly."""

    em: tuple[float, float] = (0.8, 1.0)  # font size in image sides; a small x is half of it
    fit: float = 0.94  # text that is wider or higher than this many image sides is set smaller
    shift: float = 0.06  # how far from the middle it may stand, in image sides
    tilt: tuple[float, float] = (-3.0, 3.0)  # degrees, counter-clockwise
    contrast: tuple[float, float] = (140.0, 220.0)  # grey levels of 255 between ink and paper
    inverse: float = 0.0  # share of the images with light ink on dark paper
    blur: tuple[float, float] = (0.0, 0.4)  # Gaussian radius in pixels
    noise: tuple[float, float] = (2.0, 6.0)  # standard deviation per pixel in grey levels


def draw(rng: np.random.Generator, text: str, face: str, side: int, rendering: Rendering) -> np.ndarray:
    """Draws text in a typeface: (side, side) of uint8, grey."""
    return _develop(rng, _draw_ink(rng, text, face, side, rendering), rendering)


def _draw_ink(rng: np.random.Generator, text: str, face: str, side: int, rendering: Rendering) -> Image.Image:
    """Sets text at random size, tilt and place; returns the coverage of each pixel by ink."""
    canvas = _OVERSAMPLING * side
    tilt = rng.uniform(*rendering.tilt)
    pixels = canvas * rng.uniform(*rendering.em)
    width, height = _tilted_size(_font(face, round(pixels)).getbbox(text), tilt)
    pixels *= min(1.0, rendering.fit * canvas / max(width, height))

    font = _font(face, int(pixels))
    x0, y0, x1, y1 = map(int, font.getbbox(text))
    tile = Image.new("L", (x1 - x0, y1 - y0))
    ImageDraw.Draw(tile).text((-x0, -y0), text, fill=255, font=font)
    tile = tile.rotate(tilt, Image.Resampling.BICUBIC, expand=True)

    ink = Image.new("L", (canvas, canvas))
    left, top = (_place(rng, canvas - length, rendering.shift * canvas) for length in tile.size)
    ink.paste(tile, (left, top))
    return ink.reduce(_OVERSAMPLING)


def _place(rng: np.random.Generator, room: int, shift: float) -> int:
    """Where text starts along one side: `shift` or less off the middle, and not beyond the edge."""
    shift = min(shift, room / 2) if room > 0 else 0.0
    return round(room / 2 + rng.uniform(-shift, shift))


def _develop(rng: np.random.Generator, ink: Image.Image, rendering: Rendering) -> np.ndarray:
    """Gives ink and paper their greys, then blurs and adds noise: (side, side) of uint8."""
    ink = ink.filter(ImageFilter.GaussianBlur(rng.uniform(*rendering.blur)))
    contrast = rng.uniform(*rendering.contrast)
    darker = rng.uniform(0.0, 255.0 - contrast)
    coverage = np.asarray(ink, np.float32) / 255.0  # of light ink on dark paper
    if rng.random() >= rendering.inverse:
        coverage = 1.0 - coverage
    noise = rng.standard_normal(coverage.shape, np.float32) * np.float32(rng.uniform(*rendering.noise))
    return np.clip(np.rint(darker + contrast * coverage + noise), 0, 255).astype(np.uint8)


def _tilted_size(box: tuple[float, float, float, float], tilt: float) -> tuple[float, float]:
    """Width and height of the upright box around a tilted one."""
    width, height = box[2] - box[0], box[3] - box[1]
    cosine, sine = abs(math.cos(math.radians(tilt))), abs(math.sin(math.radians(tilt)))
    return width * cosine + height * sine, width * sine + height * cosine


@functools.lru_cache(maxsize=4096)
def _font(face: str, pixels: int) -> ImageFont.FreeTypeFont:
    # The basic layout, whether or not Pillow has Raqm: the two kern differently.
    return ImageFont.truetype(font_file(face), pixels, layout_engine=ImageFont.Layout.BASIC)


@functools.cache
def font_file(face: str) -> str:
    """Path of a face's font; a `UserError` if matplotlib is not whole."""
    import matplotlib

    path = Path(matplotlib.get_data_path(), "fonts", "ttf", f"{face}.ttf")
    if not path.is_file():
        raise UserError(f"font {path} is missing; reinstall matplotlib")
    return str(path)
