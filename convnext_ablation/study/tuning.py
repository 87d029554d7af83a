"""Learning rates: given, from the table, or chosen on the validation split from values tried for all."""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from convnext_ablation.errors import UserError
from convnext_ablation.files import write_csv
from convnext_ablation.study.designs.contrasts import Point
from convnext_ablation.study.experiment import TUNING_SEED, Study
from convnext_ablation.study.store import RESULT, is_done, load_result

TUNING_FILE = "tuning.csv"
_NAMED = 3  # networks of a warning; of more it says how many
_COLUMNS = ("network", "lr", "seed", "val_top1", "val_loss", "chosen")


@dataclass(frozen=True)
class Choice:
    """What was tried for one network.

    Attributes:
        top1: Top-1 on the validation split by learning rate, in percent; None where training diverged.
        losses: Loss there.
    """

    network: str
    top1: Mapping[float, float | None]
    losses: Mapping[float, float | None]

    @property
    def best(self) -> float | None:
        """The learning rate with the highest top-1, of equals the lowest loss; None if all diverged."""
        trained = [
            (top1, -(self.losses[rate] or 0.0), -rate) for rate, top1 in self.top1.items() if top1 is not None
        ]
        return -max(trained)[2] if trained else None


def parse_tuning(text: str) -> tuple[float, ...]:
    """Reads ``lr=0.001,0.002,0.004``."""
    name, _, values = text.partition("=")
    try:
        rates = tuple(sorted({float(value) for value in values.split(",")}))
    except ValueError:
        rates = ()
    if name != "lr" or len(rates) < 2 or not all(0 < rate < math.inf for rate in rates):
        raise UserError(
            f"--tune {text}: write lr= and two or more learning rates, such as lr=0.001,0.002,0.004"
        )
    return rates


def parse_rates(given: Sequence[str]) -> dict[str, float]:
    """Reads ``NETWORK=VALUE``."""
    rates = {}
    for text in given:
        name, _, value = text.partition("=")
        try:
            rates[name] = float(value)
        except ValueError:
            raise UserError(f"--lr {text}: write NETWORK=VALUE, such as model_i_atto=0.002") from None
    return rates


def choose_learning_rates(
    points: Sequence[Point], recipe_name: str, recipe: Mapping[str, Any], given: Mapping[str, float]
) -> dict[str, float]:
    """Returns each network's learning rate: the one given, else the table's, else the recipe's own.

    The table is `recipes/learning_rates.csv`, which says how each was found.
    """
    keys = [point.key for point in points]
    for key in given:
        if key not in keys:
            raise UserError(f"--lr {key}=...: not a network of this design; it has {', '.join(keys)}")
    table = resources.files("convnext_ablation") / "recipes" / "learning_rates.csv"
    lines = table.read_text(encoding="utf-8").splitlines()
    tuned = {row["model"]: float(row["lr"]) for row in csv.DictReader(lines) if row["recipe"] == recipe_name}
    rates = {key: given.get(key, tuned.get(key, recipe.get("lr"))) for key in keys}
    for key, rate in rates.items():
        if rate is None:
            raise UserError(f"the recipe {recipe_name} sets no lr for {key}; give --lr {key}=VALUE")
    return {key: float(rate) for key, rate in rates.items() if rate is not None}


def choices(study: Study, folder: Path) -> list[Choice]:
    """What was tried, for the networks for which all values have been."""
    found = []
    runs = study.tuning_runs()
    for point in study.points:
        mine = [run for run in runs if run.point.key == point.key]
        if all(is_done(run, folder) for run in mine):
            results = {float(run.arguments.lr or 0): load_result(run.folder(folder) / RESULT) for run in mine}
            top1 = {rate: result["val_top1"] for rate, result in results.items()}
            losses = {rate: result["val_loss"] for rate, result in results.items()}
            found.append(Choice(point.key, top1, losses))
    return found


def chosen_rates(study: Study, folder: Path) -> dict[str, float]:
    """The learning rates that are known by now, by network: the study's own, or those that were chosen."""
    if not study.tuning:
        return dict(study.learning_rates)
    return {choice.network: choice.best for choice in choices(study, folder) if choice.best is not None}


def write_tuning(study: Study, folder: Path, output: Path | None = None) -> Path:
    """Writes all that was tried into a folder, by default the study's."""
    path = (output or folder) / TUNING_FILE
    rows = [
        [choice.network, rate, TUNING_SEED, top1, choice.losses[rate], int(rate == choice.best)]
        for choice in choices(study, folder)
        for rate, top1 in choice.top1.items()
    ]
    write_csv(path, _COLUMNS, rows)
    return path


def tuning_notes(study: Study, folder: Path) -> list[str]:
    """What a reader must know of how the learning rates were chosen."""
    if not study.tuning:
        return []
    rates = ", ".join(f"{rate:g}" for rate in study.tuning)
    notes = [
        f"The learning rate of each network is the one of {rates} with the highest top-1 on the validation "
        f"split, from one run each with a seed that is none of the study's ({TUNING_FILE} has all of them)."
    ]
    at_edge = [
        f"{choice.network} ({choice.best:g})"
        for choice in choices(study, folder)
        if choice.best in (study.tuning[0], study.tuning[-1])
    ]
    if at_edge:
        many = f"{len(at_edge)} of {len(study.points)} networks ({TUNING_FILE} says which)"
        notes.append(
            "WARNING: the best learning rate is at the edge of those tried, so a better one may lie beyond, "
            f"for {many if len(at_edge) > _NAMED else ', '.join(at_edge)}."
        )
    return notes
