"""Measurements as rows: of `bench.csv`, with timm's columns and ours, and of readable tables."""

from __future__ import annotations

import csv
import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from itertools import groupby
from pathlib import Path
from typing import Any

import timm
import torch

from convnext_ablation.bench.arguments import INFERENCE
from convnext_ablation.bench.contestants import Configuration, Result
from convnext_ablation.bench.roofline import Cost
from convnext_ablation.console import counted, table
from convnext_ablation.errors import UserError
from convnext_ablation.machine import device_name, instruction_set
from convnext_ablation.page import render
from convnext_ablation.version import __version__

Row = Mapping[str, str]

# columns of timm's benchmark.py except infer_macts; step times are in milliseconds, parameters in millions
TIMMS_COLUMNS = (
    *("model", "infer_samples_per_sec", "infer_step_time", "infer_batch_size", "infer_img_size"),
    *("infer_gmacs", "train_samples_per_sec", "train_step_time", "train_batch_size", "train_img_size"),
    "param_count",
)
_MACHINES = ("processor", "isa", "torch", "timm", "convnext_ablation", "python", "allocator")
COLUMNS = (
    *TIMMS_COLUMNS,
    *("form", "mode", "device", "dtype", "threads", "rounds"),
    *("step_time_lowest", "step_time_highest"),  # ms
    *("baseline", "ratio", "ratio_lowest", "ratio_highest"),
    *("share_of_peak", "peak_gflops", "preparation_sec", "difference", "error", "configuration"),
    *_MACHINES,
)
_TRAINING_STEP = 3  # multiply-accumulates relative to a forward pass


def machine_of(device: str) -> dict[str, str]:
    """Device, instruction set of the CPU, versions, and the environment's settings of glibc's allocator."""
    versions = (torch.__version__, timm.__version__, __version__, platform.python_version())
    settings = [
        f"{name}={value}"
        for name, value in sorted(os.environ.items())
        if name.startswith("MALLOC_") or name == "GLIBC_TUNABLES"
    ]
    values = (device_name(device), instruction_set(), *versions, " ".join(settings) or "default")
    return dict(zip(_MACHINES, values, strict=True))


def rows_of(
    configuration: Configuration,
    results: Mapping[str, Result],
    peaks: Mapping[str, float],
    costs: Mapping[tuple[str, int], Cost],
    machine: Mapping[str, str],
) -> list[dict[str, str]]:
    """One row per contestant, in order; `costs` are by network and image side in pixels."""
    mode, batch_size = configuration.mode, configuration.batch_size
    prefix, baseline = _prefix_of(mode), results[str(configuration.baseline)]
    rows = []
    for contestant in configuration.contestants:
        result, cost = results[str(contestant)], costs[contestant.model, configuration.img_size]
        peak = peaks.get(contestant.dtype)
        values: dict[str, Any] = {
            **asdict(contestant),
            **vars(configuration),
            "configuration": configuration.identity(machine),
            f"{prefix}batch_size": batch_size,
            f"{prefix}img_size": configuration.img_size,
            "param_count": round(cost.parameters / 1e6, 2),
            "infer_gmacs": round(cost.gmacs, 3) if mode == INFERENCE else "",
            "peak_gflops": round(peak, 1) if peak else "",
            "preparation_sec": "" if result.preparation is None else round(result.preparation, 2),
            "difference": "" if result.difference is None else f"{result.difference:.2g}",
            "error": result.error,
            **machine,
        }
        if times := result.times:
            values[f"{prefix}samples_per_sec"] = round(batch_size / times.median, 2)
            values[f"{prefix}step_time"] = round(1e3 * times.median, 3)
            values["step_time_lowest"] = round(1e3 * times.lowest, 3)
            values["step_time_highest"] = round(1e3 * times.highest, 3)
        if times and peak:
            gflop = 2 * cost.gmacs * batch_size * (1 if mode == INFERENCE else _TRAINING_STEP)
            values["share_of_peak"] = round(gflop / times.median / peak, 3)
        if times and baseline.times and baseline is not result:
            ratio = times.times_faster_than(baseline.times)
            values["ratio"] = round(ratio.median, 3)
            values["ratio_lowest"] = round(ratio.lowest, 3)
            values["ratio_highest"] = round(ratio.highest, 3)
        rows.append({column: str(values.get(column, "")) for column in COLUMNS})
    return rows


def _prefix_of(mode: str) -> str:
    """Prefix of timm's columns for a mode."""
    return "infer_" if mode == INFERENCE else "train_"


def read_rows(path: Path) -> list[Row]:
    """Reads the rows of a file; empty if there is no file.

    Raises:
        UserError: It has other columns.
    """
    if not path.exists():
        return []
    with open(path, encoding="utf-8", errors="replace", newline="") as file:
        reader = csv.DictReader(file)
        if tuple(reader.fieldnames or ()) != COLUMNS:
            raise UserError(f"{path} has other columns than this version writes; give another --output")
        return list(reader)


def screen(rows: Sequence[Row]) -> str:
    """One configuration's table for a terminal."""
    parts = _parts(rows)
    return "\n".join([parts["title"], parts["machine"], parts["table"], *parts["errors"]])


def page(rows: Sequence[Row]) -> str:
    """All configurations as Markdown."""
    groups = groupby(rows, key=lambda row: row["configuration"])
    return render("bench.md", groups=[_parts(list(together), markdown=True) for _, together in groups])


def _parts(rows: Sequence[Row], markdown: bool = False) -> dict[str, Any]:
    """Title, machine, table and errors of a configuration."""
    row = rows[0]
    prefix = _prefix_of(row["mode"])
    batch = f"batch {row[prefix + 'batch_size']} at {row[prefix + 'img_size']}"
    peaks = {one["dtype"]: one["peak_gflops"] for one in rows if one["peak_gflops"]}
    told = "".join(f", {dtype} peak {float(peak):,.0f} GFLOP/s" for dtype, peak in peaks.items())
    versions = ", ".join(f"{name} {row[name]}" for name in ("torch", "timm", "convnext_ablation"))
    cells = [_cells(one) for one in rows]
    shown = [heading for heading in cells[0] if any(each[heading] for each in cells)]
    return {
        "title": f"{row['mode']}, {batch}, {row['device']}, {counted(int(row['threads']), 'thread')}",
        "machine": f"{row['processor']}, {row['isa']}{told}; {versions}; allocator: {row['allocator']}; "
        f"{row['rounds']} rounds",
        "table": table(
            shown,
            [[each[heading] or "–" for heading in shown] for each in cells],
            words=(0, 1, 2),
            form="markdown" if markdown else "terminal",
        ),
        "errors": [
            f"{one['model']} {one['form']} {one['dtype']}: {one['error']}" for one in rows if one["error"]
        ],
    }


def _cells(row: Row) -> dict[str, str]:
    """The cells of a table row, by heading."""
    prefix = _prefix_of(row["mode"])

    def number(column: str, pattern: str) -> str:
        return format(float(row[column]), pattern) if row[column] else ""

    def interval(column: str, pattern: str, ends: str) -> str:
        lowest, highest = (number(f"{ends}_{end}", pattern) for end in ("lowest", "highest"))
        return f"{number(column, pattern)} [{lowest}, {highest}]" if row[column] else ""

    is_baseline = f"{row['model']}:{row['form']}:{row['dtype']}" == row["baseline"]
    return {
        "model": row["model"],
        "form": row["form"],
        "dtype": row["dtype"],
        "images/s": "failed" if row["error"] else number(f"{prefix}samples_per_sec", ",.1f"),
        "ms [fastest, slowest]": interval(f"{prefix}step_time", ".4g", "step_time"),
        "times baseline": "baseline" if is_baseline else interval("ratio", ".2f", "ratio"),
        "of peak": number("share_of_peak", ".0%").replace("%", " %"),
        "s until ready": number("preparation_sec", ".1f"),
        "difference": row["difference"],
        "M par.": row["param_count"],
        "GMACs": row["infer_gmacs"],
    }
