"""Seconds that `study report` takes, on simulated results of all networks of results/union.yaml.

    python benchmarks/report_speed.py --output results/report_speed.csv

Each network is compared with the one above it in the list. There are neither images nor checkpoints, so the
page has neither pictures nor attention maps.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

import numpy as np
import yaml
from common import MACHINE, VERSIONS, in_turn, parsed, parser_of, time_columns, write_rows

from convnext_ablation.study.designs.design import design_of
from convnext_ablation.study.experiment import Study
from convnext_ablation.study.store import PREDICTIONS, RESULT, save_study
from convnext_ablation.training.history import SUMMARY, Epoch, write_summary
from convnext_ablation.training.predictions import Predictions

DESIGN = Path(__file__).parents[1] / "results" / "union.yaml"
CLASSES, IMAGES, EPOCHS, SEEDS = 104, 1040, 12, [0, 1, 2]


def make(folder: Path, networks: int | None) -> int:
    """Makes a study's folder with simulated results of the first networks; returns the number of networks."""
    named = yaml.safe_load(DESIGN.read_text(encoding="utf-8"))["networks"][:networks]
    (folder / "all.yaml").write_text(json.dumps({"networks": named}))
    design = design_of(str(folder / "all.yaml"), "atto")
    recipe = {"input_size": [1, 32, 32], "epochs": EPOCHS, "val_split": "val"}
    rates = {point.key: 0.001 for point in design.points}
    study = Study(design, "simulated", "none", "", "none", recipe, rates, SEEDS, "float32", "cpu", threads=1)
    save_study(folder / "study", study)
    rng = np.random.default_rng(0)
    targets, hard = np.arange(IMAGES) % CLASSES, rng.random(IMAGES)
    ids = np.array([f"{target:03d}/{number:04d}.png" for number, target in enumerate(targets)])
    for run in study.runs():
        skill = 0.4 + 0.01 * list(rates).index(run.point.key)
        wrong = hard + rng.normal(0, 0.1, IMAGES) > skill
        first = np.where(wrong, targets + rng.integers(1, 6, IMAGES), targets) % CLASSES
        where = run.folder(folder / "study")
        where.mkdir(parents=True)
        sure = np.ones(IMAGES, np.float32)
        Predictions(ids, targets, first[:, None], sure, 1.0).save(where / PREDICTIONS)
        history = [Epoch(number, 1.0, 1.0, 30.0 + number, 90.0, 0.001) for number in range(EPOCHS)]
        write_summary(where / SUMMARY, history, True)
        said = {"identity": run.identity, "learning_rate": 0.001, "best_epoch": EPOCHS - 1, "host": "here"}
        said |= {"device": "cpu", "versions": {}, "val_top1_percent": 50.0, "parameters": 10**6, "gmacs": 0.1}
        said |= {"train_images_per_second": 500.0, "train_seconds": 120.0}
        (where / RESULT).write_text(json.dumps(said))
    return len(design.points)


def seconds(folder: Path) -> float:
    """Seconds of the command."""
    command = [sys.executable, "-m", "convnext_ablation.cli.main", "study", "report", str(folder / "study")]
    environment, start = {**os.environ, "OMP_NUM_THREADS": "1"}, time.monotonic()
    subprocess.run(command, stdout=subprocess.DEVNULL, env=environment, check=True)
    return time.monotonic() - start


def main() -> None:
    """Times the command, and writes a row."""
    parser = parser_of(__doc__)
    parser.add_argument("--networks", type=int, help="the first of them; default: all")
    parser.add_argument("--rounds", type=int, default=5)
    options = parsed(parser, networks=3, rounds=1)
    with tempfile.TemporaryDirectory() as name:
        networks = make(Path(name), options.networks)
        times = in_turn({"report": partial(seconds, Path(name))}, options.rounds)["report"]
    row = {"networks": networks, "seeds": len(SEEDS), "classes": CLASSES, "images": IMAGES}
    row |= time_columns(times)
    write_rows(options.output, [row | {"rounds": options.rounds, "machine": MACHINE, **VERSIONS}])


if __name__ == "__main__":
    main()
