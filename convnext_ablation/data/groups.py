"""Grouped hold-out splits and cross-validation folds; a group is, for example, one site, patient or video.

Groups are ordered by a hash of the seed and their name. The result is the same on every machine, with every
library version and list order. An image without a group forms its own, named by its id.
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
    """Moves `per_class` training images of each class to another split, a tenth if None.

    Groups are visited in hash order. A group is moved if that brings the class counts closer to their targets
    and leaves at least one image of each class in train.
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
    """Makes fold number `fold` of `folds`, counted from 1, the test split.

    Groups are assigned from the largest down, each to the fold with the fewest images of its classes. Without
    groups, folds differ by at most one image per class. Raises a `UserError` for fewer groups than folds.
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
    """Raises a `UserError` if a group spans two splits."""
    splits: dict[str, str] = {}
    for original in originals:
        other = splits.setdefault(original.group, original.split)
        if original.group and other != original.split:
            what = f"{where}: the group {original.group!r} is in {other} and in {original.split}"
            raise UserError(f"{what}; keep it in one")


def _grouped(originals: Iterable[Photograph]) -> dict[str, Counter[str]]:
    """Images per class of each group."""
    groups: dict[str, Counter[str]] = defaultdict(Counter)
    for original in originals:
        groups[_group(original)][original.class_name] += 1
    return groups


def _group(original: Photograph) -> str:
    return original.group or original.id


def _rank(seed: int, group: str) -> bytes:
    return hashlib.sha256(f"{seed} {group}".encode()).digest()
