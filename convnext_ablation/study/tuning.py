"""What a study's runs need of the recipe or of other runs: learning rates, and weights to start from."""

from __future__ import annotations

import csv
import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path
from typing import Any

from convnext_ablation.console import counted
from convnext_ablation.errors import UserError
from convnext_ablation.files import write_csv
from convnext_ablation.study.designs.contrasts import Point
from convnext_ablation.study.experiment import TUNING_SEED, Run, Study, Weights
from convnext_ablation.study.store import RESULT, is_done, load_result
from convnext_ablation.training.arguments import TrainingArguments
from convnext_ablation.training.history import BEST

TUNING_FILE = "tuning.csv"
_RESULTS = ("val_top1_percent", "val_loss")
_COLUMNS = ("network", "lr", "seed", *_RESULTS, "chosen")


@dataclass(frozen=True)
class Choice:
    """What was tried for one network: the result of each learning rate's run."""

    network: str
    results: Mapping[float, Mapping[str, Any]]

    @property
    def best(self) -> float | None:
        """The learning rate with the highest top-1, of equals the lowest loss; None if all diverged."""
        trained = [
            (-result["val_top1_percent"], result["val_loss"] or 0.0, rate)
            for rate, result in self.results.items()
            if result["val_top1_percent"] is not None
        ]
        return min(trained)[2] if trained else None


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


def learning_rates(
    points: Sequence[Point], recipe_name: str, recipe: Mapping[str, Any], given: Collection[str] = ()
) -> dict[str, float]:
    """Each network's learning rate: the one in `recipes/learning_rates.csv`, else the recipe's own.

    A recipe with `lr_base` instead of `lr` has that of timm's rule for the images of an update. A learning
    rate that is `given` for this study comes before the table.
    """
    table = resources.files("convnext_ablation") / "recipes" / "learning_rates.csv"
    lines = table.read_text(encoding="utf-8").splitlines()
    tuned = {row["model"]: float(row["lr"]) for row in csv.DictReader(lines) if row["recipe"] == recipe_name}
    if {"lr", "lr_base", "lr_base_size", "lr_base_scale"} & {*given}:
        tuned = {}
    own = recipe.get("lr")
    if own is None and "lr_base" in recipe:
        arguments = TrainingArguments(**recipe)
        own = arguments.learning_rate(arguments.images_an_update())
    rates = {}
    for key in (point.key for point in points):
        rate = tuned.get(key, own)
        if rate is None:
            raise UserError(f"the recipe {recipe_name} sets no lr for {key}; give --tune lr=VALUE,VALUE,...")
        rates[key] = float(rate)
    return rates


def choices(study: Study, folder: Path) -> list[Choice]:
    """What was tried, for the networks for which all values have been."""
    found = []
    runs = study.tuning_runs()
    for point in study.points:
        mine = [run for run in runs if run.point.key == point.key]
        if all(is_done(run, folder) for run in mine):
            results = {float(run.arguments.lr or 0): load_result(run.folder(folder) / RESULT) for run in mine}
            found.append(Choice(point.key, results))
    return found


def as_known(study: Study, folder: Path) -> Study:
    """A study with what its folder tells by now: weights of finished runs, learning rates chosen."""
    if study.start is not None:
        before = folder.parent / study.start.phase
        start = as_known(study.start, before)
        study = with_weights(study, [run for run in start.runs() if is_done(run, before)], before)
    return with_chosen_rates(study, folder)


def with_weights(study: Study, runs: Iterable[Run], folder: Path) -> Study:
    """A phase whose networks start from the runs of another, which are done; `folder` is the other's."""
    weights = tuple(
        Weights(
            run.point.key,
            run.arguments.seed,
            str(run.folder(folder) / BEST),
            run.identity,
            f"phase {run.phase}",
        )
        for run in runs
    )
    return replace(study, weights=weights)


def with_chosen_rates(study: Study, folder: Path) -> Study:
    """A study with those learning rates that have been chosen by now, where they are chosen."""
    if not study.tuning:
        return study
    best = {choice.network: choice.best for choice in choices(study, folder)}
    return replace(study, learning_rates={key: rate for key, rate in best.items() if rate is not None})


def write_tuning(study: Study, folder: Path, output: Path | None = None) -> Path:
    """Writes all that was tried into a folder, by default the study's."""
    path = (output or folder) / TUNING_FILE
    rows = [
        [choice.network, rate, TUNING_SEED, *map(result.get, _RESULTS), int(rate == choice.best)]
        for choice in choices(study, folder)
        for rate, result in choice.results.items()
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
    ends = study.tuning[0], study.tuning[-1]
    if at_edge := sum(choice.best in ends for choice in choices(study, folder)):
        notes.append(
            "WARNING: the best learning rate is at the edge of those tried, so a better one may lie beyond, "
            f"for {at_edge} of {counted(len(study.points), 'network')} ({TUNING_FILE} says which)."
        )
    return notes
