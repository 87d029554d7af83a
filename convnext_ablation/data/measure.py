"""What a folder of images holds, fit to train on or not, and what is measured of each image and kept."""

from __future__ import annotations

import hashlib
import json
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

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
    decode,
    list_split,
    read_manifest,
)
from convnext_ablation.errors import UserError
from convnext_ablation.files import told_of_full_disk

_AT_A_TIME = 4096  # images that wait for the threads
# splits in the order of what may be learned from them
_RANKS = {name: rank for rank, split in enumerate(SPLITS) for name in SYNONYMS[split]}


def split_rank(split: str) -> int:
    """0 for a split that is trained on, 1 for one that epochs are chosen by, 2 for tests."""
    return _RANKS[split]


@dataclass(frozen=True)
class Contents:
    """What a data set's folder holds, ordered by split from training to test.

    The source and hash of an image that no manifest lists are its own name, and empty.
    """

    root: Path
    images: list[Record]
    classes: dict[str, set[str]]  # of each split, those without images included
    not_read: list[str]  # files among the images that training doesn't read
    unlisted: list[str]  # images that the manifest doesn't have
    missing: list[str]  # images that only the manifest has

    def counts(self) -> dict[str, Counter[str]]:
        """Images of each class, for each split."""
        counts: dict[str, Counter[str]] = {split: Counter() for split in self.classes}
        for record in self.images:
            counts[record.split][record.class_name] += 1
        return counts


def read_folder(root: Path) -> Contents:
    """Lists a folder ``<split>/<class>/<image>``, with or without a manifest."""
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
        raise UserError(f"{root}: holds no image {', '.join(IMAGE_EXTENSIONS)} as <split>/<class>/<image>")
    return contents


class Measured(NamedTuple):
    """What was measured of an image; with other fields, keep it in files of another name."""

    sha256: str = ""  # of the file; empty if it can't be read
    pixels: str = ""  # SHA-256 of width, height and the pixels in RGB, as training decodes them
    width: int = 0
    height: int = 0
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
        return Measured(error=str(error))
    sha256 = hashlib.sha256(data).hexdigest()
    try:
        image = decode(data)
        colours = image.convert("RGB")
    except ValueError as error:
        return Measured(sha256, error=str(error))
    pixels = np.asarray(colours)
    size = f"{colours.width}x{colours.height}:".encode()
    return Measured(
        sha256,
        hashlib.sha256(size + pixels.tobytes()).hexdigest(),
        colours.width,
        colours.height,
        image.mode,
        bool((pixels == pixels[..., :1]).all()),
        _is_flat(colours),
        *_perceptual(colours),
    )


def hash_image(path: Path) -> tuple[str, str]:
    """The perceptual hashes of an image in hex; empty if it can't be decoded, or is of one colour."""
    try:
        # read whole: threads that read little by little wait for each other
        colours = decode(path.read_bytes(), checksums=False).convert("RGB")
    except (OSError, ValueError):
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


def measure_images(root: Path, ids: Sequence[str], cache: Path, workers: int) -> list[Measured]:
    """Measures images by their paths below a folder; arguments as of `remembered`."""
    found = dict(remembered(root, ids, measure_image, cache, workers))
    return [Measured(*found[number]) for number in range(len(ids))]


def remembered(
    root: Path,
    names: Sequence[str],
    measure: Callable[[Path], Sequence[Any]],
    cache: Path,
    workers: int,
) -> Iterator[tuple[int, Sequence[Any]]]:
    """Measures files by threads, as reading, decoding and hashing let go of the interpreter.

    Args:
        root: Folder that the files are in.
        names: Paths of the files below it.
        measure: What to do with each; values whose first is empty are not kept.
        cache: Keeps them, a JSON list a line; it grows while this runs, so that nothing done is lost.
        workers: Number of threads.

    Yields:
        The index of a file, and its values, in no order.

    Raises:
        UserError: The disk is full.
    """
    states = [_state(root / name) for name in names]
    known = _kept(cache)
    left = []
    for index, name in enumerate(names):
        state, values = known.get(name, ("", ()))
        if state and state == states[index]:
            yield index, values
        else:
            left.append(index)
    pool = ThreadPoolExecutor(workers)
    try:
        with (
            told_of_full_disk(cache),
            warnings.catch_warnings(),
            open(cache, "a", encoding="ascii") as file,
            Progress(f"measuring images of {root}", len(left)) as progress,
        ):
            warnings.simplefilter("ignore")  # Pillow's, of what it could mend
            file.write("\n")  # ends a line that a killed run has cut off
            for start in range(0, len(left), _AT_A_TIME):
                some = left[start : start + _AT_A_TIME]
                measured = pool.map(lambda index: measure(root / names[index]), some)
                for index, values in zip(some, measured, strict=True):
                    if values[0]:  # what could not be read is tried again the next time
                        file.write(json.dumps([names[index], states[index], values]) + "\n")
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


def _kept(cache: Path) -> dict[str, tuple[str, Sequence[Any]]]:
    """State and values that a cache has, by the file's name."""
    known = {}
    if cache.exists():
        with open(cache, encoding="ascii", errors="replace") as file:
            for line in file:
                with suppress(ValueError):  # empty or cut off
                    name, state, values = json.loads(line)
                    known[name] = (state, values)
    return known
