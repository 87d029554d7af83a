"""What a folder of images holds, fit to train on or not, and what is measured of each image.

What was measured is kept under the file's name, size and time of change: an interrupted run resumes, and a
second one reads no image that hasn't changed.
"""

from __future__ import annotations

import csv
import hashlib
import io
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from typing import Any

import imagehash
import numpy as np
from PIL import Image

from convnext_ablation.console import Progress
from convnext_ablation.data.folder import (
    IMAGE_EXTENSIONS,
    MANIFEST,
    SPLITS,
    SYNONYMS,
    Record,
    list_split,
    read_manifest,
)
from convnext_ablation.errors import UserError
from convnext_ablation.files import told_of_full_disk, written_whole

_AT_A_TIME = 4096  # images that wait for the threads
# splits in the order of what may be learned from them
_RANKS = {name: rank for rank, split in enumerate(SPLITS) for name in SYNONYMS[split]}


def split_rank(split: str) -> int:
    """0 for a split that is trained on, 1 for one that epochs are chosen by, 2 for tests."""
    return _RANKS[split]


@dataclass(frozen=True)
class Contents:
    """What a data set's folder holds.

    Images are ordered by split from training to test. Without a manifest an image's source is the file's own
    name; its hash is the manifest's, empty for an image that isn't in there.
    """

    root: Path
    images: list[Record]
    classes: dict[str, set[str]]  # of each split, those without images included
    not_read: list[str]  # files among the images that training doesn't read
    unlisted: list[str]  # images that the manifest doesn't have
    missing: list[str]  # images that only the manifest has


def read_folder(root: Path) -> Contents:
    """Lists a folder ``<split>/<class>/<image>``, with or without a manifest.

    Raises:
        UserError: There is no such folder, or no split or no image in it, or its manifest is damaged.
    """
    if not root.is_dir():
        raise UserError(f"{root}: no such folder; name that of a data set")
    found = {path.name for path in root.iterdir() if path.is_dir()} & _RANKS.keys()
    if not found:
        raise UserError(f"{root}: holds no split; it must hold <split>/<class>/<image> with a split train")
    listed = (root / MANIFEST).exists()
    records = {record.id: record for record in read_manifest(root)} if listed else {}
    contents = Contents(root, [], {}, [], [], [])
    for split in sorted(found, key=lambda split: (split_rank(split), split)):
        files = list_split(root, split)
        contents.classes[split] = files.classes
        contents.not_read.extend(files.others)
        contents.unlisted.extend(id_ for id_ in files.images if listed and id_ not in records)
        for id_, class_name in files.images.items():
            own = Record(id_, split, class_name, id_.rpartition("/")[2])
            contents.images.append(records.pop(id_, own))
    contents.missing.extend(sorted(records.keys() - set(contents.not_read)))
    if not contents.images:
        raise UserError(
            f"{root}: holds no image; expected <split>/<class>/<image> ({', '.join(IMAGE_EXTENSIONS)})"
        )
    return contents


@dataclass(frozen=True)
class Measured:
    """What was measured of an image."""

    sha256: str = ""  # of the file; empty if it can't be read
    pixels: str = ""  # SHA-256 of width, height and the pixels in RGB, as training decodes them
    width: int = 0
    height: int = 0
    format: str = ""  # as Pillow names it, such as JPEG
    mode: str = ""  # of the pixels in the file, as Pillow names it
    grey: bool = False  # all pixels have three equal channels
    flat: bool = False  # all pixels are the same, so that perceptual hashes say nothing
    phash: int = 0  # perceptual hash by cosine transform, 64 bit
    dhash: int = 0  # perceptual hash by differences of neighbours, 64 bit
    error: str = ""  # why it can't be decoded

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
        _is_flat(colours),
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
    if _is_flat(colours):
        return "", ""
    phash, dhash = _perceptual(colours)
    return f"{phash:016x}", f"{dhash:016x}"


def _is_flat(colours: Image.Image) -> bool:
    return all(low == high for low, high in colours.getextrema())  # type: ignore[misc]


def _perceptual(colours: Image.Image) -> tuple[int, int]:
    grey = colours.convert("L")  # once for both
    return int(str(imagehash.phash(grey)), 16), int(str(imagehash.dhash(grey)), 16)


def _reason(error: Exception) -> str:
    # without the address of the buffer that Pillow read from, which differs each time
    return " ".join(str(error).partition(" <_io.")[0].split()) or type(error).__name__


def measure_images(root: Path, ids: Sequence[str], cache: Path, workers: int) -> list[Measured]:
    """Measures images by their paths below a folder; arguments as of `remembered`."""
    kinds: dict[str, Callable[[str], Any]] = {"int": int, "bool": lambda text: text == "1", "str": str}
    parsers = [kinds[str(field.type)] for field in fields(Measured)]

    def row(path: Path) -> tuple[str, ...]:
        values = astuple(measure_image(path))
        return tuple(str(int(value) if isinstance(value, bool) else value) for value in values)

    columns = [field.name for field in fields(Measured)]
    found = dict(remembered(root, ids, row, columns, cache, workers))
    return [
        Measured(*(parse(text) for parse, text in zip(parsers, found[number], strict=True)))
        for number in range(len(ids))
    ]


def remembered(
    root: Path,
    names: Sequence[str],
    measure: Callable[[Path], Sequence[str]],
    columns: Sequence[str],
    cache: Path,
    workers: int,
) -> Iterator[tuple[int, Sequence[str]]]:
    """Measures files by threads, as reading, decoding and hashing let go of the interpreter.

    Args:
        root: Folder that the files are in.
        names: Paths of the files below it.
        measure: What to do with each; an empty first value isn't kept.
        columns: Names of the values that it returns.
        cache: CSV file that keeps them; it grows while this runs, so that nothing done is lost.
        workers: Number of threads.

    Yields:
        The index of a file, and its values, in no order.

    Raises:
        UserError: The disk is full.
    """
    states = [_state(root / name) for name in names]
    known = _kept(cache, ["name", "state", *columns])
    left = []
    for index, name in enumerate(names):
        state, *kept = known.get(name, [""])
        if state and state == states[index]:
            yield index, kept
        else:
            left.append(index)
    pool = ThreadPoolExecutor(workers)
    try:
        with (
            told_of_full_disk(cache),
            warnings.catch_warnings(),
            open(cache, "a", encoding="utf-8", errors="surrogateescape", newline="") as file,
            Progress(f"measuring images of {root}", len(left)) as progress,
        ):
            warnings.simplefilter("ignore")  # Pillow's, of what it could mend
            writer = csv.writer(file, lineterminator="\n")
            for start in range(0, len(left), _AT_A_TIME):
                some = left[start : start + _AT_A_TIME]
                measured = pool.map(lambda index: measure(root / names[index]), some)
                for index, values in zip(some, measured, strict=True):
                    if values[0]:  # what could not be read is tried again the next time
                        writer.writerow([names[index], states[index], *values])
                    progress.update()
                    yield index, values
    finally:
        pool.shutdown(cancel_futures=True)


def _state(path: Path) -> str:
    """Size and time of change of a file, which tell whether it is still the one that was measured."""
    try:
        stat = path.stat()
    except OSError:  # a link to nothing
        return ""
    return f"{stat.st_size}:{stat.st_mtime_ns}"


def _kept(cache: Path, header: Sequence[str]) -> dict[str, list[str]]:
    """The rows that a cache has, by their first column; makes it if it isn't there.

    A line that a killed run has cut off is removed; what was kept under another header is of no use.
    """
    cache.parent.mkdir(parents=True, exist_ok=True)
    first = f"{','.join(header)}\n".encode()
    content = cache.read_bytes() if cache.exists() else b""
    whole = content[: content.rfind(b"\n") + 1]
    if not whole.startswith(first):
        whole = first
    if whole != content:
        with written_whole(cache) as temporary:
            temporary.write_bytes(whole)
    rows = csv.reader(io.StringIO(whole.decode("utf-8", "surrogateescape"), newline=""))
    return {row[0]: row[1:] for row in rows if len(row) == len(header)}
