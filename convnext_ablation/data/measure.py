"""What a folder of images holds, fit to train on or not, what is measured of each image, and found."""

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
    """0 for a split that is trained on, 1 for one that epochs are chosen by, 2 for tests."""
    return SPLITS.index(SPLIT_OF[split.lower()])


@dataclass(frozen=True)
class Contents:
    """What a data set's folder holds, ordered by split from training to test."""

    root: Path
    images: list[Record]  # as the manifest lists them; the source of others is their own name
    classes: dict[str, set[str]]  # of each split, those without images included
    not_read: dict[str, str]  # why files among the images are not read, by their paths
    has_splits: bool = True

    def counts(self) -> dict[str, Counter[str]]:
        """Images of each class, for each split."""
        counts: dict[str, Counter[str]] = {split: Counter() for split in self.classes}
        for record in self.images:
            counts[record.split][record.class_name] += 1
        return counts


def read_folder(root: Path) -> Contents:
    """Lists a folder ``<split>/<class>/<image>``, with or without a manifest, or ``<class>/<image>``.

    Folders that all of it is in are left out; see `layout.arrange`.
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
    """What was measured of an image; with other fields, keep it in files of another name."""

    pixels: str = ""  # SHA-256 of width, height and the pixels in RGB, as training decodes them
    grey: bool = False  # all pixels have three equal channels
    phash: str = ""  # perceptual hash by cosine transform, 64 bits in hex; empty if it says nothing
    dhash: str = ""  # perceptual hash by differences of neighbours
    error: str = ""  # why it can't be decoded
    changes: str = ""  # how the pixels differ from the stored ones

    @property
    def flat(self) -> bool:
        """Whether all pixels are the same, so that perceptual hashes say nothing."""
        return not self.error and not self.phash


def measure_image(path: Path) -> Measured:
    """Measures an image; one that can't be decoded is a result, too."""
    try:
        # read whole: threads that read little by little wait for each other
        colours, changes = as_seen(decode(path.read_bytes()))
    except Exception as error:  # decoders raise anything
        return Measured(error=str(error))
    pixels = hashlib.sha256(f"{colours.width}x{colours.height}:".encode())
    pixels.update(colours.tobytes())
    red, green, blue = (channel.tobytes() for channel in colours.split())
    measured = Measured(pixels.hexdigest(), grey=red == green == blue, changes=", ".join(changes))
    if all(low == high for low, high in colours.getextrema()):  # type: ignore[misc]
        return measured
    luma = colours.convert("L")  # once for both
    return measured._replace(phash=str(imagehash.phash(luma)), dhash=str(imagehash.dhash(luma)))


def measure_images(root: Path, names: Sequence[str], cache: Path) -> list[Measured]:
    """Measures the files of a folder, but for those that were measured before and are still the same.

    The file `cache` keeps what was measured, a JSON list a line; it grows while this runs.
    """
    states = {name: _state(root / name) for name in names}
    known: dict[str, Measured] = {}
    with warnings.catch_warnings(), open(cache, "a+", encoding="ascii", errors="replace") as file:
        warnings.simplefilter("ignore")  # Pillow's, of what it could fix
        file.seek(0)
        for line in file:
            with suppress(ValueError):  # empty or cut off
                name, state, values = json.loads(line)
                if state and state == states.get(name):
                    known[name] = Measured(*values)
        left = [name for name in names if name not in known]
        file.write("\n")  # ends a line that a killed run has cut off
        measured = in_threads(lambda name: measure_image(root / name), left, f"measuring images of {root}")
        for name, image in zip(left, measured, strict=True):
            if not image.error:  # what could not be read is tried again the next time
                file.write(json.dumps([name, states[name], image]) + "\n")
            known[name] = image
    return [known[name] for name in names]


def _state(path: Path) -> str:
    """Size and time of a file, and how it is decoded: whether what was measured still holds."""
    try:
        stat = path.stat()
    except OSError:  # a link to nothing
        return ""
    return f"{stat.st_size}:{stat.st_mtime_ns}:as seen"  # not as earlier versions decoded it


# in the order in which they are reported; templates/data_report.html says what each means
KINDS = (
    "pretraining_id", "pretraining_near", "same_pixels", "near", "missing_class", "broken", "flat",
    "greyscale", "changed", "not_read",
)  # fmt: skip


@dataclass(frozen=True)
class Finding:
    """Something that was found of an image, or of two; the fields are the columns of ``findings.csv``.

    Of two images, `id` is the one to leave out: that of the split that less may be learned from, so of a test
    image that is in training, too, `id` is the test image.
    """

    kind: str
    id: str  # path below the folder; empty where it is about a class
    other: str = ""  # path below the folder, or below the pre-training set's
    distance: int | None = None  # bits in which hashes differ; None where they weren't compared
    split: str = ""
    class_name: str = ""
    other_split: str = ""
    other_class: str = ""
    note: str = ""  # why an image is broken or a file not read, or how pixels are changed

    @property
    def crosses(self) -> bool:
        """Whether it is about images of two splits."""
        return bool(self.other_split) and self.split != self.other_split

    @property
    def leaks(self) -> bool:
        """Whether a test image is a copy of one that is trained on, or that pre-training has seen."""
        if not self.split or split_rank(self.split) != 2 or not self.other:
            return False
        return self.kind.startswith("pretraining") or split_rank(self.other_split) == 0

    @property
    def disagrees(self) -> bool:
        """Whether both images are of the data set, and their classes are not the same."""
        return bool(self.other_class) and self.class_name != self.other_class


def paired(kind: str, one: Record, two: Record, distance: int | None = None) -> Finding:
    """A finding about two images of the data set."""
    other, image = sorted((one, two), key=lambda record: (split_rank(record.split), record.id))
    places = (image.split, image.class_name, other.split, other.class_name)
    return Finding(kind, image.id, other.id, distance, *places)


def about_images(contents: Contents, measured: Sequence[Measured]) -> list[Finding]:
    """What is wrong with single images and classes."""
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
