"""The epochs of a run, and the files of a run that timm's script writes too."""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from convnext_ablation.errors import UserError
from convnext_ablation.files import write_csv
from convnext_ablation.training.arguments import TrainingArguments

SUMMARY, LAST, BEST = "summary.csv", "last.pth.tar", "model_best.pth.tar"
_TRAINED = ("epoch", "train_loss")
_EVALUATED = ("eval_loss", "eval_top1", "eval_top5")


@dataclass(frozen=True)
class Epoch:
    """One finished epoch, a row of `summary.csv`; losses are means in nats, top-1 and top-5 in percent."""

    epoch: int  # from 0
    train_loss: float
    eval_loss: float | None  # on the validation split; None if it wasn't evaluated
    eval_top1: float | None
    eval_top5: float | None
    lr: float  # at its last update
    train_seconds: float = 0.0  # excluding validation
    images: int = 0  # trained on

    def metric(self, name: str) -> float | None:
        """The metric that selects the best epoch: ``top1``, ``top5``, ``loss`` or ``train_loss``."""
        value: float | None = getattr(self, name if name == "train_loss" else f"eval_{name}")
        return value


def ranked(history: Sequence[Epoch], metric: str, decreasing: bool) -> list[Epoch]:
    """The evaluated epochs sorted by the metric, best first; ties keep their order."""
    judged = [(value, epoch) for epoch in history if (value := epoch.metric(metric)) is not None]
    sign = 1.0 if decreasing else -1.0
    judged.sort(key=lambda one: math.inf if math.isnan(one[0]) else sign * one[0])
    return [epoch for _, epoch in judged]


def best_of(history: Sequence[Epoch], metric: str, decreasing: bool) -> Epoch | None:
    """The epoch with the best metric, the first on ties; None if none has been evaluated."""
    return next(iter(ranked(history, metric, decreasing)), None)


def stops_early(history: Sequence[Epoch], arguments: TrainingArguments) -> bool:
    """Whether the last `early_stopping` evaluations after warm-up brought no improvement."""
    best = best_of(history, arguments.eval_metric, arguments.decreasing_metric)
    if best is None or not arguments.early_stopping:
        return False
    since = max(best.epoch, arguments.warmup_epochs - 1)
    worse = [epoch for epoch in history if epoch.epoch > since and epoch.eval_loss is not None]
    return len(worse) >= arguments.early_stopping


def write_summary(path: Path, history: Sequence[Epoch], evaluates: bool) -> None:
    """Writes `summary.csv`: one row per evaluated epoch, or per epoch without a validation split."""
    columns = (*_TRAINED, *(_EVALUATED if evaluates else ()), "lr")
    shown = [epoch for epoch in history if epoch.eval_loss is not None or not evaluates]
    write_csv(path, columns, [[getattr(epoch, column) for column in columns] for epoch in shown])


def read_summary(path: Path) -> list[Epoch]:
    """Reads a `summary.csv` of ours or of timm's script; empty if there is no such file."""
    if not path.is_file():
        return []
    epochs = []
    try:
        with open(path, newline="", encoding="utf-8") as file:
            for row in csv.DictReader(file):
                if row["epoch"] == "epoch":  # timm's script writes the header again when it resumes
                    continue
                judged: dict[str, Any] = {
                    name: float(row[name]) if row.get(name) else None for name in _EVALUATED
                }
                epochs.append(
                    Epoch(int(row["epoch"]), float(row["train_loss"]), lr=float(row["lr"]), **judged)
                )
        return epochs
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path}: not a summary of epochs ({error}); give another --output") from error
