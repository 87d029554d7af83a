"""The numbers behind the page's figures, each table a CSV file: fractions not percent, in full precision."""

from __future__ import annotations

import math
import os
import statistics
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from typing import Any

from convnext_ablation.errors import UserError
from convnext_ablation.files import write_csv
from convnext_ablation.study.report.findings import Effect, Row
from convnext_ablation.study.report.inputs import PageExtras, PageRun
from convnext_ablation.study.run_files import RESULT, load_result
from convnext_ablation.training.history import SUMMARY, Epoch, read_summary

__all__ = [
    "CurveLine",
    "EffectLine",
    "NetworkLine",
    "RunLine",
    "curve_table",
    "effect_table",
    "network_table",
    "run_table",
    "write_rows",
]

_ARGUMENTS = "args.yaml"


@dataclass(frozen=True)
class EffectLine:
    """A line of effects.csv.

    Attributes:
        runs: How many of each of its networks it is over.
        p_better: Probability that the effect is positive; NaN where not estimated.
    """

    contrast: str
    label: str
    kind: str
    primary: bool
    runs: int
    estimate: float
    low: float
    high: float
    p_value: float
    p_holm: float
    p_better: float


@dataclass(frozen=True)
class NetworkLine:
    """A line of networks.csv. Timings stand last: what precedes them is reproducible to the last digit.

    Attributes:
        number: What the network goes by in figures, from 1.
        baseline: Label of the network that `difference` compares with; empty where there is none.
        difference: Of top-1 to the baseline's, with its interval and p-values; NaN where there is none.
        images_per_second: In training, median over runs; NaN where not measured.
        seconds: Of a run, mean; NaN where not measured.
    """

    number: int
    network: str
    label: str
    adds: str
    runs: int
    top1: float
    top1_low: float
    top1_high: float
    baseline: str
    difference: float
    difference_low: float
    difference_high: float
    p_value: float
    p_holm: float
    learning_rate: float
    parameters: int
    gmacs: float
    images_per_second: float
    seconds: float


@dataclass(frozen=True)
class CurveLine:
    """A line of curves.csv: one epoch of one network, on the validation split, over its runs."""

    network: str
    epoch: int
    runs: int
    top1: float
    top1_low: float
    top1_high: float
    train_loss: float


@dataclass(frozen=True)
class RunLine:
    """A line of runs.csv: where a figure comes from.

    Attributes:
        folder: Relative to the report's.
        command: Repeats the run.
    """

    network: str
    seed: int
    pretraining_seed: int
    identity: str
    best_epoch: str
    val_top1: float
    test_top1: float
    folder: str
    command: str
    versions: str


def effect_table(effects: Sequence[Effect]) -> list[EffectLine]:
    """The effects, in their order."""
    return [
        EffectLine(
            contrast=each.contrast.name,
            label=each.contrast.label,
            kind=each.contrast.kind,
            primary=each.contrast.primary,
            runs=each.runs,
            estimate=each.difference.estimate,
            low=each.difference.low,
            high=each.difference.high,
            p_value=each.difference.p_value,
            p_holm=each.difference.p_holm,
            p_better=each.difference.p_better,
        )
        for each in effects
    ]


def network_table(rows: Sequence[Row]) -> list[NetworkLine]:
    """What each network reaches and costs."""
    return [
        NetworkLine(
            number=number,
            network=row.name,
            label=row.label,
            adds=row.adds,
            runs=row.seeds,
            top1=row.top1.estimate,
            top1_low=row.top1.low,
            top1_high=row.top1.high,
            baseline=row.baseline,
            difference=row.difference.estimate if row.difference else math.nan,
            difference_low=row.difference.low if row.difference else math.nan,
            difference_high=row.difference.high if row.difference else math.nan,
            p_value=row.difference.p_value if row.difference else math.nan,
            p_holm=row.difference.p_holm if row.difference else math.nan,
            learning_rate=row.learning_rate,
            parameters=row.parameters,
            gmacs=row.gmacs,
            images_per_second=row.images_per_second,
            seconds=row.seconds,
        )
        for number, row in enumerate(rows, start=1)
    ]


def curve_table(runs: Sequence[PageRun]) -> tuple[list[CurveLine], list[Path]]:
    """Learning curves, from each run's summary.

    Returns:
        An epoch of a network in each line, and the folders of runs without a summary that can be read.
    """
    epochs: dict[str, dict[int, list[Epoch]]] = {run.network: defaultdict(list) for run in runs}
    without = []
    for run in runs:
        try:
            history = read_summary(run.folder / SUMMARY)
        except UserError:
            history = []
        history = [epoch for epoch in history if epoch.eval_top1 is not None]
        if not history:
            without.append(run.folder)
        for epoch in history:
            epochs[run.network][epoch.epoch].append(epoch)
    return [
        _curve_point(network, number, found)
        for network, by_epoch in epochs.items()
        for number, found in sorted(by_epoch.items())
    ], without


def _curve_point(network: str, number: int, epochs: Sequence[Epoch]) -> CurveLine:
    top1 = [epoch.eval_top1 / 100 for epoch in epochs if epoch.eval_top1 is not None]
    loss = statistics.fmean(epoch.train_loss for epoch in epochs)
    return CurveLine(network, number, len(top1), statistics.fmean(top1), min(top1), max(top1), loss)


def run_table(extras: PageExtras, report: Path) -> list[RunLine]:
    """Where each run lies, and how to repeat it.

    Args:
        extras: Has the runs.
        report: The report's folder.
    """
    return [_run_line(run, extras, report) for run in extras.runs]


def _run_line(run: PageRun, extras: PageExtras, report: Path) -> RunLine:
    try:
        result = load_result(run.folder / RESULT)
    except UserError:
        result = {}
    folder = Path(os.path.relpath(run.folder, report)).as_posix()
    return RunLine(
        network=run.network,
        seed=run.seed,
        pretraining_seed=run.pretraining_seed,
        identity=str(result.get("identity", "")),
        best_epoch=str(result.get("best_epoch", "")),
        val_top1=float(result.get("val_top1", math.nan)) / 100,
        test_top1=float((run.predicted == extras.targets).mean()),
        folder=folder,
        command=str(result.get("command") or f"python train.py --config {folder}/{_ARGUMENTS}"),
        versions=", ".join(f"{name} {number}" for name, number in result.get("versions", {}).items()),
    )


def write_rows(path: Path, kind: type[Any], rows: Sequence[Any]) -> Path:
    """Writes dataclasses as a CSV file, whole or not at all; what isn't known is empty."""
    lines = ([_cell(value) for value in astuple(row)] for row in rows)
    write_csv(path, [field.name for field in fields(kind)], lines)
    return path


def _cell(value: str | float) -> str:
    if isinstance(value, float):
        return "" if math.isnan(value) else repr(value)
    return str(value)
