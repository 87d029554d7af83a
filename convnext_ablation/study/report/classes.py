"""Where an effect comes from: the classes that gain, and the confusions that go, with images of them."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from convnext_ablation.study.designs.contrasts import Contrast
from convnext_ablation.study.report.findings import Effect
from convnext_ablation.study.report.inputs import Labels, PageExtras, PageRun

__all__ = ["ClassGain", "Confusion", "Example", "class_table", "confusion_table", "examples", "telling"]

_LISTED = 20  # confusions of a contrast at either end
_FloatArray = NDArray[np.float64]


@dataclass(frozen=True)
class ClassGain:
    """A line of classes.csv: what a contrast is worth in one class.

    Attributes:
        images: Test images of the class.
        gain: The contrast of the networks' top-1 on them, mean over the seeds that all of them have.
        low: Least of any seed.
        high: Most of any seed.
    """

    contrast: str
    label: str
    class_name: str
    images: int
    gain: float
    low: float
    high: float


@dataclass(frozen=True)
class Confusion:
    """A line of confusions.csv: how often one class is taken for another.

    Attributes:
        class_number: Class of the images.
        taken_for_number: Class that they are taken for.
        images_without: Test images, mean over runs, in the networks that a contrast subtracts, as it weighs
            them.
        images_with: The same in those that it adds.
        change: Of the first to the second; negative for a confusion that goes.
    """

    contrast: str
    label: str
    class_number: int
    class_name: str
    taken_for_number: int
    taken_for: str
    images_without: float
    images_with: float
    change: float


@dataclass(frozen=True)
class Example:
    """An image whose confusion goes.

    Attributes:
        index: Of the test image.
        confused: Share of runs that confused it before.
        right: Share of runs that have it right after.
    """

    index: int
    confused: float
    right: float


def class_table(effects: Sequence[Effect], extras: PageExtras) -> list[ClassGain]:
    """The gain of each class in each contrast but interactions, most first."""
    images = np.bincount(extras.targets)
    present = np.flatnonzero(images)
    rates = {
        network: {run.seeds: _class_rates(run, extras.targets, images) for run in runs}
        for network, runs in _grouped(extras.runs).items()
    }
    table = []
    for effect in _shown(effects, rates):
        contrast = effect.contrast
        gains = _gains(contrast, rates)
        if not len(gains):
            continue
        gain, low, high = gains.mean(axis=0), gains.min(axis=0), gains.max(axis=0)
        order = present[np.lexsort((present, -gain[present]))]
        table += [
            ClassGain(
                contrast.name,
                contrast.label,
                extras.class_name(int(number)),
                int(images[number]),
                float(gain[number]),
                float(low[number]),
                float(high[number]),
            )
            for number in order
        ]
    return table


def _grouped(runs: Sequence[PageRun]) -> dict[str, list[PageRun]]:
    found: dict[str, list[PageRun]] = defaultdict(list)
    for run in runs:
        found[run.network].append(run)
    return found


def _shown(effects: Sequence[Effect], networks: Mapping[str, object]) -> list[Effect]:
    """The effects that are looked at class by class: those whose networks all have runs."""
    return [
        effect
        for effect in effects
        if effect.contrast.kind != "interaction" and set(effect.contrast.weights) <= set(networks)
    ]


def _class_rates(run: PageRun, targets: Labels, images: Labels) -> _FloatArray:
    """Top-1 of each class, ``(classes,)``; 0 of one without images."""
    right = np.bincount(targets, weights=run.predicted == targets, minlength=len(images))
    return np.asarray(right / np.maximum(images, 1), np.float64)


def _gains(contrast: Contrast, rates: Mapping[str, Mapping[tuple[int, int], _FloatArray]]) -> _FloatArray:
    """A contrast of each class by the seeds that all of its networks have, ``(seeds, classes)``."""
    first, *others = (rates[network] for network in contrast.weights)
    shared = [seeds for seeds in first if all(seeds in other for other in others)]
    gains = [
        sum((weight * rates[network][seeds] for network, weight in contrast.weights.items()), np.zeros(1))
        for seeds in shared
    ]
    return np.array(gains, np.float64)


def confusion_table(effects: Sequence[Effect], extras: PageExtras) -> list[Confusion]:
    """The confusions that change most in each contrast but interactions: that go, then that come."""
    many = _many(extras)
    counts, codes = _confusion_counts(extras, many)
    table = []
    for effect in _shown(effects, counts):
        contrast = effect.contrast
        without, with_ = _two_sides(contrast, counts)
        change = with_ - without
        order = np.lexsort((codes, change))
        ends = [*order[:_LISTED], *order[max(_LISTED, len(order) - _LISTED) :]]
        for place in ends:
            if abs(change[place]) < 1e-9:  # rounding of sums that are equal
                continue
            true, other = divmod(int(codes[place]), many)
            table.append(
                Confusion(
                    contrast.name,
                    contrast.label,
                    true,
                    extras.class_name(true),
                    other,
                    extras.class_name(other),
                    float(without[place]),
                    float(with_[place]),
                    float(change[place]),
                )
            )
    return table


def _many(extras: PageExtras) -> int:
    """How many classes occur: a network may predict one that has no test images."""
    highest = [int(labels.max()) for labels in (extras.targets, *(run.predicted for run in extras.runs))]
    return max(highest) + 1


def _confusion_counts(extras: PageExtras, classes: int) -> tuple[dict[str, _FloatArray], Labels]:
    """How often each confusion that occurs at all happens in a run of each network, and which they are."""
    found = {}
    for network, runs in _grouped(extras.runs).items():
        predicted = np.stack([run.predicted for run in runs])
        codes = extras.targets * classes + predicted
        found[network] = (*np.unique(codes[predicted != extras.targets], return_counts=True), len(predicted))
    every = np.unique(np.concatenate([codes for codes, _, _ in found.values()] or [np.empty(0, np.int64)]))
    counts = {}
    for network, (codes, times, count) in found.items():
        counts[network] = np.zeros(len(every))
        counts[network][np.searchsorted(every, codes)] = times / count
    return counts, every


def _two_sides(contrast: Contrast, values: Mapping[str, _FloatArray]) -> tuple[_FloatArray, _FloatArray]:
    """What a contrast subtracts and what it adds; their difference is its effect."""
    sides = []
    for sign in (-1, 1):
        weighed = [abs(w) * values[network] for network, w in contrast.weights.items() if w * sign > 0]
        sides.append(np.asarray(sum(weighed), np.float64))
    return sides[0], sides[1]


def telling(effects: Sequence[Effect], extras: PageExtras, most: int) -> list[Effect]:
    """The effects whose confusions are shown: the surest first, then the largest."""
    networks = {run.network: None for run in extras.runs}
    shown = [effect for effect in _shown(effects, networks) if effect.difference.estimate]
    shown.sort(key=lambda each: (_or_one(each.difference.p_holm), -abs(each.difference.estimate)))
    return shown[:most]


def _or_one(p: float) -> float:
    return 1.0 if math.isnan(p) else p


def examples(
    contrast: Contrast, extras: PageExtras, true: int, other: int, raises: bool, most: int
) -> list[Example]:
    """Test images that are confused on one side of a contrast and right on the other, the clearest first.

    Args:
        contrast: Which networks are compared.
        extras: Has their predictions.
        true: Class of the images.
        other: Class that they are taken for.
        raises: Whether the side to be right is the one that the contrast adds, else the one it subtracts.
        most: So many at most.
    """
    images = np.flatnonzero(extras.targets == true)
    confused, right = {}, {}
    for network, runs in _grouped([run for run in extras.runs if run.network in contrast.weights]).items():
        predicted = np.stack([run.predicted[images] for run in runs])
        confused[network], right[network] = (predicted == other).mean(0), (predicted == true).mean(0)
    before = _two_sides(contrast, confused)[0 if raises else 1]
    after = _two_sides(contrast, right)[1 if raises else 0]
    order = np.lexsort((images, -(before + after)))
    return [
        Example(int(images[place]), float(before[place]), float(after[place]))
        for place in order[:most]
        if before[place] > 0 and after[place] > 0
    ]
