"""What a report is made of on one data set: findings and runs, and what follows of them.

Where an effect comes from is the per-class change, and the confusions that change.
"""

from __future__ import annotations

import math
import os
from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from convnext_ablation.errors import UserError
from convnext_ablation.study.designs.contrasts import Contrast
from convnext_ablation.study.report.evidence import Evidence, FinishedRun
from convnext_ablation.study.report.findings import Effect, Findings, StudyFacts, compare
from convnext_ablation.training.classification import balanced_accuracy
from convnext_ablation.training.history import SUMMARY, Epoch, read_summary

_LISTED = 20  # confusions of a contrast at either end
_FloatArray = NDArray[np.float64]


class CurvePoint(NamedTuple):
    """A line of curves.csv: one epoch of one network, on the validation split, over its runs."""

    network: str
    epoch: int
    runs: int
    top1_percent: float
    top1_low_percent: float  # least of any run
    top1_high_percent: float
    train_loss: float


class RunLine(NamedTuple):
    """A line of runs.csv: where a figure comes from."""

    network: str
    seed: int
    pretraining_seed: int
    identity: str
    best_epoch: str
    val_top1_percent: float
    test_top1_percent: float
    test_balanced_accuracy_percent: float  # mean over the classes that have test images; or macro accuracy
    folder: str  # relative to the report's
    command: str  # repeats the run
    versions: str


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


@dataclass(frozen=True, eq=False)
class Contents:
    """What a report shows of one data set; `folder` is where its own report goes."""

    folder: Path
    findings: Findings  # on all test images
    facts: StudyFacts
    evidence: Evidence
    name: str = ""  # of the phase; empty where a study has none
    data: str = ""  # name of the data set, as in `reported.DATA_SETS`, or of its folder
    fingerprint: str = ""  # SHA-256 that stands for its files
    start: str = ""  # the phase whose networks its own start from; empty where there is none
    has_effects: bool = True  # whether the phase's design asks for effects
    kept: Findings | None = None  # without the excluded test images; None where none are excluded

    @property
    def called(self) -> str:
        """What it is called beside others."""
        return self.name or self.facts.data_name

    @property
    def excluded(self) -> int:
        """How many test images are excluded."""
        return self.facts.test_images - self.kept.test_images if self.kept else 0

    def has_images_of(self, other: Contents) -> bool:
        """Whether both are tested on the same images, if only in another size."""
        same = self.data == other.data and np.array_equal(self.evidence.ids, other.evidence.ids)
        return same or self.fingerprint == other.fingerprint

    @cached_property
    def balanced_effects(self) -> list[Effect]:
        """The effects on balanced accuracy; none where all classes have as many test images."""
        images, effects = np.bincount(self.evidence.targets), self.findings.effects
        if len(set(images[images > 0])) == 1 or not effects:
            return []
        networks = [row.network.balanced() for row in self.findings.rows]
        contrasts = [effect.contrast for effect in effects]
        return compare(networks, contrasts, self.facts.classes, effects[0].size).effects

    @cached_property
    def curves(self) -> list[CurvePoint]:
        """The learning curves of the networks, epoch by epoch."""
        return curve_points(self.evidence.runs)

    @cached_property
    def class_gains(self) -> list[ClassGain]:
        """The change of each class with each effect."""
        return class_gains(self.findings.effects, self.evidence)

    @cached_property
    def confusions(self) -> list[Confusion]:
        """The confusions that change most with each effect."""
        return confusions(self.findings.effects, self.evidence)

    @cached_property
    def runs(self) -> list[RunLine]:
        """Where each run lies, and how to repeat it."""
        return [self._line(run) for run in self.evidence.runs]

    def _line(self, run: FinishedRun) -> RunLine:
        folder, result = Path(os.path.relpath(run.folder, self.folder)).as_posix(), run.result
        return RunLine(
            *(run.network, run.seed, run.pretraining_seed or 0),
            identity=str(result.get("identity", "")),
            best_epoch=str(result.get("best_epoch", "")),
            val_top1_percent=run.val_top1_percent,
            test_top1_percent=run.test_top1_percent,
            test_balanced_accuracy_percent=100 * balanced_accuracy(run.targets, run.predicted),
            folder=folder,
            command=f"{_program(result)} --config {folder}/args.yaml",
            versions=", ".join(f"{name} {number}" for name, number in result.get("versions", {}).items()),
        )


def _program(result: Mapping[str, Any]) -> str:
    processes = result.get("processes", 1)
    started = f"torchrun --nproc-per-node {processes}" if processes > 1 else "python"
    script = "-m convnext_ablation.stock path/to/timm/train.py" if result.get("script") else "train.py"
    return f"{started} {script}"


def curve_points(runs: Sequence[FinishedRun]) -> list[CurvePoint]:
    """Learning curves, of the runs whose summary can be read."""
    found: dict[str, dict[int, list[Epoch]]] = {run.network: defaultdict(list) for run in runs}
    for run in runs:
        with suppress(UserError):
            for epoch in read_summary(run.folder / SUMMARY):
                if epoch.eval_top1 is not None:
                    found[run.network][epoch.epoch].append(epoch)
    points = []
    for network, by_number in found.items():
        for number, epochs in sorted(by_number.items()):
            top1 = [epoch.eval_top1 for epoch in epochs if epoch.eval_top1 is not None]
            loss = fmean(epoch.train_loss for epoch in epochs)
            points.append(CurvePoint(network, number, len(top1), fmean(top1), min(top1), max(top1), loss))
    return points


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
