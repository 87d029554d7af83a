"""What was measured, as rows of `bench.csv`: timm's columns, and ours."""

from __future__ import annotations

import csv
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import timm
import torch

from convnext_ablation.bench.configuration import INFERENCE, Configuration, Contestant
from convnext_ablation.bench.roofline import Cost
from convnext_ablation.bench.timing import INCONCLUSIVE, Times
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


def prefix_of(mode: str) -> str:
    """What timm's columns of a mode begin with."""
    return "infer_" if mode == INFERENCE else "train_"


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
        costs: Of each network, by its name and the side of its images.
        machine: As `machine_of` returns it.
    """
    common = {
        "mode": configuration.mode,
        "device": configuration.device,
        "allocator": found["allocator"],
        "threads": found["threads"],
        "rounds": configuration.rounds,
        "baseline": str(configuration.baseline),
        "bandwidth_gb_per_sec": _rounded(found["bandwidth"] or None, 1),
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
            **_measured(contestant, configuration, ours, cost),
            **_of_best(contestant, configuration, ours, cost, found),
            **(_compared(ours, theirs) if contestant != configuration.baseline else {}),
        }
        texts = {column: str(value) for column, value in values.items() if value is not None}
        rows.append({column: texts.get(column, "") for column in COLUMNS})
    return rows


def _measured(
    contestant: Contestant, configuration: Configuration, ours: Mapping[str, Any], cost: Cost
) -> dict[str, Any]:
    batch_size, prefix = configuration.batch_size, prefix_of(configuration.mode)
    values: dict[str, Any] = {
        "model": contestant.model,
        "form": contestant.form,
        "dtype": contestant.dtype,
        "param_count": round(cost.parameters / 1e6, 2),
        f"{prefix}batch_size": batch_size,
        f"{prefix}img_size": configuration.img_size,
        "preparation_sec": _rounded(ours.get("preparation"), 2),
        "peak_memory_mb": _rounded(ours.get("peak"), 1, 1e-6),
        "idle_memory_mb": _rounded(ours.get("idle"), 1, 1e-6),
        "difference": f"{ours['difference']:.2g}" if "difference" in ours else None,
        "error": ours.get("error"),
    }
    if configuration.mode == INFERENCE:
        values |= {"infer_gmacs": round(cost.gmacs, 3), "infer_macts": round(cost.macts, 3)}
    if "seconds" in ours:
        times = Times(tuple(ours["seconds"]))
        values |= {
            f"{prefix}samples_per_sec": round(batch_size / times.median, 2),
            f"{prefix}step_time": round(1e3 * times.median, 3),
            "step_time_lowest": round(1e3 * times.lowest, 3),
            "step_time_highest": round(1e3 * times.highest, 3),
        }
    return values


def _of_best(
    contestant: Contestant,
    configuration: Configuration,
    ours: Mapping[str, Any],
    cost: Cost,
    found: Mapping[str, Any],
) -> dict[str, Any]:
    """What the machine does at best, and the part of it that a contestant reaches."""
    mode, batch_size = configuration.mode, configuration.batch_size
    peak, bandwidth = found["peaks"].get(contestant.dtype), found["bandwidth"]
    moved = cost.gigabytes(mode, batch_size, contestant.dtype)
    speed = cost.gflop(mode, batch_size) / median(ours["seconds"]) if "seconds" in ours else None
    return {
        "peak_gflops": _rounded(peak, 1),
        "share_of_peak": _rounded(speed / peak, 3) if speed and peak else None,
        "bandwidth_step_time": _rounded(moved / bandwidth, 3, 1e3) if bandwidth else None,
    }


def _compared(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> dict[str, Any]:
    """The ratio, if both were measured; where it is inconclusive, its interval only."""
    if "seconds" not in ours or "seconds" not in theirs:
        return {}
    ratio = Times(tuple(ours["seconds"])).times_faster_than(Times(tuple(theirs["seconds"])))
    return {
        "ratio": round(ratio.median, 3) if ratio.is_conclusive else INCONCLUSIVE,
        "ratio_lowest": round(ratio.lowest, 3),
        "ratio_highest": round(ratio.highest, 3),
    }


def _rounded(value: float | None, digits: int, factor: float = 1.0) -> float | None:
    return None if value is None else round(factor * value, digits)


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
