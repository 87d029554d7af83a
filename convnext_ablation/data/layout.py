"""Which folders of a tree are the splits and classes of a data set, their names, and what splits hold."""

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
# what splits are called: timm's names of folders, and what people add to them
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
    """A picture: its name, the same below the folder of the splits or classes, its split and its class."""

    name: str
    below: str
    split: str
    class_name: str


def arrange(names: Sequence[str], where: str, skipped: dict[str, str]) -> Iterator[Placed]:
    """Places pictures by their folders: ``<split>/<class>/<image>`` or, all in train, ``<class>/<image>``.

    Splits are called as in `SPLIT_OF`, in any case. They lie in the shallowest folder that has a training
    split with classes; without splits, classes lie in the shallowest folder that has two of them. What is no
    part of the set goes to `skipped`, with the reason.

    Raises:
        UserError: There are two such folders, or two folders are one split, or a picture is at another depth.
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
    """The folder that has the splits or the classes, and its splits by the names of their folders."""
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
        # one with a single class may be a top folder with a picture beside the classes
        bases = {base for base, names in found.items() if len(names) > 1} or set(found)
        # beside classes of one folder, a folder of a single class, a genus of one species, holds classes
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
    """The folder of a split, or else a tar, by any name that people give it, in any case; None without one.

    Raises:
        UserError: Two folders are that split.
    """
    meant = {split.lower(), *SYNONYMS.get(SPLIT_OF.get(split.lower(), ""), ())}
    there = sorted(path for path in root.iterdir() if path.name.lower().removesuffix(".tar") in meant)
    if folders := [path for path in there if path.is_dir()]:
        check_one_each({path.name: SPLIT_OF.get(split.lower(), split) for path in folders}, str(root))
        return folders[0]
    return there[0] if there else None


def same_split(one: str, other: str) -> bool:
    """Whether two names are of one split, such as ``val`` and ``Validation``."""
    return len({SPLIT_OF.get(name.lower(), name) for name in (one, other)}) == 1


def check_one_each(splits: Mapping[str, str], where: str) -> None:
    """Raises a `UserError` if two folders, of which `splits` has the split, are one split."""
    first: dict[str, str] = {}
    for folder, split in splits.items():
        if (other := first.setdefault(split, folder)) != folder:
            raise UserError(f"{where}: {other!r} and {folder!r} are both the split {split}; rename one")


@dataclass(frozen=True)
class SplitFiles:
    """The files of a split by their paths below the data set's folder, ordered by folder, then name."""

    images: dict[str, str]  # each image's class: the name of its folder, as in timm
    skipped: dict[str, str]  # why other files are not read
    empty: list[str]  # class folders without images

    def check_classes(self, root: Path) -> None:
        """Raises a `UserError` if an image is in no class folder, or in one that isn't a class of its own."""
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
    """Lists what the folder of a split holds: an image's class is the name of the folder that it is in.

    Raises what `walk` does, and a `UserError` for a name that would not stand in one line.
    """
    files: dict[str, Path] = {}
    leaves = []
    for below, folders, names in walk(root, split, dangling):
        files |= {path: root / path for path in (joined(below, name) for name in names)}
        if not folders and below != split and not skipped_by_name(below):
            leaves.append(below)
    return _sorted_out(files, leaves, split, root)


def list_tar(tar: Path) -> tuple[SplitFiles, dict[str, Piece]]:
    """Lists what the tar of a split holds, by the same rules; a tar within it is a folder."""
    files: dict[str, Piece] = {}
    for name, piece in find_pieces(tar).items():
        inner = find_pieces(tar, within=piece) if name.lower().endswith(".tar") else {}
        files |= {joined(name[:-4], each): part for each, part in inner.items()} if inner else {name: piece}
    return _sorted_out(files, [], "", tar), files


def _sorted_out(
    files: Mapping[str, Path | Piece], leaves: Iterable[str], split: str, root: Path
) -> SplitFiles:
    """Which files are images of a class; `leaves` are folders without others in them."""
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
    """Raises a `UserError` if a folder has pictures, and none of a format that is read."""
    read = {os.path.dirname(path) for path in images}
    unread = (path for path, reason in skipped.items() if reason == UNREAD)
    if lost := [path for path in unread if os.path.dirname(path) not in read]:
        raise UserError(f"{where}: no picture beside {lost[0]} is of a format that is read; convert them")
