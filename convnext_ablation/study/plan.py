"""A study before it is run: its runs, and the identity of each."""

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from convnext_ablation.errors import UserError
from convnext_ablation.files import write_text
from convnext_ablation.study.design import Point
from convnext_ablation.training.arguments import TrainingArguments
from convnext_ablation.zoo import components_of

STUDY_FILE = "study.json"
TEST_SPLIT = "test"
# where a run's data lie, how many processes load them, and how it is logged change nothing about its result
_NOT_IDENTITY = ("data_dir", "workers", "output", "experiment", "resume", "checkpoint_hist", "log_interval")


@dataclass(frozen=True)
class Run:
    """One network, trained and tested once.

    Attributes:
        point: The network's place in the design.
        arguments: What determines the training, its seed included.
        data_fingerprint: SHA-256 that stands for the data set's contents.
        threads: Threads of one operation; another number rounds otherwise.
    """

    point: Point
    arguments: TrainingArguments
    data_fingerprint: str
    threads: int

    @property
    def identity(self) -> str:
        """SHA-256 of everything that determines the result."""
        arguments = self.arguments.to_dict()
        determining = {
            "arguments": {name: arguments[name] for name in arguments if name not in _NOT_IDENTITY},
            "components": asdict(components_of(self.point.model)),
            "data": self.data_fingerprint,
            "threads": self.threads,
        }
        return hashlib.sha256(json.dumps(determining, sort_keys=True).encode()).hexdigest()

    def folder(self, study_folder: Path) -> Path:
        """Where the run's files go."""
        return study_folder / "runs" / f"{self.point.model}-seed{self.arguments.seed}-{self.identity[:8]}"


@dataclass(frozen=True)
class Study:
    """Design x data set x seeds.

    Attributes:
        design: Name of the design.
        points: Its networks.
        data_name: Name of the data set.
        data_dir: Its image folder.
        data_fingerprint: SHA-256 that stands for its contents.
        recipe_name: Name or file of the recipe.
        recipe: The arguments that the recipe sets.
        learning_rates: One for each network.
        seeds: One run of each network for each.
        precision: ``float32`` or ``bfloat16`` (autocast), for training.
        device: Device that the networks are trained on.
        threads: Threads of one operation.
    """

    design: str
    points: Sequence[Point]
    data_name: str
    data_dir: str
    data_fingerprint: str
    recipe_name: str
    recipe: Mapping[str, Any]
    learning_rates: Mapping[str, float]
    seeds: Sequence[int]
    precision: str
    device: str
    threads: int

    def runs(self) -> list[Run]:
        """All runs, one seed of every network before the next seed."""
        return [self._run(point, seed) for seed in self.seeds for point in self.points]

    def _run(self, point: Point, seed: int) -> Run:
        arguments = TrainingArguments(
            **{
                **self.recipe,
                "model": point.model,
                "lr": self.learning_rates[point.model],
                "seed": seed,
                "data_dir": self.data_dir,
                "device": self.device,
                "amp": self.precision != "float32",
                "amp_dtype": "bfloat16",
                "workers": 0,
                "test_split": TEST_SPLIT,
                "resume": "auto",
                "checkpoint_hist": 0,
            }
        )
        return Run(point, arguments, self.data_fingerprint, self.threads)

    def description(self) -> dict[str, Any]:
        """What must be the same for two calls to work on one study; seeds may be added."""
        return {
            "design": self.design,
            "networks": [point.model for point in self.points],
            "data set": self.data_name,
            "data fingerprint": self.data_fingerprint,
            "recipe": dict(self.recipe),
            "learning rates": dict(self.learning_rates),
            "precision": self.precision,
            "device": self.device,
            "threads": self.threads,
        }


def saved_description(folder: Path) -> dict[str, Any] | None:
    """Reads what study a folder holds, or None if it holds none.

    Raises:
        UserError: The folder holds something else than a study, or its description is damaged.
    """
    path = folder / STUDY_FILE
    if path.is_file():
        try:
            return dict(json.loads(path.read_text(encoding="utf-8")))
        except ValueError as error:
            raise UserError(f"{path}: damaged ({error}); give another --output") from error
    if folder.is_file() or (folder.is_dir() and any(folder.iterdir())):
        raise UserError(f"{folder}: holds something else than a study; give another --output")
    return None


def claim_folder(folder: Path, study: Study) -> None:
    """Makes a folder the study's, or finds that it is already.

    Raises:
        UserError: It holds another study; the message says what differs.
    """
    # through JSON, so that both sides hold lists and not tuples
    description = json.loads(json.dumps(study.description()))
    saved = saved_description(folder)
    if saved is None:
        folder.mkdir(parents=True, exist_ok=True)
        write_text(folder / STUDY_FILE, json.dumps(description, indent=2) + "\n")
        return
    for key, value in description.items():
        if saved.get(key) != value:
            raise UserError(
                f"{folder}: holds another study: its {key} is {_brief(saved.get(key))}, not {_brief(value)}; "
                "give another --output"
            )


def _brief(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "..."


def choose_learning_rates(
    points: Sequence[Point], recipe_name: str, recipe: Mapping[str, Any], given: Mapping[str, float]
) -> dict[str, float]:
    """Returns each network's learning rate: the one given, else the table's, else the recipe's own.

    The table is `recipes/learning_rates.csv`, which says how each was found.

    Raises:
        UserError: A rate is given for a network that isn't in the design, or none is to be had.
    """
    models = [point.model for point in points]
    for model in given:
        if model not in models:
            raise UserError(f"--lr {model}=...: not a network of this design; it has {', '.join(models)}")
    table = resources.files("convnext_ablation") / "recipes" / "learning_rates.csv"
    lines = table.read_text(encoding="utf-8").splitlines()
    tuned = {row["model"]: float(row["lr"]) for row in csv.DictReader(lines) if row["recipe"] == recipe_name}
    rates = {model: given.get(model, tuned.get(model, recipe.get("lr"))) for model in models}
    for model, rate in rates.items():
        if rate is None:
            raise UserError(f"the recipe {recipe_name} sets no lr for {model}; give --lr {model}=VALUE")
    return {model: float(rate) for model, rate in rates.items() if rate is not None}
