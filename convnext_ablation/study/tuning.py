"""Learning rates and initial weights that a study takes from its recipe or from other runs."""

from __future__ import annotations

import csv
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from importlib import resources
from pathlib import Path
from typing import Any

from convnext_ablation.console import counted
from convnext_ablation.errors import UserError
from convnext_ablation.files import write_csv
from convnext_ablation.study.designs.contrasts import Point
from convnext_ablation.study.experiment import TUNING_SEED, Study, Weights
from convnext_ablation.study.store import RESULT, is_done, load_result
from convnext_ablation.training.arguments import TrainingArguments
from convnext_ablation.training.history import BEST

TUNING_FILE = "tuning.csv"
_RESULTS = ("val_top1_percent", "val_loss")
_COLUMNS = ("network", "lr", "seed", *_RESULTS, "chosen")


def mixed_origins(weights: Sequence[Weights]) -> str:
    """Returns a warning if networks were pre-trained in different ways, else an empty string."""
    networks: dict[str, str] = {}
    for each in weights:
        networks.setdefault(each.origin, each.network)
    if len(networks) < 2:
        return ""
    told = "; ".join(f"{network}: {origin}" for origin, network in networks.items())
    return f"WARNING: the networks start from weights of different origin: {told}."


def parse_tuning(text: str) -> tuple[float, ...]:
    """Parses ``lr=0.001,0.002,0.004``; raises `UserError` for fewer than two positive rates."""
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

    A recipe with `lr_base` instead of `lr` follows timm's scaling rule for the batch size. A learning rate
    among the `given` settings takes precedence over the table.
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


def tried(study: Study, folder: Path) -> dict[str, dict[float, Mapping[str, Any]]]:
    """Tuning results by network and learning rate, for networks with all tuning runs finished."""
    found: dict[str, dict[float, Mapping[str, Any]]] = {}
    for run in study.tuning_runs():
        if is_done(run, folder):
            result = load_result(run.folder(folder) / RESULT)
            found.setdefault(run.point.key, {})[float(run.arguments.lr or 0)] = result
    return {key: results for key, results in found.items() if len(results) == len(study.tuning)}


def best_rate(results: Mapping[float, Mapping[str, Any]]) -> float | None:
    """The learning rate with the highest validation top-1, ties by lowest loss; None if all diverged."""
    trained = [
        (-result["val_top1_percent"], result["val_loss"] or 0.0, rate)
        for rate, result in results.items()
        if result["val_top1_percent"] is not None
    ]
    return min(trained)[2] if trained else None


def as_known(study: Study, folder: Path) -> Study:
    """Adds to a study what finished runs determine: initial weights and tuned learning rates."""
    if study.start is not None:
        before = folder.parent / study.start.phase
        weights = tuple(
            Weights(
                run.point.key,
                run.arguments.seed,
                str(run.folder(before) / BEST),
                run.identity,
                f"phase {run.phase}",
            )
            for run in as_known(study.start, before).runs()
            if is_done(run, before)
        )
        study = replace(study, weights=weights)
    if study.tuning:
        best = {key: best_rate(results) for key, results in tried(study, folder).items()}
        study = replace(study, learning_rates={key: rate for key, rate in best.items() if rate is not None})
    return study


def write_tuning(study: Study, folder: Path, output: Path | None = None) -> None:
    """Writes all tuning results to `tuning.csv` in `output`, by default the study's folder."""
    rows = [
        [network, rate, TUNING_SEED, *map(result.get, _RESULTS), int(rate == best_rate(results))]
        for network, results in tried(study, folder).items()
        for rate, result in results.items()
    ]
    write_csv((output or folder) / TUNING_FILE, _COLUMNS, rows)


def tuning_notes(study: Study, folder: Path) -> list[str]:
    """Notes for the report on how learning rates were chosen; empty without tuning."""
    if not study.tuning:
        return []
    rates = ", ".join(f"{rate:g}" for rate in study.tuning)
    notes = [
        f"The learning rate of each network is the one of {rates} with the highest top-1 on the validation "
        f"split, from one run each with a seed that is none of the study's ({TUNING_FILE} has all of them)."
    ]
    ends = study.tuning[0], study.tuning[-1]
    if at_edge := sum(best_rate(results) in ends for results in tried(study, folder).values()):
        notes.append(
            "WARNING: the best learning rate is at the edge of those tried, so a better one may lie beyond, "
            f"for {at_edge} of {counted(len(study.points), 'network')} ({TUNING_FILE} says which)."
        )
    return notes
