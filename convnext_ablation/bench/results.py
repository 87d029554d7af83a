"""What was measured, as rows: timm's columns, and ours."""

from __future__ import annotations

import csv
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import timm
import torch

from convnext_ablation.bench.configuration import INFERENCE, Configuration, Contestant
from convnext_ablation.bench.roofline import Cost, Machine
from convnext_ablation.bench.timing import CANNOT_BE_TOLD, Times
from convnext_ablation.errors import UserError
from convnext_ablation.files import write_csv
from convnext_ablation.machine import device_name
from convnext_ablation.version import __version__

__all__ = ["COLUMNS", "TIMMS_COLUMNS", "Row", "machine_of", "read_rows", "rows_of", "write_rows"]

Row = Mapping[str, str]

# those of timm's benchmark.py; step times are in milliseconds, parameters and macts in millions
TIMMS_COLUMNS = (
    *("model", "infer_samples_per_sec", "infer_step_time", "infer_batch_size", "infer_img_size"),
    *("infer_gmacs", "infer_macts", "train_samples_per_sec", "train_step_time", "train_batch_size"),
    *("train_img_size", "param_count"),
)
_MACHINES = ("processor", "torch", "timm", "convnext_ablation", "python")
COLUMNS = (
    *TIMMS_COLUMNS,
    *("form", "mode", "device", "dtype", "allocator", "threads", "rounds"),
    *("step_time_lowest", "step_time_highest"),  # ms
    *("baseline", "ratio", "ratio_lowest", "ratio_highest"),
    *("share_of_peak", "peak_gflops", "bandwidth_step_time", "bandwidth_gb_per_sec"),
    *("preparation_sec", "peak_memory_mb", "idle_memory_mb", "difference"),
    *("error", "configuration"),
    *_MACHINES,
)


def machine_of(device: str) -> dict[str, str]:
    """What is measured on, and with which versions."""
    versions = (torch.__version__, timm.__version__, __version__, platform.python_version())
    return dict(zip(_MACHINES, (device_name(device), *versions), strict=True))


def rows_of(
    configuration: Configuration,
    found: Mapping[str, Any],
    costs: Mapping[tuple[str, int], Cost],
    machine: Mapping[str, str],
) -> list[dict[str, str]]:
    """A row for each contestant, in their order.

    Args:
        configuration: What was measured.
        found: As `processes.measured` returns it.
        costs: As `plan.costs` returns them.
        machine: As `machine_of` returns it.
    """
    best = Machine(found["peaks"], found["bandwidth"])
    common = {
        "mode": configuration.mode,
        "device": configuration.device,
        "allocator": found["allocator"],
        "threads": found["threads"],
        "rounds": configuration.rounds,
        "baseline": str(configuration.baseline),
        "bandwidth_gb_per_sec": _rounded(best.bandwidth or None, 1),
        "configuration": configuration.identity(machine),
        **machine,
    }
    theirs = found["contestants"].get(str(configuration.baseline), {})
    rows = []
    for contestant in configuration.contestants:
        ours = found["contestants"][str(contestant)]
        cost = costs[contestant.model, configuration.img_size]
        values = {
            **common,
            **_known(contestant, configuration, cost),
            **_measured(contestant, configuration, ours, cost, best),
            **(_compared(ours, theirs) if contestant != configuration.baseline else {}),
        }
        rows.append({column: _text(values.get(column)) for column in COLUMNS})
    return rows


def _known(contestant: Contestant, configuration: Configuration, cost: Cost) -> dict[str, Any]:
    """What is known before anything is measured."""
    values = {
        "model": contestant.model,
        "form": contestant.form,
        "dtype": contestant.dtype,
        "param_count": round(cost.parameters / 1e6, 2),
        _prefixed(configuration, "batch_size"): configuration.batch_size,
        _prefixed(configuration, "img_size"): configuration.img_size,
    }
    if configuration.mode == INFERENCE:
        values.update(infer_gmacs=round(cost.gmacs, 3), infer_macts=round(cost.macts, 3))
    return values


def _measured(
    contestant: Contestant, configuration: Configuration, ours: Mapping[str, Any], cost: Cost, best: Machine
) -> dict[str, Any]:
    mode, batch_size = configuration.mode, configuration.batch_size
    moving = best.seconds_to_move(cost.gigabytes(mode, batch_size, contestant.dtype))
    values: dict[str, Any] = {
        "peak_gflops": _rounded(best.peaks.get(contestant.dtype), 1),
        "bandwidth_step_time": _rounded(moving, 3, 1e3),
        "preparation_sec": _rounded(ours.get("preparation"), 2),
        "peak_memory_mb": _rounded(ours.get("peak"), 1, 1e-6),
        "idle_memory_mb": _rounded(ours.get("idle"), 1, 1e-6),
        "difference": f"{ours['difference']:.2g}" if "difference" in ours else None,
        "error": ours.get("error"),
    }
    if "seconds" in ours:
        times = Times(tuple(ours["seconds"]))
        share = best.share_of_peak(cost.gflop(mode, batch_size), times.median, contestant.dtype)
        values.update(
            {
                _prefixed(configuration, "samples_per_sec"): round(batch_size / times.median, 2),
                _prefixed(configuration, "step_time"): round(1e3 * times.median, 3),
                "step_time_lowest": round(1e3 * times.lowest, 3),
                "step_time_highest": round(1e3 * times.highest, 3),
                "share_of_peak": _rounded(share, 3),
            }
        )
    return values


def _compared(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> dict[str, Any]:
    """The ratio, if both were measured; where it can't be told, its interval only."""
    if "seconds" not in ours or "seconds" not in theirs:
        return {}
    ratio = Times(tuple(ours["seconds"])).times_faster_than(Times(tuple(theirs["seconds"])))
    return {
        "ratio": round(ratio.median, 3) if ratio.is_told else CANNOT_BE_TOLD,
        "ratio_lowest": round(ratio.lowest, 3),
        "ratio_highest": round(ratio.highest, 3),
    }


def _prefixed(configuration: Configuration, column: str) -> str:
    return f"{'infer' if configuration.mode == INFERENCE else 'train'}_{column}"


def _rounded(value: float | None, digits: int, factor: float = 1.0) -> float | None:
    return None if value is None else round(factor * value, digits)


def _text(value: Any) -> str:
    return "" if value is None else str(value)


def read_rows(path: Path) -> list[Row]:
    """Reads the rows of a file; none if there is no file.

    Raises:
        UserError: It isn't one of ours.
    """
    if not path.exists():
        return []
    with open(path, encoding="utf-8", newline="") as file:
        reader = csv.DictReader(file)
        if tuple(reader.fieldnames or ()) != COLUMNS:
            raise UserError(f"{path} has other columns than this version writes; give another --output")
        return list(reader)


def write_rows(path: Path, rows: Sequence[Row]) -> None:
    """Writes rows, whole or not at all."""
    write_csv(path, COLUMNS, [[row[column] for column in COLUMNS] for row in rows])
