"""Argument parsers of all commands; without torch, so that `--help` and errors appear instantly."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

from convnext_ablation.bench.arguments import OPTIONS
from convnext_ablation.data.prepare import BUILT_IN, DATASETS
from convnext_ablation.dataclass_options import Option, add_options, options_of
from convnext_ablation.errors import UserError, unknown_name
from convnext_ablation.models.components import NETWORKS
from convnext_ablation.study.designs.design import DESIGNS, GROUPED, WIDTHS
from convnext_ablation.study.experiment_file import PHASE_KEYS, experiment_names
from convnext_ablation.study.stats import ACCURACY, SEED_SD
from convnext_ablation.training.arguments import ARGUMENTS
from convnext_ablation.training.settings import SHORT_FORMS, recipe_names
from convnext_ablation.training.trained_arguments import PREDICTION_ARGUMENTS, VALIDATION_ARGUMENTS

_FILES = (".yaml", ".yml")


def _one_of(
    kind: str, names: Collection[str], also: Collection[str] = (), or_file: bool = True
) -> Callable[[str], str]:
    """Makes an argparse type for known names, or YAML files; suggestions for typos include `also`."""

    def checked(text: str) -> str:
        # the command itself reports an empty name
        if text and text not in names and not (or_file and text.endswith(_FILES)):
            raise argparse.ArgumentTypeError(str(unknown_name(kind, text, [*names, *also])))
        return text

    return checked


def add_train(parser: argparse.ArgumentParser) -> None:
    """Train a network as timm's train.py does, resumable and evaluated exactly."""
    _add_script(parser, ARGUMENTS)
    text = "YAML file of arguments, or one of the recipes that `convnext-ablation recipes` lists"
    parser.add_argument("-c", "--config", metavar="FILE|NAME", help=text)
    text = "start from random weights, whatever the recipe says of pretrained ones"
    parser.add_argument("--from-scratch", action="store_true", help=text)


def add_validate(parser: argparse.ArgumentParser) -> None:
    """Evaluate weights as timm's validate.py does, each image exactly once."""
    _add_script(parser, VALIDATION_ARGUMENTS)


def _add_script(parser: argparse.ArgumentParser, options: Mapping[str, Option]) -> None:
    parser.allow_abbrev = False  # some of timm's option names are prefixes of others
    parser.usage = "%(prog)s [DIR] [options]"
    parser.add_argument("data", nargs="?", metavar="DIR", help="the same as --data-dir")
    add_options(parser, options, SHORT_FORMS, alone={"torchcompile": "inductor"})


def add_study_run(parser: argparse.ArgumentParser) -> None:
    """Train a design's networks and measure each component's effect on accuracy."""
    parser.usage = "%(prog)s [EXPERIMENT] [--data NAME] --output FOLDER ..."
    _add_plan(parser)
    engine = parser.add_argument_group("who does the runs")
    add = engine.add_argument
    who = "processes of this machine, Slurm (extra `slurm`) or Ray (extra `ray`) (default: %(default)s)"
    add("--engine", choices=("local", "slurm", "ray"), default="local", help=who)
    asked = "options of sbatch for --engine slurm, such as partition=gpu account=lab gpus=1 time=4:00:00"
    add("--sbatch", nargs="+", default=[], metavar="KEY=VALUE", help=asked)
    add("--ray-address", metavar="ADDRESS", help="of Ray's cluster, for --engine ray (default: auto)")
    add("--retry-failed", action="store_true", help="try runs again that failed twice in the same way")
    add("--output", type=Path, metavar="FOLDER", help="the study's folder; required")


def add_study_plan(parser: argparse.ArgumentParser) -> None:
    """Estimate a study's cost and the effects it could detect."""
    parser.usage = "%(prog)s [EXPERIMENT] [--data NAME] ..."
    _add_plan(parser, "cpu, or cuda with --seconds-per-image")
    add_plan_only(parser)
    parser.set_defaults(device=None)


def add_plan_only(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments that only `study plan` takes."""
    many: dict[str, Any] = {"nargs": "+", "action": "extend", "default": []}  # each value may name a phase
    group = parser.add_argument_group("timing")
    group.add_argument("--no-timing", action="store_true", help="leave out the cost: a minute a phase")
    group.add_argument(
        "--seconds-per-image",
        metavar="[PHASE=]SECONDS",
        help="of a training step on a device that the runs will have, instead of a timing here: of the "
        "network with most multiply-accumulates in that phase, or in all; others are computed in "
        "proportion. Published data sets need not be here",
        **many,
    )
    group = parser.add_argument_group("assumptions, in percent or percentage points, of a phase or of all")
    group.add_argument("--like", type=Path, metavar="STUDY", help="measure them in a study's finished runs")
    top1 = f"top-1 without --like (default: {100 * ACCURACY:g})"
    group.add_argument("--accuracy", metavar="[PHASE=]PERCENT", help=top1, **many)
    seed_sd = f"SD of a network's true top-1 between seeds without --like (default: {100 * SEED_SD:g})"
    group.add_argument("--seed-sd", metavar="[PHASE=]POINTS", help=seed_sd, **many)


def add_study_status(parser: argparse.ArgumentParser) -> None:
    """Show a study's progress."""
    parser.add_argument("study", type=Path, metavar="STUDY", help="the study's folder")
    codes = "exit code: 0 all runs are done, 1 some have failed, 3 work is left, 2 an error"
    parser.epilog = f"{codes}\n\n{parser.epilog}"


def add_study_report(parser: argparse.ArgumentParser) -> None:
    """Regenerate a study's report."""
    add = parser.add_argument
    add("study", type=Path, metavar="STUDY", help="the folder of the study or experiment")
    where = "folder to write to (default: STUDY/report, of another design STUDY/report-NAME)"
    add("--output", type=Path, metavar="FOLDER", help=where)
    _add_question(parser, "another design, whose runs the study has", "the study's")
    add(
        "--exclude",
        nargs="+",
        default=[],
        metavar="PHASE=FILE",
        help="give figures without these test images of an experiment's phase, too: a file of image ids, "
        "such as the exclude_test.txt of data-report",
    )


def _add_question(parser: Any, what: str, default: str) -> None:
    networks = f"{what}: {', '.join(DESIGNS)}, or a YAML file (default: {default})"
    parser.add_argument("--design", metavar="NAME|FILE", type=_one_of("design", DESIGNS), help=networks)
    together = f"components that are switched together, for the designs {', '.join(GROUPED)}"
    parser.add_argument("--groups", nargs="+", metavar="NAME=A,B", help=together)
    size = "effect to look for: is it smaller, is it detectable, how many seeds does it take? (default: 1)"
    parser.add_argument("--resolve", type=_effect, default=1.0, metavar="POINTS", help=size)


def _effect(text: str) -> float:
    points = float(text)
    if not 0 < points < 100:
        raise UserError(f"--resolve is {text}; give the size of an effect in points, such as 1.0")
    return points


def _experiment(text: str) -> str:
    if text in BUILT_IN:
        raise argparse.ArgumentTypeError(f"{text!r} is a data set; give it with --data")
    return _one_of("experiment or command", experiment_names(), ("plan", "status", "report"))(text)


def _add_plan(parser: argparse.ArgumentParser, device: str = "cpu") -> None:
    """Adds the arguments that `plan_phases` reads."""
    parser.add_argument(
        "experiment",
        nargs="?",
        metavar="EXPERIMENT",
        type=_experiment,
        help=f"an experiment of several phases: {', '.join(experiment_names())}, or a YAML file",
    )
    networks = parser.add_argument_group("what to compare, and on what")
    add = networks.add_argument
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
    phase = f"add or change a phase: its name, then KEY=VALUE; keys: {', '.join(PHASE_KEYS)}"
    add("--phase", nargs="+", action="append", default=[], metavar="PHASE", help=phase)
    add("--without", nargs="+", default=[], metavar="PHASE", help="phases of the experiment to leave out")
    _add_question(networks, "networks to compare", "stages")
    widths = f"width of the networks: {', '.join(WIDTHS)} (default: atto)"
    add("--width", metavar="NAME", type=_one_of("width", WIDTHS), help=widths)
    others = "models of timm to train and test beside the networks; no effect of a component includes them"
    add("--models", nargs="+", default=[], metavar="MODEL", help=others)
    each = "one run of each network each (default: 0 1 2)"
    add("--seeds", type=int, nargs="+", default=[], metavar="SEED", help=each)
    add = parser.add_argument_group("initial weights").add_argument
    add(
        "--init",
        metavar="PATTERN",
        help="weights to start from, a file for each network: {model} stands for its name, "
        "{pretraining_seed} for the seed of pre-training, * for anything",
    )
    add("--pretraining-seeds", type=int, nargs="+", default=[], metavar="SEED", help="of those in --init")
    add("--from-scratch", action="store_true", help="start from random weights, whatever the recipe says")
    add = parser.add_argument_group("training").add_argument
    recipe = "how to train (default: the recipe named like the data set)"
    add("--recipe", metavar="NAME|FILE", type=_one_of("recipe", recipe_names()), help=recipe)
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
        "validation split (default: the recipe's learning rate)",
    )
    add("--enlarge", action="store_true", help="train on images that are smaller than the recipe needs")
    add("--train-script", metavar="TRAIN.py", help="have timm's own script train; the test stays ours")
    precisions = ("float32", "bfloat16", "float16")
    add("--precision", choices=precisions, help="of training (default: the recipe's)")
    add = parser.add_argument_group("machine").add_argument
    add("--device", default="cpu", help=f"cuda for all visible GPUs, or cpu (default: {device})")
    threads = "CPU threads of each process; another number rounds otherwise (default: %(default)s)"
    add("--threads", type=int, default=1, metavar="N", help=threads)
    loading = "processes that load data, for each that trains (default: 4 on a GPU, none on a CPU)"
    add("--workers", type=int, metavar="N", help=loading)
    shared = "processes that train a run together, by torchrun, one a GPU (default: %(default)s)"
    add("--gpus-per-run", type=int, default=1, metavar="N", help=shared)
    at_once = "runs at the same time (default: as many as GPUs, cores or the cluster allow)"
    add("--jobs", type=int, metavar="N", help=at_once)


def add_prepare(parser: argparse.ArgumentParser) -> None:
    """Write a data set as an image folder."""
    parser.add_argument("--verify", metavar="OUT", type=Path, help="only compare a folder with its manifest")
    commands = parser.add_subparsers(dest="dataset", metavar="DATASET")
    for name, dataset in DATASETS.items():
        command = commands.add_parser(name, help=dataset.summary, description=dataset.summary)
        command.add_argument("out", metavar="OUT", help="folder to make")
        add_options(command, options_of(dataset))
        if dataset.published:
            command.add_argument(
                "--download",
                metavar="FOLDER",
                type=Path,
                nargs="?",
                const=Path("downloads"),
                help="fetch the archives that are missing into this folder (./downloads if none is named)",
            )
        command.add_argument("--workers", type=int, metavar="N", help="threads (default: one per core)")
        command.set_defaults(parser=command)


def add_data_report(parser: argparse.ArgumentParser) -> None:
    """Find duplicates, leaks and broken images in a data set."""
    add = parser.add_argument
    add("folder", metavar="OUT", type=Path, help="prepared or own folder, [<split>/]<class>/<image>")
    against = "folder of the pre-training set, train/<wnid>/<image>"
    add("--against", metavar="IMAGENET", type=Path, help=against)
    where = "folder to write to (default: OUT/report, or OUT_report if classes lie in OUT)"
    add("--output", metavar="FOLDER", type=Path, help=where)
    bits = "bits of 64 in which each hash of near duplicates may differ (default: %(default)s)"
    add("--distance", type=int, default=6, metavar="BITS", help=bits)


def add_models(parser: argparse.ArgumentParser) -> None:
    """List the networks, their cost and their weights."""
    add = parser.add_argument
    add("pattern", nargs="?", default="*", metavar="PATTERN", help="models to list (default: all)")
    size = "side of the images in pixels that GMACs are for (default: %(default)s)"
    add("--size", type=int, default=224, metavar="PIXELS", help=size)
    add("--weights", action="store_true", help="list the weights that there are instead")


def add_bench(parser: argparse.ArgumentParser) -> None:
    """Measure how fast networks are on this machine."""
    parser.usage = "%(prog)s MODEL [MODEL ...] [options]"
    parser.epilog = f"What is in FOLDER already isn't measured again.\n\n{parser.epilog}"
    parser.add_argument("models", nargs="+", metavar="MODEL", help="any of our networks, and any of timm's")
    add_options(parser, OPTIONS)
    where = "folder of the results (default: %(default)s)"
    parser.add_argument("--output", type=Path, default=Path("bench"), metavar="FOLDER", help=where)


def add_predict(parser: argparse.ArgumentParser) -> None:
    """Predict the classes of unlabelled images."""
    parser.usage = "%(prog)s INPUT [INPUT ...] [options]"
    text = "a folder, a zip or tar, a text file with a path a line, a picture, or a pattern in quotes"
    parser.add_argument("inputs", nargs="*", metavar="INPUT", help=text)
    add_options(parser, PREDICTION_ARGUMENTS, SHORT_FORMS, alone={"torchcompile": "inductor"})


def add_publish(parser: argparse.ArgumentParser) -> None:
    """Release a finished run."""
    add = parser.add_argument
    add("run_folder", metavar="RUN", type=Path, help="a run of train.py, or one in a study")
    add("--to", required=True, metavar="WHERE", help="NAMESPACE/NAME on the hub, or ./FOLDER; required")
    add("--license", default="", metavar="ID", help="identifier of the weights' licence, such as cc-by-4.0")
    add("--data", type=Path, metavar="FOLDER", help="folder of the data (default: where the run had it)")
    add("--public", action="store_true", help="let everybody read it (default: private)")
    add("--dry-run", action="store_true", help="show all of it, and publish nothing")


def add_verify(parser: argparse.ArgumentParser) -> None:
    """Recompute the reported accuracy of a release."""
    add = parser.add_argument
    add("release", metavar="RELEASE", help="hf-hub:NAMESPACE/NAME[@REVISION], or a folder")
    add("--data", type=Path, required=True, metavar="FOLDER", help="the data of the figures; required")
    add("--split", default="", metavar="NAME", help="split to evaluate (default: the first reported)")
    tolerance = "largest difference, in percentage points (default: %(default)s; a card has two decimals)"
    add("--tolerance", type=float, default=0.005, metavar="POINTS", help=tolerance)
    add("--device", default="", help="cuda, cpu, mps or xpu (default: cuda if there is a GPU)")
    add("--batch-size", type=int, default=256, metavar="N", help="images at a time (default: %(default)s)")
    workers = "processes that load images (default: %(default)s)"
    add("-j", "--workers", type=int, default=ARGUMENTS["workers"].default, metavar="N", help=workers)
    skip = "leave out up to so many images that can't be decoded, as the run did (default: %(default)s)"
    add("--skip-bad-images", type=int, default=0, metavar="N", help=skip)


def add_convert(parser: argparse.ArgumentParser) -> None:
    """Convert another project's checkpoint to safetensors."""
    add = parser.add_argument
    what = "a file of torch or safetensors, or the .index.json of several"
    add("checkpoint", metavar="CHECKPOINT", type=Path, help=what)
    add("output", metavar="OUTPUT", type=Path, help="the .safetensors file to write")
    model = "the model it was made with, e.g. model_iii; required"
    add("--model", required=True, type=_one_of("model", NETWORKS, or_file=False), help=model)
    add("--ema", action="store_true", help="take the averaged weights, if it holds some")
    add("--force", action="store_true", help="overwrite the output")


def add_recipes(parser: argparse.ArgumentParser) -> None:
    """List recipes and experiments, print one, or locate its file."""
    text = "a recipe or experiment to print (default: list all)"
    parser.add_argument("name", nargs="?", metavar="NAME", help=text)
    parser.add_argument("--path", action="store_true", help="print where its file is, for timm's train.py")
