"""Built-in synthetic data sets, rendered without any download; no two images are the same.

Each small grey image shows text in one of twenty typefaces, from matplotlib's fonts. All splits use the same
texts; size, position, tilt, grey levels, blur and noise are drawn independently for each image.
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

# Two letters each, to be large in a small image; most begin short English words.
WORDS = tuple(
    """
ac ad ag ai an ap ar as ax ba be bi bo bu ca co cr cu da de di do dr du ea eb ee eg el en ev ey fa fe fi
fl fo fr fu ga ge gi gu gy ha he hi ho hu ic im in iv ja je jo ju ke ki la le li lo ma mi mo mu na ne no
nu oa od of oi ol on or ou ow pa pe pi po pu qu ra re ri ro ru ry sa se sh si sk sl so sp su ta te ti to
tr tu tw ur us va ve vo wa we wh wi ya ye yo za zi zo
""".split()
)

# matplotlib's text fonts, by file name; its other fonts hold symbols.
FACES = tuple(
    """
DejaVuSans DejaVuSans-Bold DejaVuSans-BoldOblique DejaVuSans-Oblique DejaVuSansMono DejaVuSansMono-Bold
DejaVuSerif DejaVuSerif-Bold DejaVuSerif-BoldItalic DejaVuSerif-Italic
STIXGeneral STIXGeneralBol STIXGeneralBolIta STIXGeneralItalic cmb10 cmmi10 cmr10 cmss10 cmti10 cmtt10
""".split()
)

_OVERSAMPLING = 2  # text is drawn at twice the size, for half-pixel positions and less hinting


@dataclass(frozen=True)
class Rendering:
    """Rendering parameters, which set the difficulty; pairs are ranges sampled uniformly per image."""

    em: tuple[float, float] = (0.8, 1.0)  # font size in image sides; the x-height is about half of it
    fit: float = 0.94  # maximum width and height of the text in image sides; larger text is shrunk
    shift: float = 0.06  # maximum offset from the centre, in image sides
    tilt: tuple[float, float] = (-3.0, 3.0)  # degrees, counter-clockwise
    contrast: tuple[float, float] = (140.0, 220.0)  # grey levels of 255 between ink and paper
    inverse: float = 0.0  # share of the images with light ink on dark paper
    blur: tuple[float, float] = (0.0, 0.4)  # Gaussian radius in pixels
    noise: tuple[float, float] = (2.0, 6.0)  # standard deviation per pixel in grey levels


def _draw_ink(rng: np.random.Generator, text: str, face: str, side: int, rendering: Rendering) -> Image.Image:
    """Renders text at random size, tilt and position; returns ink coverage, (side, side) in 0 to 255."""
    canvas = _OVERSAMPLING * side
    tilt = rng.uniform(*rendering.tilt)
    pixels = canvas * rng.uniform(*rendering.em)
    x0, y0, x1, y1 = _font(face, round(pixels)).getbbox(text)
    width, height = x1 - x0, y1 - y0
    cosine, sine = abs(math.cos(math.radians(tilt))), abs(math.sin(math.radians(tilt)))
    longer = max(width * cosine + height * sine, width * sine + height * cosine)  # side when rotated
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
    """Samples the text's start along one axis: at most `shift` off the centre, without crossing the edge."""
    shift = min(shift, room / 2) if room > 0 else 0.0
    return round(room / 2 + rng.uniform(-shift, shift))


def _develop(rng: np.random.Generator, ink: Image.Image, rendering: Rendering) -> np.ndarray:
    """Blurs the ink, maps it to grey levels and adds noise; returns (side, side) uint8."""
    ink = ink.filter(ImageFilter.GaussianBlur(rng.uniform(*rendering.blur)))
    contrast = rng.uniform(*rendering.contrast)
    darker = rng.uniform(0.0, 255.0 - contrast)
    coverage = np.asarray(ink, np.float32) / 255.0  # for light ink on dark paper
    if rng.random() >= rendering.inverse:
        coverage = 1.0 - coverage
    noise = rng.standard_normal(coverage.shape, np.float32) * np.float32(rng.uniform(*rendering.noise))
    return np.clip(np.rint(darker + contrast * coverage + noise), 0, 255).astype(np.uint8)


@functools.lru_cache(maxsize=4096)
def _font(face: str, pixels: int) -> ImageFont.FreeTypeFont:
    # Always the basic layout: Raqm, if installed, kerns differently.
    return ImageFont.truetype(font_file(face), pixels, layout_engine=ImageFont.Layout.BASIC)


@functools.cache
def font_file(face: str) -> str:
    """Path of a typeface's font file; a `UserError` if matplotlib lacks it."""
    import matplotlib

    path = Path(matplotlib.get_data_path(), "fonts", "ttf", f"{face}.ttf")
    if not path.is_file():
        raise UserError(f"font {path} is missing; reinstall matplotlib")
    return str(path)


_side = partial(option, help="image size in pixels")
_train = partial(option, help="training images per class")
_val = partial(option, help="validation images per class")
_test = partial(option, help="test images per class")


@dataclass(frozen=True)
class DrawnSet(DataSet):
    """A rendered data set; all fields but `rendering` are command-line options."""

    classes: ClassVar[Sequence[str]]
    faces = FACES

    seed: int = option(0, "random seed")
    size: int = _side(32)
    train: int = _train(600)
    val: int = _val(40)
    test: int = _test(100)
    rendering: Rendering = field(default_factory=Rendering)

    def __post_init__(self) -> None:
        """Validates the options."""
        self.check_least(seed=0, size=16, train=1, val=1, test=1)

    def subject(self, rng: np.random.Generator, class_name: str) -> tuple[str, str]:
        """Samples the text and the typeface of an image of a class."""
        raise NotImplementedError

    def records(self, scratch: Path) -> Iterator[tuple[Record, tuple[str, str, int]]]:
        """Yields each image's record and the key from which `encode` draws it."""
        for face in self.faces:
            font_file(face)  # report a missing font before drawing anything
        for split, class_name in itertools.product(SPLITS, self.classes):
            for index in range(getattr(self, split)):
                text, face = self.subject(self._rng(split, class_name, index), class_name)
                source = text if face == class_name else f"{text} in {face}"
                id_ = f"{split}/{class_name}/{index:05d}.png"
                yield Record(id_, split, class_name, source), (split, class_name, index)

    def encode(self, key: tuple[str, str, int], file: BinaryIO) -> Sequence[str]:
        """Writes one image as a grey PNG; it depends only on the key, the seed and the options."""
        rng = self._rng(*key)
        text, face = self.subject(rng, key[1])
        ink = _draw_ink(rng, text, face, self.size, self.rendering)
        pixels = _develop(rng, ink, self.rendering)
        # Noise barely compresses: the fastest level costs only a few per cent of size.
        Image.fromarray(pixels).save(file, "png", compress_level=1)
        return ()

    def _rng(self, split: str, class_name: str, index: int) -> np.random.Generator:
        # Seeding by the name's checksum keeps images unchanged when classes are added or removed.
        entropy = [self.seed, zlib.crc32(split.encode()), zlib.crc32(class_name.encode()), index]
        return np.random.Generator(np.random.PCG64(entropy))


@dataclass(frozen=True)
class Typefaces(DrawnSet):
    """Classifies the typeface of a two-letter text."""

    name = "typefaces"
    summary = "words in 20 typefaces, rendered here; nothing is downloaded"
    classes = FACES

    def subject(self, rng: np.random.Generator, class_name: str) -> tuple[str, str]:
        """Samples a text; the typeface is the class."""
        return _any_of(rng, WORDS), class_name


@dataclass(frozen=True)
class FewTypefaces(Typefaces):
    """`Typefaces` at twice the resolution with fewer images, for fine-tuning."""

    name = "typefaces-64"
    summary = "typefaces at 64 pixels, 100 training images per class, for fine-tuning"

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
    """Classifies the letter and its style (one of four) across typefaces."""

    name = "characters"
    summary = "26 letters in four styles of 20 typefaces, rendered here"
    classes = tuple(f"{letter}-{style}" for letter in string.ascii_lowercase for style in STYLES)

    train: int = _train(48)
    val: int = _val(3)
    test: int = _test(10)
    rendering: Rendering = field(default_factory=lambda: Rendering(em=(1.1, 1.4)))

    def subject(self, rng: np.random.Generator, class_name: str) -> tuple[str, str]:
        """Returns the letter of the class; samples a typeface of its style."""
        letter, _, style = class_name.partition("-")
        return letter, _any_of(rng, STYLES[style])


# combining characters that the fonts support on all of `BASES`
MARKS = {
    "none": "", "grave": "\u0300", "acute": "\u0301", "circumflex": "\u0302", "tilde": "\u0303",
    "macron": "\u0304", "breve": "\u0306", "dot-above": "\u0307", "diaeresis": "\u0308", "caron": "\u030c",
    "dot-below": "\u0323", "ogonek": "\u0328",
}  # fmt: skip
BASES = "aeoAEIO"


@dataclass(frozen=True)
class Diacritics(DrawnSet):
    """Classifies the diacritic of a letter; all classes share the same letters and typefaces."""

    name = "diacritics"
    summary = "7 letters with one of 11 diacritics, or none, in 10 typefaces, rendered here"
    classes = tuple(MARKS)
    # the other fonts lack letters with diacritics
    faces = tuple(face for face in FACES if face.startswith("DejaVu"))

    size: int = _side(64)
    train: int = _train(120)
    val: int = _val(10)
    test: int = _test(50)
    rendering: Rendering = field(default_factory=lambda: Rendering(em=(1.0, 1.2)))

    def subject(self, rng: np.random.Generator, class_name: str) -> tuple[str, str]:
        """Samples a letter and a typeface; the diacritic is the class."""
        letter, face = _any_of(rng, BASES), _any_of(rng, self.faces)
        return unicodedata.normalize("NFC", letter + MARKS[class_name]), face


def _any_of(rng: np.random.Generator, choices: Sequence[str]) -> str:
    return choices[int(rng.integers(len(choices)))]
