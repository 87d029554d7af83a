"""What a report is made of: findings and runs, and what follows of them for its tables, figures and page."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

from convnext_ablation.errors import UserError
from convnext_ablation.study.report.classes import ClassGain, Confusion, class_gains, confusions
from convnext_ablation.study.report.evidence import Evidence, FinishedRun
from convnext_ablation.study.report.findings import Findings, StudyFacts
from convnext_ablation.training.history import SUMMARY, Epoch, read_summary


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
    folder: str  # relative to the report's
    command: str  # repeats the run
    versions: str


@dataclass(frozen=True, eq=False)
class Contents:
    """All that a report shows; `folder` is where it goes."""

    folder: Path
    findings: Findings
    facts: StudyFacts
    evidence: Evidence

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
