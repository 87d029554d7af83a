"""The images of a folder, whether or not it is fit to train on."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from convnext_ablation.data.folder import IMAGE_EXTENSIONS, MANIFEST, SPLITS, SYNONYMS, read_manifest
from convnext_ablation.errors import UserError

__all__ = ["Contents", "Place", "read_folder", "split_rank"]

# splits in the order of what may be learned from them
_RANKS = {name: rank for rank, split in enumerate(SPLITS) for name in SYNONYMS[split]}


@dataclass(frozen=True)
class Place:
    """An image: its path below the data set's folder, its split, its class, and where it comes from.

    Attributes:
        source: Path in the data set that it was taken from; without a manifest the file's own name.
        listed: SHA-256 that the manifest has for it; empty without a manifest, or if it isn't in there.
    """

    id: str
    split: str
    class_name: str
    source: str
    listed: str = ""


@dataclass(frozen=True)
class Contents:
    """What a data set's folder holds.

    Attributes:
        root: The folder.
        images: All images, by split from training to test, then by id.
        classes: The classes of each split, those without images included.
        not_read: Files among the images that training doesn't read.
        unlisted: Images that the manifest doesn't have.
        missing: Images that only the manifest has.
    """

    root: Path
    images: list[Place]
    classes: dict[str, set[str]]
    not_read: list[str]
    unlisted: list[str]
    missing: list[str]

    @property
    def splits(self) -> list[str]:
        """The splits, from training to test."""
        return list(self.classes)


def split_rank(split: str) -> int:
    """0 for a split that is trained on, 1 for one that epochs are chosen by, 2 for tests."""
    return _RANKS[split]


def read_folder(root: Path) -> Contents:
    """Lists a folder ``<split>/<class>/<image>``, with or without a manifest.

    Raises:
        UserError: There is no such folder, or no split or no image in it, or its manifest is damaged.
    """
    if not root.is_dir():
        raise UserError(f"{root}: no such folder; name that of a data set")
    splits = sorted(
        (path.name for path in root.iterdir() if path.is_dir() and path.name in _RANKS), key=_order
    )
    if not splits:
        raise UserError(f"{root}: holds no split; it must hold <split>/<class>/<image> with a split train")
    records = {record.id: record for record in read_manifest(root)} if (root / MANIFEST).exists() else {}
    contents = Contents(root, [], {split: set() for split in splits}, [], [], [])
    for split in splits:
        for path in _files(root, split, contents.classes[split]):
            record = records.pop(path.as_posix(), None)
            if not _is_read(path):
                contents.not_read.append(path.as_posix())
                continue
            source, listed = (record.source, record.sha256) if record else (path.name, "")
            contents.images.append(Place(path.as_posix(), split, path.parent.name, source, listed))
            if record is None and (root / MANIFEST).exists():
                contents.unlisted.append(path.as_posix())
    contents.missing.extend(sorted(records))
    if not contents.images:
        raise UserError(
            f"{root}: holds no image; expected <split>/<class>/<image> ({', '.join(IMAGE_EXTENSIONS)})"
        )
    return contents


def _order(split: str) -> tuple[int, str]:
    return split_rank(split), split


def _files(root: Path, split: str, classes: set[str]) -> list[PurePosixPath]:
    """Paths of all files of a split below the root, sorted; the names of its classes are added to a set."""
    found = []
    for parent, folders, files in os.walk(root / split, followlinks=True):
        below = PurePosixPath(Path(parent).relative_to(root).as_posix())
        if below != PurePosixPath(split) and (not folders or any(_is_read(below / name) for name in files)):
            classes.add(below.name)
        found += [below / name for name in files]
    return sorted(found)


def _is_read(path: PurePosixPath) -> bool:
    return path.suffix.lower() in IMAGE_EXTENSIONS and len(path.parts) > 2
