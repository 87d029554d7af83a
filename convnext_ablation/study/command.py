"""`convnext-ablation study`: from a data set's name to an answer."""

from __future__ import annotations

import argparse
import shlex
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch

from convnext_ablation.cost import count_gmacs
from convnext_ablation.data.manifest import FolderSummary, check_folder
from convnext_ablation.data.prepare import BUILT_IN, DATASETS, prepare
from convnext_ablation.errors import UserError, unknown_name
from convnext_ablation.machine import available_cores, processor_name
from convnext_ablation.study.comparison import NetworkResult, StudyFacts, rows
from convnext_ablation.study.design import DESIGNS, WIDTHS, Point, points_of
from convnext_ablation.study.plan import (
    Run,
    Study,
    choose_learning_rates,
    claim_folder,
    saved_description,
)
from convnext_ablation.study.precision import PRECISIONS, faster_precision
from convnext_ablation.study.progress import Progress
from convnext_ablation.study.report import answer, terminal_table, write_report
from convnext_ablation.study.runner import PREDICTIONS, execute_all, is_done, read_result, versions
from convnext_ablation.training.distributed import check_device
from convnext_ablation.training.evaluation import Predictions
from convnext_ablation.training.recipes import read_recipe


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of the `study` command."""
    parser.add_argument(
        "--data",
        required=True,
        metavar="NAME|FOLDER",
        help=f"a built-in data set ({', '.join(BUILT_IN)}; made in data/NAME if it isn't there), "
        "or an image folder with train/, val/ and test/",
    )
    parser.add_argument("--design", default="stages", help=f"networks to compare: {', '.join(DESIGNS)}")
    parser.add_argument("--width", default="atto", help=f"width of the networks: {', '.join(WIDTHS)}")
    parser.add_argument(
        "--seeds",
        type=int,
        nargs="+",
        default=[0, 1, 2],
        metavar="SEED",
        help="one run of each network for each",
    )
    parser.add_argument("--output", type=Path, required=True, metavar="FOLDER", help="the study's folder")
    parser.add_argument(
        "--recipe", metavar="NAME|FILE", help="how to train; by default the one named like the data set"
    )
    parser.add_argument(
        "--lr",
        nargs="+",
        default=[],
        metavar="NETWORK=VALUE",
        help="learning rates instead of those in recipes/learning_rates.csv",
    )
    parser.add_argument(
        "--precision",
        choices=("auto", *PRECISIONS),
        default="auto",
        help="of training; auto measures which is faster here, once a study",
    )
    parser.add_argument("--device", default="cpu", help="device to train on")
    parser.add_argument(
        "--threads", type=int, default=1, help="threads of a run; another number rounds otherwise"
    )
    parser.add_argument("--jobs", type=int, help="runs at the same time; by default as many as cores allow")


def run(args: argparse.Namespace) -> None:
    """Runs what is left of the study, prints its table and answer, and writes its report.

    Raises:
        UserError: The study can't be run as asked, or runs of it failed.
    """
    start = time.monotonic()
    study, data = _plan(args)
    claim_folder(args.output, study)
    runs = study.runs()
    left = [run for run in runs if not is_done(run, args.output)]
    jobs = args.jobs or max(1, available_cores() // args.threads)
    print(
        f"{len(runs)} runs ({len(study.points)} networks x {len(study.seeds)} seeds), "
        f"{len(runs) - len(left)} done before; {study.precision}, {jobs} at a time",
        flush=True,
    )
    progress = Progress(_epoch_costs(left, args.output), _epochs(study), len(runs) - len(left))
    try:
        execute_all(runs, args.output, jobs, progress)
    finally:
        progress.close()
    results = [_collect(point, runs, args.output) for point in study.points]
    facts = _facts(study, data, results)
    paths = write_report(args.output / "report", results, facts)
    width = shutil.get_terminal_size((120, 24)).columns
    print(f"\n{terminal_table(rows(results), width)}\n\n{answer(results, facts)}\n")
    print(f"report: {', '.join(str(path) for path in paths)}")
    print(f"took {_clock(time.monotonic() - start)}")


def _plan(args: argparse.Namespace) -> tuple[Study, FolderSummary]:
    """Checks all that can be checked before anything is trained."""
    if len(set(args.seeds)) != len(args.seeds):
        raise UserError(f"--seeds {' '.join(map(str, args.seeds))}: a seed is given twice")
    if min(args.seeds) < 0:
        raise UserError(f"--seeds {' '.join(map(str, args.seeds))}: a seed is a whole number from 0")
    for name in ("threads", "jobs"):
        if getattr(args, name) is not None and getattr(args, name) < 1:
            raise UserError(f"--{name} is {getattr(args, name)}; it must be at least 1")
    check_device(args.device)
    points = points_of(args.design, args.width)
    recipe_name = args.recipe or _recipe_for(args.data)
    recipe = read_recipe(recipe_name)
    learning_rates = choose_learning_rates(points, recipe_name, recipe, _parse_rates(args.lr))
    saved = saved_description(args.output)
    data = _data(args.data)
    precision = args.precision
    if precision == "auto":
        precision = saved["precision"] if saved else _faster_precision(points, recipe, args)
    study = Study(
        design=args.design,
        points=points,
        data_name=Path(args.data).name,
        data_dir=str(data.root),
        data_fingerprint=data.fingerprint,
        recipe_name=recipe_name,
        recipe=recipe,
        learning_rates=learning_rates,
        seeds=args.seeds,
        precision=precision,
        device=args.device,
        threads=args.threads,
    )
    batch_size, images = study.runs()[0].arguments.batch_size, data.counts["train"]
    if batch_size > images:
        raise UserError(f"{data.root}: {images} training images are fewer than one batch of {batch_size}")
    return study, data


def _recipe_for(data: str) -> str:
    if data in BUILT_IN:
        return data.replace("-", "_")
    _check_exists(data)
    raise UserError(f"--data {data}: a folder of your own needs --recipe NAME or --recipe FILE.yaml")


def _parse_rates(given: Sequence[str]) -> dict[str, float]:
    rates = {}
    for text in given:
        name, _, value = text.partition("=")
        try:
            rates[name] = float(value)
        except ValueError:
            raise UserError(f"--lr {text}: write NETWORK=VALUE, such as model_i_atto=0.002") from None
    return rates


def _data(name_or_folder: str) -> FolderSummary:
    """Finds, makes if need be, and checks the data set."""
    if name_or_folder in BUILT_IN:
        return prepare(name_or_folder, Path("data") / name_or_folder)
    _check_exists(name_or_folder)
    return check_folder(Path(name_or_folder))


def _check_exists(name_or_folder: str) -> None:
    if Path(name_or_folder).exists():
        return
    if name_or_folder in DATASETS:
        raise UserError(
            f"--data {name_or_folder}: make its folder first with `convnext-ablation prepare "
            f"{name_or_folder} OUT`, and name that folder"
        )
    raise unknown_name("data set or folder", name_or_folder, BUILT_IN)


def _faster_precision(points: Sequence[Point], recipe: Mapping[str, Any], args: argparse.Namespace) -> str:
    if args.device != "cpu":
        return "float32"
    input_size = recipe.get("input_size", (3, 224, 224))
    return faster_precision([point.model for point in points], input_size, args.threads)


def _epochs(study: Study) -> int:
    arguments = study.runs()[0].arguments
    return arguments.epochs + (arguments.warmup_epochs if arguments.warmup_prefix else 0)


def _epoch_costs(left: Sequence[Run], folder: Path) -> dict[str, float]:
    """What an epoch of each run costs, in GMACs of one image: enough to tell the time left."""
    costs = {}
    for run in left:
        input_size = run.arguments.input_size or (3, 224, 224)
        model = timm.create_model(run.point.model, in_chans=input_size[0], device="meta")
        costs[run.folder(folder).name] = count_gmacs(model, input_size)
    return costs


def _collect(point: Point, runs: Sequence[Run], folder: Path) -> NetworkResult:
    """Reads what one network reached with each seed."""
    mine = [run for run in runs if run.point == point]
    results = [read_result(run, folder) for run in mine]
    predictions = [Predictions.load(run.folder(folder) / PREDICTIONS) for run in mine]
    for run, other in zip(mine, predictions, strict=True):
        if not np.array_equal(other.ids, predictions[0].ids):
            raise UserError(f"{run.folder(folder)}: tested on other images; delete the folder to do it again")
    return NetworkResult(
        name=point.model,
        label=point.label,
        adds=point.adds,
        correct=np.stack([prediction.correct for prediction in predictions]),
        seeds=[run.arguments.seed for run in mine],
        learning_rate=results[0]["learning_rate"],
        parameters=results[0]["parameters"],
        gmacs=results[0]["gmacs"],
        train_images_per_second=[result["train_images_per_second"] for result in results],
        seconds=[result["train_seconds"] for result in results],
        val_top1=[result["val_top1"] / 100 for result in results],
    )


def _facts(study: Study, data: FolderSummary, results: Sequence[NetworkResult]) -> StudyFacts:
    arguments = study.runs()[0].arguments
    return StudyFacts(
        title=f"{study.design} on {study.data_name}",
        design=study.design,
        data_name=study.data_name,
        image_size=(arguments.input_size or (3, 224, 224))[-1],
        test_images=results[0].correct.shape[1],
        classes=len(data.classes),
        precision=study.precision,
        threads=study.threads,
        epochs=_epochs(study),
        machine=f"{processor_name()} ({torch.backends.cpu.get_cpu_capability()}), {available_cores()} cores",
        versions=versions(),
        command=shlex.join(["convnext-ablation", *sys.argv[1:]]),
    )


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
