"""Finds the split and class folders of a data set, and lists the files of splits."""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from convnext_ablation.data.class_names import NOT_UTF8
from convnext_ablation.data.packed import find_pieces
from convnext_ablation.data.walk import UNREAD, Piece, joined, skipped_by_name, walk, why_skipped
from convnext_ablation.errors import UserError
from convnext_ablation.files import CONTROLS

SPLITS = ("train", "val", "test")
# names of split folders: timm's, and usual suffixes
_NAMES = {
    "train": ("train", "training"),
    "val": ("validation", "val", "valid", "eval", "evaluation", "dev"),
    "test": ("test", "testing"),
}
_ADDED = ("", "_set", "_images", "_data", "_imgs", "set")
SYNONYMS = {
    split: tuple(f"{name}{added}" for added in _ADDED for name in names) for split, names in _NAMES.items()
}
SPLIT_OF = {name: split for split, names in SYNONYMS.items() for name in names}
_CONTROLS = re.compile(f"[{CONTROLS}]")
_NO_LABEL = "no label"


class Placed(NamedTuple):
    """An image with its path, its path below the base folder (of splits or classes), split and class."""

    name: str
    below: str
    split: str
    class_name: str


def arrange(names: Sequence[str], where: str, skipped: dict[str, str]) -> Iterator[Placed]:
    """Assigns images to splits and classes by folder: ``<split>/<class>/<image>`` or ``<class>/<image>``.

    Without splits, all images go to train. Split names are those of `SPLIT_OF`, case-insensitively. The base
    is the shallowest folder that has a training split with classes or, without splits, at least two classes.
    Files outside of it go to `skipped`, with the reason.

    Raises:
        UserError: The base is ambiguous, two folders are the same split, or an image is at another depth.
    """
    parts = {name: name.split("/") for name in names}
    base, splits = find_base(list(parts.values()), where)
    check_one_each(splits, where)
    depth = len(base)
    expected = "<split>/<class>/<image>" if splits else "<class>/<image>"
    for name, path in parts.items():
        rest = path[depth:]
        if path[:depth] != base or (splits and (len(rest) == 1 or rest[0] not in splits)):
            skipped[name] = f"outside of the {'splits' if splits else 'classes'}"
            continue
        split = splits[rest[0]] if splits else "train"
        if len(rest) == 2 and splits and split != "train":
            skipped[name] = _NO_LABEL
        elif len(rest) != (3 if splits else 2):
            raise UserError(f"{where}: {name} is not {expected}; move or remove it")
        elif name.splitlines() != [name] or NOT_UTF8.search(name):
            raise UserError(f"{where}: the name {name!r} is not valid UTF-8, or has a line break; rename it")
        else:
            yield Placed(name, "/".join(rest), split, rest[-2])


def find_base(paths: Sequence[list[str]], where: str) -> tuple[list[str], dict[str, str]]:
    """Finds the base folder of the splits or classes; returns its parts, and splits by folder name."""
    found: dict[tuple[str, ...], set[str]] = defaultdict(set)
    for path in paths:
        if len(path) > 2 and path[-3].lower() in SPLIT_OF:
            found[tuple(path[:-3])].add(SPLIT_OF[path[-3].lower()])
    has_splits = bool(found)
    if has_splits:
        bases = alike = {base for base, splits in found.items() if "train" in splits} or set(found)
        doubled = sorted(base for base in found if base and base[-1].lower() in SPLIT_OF)
        if len(doubled) > 1 and not bases.isdisjoint(doubled):
            both = " and ".join(repr("/".join(base)) for base in doubled[:2])
            what = f"{where}: {both} each hold a split of their own"
            raise UserError(f"{what}; put what they hold into one folder")
    else:
        for path in paths:
            if len(path) > 1:
                found[tuple(path[:-2])].add(path[-2])
        # a base with a single class may be the parent folder, with a stray image beside the classes
        bases = {base for base, names in found.items() if len(names) > 1} or set(found)
        # single-class folders count as candidates too, such as a genus with one species
        alike = set(found)
    depth = min(map(len, bases), default=0)
    shallowest = sorted(base for base in alike if len(base) == depth)
    base = list(shallowest[0]) if shallowest else []
    if len(shallowest) > 1:
        first, second = ("/".join(each) for each in shallowest[:2])
        both = f"{first!r} and {second!r} both hold {'splits' if has_splits else 'classes'}"
        raise UserError(f"{where}: {both}; put them into one folder, or name one of the two")
    folders = {path[len(base)] for path in paths if path[: len(base)] == base and len(path) > len(base) + 1}
    if not has_splits and any(folder.lower() not in SPLIT_OF for folder in folders):
        return base, {}
    return base, {name: SPLIT_OF[name.lower()] for name in sorted(folders) if name.lower() in SPLIT_OF}


def find_split(root: Path, split: str) -> Path | None:
    """Finds the folder or tar of a split by any of its synonyms, case-insensitively; None if missing.

    Raises:
        UserError: Two folders match the split.
    """
    meant = {split.lower(), *SYNONYMS.get(SPLIT_OF.get(split.lower(), ""), ())}
    there = sorted(path for path in root.iterdir() if path.name.lower().removesuffix(".tar") in meant)
    if folders := [path for path in there if path.is_dir()]:
        check_one_each({path.name: SPLIT_OF.get(split.lower(), split) for path in folders}, str(root))
        return folders[0]
    return there[0] if there else None


def same_split(one: str, other: str) -> bool:
    """Whether two names denote the same split, such as ``val`` and ``Validation``."""
    return len({SPLIT_OF.get(name.lower(), name) for name in (one, other)}) == 1


def check_one_each(splits: Mapping[str, str], where: str) -> None:
    """Raises a `UserError` if two folders, the keys of `splits`, are the same split."""
    first: dict[str, str] = {}
    for folder, split in splits.items():
        if (other := first.setdefault(split, folder)) != folder:
            raise UserError(f"{where}: {other!r} and {folder!r} are both the split {split}; rename one")


@dataclass(frozen=True)
class SplitFiles:
    """The files of a split by path below the data set's folder, sorted by folder, then name."""

    images: dict[str, str]  # class of each image: the name of its folder, as in timm
    skipped: dict[str, str]  # reasons why other files are not read
    empty: list[str]  # class folders without images

    def check_classes(self, root: Path) -> None:
        """Raises a `UserError` if an image is in no class folder, or two class folders share a name."""
        if astray := [path for path, reason in self.skipped.items() if reason == _NO_LABEL]:
            raise UserError(f"{root / astray[0]} is in no class folder; move it into one")
        check_read(self.images, self.skipped, str(root))
        folders: dict[str, str] = {}
        for folder in dict.fromkeys(os.path.dirname(path) for path in self.images):
            other = folders.setdefault(os.path.basename(folder), folder)
            if other != folder:
                both = f"{root / other} and {root / folder} would be one class"
                raise UserError(f"{both}; rename one, or move its images")


def list_split(root: Path, split: str, dangling: bool = False) -> SplitFiles:
    """Lists the files of a split's folder; raises as `walk` does, and for control characters in names."""
    files: dict[str, Path] = {}
    leaves = []
    for below, folders, names in walk(root, split, dangling):
        files |= {path: root / path for path in (joined(below, name) for name in names)}
        if not folders and below != split and not skipped_by_name(below):
            leaves.append(below)
    return _sorted_out(files, leaves, split, root)


def list_tar(tar: Path) -> tuple[SplitFiles, dict[str, Piece]]:
    """Lists the files of a split's tar as `list_split` does; nested tars count as folders."""
    files: dict[str, Piece] = {}
    for name, piece in find_pieces(tar).items():
        inner = find_pieces(tar, within=piece) if name.lower().endswith(".tar") else {}
        files |= {joined(name[:-4], each): part for each, part in inner.items()} if inner else {name: piece}
    return _sorted_out(files, [], "", tar), files


def _sorted_out(
    files: Mapping[str, Path | Piece], leaves: Iterable[str], split: str, root: Path
) -> SplitFiles:
    """Separates images from skipped files; `leaves` are folders without subfolders."""
    images: dict[str, str] = {}
    skipped: dict[str, str] = {}
    for path in sorted(files, key=lambda path: path.split("/")):
        folder = os.path.dirname(path)
        if reason := why_skipped(path, files[path]) or (_NO_LABEL if folder == split else ""):
            skipped[path] = reason
        elif _CONTROLS.search(path):
            where = f"{root}: {path!a}"
            raise UserError(f"{where} has a control character or line separator in it; rename it")
        else:
            images[path] = os.path.basename(folder)
    filled = {os.path.dirname(path) for path in images}
    return SplitFiles(images, skipped, [folder for folder in leaves if folder not in filled])


def check_read(images: Iterable[str], skipped: Mapping[str, str], where: str) -> None:
    """Raises a `UserError` if all images of a folder are in unsupported formats."""
    read = {os.path.dirname(path) for path in images}
    unread = (path for path, reason in skipped.items() if reason == UNREAD)
    if lost := [path for path in unread if os.path.dirname(path) not in read]:
        raise UserError(f"{where}: no picture beside {lost[0]} is of a format that is read; convert them")
