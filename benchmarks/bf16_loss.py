"""The loss of 200 steps in bf16 autocast against float32's, beside how much seeds differ.

    convnext-ablation prepare typefaces data/typefaces
    python benchmarks/bf16_loss.py data/typefaces --output results/bf16_loss.csv

Trains as `train.py -c typefaces` does, with the recipe's schedule, and stops after the steps; a seed gives
both precisions the same first weights, images and order. Each run is a row with the mean loss of each tenth
of its steps; the same command goes on with those that are lacking. At the end it prints, for each network, by
how much the loss of the last tenth differs, with its 95 % interval over seeds, and the seeds' own deviation.
"""

from __future__ import annotations

import argparse
import csv
import math
import multiprocessing
import os
import tempfile
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import suppress
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import timm
import torch
from scipy import stats

import convnext_ablation.models.zoo  # noqa: F401  registers the networks
from convnext_ablation.machine import available_cores, end_with_parent, keep_memory, processor_name
from convnext_ablation.training.arguments import TrainingArguments
from convnext_ablation.training.distributed import make_deterministic
from convnext_ablation.training.logs import Log
from convnext_ablation.training.loop import StoppedError, Trainer
from convnext_ablation.training.settings import read_recipe

PRECISIONS = ("float32", "bf16")
PARTS = 10
IDENTITY = ("model", "precision", "seed", "steps")
COLUMNS = [*IDENTITY, *(f"loss_{part + 1}" for part in range(PARTS)), "machine", "torch", "timm"]


class Losses(Log):
    """Writes down the loss of every step, and stops after so many."""

    def __init__(self, steps: int) -> None:
        super().__init__()
        self.wanted = steps
        self.of: list[float] = []
        self._sum, self._epoch = 0.0, 0

    def update(self, epoch: int, step: int, loss: float, learning_rate: float) -> None:
        """Takes the mean loss of an epoch so far, after every step."""
        before = self._sum if epoch == self._epoch else 0.0
        self._sum, self._epoch = loss * (step + 1), epoch
        self.of.append(self._sum - before)

    def are_all(self) -> bool:
        """Whether the steps are done."""
        return len(self.of) >= self.wanted


def train(data: str, model: str, precision: str, seed: int, steps: int) -> list[float]:
    """Trains one network for so many steps; returns the loss of each."""
    make_deterministic(threads=1)
    settings = {
        **read_recipe("typefaces"),
        **({"amp": True, "amp_dtype": "bfloat16"} if precision == "bf16" else {}),
        "data_dir": data,
        "val_split": "",
        "device": "cpu",
        "workers": 0,
        "log_interval": 1,
        "model": model,
        "seed": seed,
    }
    losses = Losses(steps)
    with tempfile.TemporaryDirectory() as folder, suppress(StoppedError):
        Trainer(TrainingArguments(**settings), Path(folder), None, losses, losses.are_all).run()
    return losses.of[:steps]


def start() -> None:
    """Readies a process."""
    end_with_parent()
    keep_memory()


def main() -> None:
    """Trains what is lacking, and says what came out."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", help="folder of typefaces, as `prepare` makes it")
    parser.add_argument("--output", type=Path, required=True, help="CSV file to write, or to go on with")
    stages = [f"model_{number}_atto" for number in ("i", "ii", "iii", "iv", "v")]
    parser.add_argument("--models", nargs="+", default=stages)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--jobs", type=int, default=available_cores())
    options = parser.parse_args()
    if options.steps % PARTS or options.steps < PARTS:
        parser.error(f"--steps is {options.steps}; give a multiple of {PARTS}")
    os.environ["OMP_NUM_THREADS"] = "1"
    rows = _read(options.output)
    done = {tuple(row[name] for name in IDENTITY) for row in rows}
    runs = [
        (model, precision, seed)
        for seed in options.seeds
        for model in options.models
        for precision in PRECISIONS
        if (model, precision, str(seed), str(options.steps)) not in done
    ]
    versions = {"machine": processor_name(), "torch": torch.__version__, "timm": timm.__version__}
    with ProcessPoolExecutor(options.jobs, multiprocessing.get_context("spawn"), start) as pool:
        futures = {pool.submit(train, options.data, *run, options.steps): run for run in runs}
        for number, future in enumerate(as_completed(futures), start=1):
            row = dict(zip(IDENTITY, map(str, (*futures[future], options.steps)), strict=True))
            rows.append({**row, **_parts(future.result()), **versions})
            _write(options.output, rows)
            print(f"{number}/{len(runs)}", *list(rows[-1].values())[: len(IDENTITY) + PARTS], flush=True)
    for model in options.models:
        print(compared([row for row in rows if row["model"] == model]))


def compared(rows: list[dict[str, str]]) -> str:
    """One network's loss in the last tenth of the steps: what bf16 changes, and how much seeds differ."""
    last = {(row["precision"], row["seed"], row["steps"]): float(row[f"loss_{PARTS}"]) for row in rows}
    pairs = [
        (loss, last[("bf16", *rest)])
        for (precision, *rest), loss in last.items()
        if precision == "float32" and ("bf16", *rest) in last
    ]
    text = f"{rows[0]['model']}: " if rows else ""
    if len(pairs) < 2:
        return f"{text}give at least two seeds to compare"
    changes = [low - full for full, low in pairs]
    full = [loss for loss, _ in pairs]
    half = float(stats.t.ppf(0.975, len(pairs) - 1)) * stdev(changes) / math.sqrt(len(pairs))
    return (
        f"{text}loss {mean(full):.4f} in float32, bf16 changes it by {mean(changes):+.4f} +- {half:.4f}; "
        f"seeds deviate by {stdev(full):.4f}, n = {len(pairs)}"
    )


def _parts(losses: list[float]) -> dict[str, str]:
    size = len(losses) // PARTS
    means = [mean(losses[part * size : (part + 1) * size]) for part in range(PARTS)]
    return {f"loss_{part + 1}": f"{value:.5f}" for part, value in enumerate(means)}


def _read(path: Path) -> list[dict[str, str]]:
    if not path.exists():
        return []
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def _write(path: Path, rows: list[dict[str, Any]]) -> None:
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(sorted(rows, key=lambda row: (row["model"], int(row["seed"]), row["precision"])))


if __name__ == "__main__":
    main()
