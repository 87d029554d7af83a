"""Images that are held out of training, and folds: by groups, such as all of one site, patient or video.

They are chosen by a hash of the seed and the group: the same on every machine and with every version of every
library, and whatever the order of the lists. An image without a group is a group of its own, named by its id.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import replace

from convnext_ablation.data.photographs import Photograph
from convnext_ablation.errors import UserError


def hold_out(
    originals: Iterable[Photograph], per_class: int | None, seed: int, split: str = "val"
) -> list[Photograph]:
    """Moves training images to another split: so many of each class, None for a tenth; at least one stays.

    Groups are taken in the order of their hashes, each if it brings the classes nearer to their numbers and
    leaves an image of each class in train.
    """
    found = list(originals)
    training = [original for original in found if original.split == "train"]
    left = Counter(original.class_name for original in training)
    wanted = {
        name: max(1, round(count / 10)) if per_class is None else per_class for name, count in left.items()
    }
    groups = _grouped(training)
    taken: set[str] = set()
    for group in sorted(groups, key=lambda group: _rank(seed, group)):
        counts = groups[group]
        change = sum(
            abs(wanted[name] - count) - abs(wanted[name]) if wanted[name] > 0 else count
            for name, count in counts.items()
        )
        if change < 0 and all(left[name] > count for name, count in counts.items()):
            taken.add(group)
            left.subtract(counts)
            for name, count in counts.items():
                wanted[name] -= count
    held = [
        replace(each, split=split) if each.split == "train" and _group(each) in taken else each
        for each in found
    ]
    return sorted(held, key=lambda original: original.path)


def fold_out(originals: Sequence[Photograph], folds: int, fold: int, seed: int) -> list[Photograph]:
    """Makes the `fold`-th of so many folds the test split, counted from 1.

    The largest groups are dealt out first, each to the fold that has the least of its classes. Without
    groups, no two folds differ by more than one image of a class.
    """
    groups = _grouped(originals)
    if len(groups) < folds:
        raise UserError(f"there are {len(groups)} groups for {folds} folds; give fewer")
    totals = Counter(original.class_name for original in originals)
    dealt = [Counter[str]() for _ in range(folds)]
    place: dict[str, int] = {}
    for group in sorted(groups, key=lambda group: (-groups[group].total(), _rank(seed, group))):
        counts = groups[group]

        def cost(index: int, counts: Counter[str] = counts) -> tuple[float, int]:
            there = dealt[index]
            by_class = (count * (2 * there[name] + count) / totals[name] for name, count in counts.items())
            return sum(by_class), there.total()

        place[group] = min(range(folds), key=cost)
        dealt[place[group]].update(counts)
    return [replace(each, split="test") if place[_group(each)] == fold - 1 else each for each in originals]


def check_groups(originals: Iterable[Photograph], where: str) -> None:
    """Raises a `UserError` if a group is in two splits."""
    splits: dict[str, str] = {}
    for original in originals:
        other = splits.setdefault(original.group, original.split)
        if original.group and other != original.split:
            what = f"{where}: the group {original.group!r} is in {other} and in {original.split}"
            raise UserError(f"{what}; keep it in one")


def _grouped(originals: Iterable[Photograph]) -> dict[str, Counter[str]]:
    """How many images of each class each group has."""
    groups: dict[str, Counter[str]] = defaultdict(Counter)
    for original in originals:
        groups[_group(original)][original.class_name] += 1
    return groups


def _group(original: Photograph) -> str:
    return original.group or original.id


def _rank(seed: int, group: str) -> bytes:
    return hashlib.sha256(f"{seed} {group}".encode()).digest()
