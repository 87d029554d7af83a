"""`validate.py`: evaluates weights on a split, each image exactly once, alone or under torchrun."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from convnext_ablation.cli import main as command_line
from convnext_ablation.cli.train import guarded
from convnext_ablation.console import Progress, table
from convnext_ablation.data.class_names import listed
from convnext_ablation.files import write_csv, write_text
from convnext_ablation.inference import optimize_for_inference
from convnext_ablation.study.report.classification_charts import write_classification_charts
from convnext_ablation.training.classification import (
    BINS,
    MOST_CLASSES,
    balanced_accuracy,
    calibration,
    confusions,
    write_figures,
)
from convnext_ablation.training.distributed import prepare_torch, start_processes
from convnext_ablation.training.predictions import Predictions
from convnext_ablation.training.splits import leave_out_broken
from convnext_ablation.training.trained_arguments import ValidationArguments
from convnext_ablation.training.validation import Validation

_SHOWN = 3  # confusions to print
# exit code: 0, or 2 for errors that the user can fix
main = partial(command_line.main, script="validate.py")


def run(args: argparse.Namespace) -> int:
    """Runs the command with the `ValidationArguments` in `args.asked`; returns the exit code."""
    return guarded(args.program, lambda: _validate(args.asked))


def _validate(arguments: ValidationArguments) -> int:
    processes = start_processes(arguments.run.device)
    prepare_torch(processes.device)
    validation: Validation = processes.together(partial(Validation, arguments, processes))
    leave_out_broken([validation.images], arguments.run, processes)
    if processes.is_first:
        _print_what_is_evaluated(validation)
    with Progress("evaluating", quiet=not processes.is_first) as progress:
        validation.evaluate(progress.move, optimize_for_inference)
    if processes.is_first:
        _print_figures(validation)
        result = validation.result()
        if arguments.results_file:
            _write(Path(arguments.results_file), result, arguments.results_format)
        if arguments.report_dir:
            _write_report(Path(arguments.report_dir), validation)
        print(f"--result\n{json.dumps(result, indent=4)}")
    return 0


def _print_what_is_evaluated(validation: Validation) -> None:
    lines = [validation.loaded] if validation.loaded else []
    lines += [f"{validation.images.name}: skipped, {line}" for line in validation.images.skipped]
    if validation.taken:
        lines.append(f"as in the run of {validation.arguments.checkpoint}: {', '.join(validation.taken)}")
    if unseen := validation.images.unseen:
        lines.append(f"{validation.images.name}: has no image of {listed(unseen)}")
    if lines:
        print("\n".join(lines), flush=True)


def _print_figures(validation: Validation) -> None:
    every, kept, left_out = validation.predictions, validation.kept, validation.images.left_out
    print(
        f"{validation.run.model}: top-1 {every.top1:.3f} %, top-5 {every.top5_accuracy:.3f} %, "
        f"loss {every.loss:.4f}, {len(every.targets)} images"
        f"{f' ({left_out} left out)' if left_out else ''}, {validation.classes} classes"
    )
    images = np.bincount(every.targets)
    images = images[images > 0]
    equal = ", equal to top-1 as each has as many images" if len(set(images)) == 1 else ""
    print(
        f"balanced (macro) accuracy {_balanced(every):.3f} %: mean recall of the {len(images)} "
        f"class{'es' * (len(images) > 1)} with images{equal}; "
        f"expected calibration error {100 * calibration(every).ece:.3f} % in {BINS} bins"
    )
    found = confusions(every.targets, every.predicted, validation.images.classes)
    if found:
        told = (f"{each.class_name!r} as {each.taken_for!r} {each.images}" for each in found[:_SHOWN])
        print(f"most frequent confusions, in images: {', '.join(told)}")
    if kept is not None:
        rows = [
            ("images", len(every.ids), len(kept.ids)),
            ("top-1 %", f"{every.top1:.3f}", f"{kept.top1:.3f}"),
            ("top-5 %", f"{every.top5_accuracy:.3f}", f"{kept.top5_accuracy:.3f}"),
            ("balanced accuracy %", f"{_balanced(every):.3f}", f"{_balanced(kept):.3f}"),
        ]
        print(table(["", "all", "without excluded"], rows))


def _balanced(predictions: Predictions) -> float:
    return 100 * balanced_accuracy(predictions.targets, predictions.predicted)


def _write_report(folder: Path, validation: Validation) -> None:
    of = validation.predictions, validation.classes, validation.images.classes
    given = validation.arguments
    facts = {
        "model": validation.run.model,
        "checkpoint": given.checkpoint or None,
        "data": validation.images.name,
        "left_out": validation.images.left_out,
    }
    write_figures(folder, *of, facts)
    write_classification_charts(folder, *of)
    print(f"report: {folder}, with tables and figures of classes, confusions and calibration")
    if validation.classes > MOST_CLASSES:
        print(f"{folder}: has no confusion matrix, as there are more than {MOST_CLASSES} classes")


def _write(path: Path, result: Mapping[str, Any], form: str) -> None:
    if form == "json":
        write_text(path, json.dumps(result, indent=4))
    else:
        write_csv(path, list(result), [list(result.values())])
