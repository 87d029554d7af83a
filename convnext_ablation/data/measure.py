"""Measurements for the audit: a folder's contents, properties of each image, and findings."""

from __future__ import annotations

import hashlib
import json
import os
import warnings
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import imagehash

from convnext_ablation.data.folder import MANIFEST, Record, decode, in_threads, read_manifest
from convnext_ablation.data.layout import SPLIT_OF, SPLITS, find_base, list_split
from convnext_ablation.data.pictures import as_seen
from convnext_ablation.data.walk import files_below, why_skipped
from convnext_ablation.errors import UserError


def split_rank(split: str) -> int:
    """Rank of a split: 0 for train, 1 for val, 2 for test."""
    return SPLITS.index(SPLIT_OF[split.lower()])


@dataclass(frozen=True)
class Contents:
    """The contents of a data set's folder, ordered by split from train to test."""

    root: Path
    images: list[Record]  # from the manifest; for images not listed there, the source is the file name
    classes: dict[str, set[str]]  # by split, including classes without images
    not_read: dict[str, str]  # reasons why other files are not read, by path
    has_splits: bool = True

    def counts(self) -> dict[str, Counter[str]]:
        """Number of images per class, by split."""
        counts: dict[str, Counter[str]] = {split: Counter() for split in self.classes}
        for record in self.images:
            counts[record.split][record.class_name] += 1
        return counts


def read_folder(root: Path) -> Contents:
    """Lists a folder ``<split>/<class>/<image>``, with or without a manifest, or ``<class>/<image>``.

    Enclosing folders are skipped; see `layout.arrange`. Raises a `UserError` if there is no image.
    """
    if not root.is_dir():
        raise UserError(f"{root}: no such folder; name that of a data set")
    files = files_below(root, dangling=True)
    pictures = [name.split("/") for name in files if not why_skipped(name, root / name)]
    base, splits = find_base(pictures, str(root))
    root = root.joinpath(*base)
    found = {path.name for path in root.iterdir() if path.is_dir() and path.name.lower() in SPLIT_OF}
    manifest = read_manifest(root) if (root / MANIFEST).exists() else []
    listed = {record.id: record for record in manifest}
    contents = Contents(root, [], {}, {}, has_splits=bool(splits))
    for split in sorted(found, key=lambda split: (split_rank(split), split)) if splits else ["train"]:
        listed_files = list_split(root, split if splits else "", dangling=True)
        empty = map(os.path.basename, listed_files.empty)
        contents.classes[split] = {*listed_files.images.values(), *empty}
        contents.not_read.update(listed_files.skipped)
        for id_, class_name in listed_files.images.items():
            own = Record(id_, split, class_name, id_.rpartition("/")[2])
            contents.images.append(listed.get(id_, own))
    if not contents.images:
        what = "holds no image" if found else "holds no split and no image"
        raise UserError(f"{root}: {what} as <split>/<class>/<image> or <class>/<image>")
    return contents


class Measured(NamedTuple):
    """Measurements of an image; rename the cache files when the fields change."""

    pixels: str = ""  # SHA-256 of width, height and RGB pixels, as decoded for training
    grey: bool = False  # whether the three channels are equal
    phash: str = ""  # 64-bit perceptual hash (DCT) in hex; empty for a constant image
    dhash: str = ""  # 64-bit perceptual hash (differences of neighbours) in hex; empty for a constant image
    error: str = ""  # reason why it can't be decoded
    changes: str = ""  # how decoding changed the stored pixels

    @property
    def flat(self) -> bool:
        """Whether all pixels are equal, which makes perceptual hashes meaningless."""
        return not self.error and not self.phash


def measure_image(path: Path) -> Measured:
    """Measures an image; a decoding failure is returned in `error`."""
    try:
        # read at once, since threads that read in small steps block each other
        colours, changes = as_seen(decode(path.read_bytes()))
    except Exception as error:  # decoders may raise any exception
        return Measured(error=str(error))
    pixels = hashlib.sha256(f"{colours.width}x{colours.height}:".encode())
    pixels.update(colours.tobytes())
    red, green, blue = (channel.tobytes() for channel in colours.split())
    measured = Measured(pixels.hexdigest(), grey=red == green == blue, changes=", ".join(changes))
    if all(low == high for low, high in colours.getextrema()):  # type: ignore[misc]
        return measured
    luma = colours.convert("L")  # shared by both hashes
    return measured._replace(phash=str(imagehash.phash(luma)), dhash=str(imagehash.dhash(luma)))


def measure_images(root: Path, names: Sequence[str], cache: Path) -> list[Measured]:
    """Measures the images of a folder; unchanged files are taken from the cache.

    The file `cache` holds a JSON list per line and is appended to while this runs.
    """
    states = {name: _state(root / name) for name in names}
    known: dict[str, Measured] = {}
    with warnings.catch_warnings(), open(cache, "a+", encoding="ascii", errors="replace") as file:
        warnings.simplefilter("ignore")  # Pillow warns about defects that it could repair
        file.seek(0)
        for line in file:
            with suppress(ValueError):  # empty or truncated
                name, state, values = json.loads(line)
                if state and state == states.get(name):
                    known[name] = Measured(*values)
        left = [name for name in names if name not in known]
        file.write("\n")  # terminates a line truncated by a killed run
        measured = in_threads(lambda name: measure_image(root / name), left, f"measuring images of {root}")
        for name, image in zip(left, measured, strict=True):
            if not image.error:  # failures are retried the next time
                file.write(json.dumps([name, states[name], image]) + "\n")
            known[name] = image
    return [known[name] for name in names]


def _state(path: Path) -> str:
    """Cache key of a file: size, mtime and decoding version; empty if the file is missing."""
    try:
        stat = path.stat()
    except OSError:  # a broken link
        return ""
    return f"{stat.st_size}:{stat.st_mtime_ns}:as seen"  # earlier versions decoded differently


# in report order; explained in templates/data_report.html
KINDS = (
    "pretraining_id", "pretraining_near", "same_pixels", "near", "missing_class", "broken", "flat",
    "greyscale", "changed", "not_read",
)  # fmt: skip


@dataclass(frozen=True)
class Finding:
    """A finding about a class, an image or a pair of images; fields are the columns of ``findings.csv``.

    In a pair, `id` is the image to exclude, from the later split in the order train, val, test. For a test
    image that is also in train, `id` is the test image.
    """

    kind: str
    id: str  # path below the folder; empty for a finding about a class
    other: str = ""  # path of the other image below the folder, or below the pre-training set's folder
    distance: int | None = None  # Hamming distance of the hashes in bits; None if not compared
    split: str = ""
    class_name: str = ""
    other_split: str = ""
    other_class: str = ""
    note: str = ""  # reason why an image is broken or a file not read, or how decoding changed the pixels

    @property
    def crosses(self) -> bool:
        """Whether the two images are in different splits."""
        return bool(self.other_split) and self.split != self.other_split

    @property
    def leaks(self) -> bool:
        """Whether a test image has a copy in the training or pre-training set."""
        if not self.split or split_rank(self.split) != 2 or not self.other:
            return False
        return self.kind.startswith("pretraining") or split_rank(self.other_split) == 0

    @property
    def disagrees(self) -> bool:
        """Whether both images are in the data set and have different classes."""
        return bool(self.other_class) and self.class_name != self.other_class


def paired(kind: str, one: Record, two: Record, distance: int | None = None) -> Finding:
    """Builds a finding about two images of the data set."""
    other, image = sorted((one, two), key=lambda record: (split_rank(record.split), record.id))
    places = (image.split, image.class_name, other.split, other.class_name)
    return Finding(kind, image.id, other.id, distance, *places)


def about_images(contents: Contents, measured: Sequence[Measured]) -> list[Finding]:
    """Finds problems of single images, files and classes."""
    found = []
    everywhere = set().union(*contents.classes.values())
    for split, counts in contents.counts().items():
        missing = sorted(everywhere - counts.keys())
        found += [Finding("missing_class", "", split=split, class_name=name) for name in missing]
    for record, image in zip(contents.images, measured, strict=True):
        notes = {"broken": image.error, "changed": image.changes}
        kinds = {**notes, "flat": image.flat, "greyscale": image.grey}
        found += [
            Finding(kind, record.id, "", None, record.split, record.class_name, note=notes.get(kind, ""))
            for kind, holds in kinds.items()
            if holds
        ]
    for id_, reason in contents.not_read.items():
        split = id_.partition("/")[0] if contents.has_splits else "train"
        found.append(Finding("not_read", id_, split=split, note=reason))
    return found
