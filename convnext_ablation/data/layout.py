"""Which folders of a tree are the splits and classes of a data set, and what splits are called."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from convnext_ablation.data.class_names import NOT_UTF8
from convnext_ablation.errors import UserError

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
            skipped[name] = "no label"
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
