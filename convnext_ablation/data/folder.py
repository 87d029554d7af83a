"""Image folders: splits, manifest, and validation before training.

A prepared folder has a ``manifest.csv`` with a line per image. An image's id is its path below the folder
with forward slashes, such as ``train/cmr10/00012.png``. ``classes.txt`` gives all splits the same class
indices, even if a split lacks a class. Folders supplied by users need neither file.
"""

from __future__ import annotations

import csv
import hashlib
import itertools
import json
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

from PIL import Image

from convnext_ablation.console import printable, track
from convnext_ablation.data.layout import SPLITS, find_split, list_split
from convnext_ablation.data.pictures import open_picture
from convnext_ablation.data.walk import read_skipped, skipped_lines
from convnext_ablation.errors import UserError, in_one_line
from convnext_ablation.files import csv_cell, csv_text
from convnext_ablation.machine import available_cores

T = TypeVar("T")
R = TypeVar("R")

CLASSES = "classes.txt"  # class names in the order of their indices
DESCRIPTION = "dataset.json"
CHANGED = "changed"  # its key for the number of images that `pictures.as_seen` changed in each way
MANIFEST = "manifest.csv"
# known issues of data sets, by the name in ``dataset.json``
KNOWN_FAULTS = {
    "cub200": "CUB-200-2011: 22 or 23 of its test images also stand in ImageNet, so weights that began from "
    "ImageNet's have seen them; by expert judgement at least 4 % of its labels are wrong.",
    "stanford-dogs": "Stanford Dogs is made from ImageNet: weights that began from ImageNet's have seen test "
    "images, with their labels. `convnext-ablation data-report --against` counts them.",
}

_AT_A_TIME = 32  # images per task of a thread
_COLUMNS = ["id", "split", "class", "source", "sha256"]
_STAMP = ".checked"  # state at the last successful check, so that the next one need not decode again


@dataclass(frozen=True)
class Record:
    """One image of a folder."""

    id: str  # path below the folder with forward slashes, ``<split>/<class>/<file>``
    split: str
    class_name: str
    source: str  # its path or name in the original data set
    sha256: str = ""  # of the file, in hex; empty until the file is written


@dataclass(frozen=True)
class FolderSummary:
    """A folder that has passed `check_folder`."""

    root: Path
    classes: list[str]  # in the order of timm's class indices
    counts: dict[str, int]  # images per split
    fingerprint: str  # hash of the manifest or, without one, of all names and contents


def decode(data: bytes, checksums: bool = True) -> Image.Image:
    """Decodes an image file; raises a `ValueError` if it can't be decoded completely.

    `checksums` also verifies the file format's checksums, which decoding ignores.
    """
    try:
        if checksums:
            with open_picture(data) as image:
                image.verify()
        whole = open_picture(data)
        whole.load()
    except Exception as error:  # Pillow's decoders raise many kinds
        # drop the buffer address in Pillow's message, which differs each time
        reason = " ".join(str(error).partition(" <_io.")[0].split())
        raise ValueError(reason or type(error).__name__) from error
    return whole


def in_threads(
    work: Callable[[T], R], items: Sequence[T], what: str, workers: int | None = None, quiet: bool = False
) -> Iterator[R]:
    """Maps `work` over items with `workers` threads; yields results in order and shows progress.

    Threads suffice for images, since reading, decoding, encoding and hashing release the GIL.
    """
    lots = (items[start : start + _AT_A_TIME] for start in range(0, len(items), _AT_A_TIME))
    pool = ThreadPoolExecutor(workers or available_cores() + 1)
    try:
        done = pool.map(lambda lot: [work(item) for item in lot], lots)
        yield from track(itertools.chain.from_iterable(done), what, len(items), quiet=quiet)
    finally:
        pool.shutdown(cancel_futures=True)


def listing(root: Path, splits: Iterable[str]) -> dict[str, tuple[int, int, int]]:
    """Size (bytes), mtime and ctime (ns) of the images of some splits, the manifest and ``classes.txt``."""
    places = (find_split(root, split) for split in splits)
    ids = [id_ for place in places if place for id_ in list_split(root, place.name).images]
    return _listing(root, [*ids, *(name for name in (MANIFEST, CLASSES) if (root / name).exists())])


def data_set_name(root: Path) -> str:
    """A data set's name from its ``dataset.json``, or else the folder's name."""
    name = str(read_description(root / DESCRIPTION).get("name", root.resolve().name))
    return printable(" ".join(name.split()))


def read_description(path: Path) -> dict[str, Any]:
    """Reads a JSON object such as ``dataset.json``; returns an empty one if missing or invalid."""
    with suppress(OSError, ValueError):
        found = json.loads(path.read_text(encoding="utf-8"))
        return found if isinstance(found, dict) else {}
    return {}


def changed_line(changed: Mapping[str, int]) -> str:
    """Formats the number of images changed in each way."""
    return "changed: " + ", ".join(f"{kind}: {count:,}" for kind, count in changed.items())


def told(folder: Path) -> list[str]:
    """Lines about the images that `prepare` changed or skipped."""
    changed = read_description(folder / DESCRIPTION).get(CHANGED)
    lines = [changed_line(changed)] if changed else []
    return lines + [f"skipped: {line}" for line in skipped_lines(read_skipped(folder))]


def write_manifest(folder: Path, records: Iterable[Record]) -> None:
    """Writes ``manifest.csv``, sorted by id so that equal folders have equal manifests."""
    with open(folder / MANIFEST, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(_COLUMNS)
        for record in sorted(records, key=lambda record: record.id):
            names = record.id, record.split, record.class_name, record.source
            writer.writerow([*map(csv_cell, names), record.sha256])


def read_manifest(folder: Path) -> list[Record]:
    """Reads ``manifest.csv``; raises a `UserError` if it is missing or malformed."""
    path = folder / MANIFEST
    try:
        with open(path, encoding="utf-8", newline="") as file:
            rows = [list(map(csv_text, row)) for row in csv.reader(file, strict=True)]
    except FileNotFoundError:
        raise UserError(f"no {MANIFEST} in {folder}; `convnext-ablation prepare` writes one") from None
    except (csv.Error, UnicodeDecodeError) as error:
        raise UserError(f"{path} is damaged ({error}); prepare the folder again") from error
    if not rows or rows[0] != _COLUMNS:
        raise UserError(f"{path} lacks the header {','.join(_COLUMNS)}; prepare the folder again")
    records: dict[str, Record] = {}
    for line, row in enumerate(rows[1:], start=2):
        if len(row) != len(_COLUMNS) or PurePosixPath(row[0]).parts[:-1] != (row[1], row[2]):
            raise UserError(f"{path} line {line} is not <split>/<class>/<file>,<split>,<class>,...; fix it")
        if records.setdefault(row[0], record := Record(*row)) is not record:
            raise UserError(f"{path} line {line} lists {row[0]} a second time; remove the line")
    return list(records.values())


def manifest_hash(folder: Path) -> str:
    """SHA-256 of ``manifest.csv``; identifies the folder's content, since it includes every image's hash."""
    return hashlib.sha256((folder / MANIFEST).read_bytes()).hexdigest()


def check_folder(
    folder: str | os.PathLike[str], splits: Sequence[str] = SPLITS, anew: bool = False
) -> FolderSummary:
    """Validates an image folder, with or without a manifest, before training.

    Every image is decoded and compared with the manifest. A successful check is recorded in the folder and
    remains valid until a file's name, size or time changes.

    Args:
        folder: Holds ``<split>/<class>/<image>``; see `find_split` for the names of splits.
        splits: Required splits; the first defines the classes. Other splits are ignored.
        anew: Whether to decode all images despite an earlier check.

    Raises:
        UserError: The first problem that would break or falsify a training run.
    """
    root = Path(folder)
    if not root.is_dir():
        raise UserError(f"no image folder at {root}; make one with `convnext-ablation prepare`")
    if anew:
        (root / _STAMP).unlink(missing_ok=True)
    images = {split: _checked_split(root, split) for split in splits}
    classes = _check_classes(root, images)
    expected = _check_manifest(root, images) if (root / MANIFEST).exists() else {}
    fingerprint = _fingerprint(root, sorted(set().union(*images.values())), expected)
    return FolderSummary(root, classes, {split: len(found) for split, found in images.items()}, fingerprint)


def mark_checked(root: Path, records: Iterable[Record]) -> str:
    """Records that a newly written folder matches its manifest; returns its fingerprint."""
    fingerprint = manifest_hash(root)
    _stamp(root, _listing_hash(root, [*sorted(record.id for record in records), MANIFEST]), fingerprint)
    return fingerprint


def sort_classes(names: Iterable[str]) -> list[str]:
    """Sorts classes as timm does; raises a `UserError` if two of them have the same sort key."""
    classes = sorted(sorted(names), key=natural_key)
    for first, second in itertools.pairwise(classes):
        if natural_key(first) == natural_key(second):
            raise UserError(f"classes {first!r} and {second!r} sort as equal in timm; rename one")
    return classes


def natural_key(name: str) -> list[str | int]:
    """Natural sort key of timm: case-insensitive, with numbers ordered by value."""
    return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", name.lower())]


def _checked_split(root: Path, split: str) -> dict[str, str]:
    """Maps every image of a split to its class."""
    place = find_split(root, split)
    if place is None or not place.is_dir():
        raise UserError(f"{root} has no folder {split!r}; it must hold <split>/<class>/<image>")
    found = list_split(root, place.name)
    found.check_classes(root)
    if found.empty:
        raise UserError(f"class folder {root / found.empty[0]} holds no images; fill it or remove it")
    if not found.images:
        raise UserError(f"{place} holds no images; expected <class>/<image> in it")
    return found.images


def _check_classes(root: Path, images: Mapping[str, Mapping[str, str]]) -> list[str]:
    """The classes in index order, after checking that all splits agree."""
    found = {split: set(classes.values()) for split, classes in images.items()}
    first, *others = found
    for split in others:
        if extra := sorted(found[split] - found[first]):
            raise UserError(f"class {extra[0]!r} is in {root / split} but not in {first}; move or remove it")
    if (root / CLASSES).exists():
        classes = (root / CLASSES).read_text(encoding="utf-8").splitlines()
        if odd := sorted(found[first] ^ set(classes)):
            where = "has images but is not in" if odd[0] in found[first] else "has no images but is in"
            raise UserError(f"class {odd[0]!r} {where} {root / CLASSES}; fix or remove the file")
        return classes
    for split in others:
        # timm numbers the classes of each split separately
        if missing := sorted(found[first] - found[split]):
            raise UserError(f"class {missing[0]!r} has no images in {root / split}, unlike {first}; add some")
    return sort_classes(found[first])


def _check_manifest(root: Path, images: Mapping[str, Mapping[str, str]]) -> dict[str, str]:
    """Checks that the manifest lists exactly the images found; returns the expected hash of each."""
    listed = {record.id: record.sha256 for record in read_manifest(root) if record.split in images}
    found = set().union(*images.values())
    if missing := sorted(listed.keys() - found):
        what = f"{root} lacks {len(missing)} images that its {MANIFEST} lists"
        raise UserError(f"{what}, such as {missing[0]}; prepare the folder again")
    if extra := sorted(found - listed.keys()):
        what = f"{root} holds {len(extra)} images that its {MANIFEST} does not list"
        raise UserError(f"{what}, such as {extra[0]}; remove them, or the manifest")
    return listed


def _fingerprint(root: Path, ids: Sequence[str], expected: Mapping[str, str]) -> str:
    """The folder's fingerprint; reads the images only if files changed since the last successful check."""
    listing = _listing_hash(root, [*ids, MANIFEST] if expected else ids)
    with suppress(OSError, ValueError):
        seen, fingerprint = (root / _STAMP).read_text().split()
        if seen == listing:
            return fingerprint
    read = in_threads(lambda id_: _read_image(root / id_, expected.get(id_, "")), ids, "checking images")
    lines = [f"{digest} {id_}" for digest, id_ in zip(read, ids, strict=True)]
    fingerprint = manifest_hash(root) if expected else _hash_lines(lines)
    _stamp(root, listing, fingerprint)
    return fingerprint


def _stamp(root: Path, listing: str, fingerprint: str) -> None:
    with suppress(OSError):  # a read-only folder is checked at every start
        (root / _STAMP).write_text(f"{listing} {fingerprint}\n")


def _listing_hash(root: Path, ids: Sequence[str]) -> str:
    """Hash of names, sizes and times."""
    return _hash_lines(" ".join(map(str, (id_, *told))) for id_, told in _listing(root, ids).items())


def _listing(root: Path, ids: Iterable[str]) -> dict[str, tuple[int, int, int]]:
    """Size (bytes), mtime and ctime (ns); ctime, since tools that copy or repair files may restore mtime."""
    stats = {id_: os.stat(f"{root}/{id_}") for id_ in ids}
    return {id_: (stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns) for id_, stat in stats.items()}


def _hash_lines(lines: Iterable[str]) -> str:
    return hashlib.sha256("\n".join(lines).encode(errors="surrogateescape")).hexdigest()


def _read_image(path: Path, expected: str) -> str:
    """Decodes an image and returns its SHA-256, after comparing it with `expected` if given."""
    data = path.read_bytes()
    digest = hashlib.sha256(data).hexdigest()
    if expected and digest != expected:
        raise UserError(f"{path} differs from what the manifest lists (SHA-256); prepare the folder again")
    with in_one_line(f"{path} is not a readable image (replace or remove it)"):
        decode(data)
    return digest
