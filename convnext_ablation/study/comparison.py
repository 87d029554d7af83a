"""What a study found, as data: one result per network, and the rows that compare them."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from convnext_ablation.errors import UserError, unknown_name
from convnext_ablation.study.effects import (
    BoolArray,
    Difference,
    Interval,
    accuracy,
    holm,
    paired_difference,
)

__all__ = ["NetworkResult", "Row", "StudyFacts", "rows"]


@dataclass(frozen=True, eq=False)
class NetworkResult:
    """One network of a study, trained with one or more seeds.

    Attributes:
        name: Its name in timm's registry, such as ``"model_iii"``.
        label: Its name for people, such as ``"Model III"``.
        adds: What it changes with respect to its baseline, such as ``"inverted bottleneck"``.
        correct: Whether each test image is classified rightly, (seeds, images).
        seeds: The seeds, one for each row of `correct`.
        gmacs: Multiply-accumulates of one image at the study's size, in 10^9.
        train_images_per_second: Training speed of each seed's run.
        seconds: Duration of each seed's run.
        val_top1: Top-1 of each seed on held-out validation, a fraction.
        baseline: Name of the network it is compared with; empty for the one before it.
    """

    name: str
    label: str
    adds: str
    correct: BoolArray
    seeds: list[int]
    learning_rate: float
    parameters: int
    gmacs: float
    train_images_per_second: list[float]
    seconds: list[float]
    val_top1: list[float]
    baseline: str = ""

    def __post_init__(self) -> None:
        """Checks that there is one of everything for each seed."""
        lengths = {
            len(self.correct),
            len(set(self.seeds)),
            len(self.seeds),
            len(self.train_images_per_second),
            len(self.seconds),
            len(self.val_top1),
        }
        if len(lengths) != 1:
            raise ValueError(f"{self.name}: predictions, seeds and measurements must be one per seed")


@dataclass(frozen=True)
class StudyFacts:
    """What a reader must know to judge a study's figures.

    Attributes:
        title: Heading of the report.
        design: Which networks were chosen, such as ``"stages"``.
        test_images: How many images `NetworkResult.correct` covers.
        versions: Version of each program that shaped the figures.
        command: The command line that repeats the study.
        warnings: What the reader must be told besides what the figures themselves show.
        pretrained: Whether the networks started from pre-trained weights.
    """

    title: str
    design: str
    data_name: str
    image_size: int
    test_images: int
    classes: int
    precision: str
    threads: int
    epochs: int
    machine: str
    versions: dict[str, str]
    command: str
    warnings: list[str] = field(default_factory=list)
    pretrained: bool = False


@dataclass(frozen=True)
class Row:
    """One network of the report's table.

    Attributes:
        seeds: How many seeds the network was trained with.
        top1: Mean over seeds and images, with its interval.
        baseline: Label of the network that `difference` compares with; empty where there is none.
        follows: Whether that is the row above.
        difference: Top-1 minus the baseline's, over the seeds that both have; None without a baseline.
        paired_seeds: How many seeds both have.
        images_per_second: Median over seeds; NaN where not measured.
        seconds: Mean duration of a run; NaN where not measured.
    """

    name: str
    label: str
    adds: str
    seeds: int
    top1: Interval
    baseline: str
    follows: bool
    difference: Difference | None
    paired_seeds: int
    learning_rate: float
    parameters: int
    gmacs: float
    images_per_second: float
    seconds: float


def rows(results: Sequence[NetworkResult]) -> list[Row]:
    """Compares each network with its baseline; p-values are adjusted over all of the comparisons.

    Raises:
        UserError: There is no result, a baseline has none, or two networks can't be paired.
    """
    if not results:
        raise UserError("no run of this study is finished; nothing to report")
    unadjusted = [_row(results, index) for index in range(len(results))]
    differences = [row.difference for row in unadjusted]
    adjusted = holm([math.nan if d is None else d.p_value for d in differences])
    return [
        row if d is None else replace(row, difference=replace(d, p_holm=p_holm))
        for row, d, p_holm in zip(unadjusted, differences, adjusted, strict=True)
    ]


def _row(results: Sequence[NetworkResult], index: int) -> Row:
    result, baseline = results[index], _baseline(results, index)
    paired = [] if baseline is None else [seed for seed in result.seeds if seed in baseline.seeds]
    return Row(
        name=result.name,
        label=result.label,
        adds=result.adds,
        seeds=len(result.seeds),
        top1=accuracy(result.correct),
        baseline="" if baseline is None else baseline.label,
        follows=baseline is not None and index > 0 and baseline is results[index - 1],
        difference=None if baseline is None else _difference(result, baseline, paired),
        paired_seeds=len(paired),
        learning_rate=result.learning_rate,
        parameters=result.parameters,
        gmacs=result.gmacs,
        images_per_second=_summary(statistics.median, result.train_images_per_second),
        seconds=_summary(statistics.fmean, result.seconds),
    )


def _baseline(results: Sequence[NetworkResult], index: int) -> NetworkResult | None:
    name = results[index].baseline
    if not name:
        return results[index - 1] if index else None
    by_name = {result.name: result for result in results}
    if name not in by_name:
        raise unknown_name("baseline", name, by_name)
    return by_name[name]


def _difference(result: NetworkResult, baseline: NetworkResult, paired: list[int]) -> Difference:
    if not paired:
        raise UserError(
            f"{result.name} and {baseline.name} have no seed in common; run both with the same seeds"
        )
    treated, control = (
        np.asarray(network.correct)[[network.seeds.index(seed) for seed in paired]]
        for network in (result, baseline)
    )
    return paired_difference(treated, control)


def _summary(of: Callable[[list[float]], float], values: list[float]) -> float:
    measured = [value for value in values if not math.isnan(value)]
    return float(of(measured)) if measured else math.nan
