"""From the command line to a study: everything that can be checked before anything is trained."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import timm

from convnext_ablation.data.folder import FolderSummary, check_folder
from convnext_ablation.data.prepare import BUILT_IN, DATASETS, prepare
from convnext_ablation.errors import UserError, unknown_name
from convnext_ablation.models.cost import count_gmacs
from convnext_ablation.study.designs.contrasts import Point, parse_groups
from convnext_ablation.study.designs.design import DESIGNS, GROUPED, WIDTHS, design_of
from convnext_ablation.study.experiment import Study, choose_learning_rates
from convnext_ablation.study.external import find_script
from convnext_ablation.study.forecast import PRECISIONS, faster_precision
from convnext_ablation.study.pretrained import find_weights, mixed_origins
from convnext_ablation.study.store import read_content
from convnext_ablation.study.tuning import check_seeds, parse_tuning
from convnext_ablation.training.distributed import check_device
from convnext_ablation.training.settings import read_recipe


def add_plan_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments that say what a study is."""
    parser.add_argument(
        "--data",
        required=True,
        metavar="NAME|FOLDER",
        help=f"a built-in data set ({', '.join(BUILT_IN)}; made in data/NAME if it isn't there), "
        "or an image folder with train/, val/ and test/",
    )
    parser.add_argument(
        "--design",
        default="stages",
        metavar="NAME|FILE",
        help=f"networks to compare: {', '.join(DESIGNS)}, or a YAML file",
    )
    parser.add_argument(
        "--groups",
        nargs="+",
        metavar="NAME=COMPONENT,...",
        help=f"components that are switched together, for the designs {', '.join(GROUPED)}",
    )
    parser.add_argument("--width", default="atto", help=f"width of the networks: {', '.join(WIDTHS)}")
    _add_seeds(parser)
    parser.add_argument(
        "--recipe", metavar="NAME|FILE", help="how to train; by default the one named like the data set"
    )
    rates = parser.add_mutually_exclusive_group()
    rates.add_argument(
        "--lr",
        nargs="+",
        default=[],
        metavar="NETWORK=VALUE",
        help="learning rates instead of those in recipes/learning_rates.csv",
    )
    rates.add_argument(
        "--tune",
        metavar="lr=VALUE,VALUE,...",
        help="try these for every network, with a seed of its own, and take the best on the validation split",
    )
    parser.add_argument(
        "--train-script", metavar="TRAIN.py", help="have timm's own script train; the test stays ours"
    )
    parser.add_argument(
        "--precision",
        choices=("auto", *PRECISIONS),
        help="of training; auto takes bfloat16 if that is clearly faster here, measured once a study; "
        "default: float32, or what the study in OUTPUT was begun with",
    )
    parser.add_argument(
        "--device", default="cpu", help="device to train on; cuda is all GPUs that are visible"
    )
    parser.add_argument(
        "--threads", type=int, default=1, help="threads of a run; another number rounds otherwise"
    )


def _add_seeds(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--seeds",
        type=int,
        nargs="+",
        default=[0, 1, 2],
        metavar="SEED",
        help="one run of each network for each",
    )
    parser.add_argument(
        "--init",
        metavar="PATTERN",
        help="weights to start from, a file for each network: {model} stands for its name, "
        "{pretraining_seed} for the seed of pre-training, * for anything",
    )
    parser.add_argument(
        "--pretraining-seeds", type=int, nargs="+", default=[], metavar="SEED", help="see --init"
    )
    parser.add_argument(
        "--allow-mixed-origins",
        action="store_true",
        help="compare networks that were pre-trained in different ways all the same, with a warning",
    )


def plan_study(args: argparse.Namespace, folder: Path | None = None) -> tuple[Study, FolderSummary]:
    """Makes a study of the arguments, having checked all that can be.

    Args:
        args: Those of `add_plan_arguments`.
        folder: The study's folder, if there is one: what was measured for it is not measured again.

    Raises:
        UserError: The study can't be made as asked.
    """
    _check_seeds(args)
    if args.threads < 1:
        raise UserError(f"--threads is {args.threads}; it must be at least 1")
    _check_device(args)
    design = design_of(args.design, args.width, parse_groups(args.groups) if args.groups else None)
    recipe_name = args.recipe or _recipe_for(args.data)
    recipe = read_recipe(recipe_name)
    _check_start(recipe_name, recipe)
    tuning = parse_tuning(args.tune) if args.tune else ()
    given = _parse_rates(args.lr)
    rates = {} if tuning else choose_learning_rates(design.points, recipe_name, recipe, given)
    script = find_script(args.train_script) if args.train_script else None
    weights = find_weights(args.init, design.points, args.pretraining_seeds) if args.init else ()
    mixed = mixed_origins(weights)
    if mixed and not args.allow_mixed_origins:
        raise UserError(
            f"--init: the networks were pre-trained in different ways ({mixed}), so a difference may be due "
            "to that; pre-train all alike, or give --allow-mixed-origins"
        )
    saved = read_content(folder) if folder else None
    data = _data(args.data)
    study = Study(
        design=design,
        data_name=Path(args.data).name,
        data_dir=str(data.root.resolve()),
        data_fingerprint=data.fingerprint,
        recipe_name=recipe_name,
        recipe=recipe,
        learning_rates=rates,
        seeds=args.seeds,
        precision=_precision(args, saved, design.points, recipe),
        device=args.device,
        threads=args.threads,
        tuning=tuning,
        weights=weights,
        script=script,
        gmacs=saved["gmacs"] if saved else {},
        command=shlex.join(["convnext-ablation", *sys.argv[1:]]),
    )
    _check_batch(study, data)
    return study if saved else replace(study, gmacs=_gmacs(study)), data


def _check_seeds(args: argparse.Namespace) -> None:
    for option, seeds in (("--seeds", args.seeds), ("--pretraining-seeds", args.pretraining_seeds)):
        given = f"{option} {' '.join(map(str, seeds))}"
        if len(set(seeds)) != len(seeds):
            raise UserError(f"{given}: a seed is given twice")
        if min(seeds, default=0) < 0:
            raise UserError(f"{given}: a seed is a whole number from 0")
    if args.pretraining_seeds and not args.init:
        raise UserError("--pretraining-seeds: say where the pre-trained weights are, with --init")
    if args.tune:
        check_seeds(args.seeds)


def _check_device(args: argparse.Namespace) -> None:
    if getattr(args, "engine", "local") == "local":
        check_device(args.device)
    elif args.device.partition(":")[0] not in ("cpu", "cuda"):  # the GPUs may be on other machines only
        raise UserError(f"device is {args.device!r}; it takes cpu or cuda")


def _check_start(recipe_name: str, recipe: Mapping[str, Any]) -> None:
    for name in ("pretrained_path", "initial_checkpoint"):
        if recipe.get(name):
            raise UserError(
                f"the recipe {recipe_name} sets {name}, a file for one network; name those of all with --init"
            )


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


def _precision(
    args: argparse.Namespace,
    saved: Mapping[str, Any] | None,
    points: Sequence[Point],
    recipe: Mapping[str, Any],
) -> str:
    if args.precision in PRECISIONS:
        return str(args.precision)
    if saved:
        return str(saved["study"]["precision"])
    if args.precision is None or args.device != "cpu":
        return "float32"
    input_size = recipe.get("input_size", (3, 224, 224))
    registered = [point.model for point in points if not point.model_kwargs]
    return faster_precision(registered or ["model_i_atto", "model_v_atto"], input_size, args.threads)


def _check_batch(study: Study, data: FolderSummary) -> None:
    batch_size, images = (study.runs() or study.tuning_runs())[0].arguments.batch_size, data.counts["train"]
    if batch_size > images:
        raise UserError(f"{data.root}: {images} training images are fewer than one batch of {batch_size}")


def _gmacs(study: Study) -> dict[str, float]:
    costs = {}
    for run in study.tuning_runs()[:: len(study.tuning) or 1] or study.runs():
        arguments = run.arguments
        if run.point.key not in costs:
            size = arguments.input_size or (3, 224, 224)
            model = timm.create_model(
                arguments.model, in_chans=size[0], device="meta", **arguments.model_kwargs
            )
            costs[run.point.key] = count_gmacs(model, size)
    return costs
