"""What is measured of an image: its size, whether it can be decoded, and hashes that tell copies."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Sequence
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from typing import Any

import imagehash
import numpy as np
from PIL import Image

from convnext_ablation.data.report.remember import remembered

__all__ = ["HASH_COLUMNS", "Measured", "hash_image", "measure_image", "measure_images"]

HASH_COLUMNS = ("phash", "dhash")


@dataclass(frozen=True)
class Measured:
    """What was measured of an image.

    Attributes:
        sha256: Of the file; empty if it can't be read.
        pixels: SHA-256 of width, height and the pixels in RGB, as training decodes them.
        width: In pixels.
        height: In pixels.
        format: As Pillow names it, such as JPEG.
        mode: Of the pixels in the file, as Pillow names it, such as RGB.
        grey: Whether all pixels have three equal channels.
        flat: Whether all pixels are the same, so that perceptual hashes say nothing.
        phash: Perceptual hash by cosine transform, 64 bit (`imagehash.phash`).
        dhash: Perceptual hash by differences of neighbours, 64 bit (`imagehash.dhash`).
        error: Why it can't be decoded; empty if it can.
    """

    sha256: str = ""
    pixels: str = ""
    width: int = 0
    height: int = 0
    format: str = ""
    mode: str = ""
    grey: bool = False
    flat: bool = False
    phash: int = 0
    dhash: int = 0
    error: str = ""

    @property
    def comparable(self) -> bool:
        """Whether its perceptual hashes say something."""
        return not self.error and not self.flat


def measure_image(path: Path) -> Measured:
    """Measures an image; one that can't be decoded is a result, too."""
    try:
        data = path.read_bytes()
    except OSError as error:
        return Measured(error=_reason(error))
    sha256 = hashlib.sha256(data).hexdigest()
    try:
        with Image.open(io.BytesIO(data)) as image:
            image.verify()  # checksums of the file format, which decoding doesn't look at
        with Image.open(io.BytesIO(data)) as image:
            kind, mode = str(image.format), image.mode
            colours = image.convert("RGB")
    except Exception as error:  # decoders raise anything
        return Measured(sha256, error=_reason(error))
    pixels = np.asarray(colours)
    size = f"{colours.width}x{colours.height}:".encode()
    return Measured(
        sha256,
        hashlib.sha256(size + pixels.tobytes()).hexdigest(),
        colours.width,
        colours.height,
        kind,
        mode,
        bool((pixels == pixels[..., :1]).all()),
        all(low == high for low, high in colours.getextrema()),  # type: ignore[misc]
        *_perceptual(colours),
    )


def hash_image(path: Path) -> tuple[str, str]:
    """The perceptual hashes of an image in hex; empty if it can't be decoded, or is of one colour."""
    try:
        # read whole: threads that read little by little wait for each other
        with Image.open(io.BytesIO(path.read_bytes())) as image:
            colours = image.convert("RGB")
    except Exception:  # decoders raise anything
        return "", ""
    if all(low == high for low, high in colours.getextrema()):  # type: ignore[misc]
        return "", ""
    phash, dhash = _perceptual(colours)
    return f"{phash:016x}", f"{dhash:016x}"


def _perceptual(colours: Image.Image) -> tuple[int, int]:
    grey = colours.convert("L")  # once for both
    return int(str(imagehash.phash(grey)), 16), int(str(imagehash.dhash(grey)), 16)


def _reason(error: Exception) -> str:
    # without the address of the buffer that Pillow read from, which differs each time
    return " ".join(str(error).partition(" <_io.")[0].split()) or type(error).__name__


def measure_images(root: Path, ids: Sequence[str], cache: Path, workers: int) -> list[Measured]:
    """Measures all images of a folder.

    Args:
        root: The folder.
        ids: Paths of the images below it.
        cache: File that keeps what was measured.
        workers: Number of threads.
    """
    columns = [field.name for field in fields(Measured)]
    found: list[Measured] = [Measured()] * len(ids)
    for index, row in remembered(root, ids, _measured_row, columns, cache, workers):
        found[index] = _parse(row)
    return found


def _measured_row(path: Path) -> tuple[str, ...]:
    return tuple(
        str(int(value) if isinstance(value, bool) else value) for value in astuple(measure_image(path))
    )


def _parse(row: Sequence[str]) -> Measured:
    kinds: dict[str, Callable[[str], Any]] = {"int": int, "bool": lambda text: text == "1", "str": str}
    return Measured(
        *(kinds[str(field.type)](text) for field, text in zip(fields(Measured), row, strict=True))
    )
