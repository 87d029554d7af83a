"""Chooses a learning rate for each of the five stages, on held-out validation, with the same budget for each.

Prints the rows of `convnext_ablation/recipes/learning_rates.csv`. The seed is none that a study uses.

    python benchmarks/learning_rates.py --recipe typefaces --data data/typefaces
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import tempfile
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from convnext_ablation.machine import KEEP_MEMORY
from convnext_ablation.study.designs.design import design_of
from convnext_ablation.training.arguments import TrainingArguments
from convnext_ablation.training.distributed import make_deterministic
from convnext_ablation.training.loop import Trainer
from convnext_ablation.training.settings import read_recipe


def best_validation_top1(arguments: TrainingArguments) -> float:
    """Trains one run to its end on one thread; returns the best epoch's validation top-1 in percent."""
    make_deterministic(threads=1)
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(arguments, Path(folder))
        trainer.run()
        return trainer.best.eval_top1


def main() -> None:
    """Trains every network at every rate, and prints the best rate of each."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--recipe", required=True)
    parser.add_argument("--data", required=True)
    parser.add_argument("--lr", type=float, nargs="+", default=[1e-3, 2e-3, 4e-3, 8e-3])
    parser.add_argument("--epochs", type=int, help="instead of the recipe's")
    parser.add_argument("--seed", type=int, default=1000)
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    options = parser.parse_args()
    os.environ.update(KEEP_MEMORY)

    recipe = read_recipe(options.recipe)
    if options.epochs:
        recipe["epochs"] = options.epochs
    models = [point.model for point in design_of("stages", "atto").points]
    runs = [
        TrainingArguments(
            **{
                **recipe,
                "model": model,
                "lr": rate,
                "seed": options.seed,
                "data_dir": options.data,
                "device": "cpu",
                "workers": 0,
            }
        )
        for model in models
        for rate in options.lr
    ]
    with ProcessPoolExecutor(options.jobs, multiprocessing.get_context("spawn")) as pool:
        reached = list(pool.map(best_validation_top1, runs))
    top1 = {(run.model, run.lr): value for run, value in zip(runs, reached, strict=True)}
    print("recipe,model,lr,val_top1_percent,epochs,seed,tried")
    for model in models:
        best = max(options.lr, key=lambda rate: top1[model, rate])
        tried = " ".join(f"{rate:g}:{top1[model, rate]:.2f}" for rate in options.lr)
        row = (options.recipe, model, f"{best:g}", f"{top1[model, best]:.2f}", recipe["epochs"], options.seed)
        print(*row, tried, sep=",")


if __name__ == "__main__":
    main()
