"""Where an effect comes from: the per-class change, the confusions that change, and images of them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from convnext_ablation.study.designs.contrasts import Contrast
from convnext_ablation.study.report.evidence import Evidence
from convnext_ablation.study.report.findings import Effect

_LISTED = 20  # confusions of a contrast at either end
_FloatArray = NDArray[np.float64]


class ClassGain(NamedTuple):
    """A line of classes.csv: the effect of a contrast on one class."""

    contrast: str
    label: str
    class_name: str
    images: int  # test images of the class
    gain_points: float  # the contrast of the networks' top-1 on them, mean over the seeds that all have
    low_points: float  # least of any seed
    high_points: float  # most of any seed


class Confusion(NamedTuple):
    """A line of confusions.csv: how often one class is taken for another, in test images a run."""

    contrast: str
    label: str
    class_number: int
    class_name: str
    taken_for_number: int
    taken_for: str
    images_without: float  # in the networks that the contrast subtracts, weighed as it weighs them
    images_with: float  # in those that it adds
    images_change: float  # from the first to the second


def surest(effects: Sequence[Effect], evidence: Evidence, most: int) -> list[Effect]:
    """The effects that are looked at class by class: the most significant first, then the largest."""

    def rank(effect: Effect) -> tuple[float, float]:
        p = effect.difference.p_holm
        return 1.0 if math.isnan(p) else p, -abs(effect.difference.estimate)

    shown = [effect for effect in _shown(effects, evidence) if effect.difference.estimate]
    return sorted(shown, key=rank)[:most]


def class_gains(effects: Sequence[Effect], evidence: Evidence) -> list[ClassGain]:
    """The gain of each class in each contrast but interactions, most first."""
    images = np.bincount(evidence.targets)
    present = np.flatnonzero(images)
    table = []
    for contrast in (effect.contrast for effect in _shown(effects, evidence)):
        gains = _gains(contrast, evidence, images)
        if not len(gains):
            continue
        mean, low, high = gains.mean(axis=0), gains.min(axis=0), gains.max(axis=0)
        for number in present[np.lexsort((present, -mean[present]))].tolist():
            values = (float(each[number]) for each in (mean, low, high))
            name = evidence.class_name(number)
            table.append(ClassGain(contrast.name, contrast.label, name, int(images[number]), *values))
    return table


def _shown(effects: Sequence[Effect], evidence: Evidence) -> list[Effect]:
    """The effects but interactions whose networks all have runs."""
    networks = {run.network for run in evidence.runs}
    return [
        effect
        for effect in effects
        if effect.contrast.kind != "interaction" and effect.contrast.weights.keys() <= networks
    ]


def _gains(contrast: Contrast, evidence: Evidence, images: NDArray[np.int64]) -> _FloatArray:
    """A contrast of each class, in points, by the seeds that all of its networks have, (seeds, classes)."""
    by_network = [{run.seeds: run for run in evidence.runs_of(network)} for network in contrast.weights]
    shared = [seeds for seeds in by_network[0] if all(seeds in other for other in by_network)]
    gains = []
    for seeds in shared:
        gain = np.zeros(len(images))
        for runs, weight in zip(by_network, contrast.weights.values(), strict=True):
            rates = np.bincount(evidence.targets, weights=runs[seeds].correct, minlength=len(images))
            gain = gain + weight * (100 * rates / np.maximum(images, 1))
        gains.append(gain)
    return np.array(gains, np.float64)


def confusions(effects: Sequence[Effect], evidence: Evidence) -> list[Confusion]:
    """The confusions that change most in each contrast but interactions: that go, then that come."""
    # a network may predict a class that has no test images
    classes = 1 + max(int(max(evidence.targets.max(), run.predicted.max())) for run in evidence.runs)
    networks = dict.fromkeys(run.network for run in evidence.runs)
    counts = {network: _counts(evidence, network, classes) for network in networks}
    occurring = np.flatnonzero(np.any([times > 0 for times in counts.values()], axis=0))
    table = []
    for contrast in (effect.contrast for effect in _shown(effects, evidence)):
        without, with_ = _sides(contrast, {network: times[occurring] for network, times in counts.items()})
        change = with_ - without
        order = np.lexsort((occurring, change))
        for place in [*order[:_LISTED], *order[max(_LISTED, len(order) - _LISTED) :]]:
            if abs(change[place]) < 1e-9:  # rounding of sums that are equal
                continue
            true, other = divmod(int(occurring[place]), classes)
            names = (true, evidence.class_name(true), other, evidence.class_name(other))
            values = (float(each[place]) for each in (without, with_, change))
            table.append(Confusion(contrast.name, contrast.label, *names, *values))
    return table


def _counts(evidence: Evidence, network: str, classes: int) -> _FloatArray:
    """How often each class is taken for each other in a run of a network, by class x classes + other."""
    predicted = np.stack([run.predicted for run in evidence.runs_of(network)])
    codes = (evidence.targets * classes + predicted)[predicted != evidence.targets]
    return np.asarray(np.bincount(codes, minlength=classes**2) / len(predicted), np.float64)


def _sides(contrast: Contrast, values: Mapping[str, _FloatArray]) -> tuple[_FloatArray, _FloatArray]:
    """What a contrast subtracts and what it adds; their difference is its effect."""
    sides = []
    for sign in (-1, 1):
        weighed = [abs(w) * values[network] for network, w in contrast.weights.items() if w * sign > 0]
        sides.append(np.asarray(sum(weighed), np.float64))
    return sides[0], sides[1]


def examples(
    contrast: Contrast, evidence: Evidence, confusion: Confusion, most: int
) -> list[tuple[int, float, float]]:
    """Test images of a confusion that changes, the clearest first.

    Returns:
        Of each, its number, the share of runs that confuse it on the side of the contrast where the
        confusion is more frequent, and the share that are right on the other.
    """
    true, other = confusion.class_number, confusion.taken_for_number
    images = np.flatnonzero(evidence.targets == true)
    predicted = {
        network: np.stack([run.predicted[images] for run in evidence.runs_of(network)])
        for network in contrast.weights
    }
    confused = _sides(contrast, {name: (found == other).mean(0) for name, found in predicted.items()})
    right = _sides(contrast, {name: (found == true).mean(0) for name, found in predicted.items()})
    more, less = (1, 0) if confusion.images_change > 0 else (0, 1)
    before, after = confused[more], right[less]
    order = np.lexsort((images, -(before + after)))
    return [
        (int(images[place]), float(before[place]), float(after[place]))
        for place in order[:most]
        if before[place] > 0 and after[place] > 0
    ]
