"""Training loss over 200 steps in bf16 autocast against float32, and its variation over seeds.

    convnext-ablation prepare typefaces data/typefaces
    python benchmarks/bf16_loss.py data/typefaces --output results/bf16_loss.csv

Trains as `train.py -c typefaces` does, with the recipe's schedule, and stops after the steps. Both precisions
of a seed share initial weights, images and order. Each run is a row with the mean loss of each tenth of its
steps; rerunning the command adds the missing runs. For each network, it finally prints the difference in
the last tenth's loss with its 95 % interval over seeds, and the seeds' standard deviation.
"""

from __future__ import annotations

import itertools
import math
import tempfile
from contextlib import suppress
from pathlib import Path
from statistics import mean, stdev
from typing import NamedTuple

from common import (
    SHORT,
    VERSIONS,
    Row,
    in_processes,
    missing,
    parsed,
    parser_of,
    read_rows,
    small_data,
    write_rows,
)
from scipy import stats

import convnext_ablation.models.zoo  # noqa: F401  registers the networks
from convnext_ablation.machine import available_cores, processor_name
from convnext_ablation.training.arguments import TrainingArguments
from convnext_ablation.training.distributed import make_deterministic
from convnext_ablation.training.logs import Log
from convnext_ablation.training.loop import StoppedError, Trainer
from convnext_ablation.training.settings import read_recipe

PRECISIONS = ("float32", "bf16")
PARTS = 10


class Run(NamedTuple):
    """The parameters of a run."""

    model: str
    precision: str
    seed: int
    steps: int


class Losses(Log):
    """Records the loss of every step, and stops after `steps` of them."""

    def __init__(self, steps: int) -> None:
        super().__init__()
        self.wanted = steps
        self.of: list[float] = []
        self._sum, self._epoch = 0.0, 0

    def update(self, epoch: int, step: int, loss: float, learning_rate: float) -> None:
        """Recovers a step's loss from the epoch's running mean."""
        before = self._sum if epoch == self._epoch else 0.0
        self._sum, self._epoch = loss * (step + 1), epoch
        self.of.append(self._sum - before)

    def are_all(self) -> bool:
        """Whether the steps are done."""
        return len(self.of) >= self.wanted


def train(data: str, run: Run) -> list[float]:
    """Trains one network; returns the loss of each step."""
    make_deterministic(threads=1)
    settings = {
        **read_recipe("typefaces"),
        **({"amp": True, "amp_dtype": "bfloat16"} if run.precision == "bf16" else {}),
        "data_dir": data,
        "val_split": "",
        "device": "cpu",
        "workers": 0,
        "log_interval": 1,
        "model": run.model,
        "seed": run.seed,
    }
    losses = Losses(run.steps)
    with tempfile.TemporaryDirectory() as folder, suppress(StoppedError):
        Trainer(TrainingArguments(**settings), Path(folder), None, losses, losses.are_all).run()
    return losses.of[: run.steps]


def main() -> None:
    """Trains the missing runs, and prints the comparison."""
    parser = parser_of(__doc__)
    parser.add_argument("data", nargs="?" if SHORT else None, help="typefaces, as `prepare` makes them")
    stages = [f"model_{number}_atto" for number in ("i", "ii", "iii", "iv", "v")]
    parser.add_argument("--models", nargs="+", default=stages)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--jobs", type=int, default=available_cores())
    options = parsed(parser, models=["model_v_atto"], seeds=[0, 1], steps=PARTS, jobs=1)
    options.data = options.data or small_data(options.output.parent)
    if options.steps % PARTS or options.steps < PARTS:
        parser.error(f"--steps is {options.steps}; give a multiple of {PARTS}")
    rows = read_rows(options.output)
    every = itertools.product(options.seeds, options.models, PRECISIONS)
    runs = missing((Run(model, precision, seed, options.steps) for seed, model, precision in every), rows)
    for number, losses in in_processes(train, [(options.data, run) for run in runs], options.jobs):
        row = {**runs[number]._asdict(), **_parts(losses), "machine": processor_name(), **VERSIONS}
        rows = sorted(
            [*rows, {name: str(value) for name, value in row.items()}],
            key=lambda row: (row["model"], int(row["seed"]), row["precision"]),
        )
        write_rows(options.output, rows)
        print(*list(row.values())[:-3], flush=True)
    for model in options.models:
        print(compared([row for row in rows if row["model"] == model]))


def compared(rows: list[Row]) -> str:
    """Effect of bf16 on a network's loss in the last tenth of the steps, and the variation over seeds."""
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


if __name__ == "__main__":
    main()
