"""`validate.py`: how well weights do on a split, every image counted once, alone or under torchrun."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from convnext_ablation.cli.train import guarded
from convnext_ablation.console import Progress, table
from convnext_ablation.data.class_names import listed
from convnext_ablation.files import write_csv, write_text
from convnext_ablation.inference import optimize_for_inference
from convnext_ablation.models import zoo  # noqa: F401  registers the networks
from convnext_ablation.training.distributed import prepare_torch, start_processes
from convnext_ablation.training.settings import read_command_line
from convnext_ablation.training.splits import leave_out_broken
from convnext_ablation.training.validation import (
    TIMM_ONLY,
    VALIDATION_ARGUMENTS,
    Validation,
    ValidationArguments,
)

_EVALUATES = "Evaluates weights as timm's validate.py does, each image exactly once."


def main(argv: Sequence[str] | None = None) -> int:
    """Runs `validate.py`; returns 0, or 2 for what the user can mend."""
    return guarded("validate.py", lambda: _validate(argv))


def _validate(argv: Sequence[str] | None) -> int:
    given = read_command_line("validate.py", _EVALUATES, VALIDATION_ARGUMENTS, TIMM_ONLY, argv)
    arguments = ValidationArguments.of(given)
    processes = start_processes(arguments.run.device)
    prepare_torch(processes.device)
    validation: Validation = processes.together(partial(Validation, arguments, processes))
    leave_out_broken([validation.images], arguments.run, processes)
    with Progress("evaluating", quiet=not processes.is_first) as progress:
        validation.evaluate(progress.move, optimize_for_inference)
    if processes.is_first:
        _print(validation)
        result = validation.result()
        if arguments.results_file:
            _write(Path(arguments.results_file), result, arguments.results_format)
        print(f"--result\n{json.dumps(result, indent=4)}")
    return 0


def _print(validation: Validation) -> None:
    if validation.loaded:
        print(validation.loaded)
    for line in validation.images.skipped:
        print(f"{validation.images.name}: skipped, {line}")
    if validation.taken:
        print(f"as in the run of {validation.arguments.checkpoint}: {', '.join(validation.taken)}")
    if unseen := validation.images.unseen:
        print(f"{validation.images.name}: has no image of {listed(unseen)}")
    every, kept, left_out = validation.predictions, validation.kept, validation.images.left_out
    print(
        f"{validation.run.model}: top-1 {every.top1:.3f} %, top-5 {every.top5_accuracy:.3f} %, "
        f"loss {every.loss:.4f}, {len(every.targets)} images"
        f"{f' ({left_out} left out)' if left_out else ''}, {validation.classes} classes"
    )
    if kept is not None:
        rows = [
            ("images", len(every.ids), len(kept.ids)),
            ("top-1 %", f"{every.top1:.3f}", f"{kept.top1:.3f}"),
            ("top-5 %", f"{every.top5_accuracy:.3f}", f"{kept.top5_accuracy:.3f}"),
        ]
        print(table(["", "all", "without excluded"], rows))


def _write(path: Path, result: Mapping[str, Any], form: str) -> None:
    if form == "json":
        write_text(path, json.dumps(result, indent=4))
    else:
        write_csv(path, list(result), [list(result.values())])
