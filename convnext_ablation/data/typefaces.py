"""The built-in data set: which typeface is a word set in?

Telling 20 typefaces apart is a fine-grained problem, the classes sharing all but small shapes: regular and
bold, upright and oblique of a family, italics of two families. Nothing is downloaded: matplotlib brings the
fonts. All splits draw from the same words; size, place, tilt, greys, blur and noise are each image's own.
"""

from __future__ import annotations

import functools
import itertools
import math
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, ClassVar

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from convnext_ablation.data.folder import SPLITS, Record
from convnext_ablation.data.photographs import DataSet
from convnext_ablation.dataclass_options import option
from convnext_ablation.errors import UserError

# The text faces among matplotlib's fonts, by file name; the others are symbols.
FACES = tuple(
    """
DejaVuSans DejaVuSans-Bold DejaVuSans-BoldOblique DejaVuSans-Oblique DejaVuSansMono DejaVuSansMono-Bold
DejaVuSerif DejaVuSerif-Bold DejaVuSerif-BoldItalic DejaVuSerif-Italic
STIXGeneral STIXGeneralBol STIXGeneralBolIta STIXGeneralItalic cmb10 cmmi10 cmr10 cmss10 cmti10 cmtt10
""".split()
)

# Two letters, so that they stand large in a small image: most beginnings of short English words.
WORDS = tuple(
    """
ac ad ag ai an ap ar as ax ba be bi bo bu ca co cr cu da de di do dr du ea eb ee eg el en ev ey fa fe fi
fl fo fr fu ga ge gi gu gy ha he hi ho hu ic im in iv ja je jo ju ke ki la le li lo ma mi mo mu na ne no
nu oa od of oi ol on or ou ow pa pe pi po pu qu ra re ri ro ru ry sa se sh si sk sl so sp su ta te ti to
tr tu tw ur us va ve vo wa we wh wi ya ye yo za zi zo
""".split()
)

_OVERSAMPLING = 2  # words are drawn at twice the size: positions of half a pixel, and little hinting


@dataclass(frozen=True)
class Rendering:
    """How hard the images are; each pair is a range from which every image draws uniformly."""

    em: tuple[float, float] = (0.8, 1.0)  # font size in image sides; a small x is half of it
    fit: float = 0.94  # a word that is wider or higher than this many image sides is set smaller
    shift: float = 0.06  # how far from the middle a word may stand, in image sides
    tilt: tuple[float, float] = (-3.0, 3.0)  # degrees, counter-clockwise
    contrast: tuple[float, float] = (140.0, 220.0)  # grey levels of 255 between ink and paper
    inverse: float = 0.0  # share of the images with light ink on dark paper
    blur: tuple[float, float] = (0.0, 0.4)  # Gaussian radius in pixels
    noise: tuple[float, float] = (2.0, 6.0)  # standard deviation per pixel in grey levels


@dataclass(frozen=True)
class Typefaces(DataSet):
    """The set as its parameters give it; all but `rendering` are options of the command line."""

    name: ClassVar[str] = "typefaces"
    summary: ClassVar[str] = "words in 20 typefaces, rendered here; nothing is downloaded"

    seed: int = option(0, "seed of all that is random")
    size: int = option(32, "side of the square images in pixels")
    train: int = option(600, "training images per class")
    val: int = option(40, "validation images per class")
    test: int = option(100, "test images per class")
    rendering: Rendering = Rendering()

    def __post_init__(self) -> None:
        """Checks the numbers."""
        self.check_least(seed=0, size=16, train=1, val=1, test=1)

    def records(self, scratch: Path) -> Iterator[tuple[Record, tuple[str, str, int]]]:
        """All images of the set, each as its record and what `encode` needs to draw it."""
        for face in FACES:
            _font_file(face)  # a font that is missing shall be found before anything is drawn
        for split, face in itertools.product(SPLITS, FACES):
            for index in range(getattr(self, split)):
                word = _draw_word(self._rng(split, face, index))
                yield Record(f"{split}/{face}/{index:05d}.png", split, face, word), (split, face, index)

    def encode(self, key: tuple[str, str, int], file: BinaryIO) -> None:
        """Draws one image, which depends on its key and the seed alone, as a grey PNG."""
        split, face, index = key
        rng = self._rng(split, face, index)
        word = _draw_word(rng)
        pixels = _develop(rng, _draw_ink(rng, word, face, self.size, self.rendering), self.rendering)
        # Noise doesn't compress: the fastest level gives up a few per cent of size.
        Image.fromarray(pixels).save(file, "png", compress_level=1)

    def _rng(self, split: str, face: str, index: int) -> np.random.Generator:
        # Names enter by their checksum: a face more or less leaves the images of the others as they are.
        entropy = [self.seed, zlib.crc32(split.encode()), zlib.crc32(face.encode()), index]
        return np.random.Generator(np.random.PCG64(np.random.SeedSequence(entropy)))


def _draw_word(rng: np.random.Generator) -> str:
    return WORDS[rng.integers(len(WORDS))]


def _draw_ink(rng: np.random.Generator, word: str, face: str, side: int, rendering: Rendering) -> Image.Image:
    """Sets a word at random size, tilt and place; returns the coverage of each pixel by ink."""
    canvas = _OVERSAMPLING * side
    tilt = rng.uniform(*rendering.tilt)
    pixels = canvas * rng.uniform(*rendering.em)
    width, height = _tilted_size(_font(face, round(pixels)).getbbox(word), tilt)
    pixels *= min(1.0, rendering.fit * canvas / max(width, height))

    font = _font(face, int(pixels))
    x0, y0, x1, y1 = map(int, font.getbbox(word))
    tile = Image.new("L", (x1 - x0, y1 - y0))
    ImageDraw.Draw(tile).text((-x0, -y0), word, fill=255, font=font)
    tile = tile.rotate(tilt, Image.Resampling.BICUBIC, expand=True)

    ink = Image.new("L", (canvas, canvas))
    left, top = (_place(rng, canvas - length, rendering.shift * canvas) for length in tile.size)
    ink.paste(tile, (left, top))
    return ink.reduce(_OVERSAMPLING)


def _place(rng: np.random.Generator, room: int, shift: float) -> int:
    """Where a word starts along one side: `shift` or less off the middle, and not beyond the edge."""
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
    return ImageFont.truetype(_font_file(face), pixels, layout_engine=ImageFont.Layout.BASIC)


@functools.cache
def _font_file(face: str) -> str:
    import matplotlib

    path = Path(matplotlib.get_data_path(), "fonts", "ttf", f"{face}.ttf")
    if not path.is_file():
        raise UserError(f"font {path} is missing; reinstall matplotlib")
    return str(path)
