"""The arguments that say what a study is, of `study` and `study plan`."""

from __future__ import annotations

import argparse

from convnext_ablation.data.prepare import BUILT_IN
from convnext_ablation.errors import UserError
from convnext_ablation.study.designs.design import DESIGNS, GROUPED, WIDTHS
from convnext_ablation.study.experiment_file import PHASE_KEYS, experiment_names


def add_resolve(parser: argparse.ArgumentParser) -> None:
    """Adds the size that effects are judged against."""
    what = "effect to look for: is it smaller, could it be detected, how many seeds does it take? (default 1)"
    parser.add_argument("--resolve", type=float, default=1.0, metavar="POINTS", help=what)


def resolve_of(args: argparse.Namespace) -> float:
    """The size that effects are judged against, a fraction."""
    if not 0 < args.resolve < 100:
        raise UserError(f"--resolve is {args.resolve:g}; give the size of an effect in points, such as 1.0")
    return float(args.resolve) / 100


def add_plan_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments that `plan_phases` reads."""
    add = parser.add_argument
    experiment = f"an experiment of several phases: {', '.join(experiment_names())}, or a YAML file"
    add("experiment", nargs="?", metavar="EXPERIMENT", help=experiment)
    add(
        "--data",
        nargs="+",
        action="append",
        default=[],
        metavar="NAME|FOLDER",
        help=f"a built-in data set ({', '.join(BUILT_IN)}; made in data/NAME if it isn't there), "
        "or an image folder with train/, val/ and test/; of an experiment, NAME=FOLDER for each set that is "
        "not built in",
    )
    phase = "add a phase, or change one of the experiment's: its name, then KEY=VALUE; keys: "
    add(
        "--phase", nargs="+", action="append", default=[], metavar="PHASE", help=phase + ", ".join(PHASE_KEYS)
    )
    add("--without", nargs="+", default=[], metavar="PHASE", help="phases of the experiment to leave out")
    networks = f"networks to compare: {', '.join(DESIGNS)}, or a YAML file"
    add("--design", metavar="NAME|FILE", help=f"{networks}; default: stages")
    together = f"components that are switched together, for the designs {', '.join(GROUPED)}"
    add("--groups", nargs="+", metavar="NAME=COMPONENT,...", help=together)
    add("--width", help=f"width of the networks: {', '.join(WIDTHS)}; default: atto")
    others = "models of timm to train and test beside the networks; no effect of a component includes them"
    add("--models", nargs="+", default=[], metavar="MODEL", help=others)
    each = "one run of each network each; default: 0 1 2"
    add("--seeds", type=int, nargs="+", default=[], metavar="SEED", help=each)
    add(
        "--init",
        metavar="PATTERN",
        help="weights to start from, a file for each network: {model} stands for its name, "
        "{pretraining_seed} for the seed of pre-training, * for anything",
    )
    add("--enlarge", action="store_true", help="train on images that are smaller than the recipe needs")
    scratch = "start from random weights, though the recipe is for fine-tuning"
    add("--from-scratch", action="store_true", help=scratch)
    add("--pretraining-seeds", type=int, nargs="+", default=[], metavar="SEED", help="of those in --init")
    add("--recipe", metavar="NAME|FILE", help="how to train; by default the one named like the data set")
    in_all = (
        "epochs of a run in all, warm-up included, instead of the recipe's; warm-up and cooldown keep their "
        "share, rounded: --epochs 21 makes 1 + 20 of cub200_224's 5 + 100"
    )
    add("--epochs", type=int, metavar="N", help=in_all)
    at_a_time = "images that a process takes at a time; an update keeps a global_batch that the recipe states"
    add("--batch-size", type=int, metavar="N", help=at_a_time)
    values = "values instead of the recipe's, in YAML: drop_path=0.1 aa=null 'scale=[0.5, 1.0]'"
    add("--set", nargs="+", action="extend", default=[], metavar="NAME=VALUE", help=values)
    add(
        "--tune",
        metavar="lr=VALUE,VALUE,...",
        help="try these learning rates for every network, with a seed of its own, and take the best on the "
        "validation split; without, they are the recipe's",
    )
    add("--train-script", metavar="TRAIN.py", help="have timm's own script train; the test stays ours")
    add("--precision", choices=("float32", "bfloat16", "float16"), help="of training; default: the recipe's")
    add("--device", default="cpu", help="device to train on; cuda is all GPUs that are visible")
    add("--threads", type=int, default=1, help="CPU threads of each process; another number rounds otherwise")
    loading = "processes that load data, for each that trains (default: 4 on a GPU, none on a CPU)"
    add("--workers", type=int, metavar="N", help=loading)
    shared = "processes that train a run together, by torchrun, one a GPU; an update keeps its images"
    add("--gpus-per-run", type=int, default=1, metavar="N", help=shared)
    add_resolve(parser)
    at_once = "runs at the same time; by default as many as GPUs, cores or the cluster allow"
    add("--jobs", type=int, metavar="N", help=at_once)
