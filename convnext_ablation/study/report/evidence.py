"""A report's evidence: finished runs, what they predicted of the test images, and whose they are."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from convnext_ablation.errors import UserError
from convnext_ablation.files import leads_out
from convnext_ablation.study.stats.effects import Answers, BoolArray

Labels = NDArray[np.int64]
Seeds = tuple[int, int]  # of pre-training, of this training


@dataclass(frozen=True, eq=False)
class FinishedRun:
    """One finished run."""

    network: str  # its key in the design
    seed: int
    folder: Path
    predicted: Labels  # most probable class of each test image, (N,)
    targets: Labels  # their classes, (N,)
    result: Mapping[str, Any]  # its ``result.json``
    pretraining_seed: int | None = None  # None where it started from no weights
    balanced: bool = False  # whether its accuracy weighs all classes alike, and not all images

    @property
    def seeds(self) -> Seeds:
        """Both of its seeds, by which runs of different networks are paired."""
        return self.pretraining_seed or 0, self.seed

    @cached_property
    def correct(self) -> BoolArray:
        """Whether each test image is classified rightly, (N,)."""
        return self.predicted == self.targets

    @cached_property
    def scores(self) -> Answers:
        """What its accuracy is the mean of, (N,): `correct`, or the linearized weighted mean of that."""
        if not self.balanced:
            return self.correct
        images = np.bincount(self.targets)
        weights = len(self.targets) / (np.count_nonzero(images) * images[self.targets])
        accuracy = np.mean(weights * self.correct)
        return accuracy + weights * (self.correct - accuracy)

    def on(self, kept: BoolArray) -> FinishedRun:
        """The same run on some of the test images: `kept` says of each whether, (N,)."""
        return replace(self, predicted=self.predicted[kept], targets=self.targets[kept])

    @property
    def test_top1_percent(self) -> float:
        """Top-1 on the test images."""
        return 100 * int(self.correct.sum()) / len(self.correct)

    @property
    def val_top1_percent(self) -> float:
        """Top-1 of its best epoch on held-out validation; NaN where not measured."""
        return self.measured("val_top1_percent")

    def measured(self, name: str) -> float:
        """A number of its ``result.json``; NaN where not measured."""
        value = self.result.get(name)
        return math.nan if value is None else float(value)


@dataclass(frozen=True, eq=False)
class NetworkResult:
    """One network of a study, and its finished runs."""

    name: str  # its key in the design
    label: str  # its display name, such as ``"Model III"``
    adds: str  # what it changes of its baseline, such as ``"inverted bottleneck"``
    runs: Sequence[FinishedRun]

    def on(self, kept: BoolArray) -> NetworkResult:
        """The same on some of the test images; see `FinishedRun.on`."""
        return replace(self, runs=[run.on(kept) for run in self.runs])

    def balanced(self) -> NetworkResult:
        """The same with balanced accuracy, the mean of the classes' accuracies."""
        return replace(self, runs=[replace(run, balanced=True) for run in self.runs])

    @property
    def learning_rate(self) -> float:
        """Peak learning rate of the runs."""
        return self.runs[0].measured("learning_rate")

    @property
    def parameters(self) -> int:
        """How many the network has."""
        return int(self.runs[0].result["parameters"])

    @property
    def gmacs(self) -> float:
        """Multiply-accumulates of one image at the study's size, in 10^9."""
        return self.runs[0].measured("gmacs")

    @property
    def images_per_second(self) -> float:
        """Median training speed of the runs; NaN where not measured."""
        return self._summary(statistics.median, "train_images_per_second")

    @property
    def seconds(self) -> float:
        """Mean duration of a run; NaN where not measured."""
        return self._summary(statistics.fmean, "train_seconds")

    def _summary(self, of: Callable[[list[float]], float], name: str) -> float:
        measured = [value for run in self.runs if not math.isnan(value := run.measured(name))]
        return float(of(measured)) if measured else math.nan


@dataclass(frozen=True, eq=False)
class Evidence:
    """All finished runs, tested on the same images in the same order."""

    runs: Sequence[FinishedRun]
    ids: NDArray[np.str_]  # path of each test image below the split's folder, (N,)
    classes: Sequence[str]  # names by number; those without test images may be left out at the end
    data_folder: Path  # of the test images

    @property
    def targets(self) -> Labels:
        """Class of each test image, (N,)."""
        return self.runs[0].targets

    def runs_of(self, network: str) -> list[FinishedRun]:
        """The finished runs of a network."""
        return [run for run in self.runs if run.network == network]

    def class_name(self, number: int) -> str:
        """Name of a class, or its number where the name isn't known."""
        return self.classes[number] if number < len(self.classes) else str(number)

    def image(self, index: int) -> Path | None:
        """The file of a test image, None if it isn't there (any more)."""
        id_ = str(self.ids[index])
        if leads_out(id_):
            where = f"{self.runs[0].folder}: the test image {id_[:80]!r}"
            raise UserError(f"{where} is outside of the data set's folder; delete the run to do it again")
        path = self.data_folder / id_
        return path if path.is_file() else None
