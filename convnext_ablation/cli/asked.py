"""Checks of command-line arguments before the slow import of torch; each raises `UserError`."""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import os
import re
import shutil
from collections.abc import Iterable
from pathlib import Path

from convnext_ablation.bench.arguments import OPTIONS, BenchArguments
from convnext_ablation.dataclass_options import given_options
from convnext_ablation.errors import UserError, nearest, unknown_name
from convnext_ablation.models.components import NETWORKS
from convnext_ablation.study.asked import asked_phases
from convnext_ablation.training.arguments import TrainingArguments
from convnext_ablation.training.settings import arguments_of, given_values
from convnext_ablation.training.trained_arguments import (
    EXPORT_ARGUMENTS,
    FORMATS,
    PREDICTION_ARGUMENTS,
    VALIDATION_ARGUMENTS,
    PredictionArguments,
    ValidationArguments,
)

_EXPORTING_TORCH = (2, 6)  # the first in which ONNX by torch.export and AOTInductor packages are public
_NAME = r"[\w.-]+(?<!\.pth|\.tar)(?<!\.safetensors)"  # of a network, not of a file
_SURELY = 0.86  # a test ensures that no timm name is this similar to one of ours


def check_spelling(names: Iterable[str]) -> None:
    """Refuses misspelt names of our networks; other names are checked later by timm."""
    for name in names:
        known = name.partition(".")[0]
        if known not in NETWORKS and nearest(known, NETWORKS, _SURELY):
            raise unknown_name("model", known, NETWORKS)


def train(args: argparse.Namespace) -> TrainingArguments:
    """Returns the checked arguments of `train`."""
    arguments = arguments_of(vars(args))
    if not arguments.device_modules:  # they may register further models
        check_spelling([arguments.model])
    return arguments


def validate(args: argparse.Namespace) -> ValidationArguments:
    """Returns the checked arguments of `validate`."""
    arguments = ValidationArguments.of(given_values(vars(args), VALIDATION_ARGUMENTS))
    check_spelling([arguments.run.model])
    return arguments


def predict(args: argparse.Namespace) -> None:
    """Checks the arguments of `predict`, except the device, which needs torch."""
    given = {"device": "cpu", **given_values(vars(args), PREDICTION_ARGUMENTS)}
    if not args.inputs and not given.get("data_dir"):
        raise UserError("no pictures are given; name a folder, archive, list or picture")
    check_spelling([PredictionArguments.of(given).run.model])


def export(args: argparse.Namespace) -> PredictionArguments:
    """Returns the checked arguments of `export`, and sets `output`, which is None for the default."""
    given, source = given_values(vars(args), EXPORT_ARGUMENTS), args.source
    is_name = not os.path.exists(source) and re.fullmatch(_NAME, source)
    if is_name and "model" in given:
        raise UserError(f"{source}: no such checkpoint; --model says of which network one is")
    given |= {"device": "cpu", "model" if is_name else "checkpoint": source}
    arguments = PredictionArguments.of(given)
    check_spelling([arguments.run.model])
    if args.int8 and args.to != "onnx":
        raise UserError(f"--int8 is for --to onnx, not {args.to}")
    if args.output:
        check_output(args.output, args.to, arguments.force)
    for package in ("onnx", "onnxruntime", "onnxscript") if args.to == "onnx" else ():
        if importlib.util.find_spec(package) is None:
            raise UserError(f"{package} is missing; pip install 'convnext_ablation[export]'")
    if args.to == "aoti" and not any(map(shutil.which, (os.environ.get("CXX", ""), "g++", "clang++", "cl"))):
        raise UserError("--to aoti needs a C++ compiler, and there is none; install g++, or set CXX")
    version = importlib.metadata.version("torch")
    if args.to != "torchscript" and tuple(map(int, version.split(".")[:2])) < _EXPORTING_TORCH:
        oldest = ".".join(map(str, _EXPORTING_TORCH))
        raise UserError(f"--to {args.to} needs torch {oldest}, and {version} is installed; upgrade it")
    return arguments


def check_output(output: Path, form: str, force: bool) -> None:
    """Refuses a file that `export` can't write, or that exists."""
    if output.suffix != FORMATS[form] or not output.parent.is_dir():
        raise UserError(f"{output}: --to {form} writes a {FORMATS[form]} file, to a folder that exists")
    if output.exists() and not force:
        raise UserError(f"{output}: exists; give --force to overwrite it, or another --output")


def bench(args: argparse.Namespace) -> BenchArguments:
    """Returns the checked arguments of `bench`."""
    check_spelling(args.models)
    return BenchArguments(models=tuple(args.models), **given_options(args, OPTIONS))


def study_run(args: argparse.Namespace) -> None:
    """Checks the arguments of `study run`."""
    if not (args.experiment or args.phase or args.data):
        raise UserError("name an experiment, or the data of a study with --data")
    if args.output is None:
        raise UserError("name the study's folder with --output")
    for option, value, needed in (("sbatch", args.sbatch, "slurm"), ("ray-address", args.ray_address, "ray")):
        if value and args.engine != needed:
            raise UserError(f"--{option}: is for --engine {needed}")
    _check_phases(args)


def study_plan(args: argparse.Namespace) -> None:
    """Checks the arguments of `study plan`, and sets `only_counts`."""
    if args.seconds_per_image and args.no_timing:
        raise UserError("--no-timing and --seconds-per-image are both given; give one")
    args.only_counts = bool(args.seconds_per_image) or args.no_timing
    _check_phases(args)


def _check_phases(args: argparse.Namespace) -> None:
    check_spelling(name for phase in asked_phases(args) for name in phase.models)


def study_report(args: argparse.Namespace) -> None:
    """Checks the arguments of `study report`, and that the study exists."""
    if args.groups and not args.design:
        raise UserError("--groups: needs a design; give --design")
    from convnext_ablation.study.store import read_phases  # needs the extra `study`

    read_phases(args.study)
