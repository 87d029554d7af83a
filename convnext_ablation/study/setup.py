"""Plans a study from command-line arguments, and makes every check that is possible before training."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Iterator, Mapping
from copy import copy
from pathlib import Path
from typing import Any

import timm
import torch

from convnext_ablation import machine
from convnext_ablation.data.folder import FolderSummary, check_folder
from convnext_ablation.data.prepare import BUILT_IN, as_published, prepare
from convnext_ablation.errors import UserError, unknown_name
from convnext_ablation.study.asked import asked_phases, trains_elsewhere
from convnext_ablation.study.designs.contrasts import Point, parse_groups
from convnext_ablation.study.designs.design import WIDTHS, Design, design_of, with_models
from convnext_ablation.study.experiment import TEST_SPLIT, VALIDATION_SPLIT, Run, Study, splits_of
from convnext_ablation.study.experiment_file import named, overridden
from convnext_ablation.study.external import check_arguments, find_script
from convnext_ablation.study.pretrained import check_networks, check_published, find_weights
from convnext_ablation.study.tuning import learning_rates, mixed_origins, parse_tuning
from convnext_ablation.training.arguments import TrainingArguments
from convnext_ablation.training.checks import MOST_ENLARGED, dry_run, look_at
from convnext_ablation.training.distributed import check_device
from convnext_ablation.training.settings import read_recipe
from convnext_ablation.training.splits import open_split

_GPU_WORKERS = 4  # timm's default; on a CPU, workers would compete with other runs


def plan_phases(args: argparse.Namespace) -> list[tuple[Study, FolderSummary]]:
    """Plans an experiment's phases from command-line arguments; raises `UserError` if a check fails."""
    planned: dict[str, tuple[Study, FolderSummary]] = {}
    phases = asked_phases(args)
    for phase in phases:
        with named(phase.phase):
            _check_device(phase)
    for phase in phases:
        with named(phase.phase):
            planned[phase.phase] = _plan_study(phase, planned[phase.start][0] if phase.start else None)
    return list(planned.values())


def _plan_study(args: argparse.Namespace, start: Study | None = None) -> tuple[Study, FolderSummary]:
    """Plans a phase, which may start from the networks of another (`start`)."""
    recipe_name = args.recipe or args.data.replace("-", "_")
    recipe, given, precision = _recipe(args, recipe_name, {})
    design = _design(args, TrainingArguments(**recipe))
    _try(recipe, design.points[0])
    if start is not None:
        _check_start(args, design, start)
    tuning = parse_tuning(args.tune) if args.tune else ()
    rates = {} if tuning else learning_rates(design.points, recipe_name, recipe, given)
    own_recipes: dict[str, Mapping[str, Any]] = {}
    for point, own_name, values in _by_network(args, design):
        own, own_given, other = _recipe(args, own_name or recipe_name, values)
        _try(own, point)
        if other != precision:
            raise UserError(
                f"{point.key}: its recipe is in {other}, and the others' in {precision}; give --precision"
            )
        own_recipes[point.key] = own
        rates |= {} if tuning else learning_rates([point], own_name or recipe_name, own, own_given)
    _name_other_models(design, recipe_name, recipe, own_recipes)
    script = find_script(args.train_script) if args.train_script else None
    if args.from_scratch:
        recipe.pop("pretrained", None)
        own_recipes = {key: {**own, "pretrained": False} for key, own in own_recipes.items()}
    ours = [point for point in design.points if point.components is not None]
    weights = find_weights(args.init, ours, args.pretraining_seeds)
    if recipe.get("pretrained"):
        given_weights = ours if weights or start else []
        check_published([point for point in design.points if point not in given_weights], recipe_name)
    if warning := mixed_origins(weights):
        print(warning, file=sys.stderr)
    data = _data(args)
    on_gpu = torch.device(args.device).type == "cuda"
    study = Study(
        design=design,
        data_name=args.data_name,
        data_dir=str(data.root.resolve()),
        data_fingerprint=data.fingerprint,
        recipe_name=recipe_name,
        recipe=recipe,
        learning_rates=rates,
        seeds=args.seeds,
        precision=precision,
        device=args.device,
        threads=args.threads,
        tuning=tuning,
        weights=weights,
        script=script,
        command=shlex.join(["convnext-ablation", *args.words]),
        processes=args.gpus_per_run,
        workers=_GPU_WORKERS * on_gpu if args.workers is None else args.workers,
        test_split=TEST_SPLIT if TEST_SPLIT in data.counts else VALIDATION_SPLIT,
        phase=args.phase,
        start=start,
        own_recipes=own_recipes,
    )
    _check_runs(args, study, data)
    return study, data


def _recipe(
    args: argparse.Namespace, name: str, values: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, Any], str]:
    """Returns a recipe with overrides and `values`, the values of `--set` alone, and its precision."""
    own = copy(args)
    own.set = {**args.set, **values}
    recipe, given = overridden(read_recipe(name), own)
    for setting in ("pretrained_path", "initial_checkpoint"):
        if recipe.get(setting):
            raise UserError(
                f"the recipe {name} sets {setting}, a file for one network; name those of all with --init"
            )
    return recipe, given, _precision(args, name, TrainingArguments(**recipe))


def _design(args: argparse.Namespace, arguments: TrainingArguments) -> Design:
    """The networks of a phase: the design's, other models, or both."""
    design = design_of(args.design, args.width, parse_groups(args.groups) if args.groups else None)
    if not args.models and args.networks == "models":
        raise UserError("networks: models, but there are none; give --models NAME ...")
    if not args.models or args.networks == "design":
        return design
    models = {name: _model_kwargs(name, arguments) for name in args.models}
    return with_models(design, models, alone=args.networks == "models")


def _try(recipe: Mapping[str, Any], point: Point) -> None:
    """Lets timm and torch reject a recipe before any data is read."""
    kwargs = recipe.get("model_kwargs", {}) if point.components is not None else {}
    of_point = {"model": point.model, "model_kwargs": {**kwargs, **point.model_kwargs}}
    dry_run(TrainingArguments(**{**recipe, **of_point}))


def _by_network(
    args: argparse.Namespace, design: Design
) -> Iterator[tuple[Point, str | None, dict[str, Any]]]:
    """Yields per-network recipe names and settings; names may omit the width's suffix."""
    points = {point.key: point for point in design.points}
    for name, said in args.by_network.items():
        key = name if name in points else f"{name}{WIDTHS[args.width]}"
        if key not in points:
            raise unknown_name("network in by_network", name, sorted(points))
        yield points[key], *said


def _name_other_models(
    design: Design, name: str, recipe: Mapping[str, Any], own: Mapping[str, Mapping[str, Any]]
) -> None:
    """Prints which networks are trained by a recipe that was written for another model."""
    others: dict[str, list[str]] = {}
    for point in design.points:
        meant = own.get(point.key, recipe).get("model")
        if meant and meant not in (point.key, point.model):
            others.setdefault(meant, []).append(point.key)
    for meant, keys in others.items():
        print(f"the recipe {name} is for {meant}; here it trains {', '.join(keys)}", file=sys.stderr)


def _model_kwargs(name: str, arguments: TrainingArguments) -> dict[str, Any]:
    """Sets `img_size` for timm models of a fixed input size that differs from the recipe's."""
    try:
        known = timm.get_pretrained_cfg(name)
    except RuntimeError as error:  # no such tag
        raise UserError(f"--models {name}: {error}") from error
    if known is None:
        raise unknown_name("model of timm", name, timm.list_models())
    size = arguments.input_size or known.input_size
    return {"img_size": size[-1]} if known.fixed_input_size and known.input_size[-1] != size[-1] else {}


def _check_start(args: argparse.Namespace, design: Design, start: Study) -> None:
    if args.init or args.pretraining_seeds:
        raise UserError(f"starts from phase {start.phase}, and from --init too; give one")
    if len(start.starts) > 1:
        raise UserError(
            f"starts from phase {start.phase}, which has several pre-trainings itself; start from "
            f"{start.start.phase if start.start else 'one'}"
        )
    trained = {point.key for point in start.points}
    for point in design.points:
        if point.components is not None and point.key not in trained:
            raise UserError(f"starts from phase {start.phase}, which does not train {point.key}")


def _data(args: argparse.Namespace) -> FolderSummary:
    """Prepares or checks the data; a published set that isn't here yet is described by its known counts."""
    root = Path(args.data)
    if args.data in BUILT_IN:
        return prepare(args.data, Path("data") / args.data)
    if not root.exists() and (published := as_published(args.data)):
        return published
    splits = splits_of(root)
    if TEST_SPLIT not in splits:
        if args.tune:
            raise UserError(f"{root} has no folder 'test': learning rates would be chosen on the test images")
        print(
            f"{root}: no test split; accuracies are on val, after the last epoch, which is not picked on it"
        )
    return check_folder(root, splits)


def local_places(device: str, jobs: int | None, threads: int, each: int = 1) -> list[dict[str, str]]:
    """Returns the environment variables of each local worker slot: `each` GPUs, or processes, per slot."""
    if device != "cuda":
        cores = machine.available_cores() if device == "cpu" else 1
        return [{}] * (jobs or max(1, cores // (threads * each)))
    gpus = machine.available_gpus()
    groups = [",".join(gpus[last - each : last]) for last in range(each, len(gpus) + 1, each)]
    if len(groups) < (jobs or 1):
        takes = f"--jobs {jobs or 1}: a run takes {'a GPU' if each == 1 else f'{each} GPUs'}"
        raise UserError(f"{takes}, and {len(gpus)} can be used here; give fewer")
    return [{machine.VISIBLE_GPUS: group} for group in groups[:jobs]]


def _check_device(args: argparse.Namespace) -> None:
    if args.gpus_per_run > 1 and args.device not in ("cpu", "cuda"):
        raise UserError(f"--gpus-per-run {args.gpus_per_run}: --device is {args.device!r}; give cuda, or cpu")
    if args.gpus_per_run > 1 and args.train_script and args.device == "cpu":
        raise UserError(
            "--train-script: timm's script trains in one process on a CPU; leave out --gpus-per-run"
        )
    if getattr(args, "engine", "local") == "local" and not trains_elsewhere(args):
        check_device(args.device)
    elif args.device.partition(":")[0] not in ("cpu", "cuda"):  # this machine may lack the GPUs
        raise UserError(f"device is {args.device!r}; it takes cpu or cuda")


def _check_runs(args: argparse.Namespace, study: Study, data: FolderSummary) -> None:
    """Checks the runs' arguments against the data, and the networks against data and initial weights."""
    runs = study.one_run_each()
    for run in runs:
        if study.script:
            check_arguments(run.arguments)
        if run.tests_last and run.arguments.early_stopping:
            raise UserError(
                f"{data.root}: early_stopping would use the test images; leave it out, or add "
                "a split of images to test on"
            )
    arguments, images, classes = runs[0].arguments, data.counts["train"], len(data.classes)
    batch = arguments.global_batch or arguments.batch_size
    if batch > images:
        each = max(1, min(arguments.batch_size, images // args.gpus_per_run))
        whole = f" --set global_batch={each * args.gpus_per_run}" if arguments.global_batch else ""
        raise UserError(
            f"{data.root}: {images} training images are fewer than one batch of {batch}; give "
            f"--batch-size {each}{whole}"
        )
    if arguments.num_classes not in (None, classes):
        raise UserError(
            f"{data.root}: has {classes} classes, and the recipe {study.recipe_name} is for "
            f"{arguments.num_classes}; take another recipe, or give --set num_classes={classes}"
        )
    if data.root.exists():  # a published set may not be prepared yet
        _check_images(args, study, runs[0])
    runs[0].share()  # refuses a number of processes that doesn't divide the batch
    check_networks(study, classes)


def _check_images(args: argparse.Namespace, study: Study, run: Run) -> None:
    """Compares the recipe's image size and colour mode with the images."""
    images, config = open_split(run.arguments, run.arguments.train_split), run.data_config
    sample = look_at(images, run.arguments, config, "--set input_img_mode=L")
    if not args.enlarge and 0 < sample.side * MOST_ENLARGED < sample.needed:
        raise UserError(
            f"{images.name}: the shorter side of the images is {sample.side} px (median), and the recipe "
            f"{study.recipe_name} needs {sample.needed} px ({config['input_size'][-1]} / "
            f"{config['crop_pct']:g}); prepare larger images, take a recipe of a smaller size, or give "
            "--enlarge"
        )
    if study.recipe_name != args.data.replace("-", "_"):  # a data set's own recipe needs no remarks
        for line in sample.remarks:
            print(line, file=sys.stderr)


def _precision(args: argparse.Namespace, recipe_name: str, arguments: TrainingArguments) -> str:
    """The precision from --precision, or else from the recipe."""
    if args.precision and arguments.model_dtype not in (None, "float32", args.precision):
        instead = f"leave out --precision, or give --set model_dtype={args.precision} instead"
        raise UserError(
            f"--precision {args.precision}: the recipe {recipe_name} sets model_dtype "
            f"{arguments.model_dtype}; {instead}"
        )
    precision = args.precision or arguments.precision
    if precision == "float16" and torch.device(args.device).type == "cpu":
        whose = "--precision" if args.precision else f"the recipe {recipe_name}"
        raise UserError(
            f"{whose} says float16, which is for GPUs; on a CPU give "
            + ("--set model_dtype=bfloat16" if arguments.model_dtype else "--precision bfloat16 or float32")
            + ", for GPUs elsewhere --device cuda"
        )
    return str(precision)
