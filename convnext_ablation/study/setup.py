"""From what is asked on the command line to a study: all that can be checked before anything is trained."""

from __future__ import annotations

import argparse
import shlex
import sys
from pathlib import Path

import timm
import torch
from timm.data import resolve_data_config

from convnext_ablation.data.folder import FolderSummary, check_folder
from convnext_ablation.data.prepare import BUILT_IN, DATASETS, prepare
from convnext_ablation.errors import UserError, unknown_name
from convnext_ablation.study.designs.contrasts import parse_groups
from convnext_ablation.study.designs.design import design_of
from convnext_ablation.study.experiment import TUNING_SEED, Study
from convnext_ablation.study.external import find_script
from convnext_ablation.study.overrides import overridden
from convnext_ablation.study.pretrained import check_published, find_weights, mixed_origins
from convnext_ablation.study.tuning import learning_rates, parse_tuning
from convnext_ablation.training.arguments import TrainingArguments
from convnext_ablation.training.distributed import check_device
from convnext_ablation.training.mismatches import (
    MOST_ENLARGED,
    check_colour,
    look_at,
    needed_side,
    remarks,
)
from convnext_ablation.training.settings import read_recipe
from convnext_ablation.training.splits import open_split

_GPU_WORKERS = 4  # timm's default; on a CPU, workers take cores from other runs


def plan_study(args: argparse.Namespace) -> tuple[Study, FolderSummary]:
    """Makes a study of a command line's arguments, having checked all that can be."""
    _check_numbers(args)
    _check_device(args)
    _check_data(args.data, args.recipe)
    design = design_of(args.design, args.width, parse_groups(args.groups) if args.groups else None)
    recipe_name = args.recipe or args.data.replace("-", "_")
    recipe, given = overridden(read_recipe(recipe_name), args)
    for name in ("pretrained_path", "initial_checkpoint"):
        if recipe.get(name):
            raise UserError(
                f"the recipe {recipe_name} sets {name}, a file for one network; name those of all with --init"
            )
    precision = _precision(args, recipe_name, TrainingArguments(**recipe))
    tuning = parse_tuning(args.tune) if args.tune else ()
    rates = {} if tuning else learning_rates(design.points, recipe_name, recipe, given)
    script = find_script(args.train_script) if args.train_script else None
    if args.from_scratch:
        recipe.pop("pretrained", None)
    weights = find_weights(args.init, design.points, args.pretraining_seeds)
    if recipe.get("pretrained") and not weights:
        check_published(design.points, recipe_name)
    if warning := mixed_origins(weights):
        print(warning, file=sys.stderr)
    builtin = args.data in BUILT_IN
    data = prepare(args.data, Path("data") / args.data) if builtin else check_folder(Path(args.data))
    on_gpu = torch.device(args.device).type == "cuda"
    study = Study(
        design=design,
        data_name=Path(args.data).name,
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
        command=shlex.join(["convnext-ablation", *sys.argv[1:]]),
        processes=args.gpus_per_run,
        workers=_GPU_WORKERS * on_gpu if args.workers is None else args.workers,
    )
    first, images = study.one_run_each()[0], data.counts["train"]
    batch = first.arguments.global_batch or first.arguments.batch_size
    if batch > images:
        raise UserError(f"{data.root}: {images} training images are fewer than one batch of {batch}")
    _check_images(args, first.arguments, data, recipe_name)
    first.share()  # refuses a number of processes that doesn't reach the batch
    return study, data


def _check_numbers(args: argparse.Namespace) -> None:
    numbers = {"--threads": args.threads, "--jobs": args.jobs, "--gpus-per-run": args.gpus_per_run}
    for option, number in numbers.items():
        if number is not None and number < 1:
            raise UserError(f"{option} is {number}; it must be at least 1")
    if args.workers is not None and args.workers < 0:
        raise UserError(f"--workers is {args.workers}; it must be at least 0")
    for option, seeds in (("--seeds", args.seeds), ("--pretraining-seeds", args.pretraining_seeds)):
        if len(set(seeds)) != len(seeds):
            raise UserError(f"{option} {' '.join(map(str, seeds))}: a seed is given twice")
    if args.from_scratch and args.init:
        raise UserError("--from-scratch and --init are both given; give one")
    if args.tune and TUNING_SEED in args.seeds:
        raise UserError(f"--seeds {TUNING_SEED}: learning rates are chosen with this seed; leave it out")


def _check_device(args: argparse.Namespace) -> None:
    if args.gpus_per_run > 1 and args.device not in ("cpu", "cuda"):
        raise UserError(f"--gpus-per-run {args.gpus_per_run}: --device is {args.device!r}; give cuda, or cpu")
    if args.gpus_per_run > 1 and args.train_script and args.device == "cpu":
        raise UserError(
            "--train-script: timm's script trains in one process on a CPU; leave out --gpus-per-run"
        )
    if getattr(args, "engine", "local") == "local":
        check_device(args.device)
    elif args.device.partition(":")[0] not in ("cpu", "cuda"):  # the GPUs may be on other machines only
        raise UserError(f"device is {args.device!r}; it takes cpu or cuda")


def _check_images(
    args: argparse.Namespace, arguments: TrainingArguments, data: FolderSummary, recipe_name: str
) -> None:
    """Compares the recipe's classes, size and colours with those of the images."""
    classes, meant = len(data.classes), arguments.num_classes
    if meant not in (None, classes):
        raise UserError(
            f"{data.root}: has {classes} classes, and the recipe {recipe_name} is for {meant}; take another "
            f"recipe, or give --set num_classes={classes}"
        )
    images = open_split(arguments, arguments.train_split)
    sample = look_at(images)
    check_colour(images, sample, arguments, "--set input_img_mode=L")
    model = timm.get_pretrained_cfg(arguments.model, allow_unregistered=True)
    config = resolve_data_config(arguments.preprocessing(), pretrained_cfg=model.to_dict() if model else None)
    needed = needed_side(config)
    if not args.enlarge and 0 < sample.side * MOST_ENLARGED < needed:
        raise UserError(
            f"{images.name}: the shorter side of the images is {sample.side} px (median), and the recipe "
            f"{recipe_name} needs {needed} px ({config['input_size'][-1]} / {config['crop_pct']:g}); prepare "
            "larger images, take a recipe of a smaller size, or give --enlarge"
        )
    if recipe_name != args.data.replace("-", "_"):  # a recipe knows the data set that it is for
        for line in remarks(images, sample, arguments, needed):
            print(line, file=sys.stderr)


def _precision(args: argparse.Namespace, recipe_name: str, arguments: TrainingArguments) -> str:
    """The precision that is asked for, or else the recipe's."""
    if args.precision and arguments.model_dtype not in (None, "float32", args.precision):
        raise UserError(
            f"--precision {args.precision}: the recipe {recipe_name} sets model_dtype "
            f"{arguments.model_dtype}; leave out --precision"
        )
    precision = args.precision or arguments.precision
    if precision == "float16" and torch.device(args.device).type == "cpu":
        whose = "--precision" if args.precision else f"the recipe {recipe_name}"
        raise UserError(
            f"{whose} says float16, which is for GPUs; on a CPU give --precision bfloat16 or float32"
        )
    return str(precision)


def _check_data(name_or_folder: str, recipe: str | None) -> None:
    if name_or_folder in BUILT_IN:
        return
    if not Path(name_or_folder).exists():
        if name_or_folder in DATASETS:
            raise UserError(
                f"--data {name_or_folder}: make its folder first with `convnext-ablation prepare "
                f"{name_or_folder} OUT`, and name that folder"
            )
        raise unknown_name("data set or folder", name_or_folder, BUILT_IN)
    if not recipe:
        raise UserError(
            f"--data {name_or_folder}: a folder of your own needs --recipe NAME or --recipe FILE.yaml"
        )
