"""The built-in sets that are drawn here: nothing is downloaded, and no image is like another.

An image is text in one of twenty typefaces, small and grey; matplotlib brings the fonts. All splits draw from
the same texts; size, place, tilt, greys, blur and noise are each image's own.
"""

from __future__ import annotations

import functools
import itertools
import math
import string
import unicodedata
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import BinaryIO, ClassVar

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from convnext_ablation.data.folder import Record
from convnext_ablation.data.layout import SPLITS
from convnext_ablation.data.photographs import DataSet
from convnext_ablation.dataclass_options import option
from convnext_ablation.errors import UserError

# Two letters, so that they stand large in a small image: most beginnings of short English words.
WORDS = tuple(
    """
ac ad ag ai an ap ar as ax ba be bi bo bu ca co cr cu da de di do dr du ea eb ee eg el en ev ey fa fe fi
fl fo fr fu ga ge gi gu gy ha he hi ho hu ic im in iv ja je jo ju ke ki la le li lo ma mi mo mu na ne no
nu oa od of oi ol on or ou ow pa pe pi po pu qu ra re ri ro ru ry sa se sh si sk sl so sp su ta te ti to
tr tu tw ur us va ve vo wa we wh wi ya ye yo za zi zo
""".split()
)

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


def _draw_ink(rng: np.random.Generator, text: str, face: str, side: int, rendering: Rendering) -> Image.Image:
    """Sets text at random size, tilt and place; returns the coverage of each pixel by ink."""
    canvas = _OVERSAMPLING * side
    tilt = rng.uniform(*rendering.tilt)
    pixels = canvas * rng.uniform(*rendering.em)
    x0, y0, x1, y1 = _font(face, round(pixels)).getbbox(text)
    width, height = x1 - x0, y1 - y0
    cosine, sine = abs(math.cos(math.radians(tilt))), abs(math.sin(math.radians(tilt)))
    longer = max(width * cosine + height * sine, width * sine + height * cosine)  # side of it when tilted
    pixels *= min(1.0, rendering.fit * canvas / longer)

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


_side = partial(option, help="side of the square images in pixels")
_train = partial(option, help="training images per class")
_val = partial(option, help="validation images per class")
_test = partial(option, help="test images per class")


@dataclass(frozen=True)
class DrawnSet(DataSet):
    """A set as its parameters give it; all but `rendering` are options of the command line."""

    classes: ClassVar[Sequence[str]]
    faces = FACES

    seed: int = option(0, "seed of all that is random")
    size: int = _side(32)
    train: int = _train(600)
    val: int = _val(40)
    test: int = _test(100)
    rendering: Rendering = field(default_factory=Rendering)

    def __post_init__(self) -> None:
        """Checks the numbers."""
        self.check_least(seed=0, size=16, train=1, val=1, test=1)

    def subject(self, rng: np.random.Generator, class_name: str) -> tuple[str, str]:
        """Draws what an image of a class shows: a text and its typeface."""
        raise NotImplementedError

    def records(self, scratch: Path) -> Iterator[tuple[Record, tuple[str, str, int]]]:
        """All images of the set, each as its record and what `encode` needs to draw it."""
        for face in self.faces:
            font_file(face)  # a font that is missing shall be found before anything is drawn
        for split, class_name in itertools.product(SPLITS, self.classes):
            for index in range(getattr(self, split)):
                text, face = self.subject(self._rng(split, class_name, index), class_name)
                source = text if face == class_name else f"{text} in {face}"
                id_ = f"{split}/{class_name}/{index:05d}.png"
                yield Record(id_, split, class_name, source), (split, class_name, index)

    def encode(self, key: tuple[str, str, int], file: BinaryIO) -> Sequence[str]:
        """Draws one image, which depends on its key and the seed alone, as a grey PNG."""
        rng = self._rng(*key)
        text, face = self.subject(rng, key[1])
        ink = _draw_ink(rng, text, face, self.size, self.rendering)
        pixels = _develop(rng, ink, self.rendering)
        # Noise doesn't compress: the fastest level gives up a few per cent of size.
        Image.fromarray(pixels).save(file, "png", compress_level=1)
        return ()

    def _rng(self, split: str, class_name: str, index: int) -> np.random.Generator:
        # Names enter by their checksum: a class more or less leaves the images of the others as they are.
        entropy = [self.seed, zlib.crc32(split.encode()), zlib.crc32(class_name.encode()), index]
        return np.random.Generator(np.random.PCG64(entropy))


@dataclass(frozen=True)
class Typefaces(DrawnSet):
    """Which typeface is a word set in?"""

    name = "typefaces"
    summary = "words in 20 typefaces, rendered here; nothing is downloaded"
    classes = FACES

    def subject(self, rng: np.random.Generator, class_name: str) -> tuple[str, str]:
        """Any word, in the typeface that is the class."""
        return _any_of(rng, WORDS), class_name


@dataclass(frozen=True)
class FewTypefaces(Typefaces):
    """Words at twice the size, and fewer of them: for networks that have been pre-trained."""

    name = "typefaces-64"
    summary = "the same at 64 pixels, 100 training images per class, to fine-tune on"

    size: int = _side(64)
    train: int = _train(100)
    val: int = _val(5)
    test: int = _test(50)


STYLES = {
    "upright": "DejaVuSans DejaVuSansMono DejaVuSerif STIXGeneral cmr10 cmss10 cmtt10".split(),
    "italic": "DejaVuSans-Oblique DejaVuSerif-Italic STIXGeneralItalic cmmi10 cmti10".split(),
    "bold": "DejaVuSans-Bold DejaVuSansMono-Bold DejaVuSerif-Bold STIXGeneralBol cmb10".split(),
    "bold-italic": "DejaVuSans-BoldOblique DejaVuSerif-BoldItalic STIXGeneralBolIta".split(),
}


@dataclass(frozen=True)
class Characters(DrawnSet):
    """Which letter is it, and in which of four styles, in any typeface?"""

    name = "characters"
    summary = "26 letters in four styles of 20 typefaces, rendered here"
    classes = tuple(f"{letter}-{style}" for letter in string.ascii_lowercase for style in STYLES)

    train: int = _train(48)
    val: int = _val(3)
    test: int = _test(10)
    rendering: Rendering = field(default_factory=lambda: Rendering(em=(1.1, 1.4)))

    def subject(self, rng: np.random.Generator, class_name: str) -> tuple[str, str]:
        """The letter that the class names, in any typeface of its style."""
        letter, _, style = class_name.partition("-")
        return letter, _any_of(rng, STYLES[style])


# what the fonts have on all of `BASES`, as combining characters
MARKS = {
    "none": "", "grave": "\u0300", "acute": "\u0301", "circumflex": "\u0302", "tilde": "\u0303",
    "macron": "\u0304", "breve": "\u0306", "dot-above": "\u0307", "diaeresis": "\u0308", "caron": "\u030c",
    "dot-below": "\u0323", "ogonek": "\u0328",
}  # fmt: skip
BASES = "aeoAEIO"


@dataclass(frozen=True)
class Diacritics(DrawnSet):
    """Which diacritic does a letter bear? Letters and typefaces are the same in all classes."""

    name = "diacritics"
    summary = "7 letters with one of 11 diacritics, or none, in 10 typefaces, rendered here"
    classes = tuple(MARKS)
    # the others lack letters with marks
    faces = tuple(face for face in FACES if face.startswith("DejaVu"))

    size: int = _side(64)
    train: int = _train(120)
    val: int = _val(10)
    test: int = _test(50)
    rendering: Rendering = field(default_factory=lambda: Rendering(em=(1.0, 1.2)))

    def subject(self, rng: np.random.Generator, class_name: str) -> tuple[str, str]:
        """Any letter with the mark that is the class, in any typeface."""
        letter, face = _any_of(rng, BASES), _any_of(rng, self.faces)
        return unicodedata.normalize("NFC", letter + MARKS[class_name]), face


def _any_of(rng: np.random.Generator, choices: Sequence[str]) -> str:
    return choices[int(rng.integers(len(choices)))]
