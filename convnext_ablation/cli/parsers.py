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
from convnext_ablation.study.experiment_file import PHASE_KEYS
from convnext_ablation.study.stats import ACCURACY, SEED_SD
from convnext_ablation.training.arguments import ARGUMENTS
from convnext_ablation.training.settings import SHORT_FORMS
from convnext_ablation.training.trained_arguments import (
    EXPORT_ARGUMENTS,
    FORMATS,
    PREDICTION_ARGUMENTS,
    VALIDATION_ARGUMENTS,
)
from convnext_ablation.yaml_files import ENDINGS, built_in


def _one_of(
    kind: str, names: Collection[str], also: Collection[str] = (), or_file: bool = True
) -> Callable[[str], str]:
    """Makes an argparse type for known names, or YAML files; suggestions for typos include `also`."""

    def checked(text: str) -> str:
        # the command itself reports an empty name
        if text and text not in names and not (or_file and text.endswith(ENDINGS)):
            raise argparse.ArgumentTypeError(str(unknown_name(kind, text, [*names, *also])))
        return text

    return checked


def add_train(parser: argparse.ArgumentParser) -> None:
    """Train a network as timm's train.py does, resumable and evaluated exactly."""
    _add_script(parser, ARGUMENTS)
    text = "YAML file of arguments, or one of the recipes that `convnext-ablation recipes` lists"
    parser.add_argument("-c", "--config", metavar="FILE|NAME", help=text)
    text = "train from random weights, overriding any pretrained ones in the recipe"
    parser.add_argument("--from-scratch", action="store_true", help=text)


def add_validate(parser: argparse.ArgumentParser) -> None:
    """Evaluate weights as timm's validate.py does, each image exactly once."""
    _add_script(parser, VALIDATION_ARGUMENTS)


def _add_script(parser: argparse.ArgumentParser, options: Mapping[str, Option]) -> None:
    parser.allow_abbrev = False  # some of timm's option names are prefixes of others
    parser.usage = "%(prog)s [DIR] [options]"
    parser.add_argument("data", nargs="?", metavar="DIR", help="same as --data-dir")
    add_options(parser, options, SHORT_FORMS, alone={"torchcompile": "inductor"})


def add_study_run(parser: argparse.ArgumentParser) -> None:
    """Train a design's networks and measure each component's effect on accuracy."""
    parser.usage = "%(prog)s [EXPERIMENT] [--data NAME] --output FOLDER ..."
    _add_plan(parser)
    engine = parser.add_argument_group("execution")
    add = engine.add_argument
    who = "run on this machine, Slurm (extra `slurm`) or Ray (extra `ray`) (default: %(default)s)"
    add("--engine", choices=("local", "slurm", "ray"), default="local", help=who)
    asked = "sbatch options for --engine slurm, e.g. partition=gpu account=lab gpus=1 time=4:00:00"
    add("--sbatch", nargs="+", default=[], metavar="KEY=VALUE", help=asked)
    add("--ray-address", metavar="ADDRESS", help="Ray cluster address for --engine ray (default: auto)")
    add("--retry-failed", action="store_true", help="retry runs that failed twice in the same way")
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
    group.add_argument("--no-timing", action="store_true", help="skip the cost estimate (a minute per phase)")
    group.add_argument(
        "--seconds-per-image",
        metavar="[PHASE=]SECONDS",
        help="training time per image on the target device, instead of timing here, for the network with the "
        "most multiply-accumulates in that phase, or in all phases; others are scaled in proportion. "
        "Published data sets need not be present",
        **many,
    )
    group = parser.add_argument_group("assumptions, in percent or percentage points, per phase or for all")
    group.add_argument("--like", type=Path, metavar="STUDY", help="compute them from a study's finished runs")
    top1 = f"assumed top-1 without --like (default: {100 * ACCURACY:g})"
    group.add_argument("--accuracy", metavar="[PHASE=]PERCENT", help=top1, **many)
    seed_sd = f"assumed SD of a network's true top-1 across seeds without --like (default: {100 * SEED_SD:g})"
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
    where = "output folder (default: STUDY/report, or STUDY/report-NAME for another design)"
    add("--output", type=Path, metavar="FOLDER", help=where)
    _add_question(parser, "another design, for which the study has the runs", "the study's")
    add(
        "--exclude",
        nargs="+",
        default=[],
        metavar="PHASE=FILE",
        help="also report results without these test images of an experiment's phase: a file of image ids, "
        "e.g. exclude_test.txt from data-report",
    )


def _add_question(parser: Any, what: str, default: str) -> None:
    networks = f"{what}: {', '.join(DESIGNS)}, or a YAML file (default: {default})"
    parser.add_argument("--design", metavar="NAME|FILE", type=_one_of("design", DESIGNS), help=networks)
    together = f"components to switch together, for the designs {', '.join(GROUPED)}"
    parser.add_argument("--groups", nargs="+", metavar="NAME=A,B", help=together)
    size = "smallest effect of interest, for equivalence, power and number of seeds (default: 1)"
    parser.add_argument("--resolve", type=_effect, default=1.0, metavar="POINTS", help=size)


def _effect(text: str) -> float:
    points = float(text)
    if not 0 < points < 100:
        raise UserError(f"--resolve is {text}; give the size of an effect in points, such as 1.0")
    return points


def _experiment(text: str) -> str:
    if text in BUILT_IN:
        raise argparse.ArgumentTypeError(f"{text!r} is a data set; give it with --data")
    return _one_of("experiment or command", built_in("experiments"), ("plan", "status", "report"))(text)


def _add_plan(parser: argparse.ArgumentParser, device: str = "cpu") -> None:
    """Adds the arguments that `plan_phases` reads."""
    parser.add_argument(
        "experiment",
        nargs="?",
        metavar="EXPERIMENT",
        type=_experiment,
        help=f"an experiment of several phases: {', '.join(built_in('experiments'))}, or a YAML file",
    )
    networks = parser.add_argument_group("networks and data")
    add = networks.add_argument
    add(
        "--data",
        nargs="+",
        action="append",
        default=[],
        metavar="NAME|FOLDER",
        help=f"a built-in data set ({', '.join(BUILT_IN)}; prepared in data/NAME if missing), "
        "or an image folder with train/, val/ and test/; for an experiment, NAME=FOLDER for each data set "
        "that is not built in",
    )
    phase = f"add or change a phase: its name, then KEY=VALUE; keys: {', '.join(PHASE_KEYS)}"
    add("--phase", nargs="+", action="append", default=[], metavar="PHASE", help=phase)
    add("--without", nargs="+", default=[], metavar="PHASE", help="phases of the experiment to leave out")
    _add_question(networks, "networks to compare", "stages")
    widths = f"width of the networks: {', '.join(WIDTHS)} (default: atto)"
    add("--width", metavar="NAME", type=_one_of("width", WIDTHS), help=widths)
    others = "timm models to also train and test; not included in component effects"
    add("--models", nargs="+", default=[], metavar="MODEL", help=others)
    each = "seeds; one run per network and seed (default: 0 1 2)"
    add("--seeds", type=int, nargs="+", default=[], metavar="SEED", help=each)
    add = parser.add_argument_group("initial weights").add_argument
    add(
        "--init",
        metavar="PATTERN",
        help="weights to start from, one file per network: {model} is its name, {pretraining_seed} the "
        "pre-training seed, * matches anything",
    )
    add("--pretraining-seeds", type=int, nargs="+", default=[], metavar="SEED", help="seeds for --init")
    add("--from-scratch", action="store_true", help="train from random weights, whatever the recipe says")
    add = parser.add_argument_group("training").add_argument
    recipe = "training recipe (default: the recipe named after the data set)"
    add("--recipe", metavar="NAME|FILE", type=_one_of("recipe", built_in("recipes")), help=recipe)
    in_all = (
        "total epochs per run, including warm-up, instead of the recipe's; warm-up and cooldown scale in "
        "proportion, rounded: --epochs 21 turns cub200_224's 5 + 100 into 1 + 20"
    )
    add("--epochs", type=int, metavar="N", help=in_all)
    at_a_time = "batch size per process; a global_batch in the recipe is kept"
    add("--batch-size", type=int, metavar="N", help=at_a_time)
    values = "override recipe settings, in YAML: drop_path=0.1 aa=null 'scale=[0.5, 1.0]'"
    add("--set", nargs="+", action="extend", default=[], metavar="NAME=VALUE", help=values)
    add(
        "--tune",
        metavar="lr=VALUE,VALUE,...",
        help="tune each network's learning rate over these values, with a separate seed, and use the best on "
        "the validation split (default: the recipe's learning rate)",
    )
    add("--enlarge", action="store_true", help="allow training on images smaller than the recipe needs")
    add("--train-script", metavar="TRAIN.py", help="train with timm's own script, but test with this package")
    precisions = ("float32", "bfloat16", "float16")
    add("--precision", choices=precisions, help="training precision (default: the recipe's)")
    add = parser.add_argument_group("machine").add_argument
    add("--device", default="cpu", help=f"cuda for all visible GPUs, or cpu (default: {device})")
    threads = "CPU threads per process; affects floating-point rounding (default: %(default)s)"
    add("--threads", type=int, default=1, metavar="N", help=threads)
    loading = "data loading workers per training process (default: 4 on a GPU, none on a CPU)"
    add("--workers", type=int, metavar="N", help=loading)
    shared = "training processes per run, by torchrun, one per GPU (default: %(default)s)"
    add("--gpus-per-run", type=int, default=1, metavar="N", help=shared)
    at_once = "maximum concurrent runs (default: as many as GPUs, cores or the cluster allow)"
    add("--jobs", type=int, metavar="N", help=at_once)


def add_prepare(parser: argparse.ArgumentParser) -> None:
    """Write a data set as an image folder."""
    parser.add_argument("--verify", metavar="OUT", type=Path, help="only check a folder against its manifest")
    commands = parser.add_subparsers(dest="dataset", metavar="DATASET")
    for name, dataset in DATASETS.items():
        command = commands.add_parser(name, help=dataset.summary, description=dataset.summary)
        command.add_argument("out", metavar="OUT", help="output folder")
        add_options(command, options_of(dataset))
        if dataset.published:
            command.add_argument(
                "--download",
                metavar="FOLDER",
                type=Path,
                nargs="?",
                const=Path("downloads"),
                help="download missing archives to this folder (./downloads if none is given)",
            )
        command.add_argument("--workers", type=int, metavar="N", help="threads (default: one per core)")
        command.set_defaults(parser=command)


def add_data_report(parser: argparse.ArgumentParser) -> None:
    """Find duplicates, leaks and broken images in a data set."""
    add = parser.add_argument
    add("folder", metavar="OUT", type=Path, help="image folder, [<split>/]<class>/<image>")
    against = "folder of the pre-training set, train/<wnid>/<image>"
    add("--against", metavar="IMAGENET", type=Path, help=against)
    where = "output folder (default: OUT/report, or OUT_report if OUT contains class folders)"
    add("--output", metavar="FOLDER", type=Path, help=where)
    bits = "maximum Hamming distance of each 64-bit hash for near duplicates (default: %(default)s)"
    add("--distance", type=int, default=6, metavar="BITS", help=bits)


def add_models(parser: argparse.ArgumentParser) -> None:
    """List the networks, their cost and their weights."""
    add = parser.add_argument
    add("pattern", nargs="?", default="*", metavar="PATTERN", help="models to list (default: all)")
    size = "image size in pixels for GMACs (default: %(default)s)"
    add("--size", type=int, default=224, metavar="PIXELS", help=size)
    add("--weights", action="store_true", help="list available weights instead")


def add_bench(parser: argparse.ArgumentParser) -> None:
    """Measure how fast networks are on this machine."""
    parser.usage = "%(prog)s MODEL [MODEL ...] [options]"
    parser.epilog = f"Measurements already in FOLDER are not repeated.\n\n{parser.epilog}"
    parser.add_argument("models", nargs="+", metavar="MODEL", help="any model of this package or of timm")
    add_options(parser, OPTIONS)
    where = "output folder (default: %(default)s)"
    parser.add_argument("--output", type=Path, default=Path("bench"), metavar="FOLDER", help=where)


def add_predict(parser: argparse.ArgumentParser) -> None:
    """Predict the classes of unlabelled images."""
    parser.usage = "%(prog)s INPUT [INPUT ...] [options]"
    text = "a folder, zip, tar, text file with one path per line, image, or quoted glob pattern"
    parser.add_argument("inputs", nargs="*", metavar="INPUT", help=text)
    add_options(parser, PREDICTION_ARGUMENTS, SHORT_FORMS, alone={"torchcompile": "inductor"})


def add_export(parser: argparse.ArgumentParser) -> None:
    """Write a network as an ONNX file, an AOTInductor package or TorchScript."""
    parser.usage = "%(prog)s MODEL_OR_RUN --to FORMAT [options]"
    add = parser.add_argument
    what = "a model with public weights, a checkpoint, a run or release folder, or hf-hub:NAME"
    add("source", metavar="MODEL_OR_RUN", help=what)
    add("--to", required=True, choices=FORMATS, help="format; required")
    where = "file to write (default: the model's name and size, in the working directory)"
    add("--output", type=Path, metavar="FILE", help=where)
    what = "quantize to 8 bits if that costs at most 0.3 points of top-1 on val of this prepared folder"
    add("--int8", metavar="DATA", help=what)
    add_options(parser, EXPORT_ARGUMENTS, SHORT_FORMS)


def add_publish(parser: argparse.ArgumentParser) -> None:
    """Release a finished run."""
    add = parser.add_argument
    add("run_folder", metavar="RUN", type=Path, help="a run folder of train.py, or one inside a study")
    add("--to", required=True, metavar="WHERE", help="NAMESPACE/NAME on the hub, or ./FOLDER; required")
    add("--license", default="", metavar="ID", help="identifier of the weights' licence, such as cc-by-4.0")
    add("--data", type=Path, metavar="FOLDER", help="data folder (default: the run's)")
    add("--public", action="store_true", help="make the repository public (default: private)")
    add("--dry-run", action="store_true", help="show what would be published, without publishing")


def add_verify(parser: argparse.ArgumentParser) -> None:
    """Recompute the reported accuracy of a release."""
    add = parser.add_argument
    add("release", metavar="RELEASE", help="hf-hub:NAMESPACE/NAME[@REVISION], or a folder")
    add("--data", type=Path, required=True, metavar="FOLDER", help="data set to evaluate on; required")
    add("--split", default="", metavar="NAME", help="split to evaluate (default: the first reported)")
    tolerance = "largest difference in percentage points (default: %(default)s; cards give two decimals)"
    add("--tolerance", type=float, default=0.005, metavar="POINTS", help=tolerance)
    add("--device", default="", help="cuda, cpu, mps or xpu (default: cuda if there is a GPU)")
    add("--batch-size", type=int, default=256, metavar="N", help="batch size (default: %(default)s)")
    workers = "data loading workers (default: %(default)s)"
    add("-j", "--workers", type=int, default=ARGUMENTS["workers"].default, metavar="N", help=workers)
    skip = "skip up to N undecodable images, as the run did (default: %(default)s)"
    add("--skip-bad-images", type=int, default=0, metavar="N", help=skip)


def add_convert(parser: argparse.ArgumentParser) -> None:
    """Convert another project's checkpoint to safetensors."""
    add = parser.add_argument
    what = "a PyTorch or safetensors file, or the .index.json of a sharded checkpoint"
    add("checkpoint", metavar="CHECKPOINT", type=Path, help=what)
    add("output", metavar="OUTPUT", type=Path, help="the .safetensors file to write")
    model = "model architecture, e.g. model_iii; required"
    add("--model", required=True, type=_one_of("model", NETWORKS, or_file=False), help=model)
    add("--ema", action="store_true", help="use the EMA weights, if present")
    add("--force", action="store_true", help="overwrite the output")


def add_recipes(parser: argparse.ArgumentParser) -> None:
    """List recipes and experiments, print one, or locate its file."""
    text = "a recipe or experiment to print (default: list all)"
    parser.add_argument("name", nargs="?", metavar="NAME", help=text)
    parser.add_argument("--path", action="store_true", help="print the file's path, for timm's train.py")
