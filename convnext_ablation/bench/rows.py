"""What was measured, as rows: of `bench.csv`, with timm's columns and ours, and of tables for people."""

from __future__ import annotations

import csv
import platform
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from statistics import median
from typing import Any

import timm
import torch

from convnext_ablation.bench.configuration import INFERENCE, Configuration, Contestant
from convnext_ablation.bench.roofline import Cost
from convnext_ablation.bench.timing import Times
from convnext_ablation.console import table
from convnext_ablation.errors import UserError
from convnext_ablation.files import write_csv
from convnext_ablation.machine import device_name
from convnext_ablation.page import render
from convnext_ablation.version import __version__

__all__ = [
    *("COLUMNS", "TIMMS_COLUMNS", "Row"),
    *("groups", "machine_of", "page", "read_rows", "rows_of", "screen", "write_rows"),
]

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
_HEADER = (
    *("model", "form", "dtype", "images/s", "ms [fastest, slowest]", "times baseline", "of peak"),
    *("ms from bandwidth", "MB [idle]", "s until ready", "difference", "M par.", "GMACs"),
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
        costs: Of each network, by its name and the side of its images.
        machine: As `machine_of` returns it.
    """
    common = {
        "mode": configuration.mode,
        "device": configuration.device,
        "allocator": configuration.allocator,
        "threads": configuration.threads,
        "rounds": configuration.rounds,
        "baseline": configuration.baseline,
        "bandwidth_gb_per_sec": _rounded(found["bandwidth"] or None, 1),
        "configuration": configuration.identity(machine),
        **machine,
    }
    rows = []
    for contestant in configuration.contestants:
        cost = costs[contestant.model, configuration.img_size]
        values = {
            **common,
            **_measured(contestant, configuration, found, cost),
            **_of_best(contestant, configuration, found, cost),
        }
        texts = {column: str(value) for column, value in values.items() if value is not None}
        rows.append({column: texts.get(column, "") for column in COLUMNS})
    return rows


def _measured(
    contestant: Contestant, configuration: Configuration, found: Mapping[str, Any], cost: Cost
) -> dict[str, Any]:
    ours = found["contestants"][str(contestant)]
    theirs = found["contestants"][str(configuration.baseline)]
    batch_size, prefix = configuration.batch_size, _prefix_of(configuration.mode)
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
        if contestant != configuration.baseline and "seconds" in theirs:
            ratio = times.times_faster_than(Times(tuple(theirs["seconds"])))
            values |= {
                "ratio": round(ratio.median, 3),
                "ratio_lowest": round(ratio.lowest, 3),
                "ratio_highest": round(ratio.highest, 3),
            }
    return values


def _of_best(
    contestant: Contestant, configuration: Configuration, found: Mapping[str, Any], cost: Cost
) -> dict[str, Any]:
    """What the machine does at best, and the part of it that a contestant reaches."""
    mode, batch_size = configuration.mode, configuration.batch_size
    seconds = found["contestants"][str(contestant)].get("seconds")
    peak, bandwidth = found["peaks"].get(contestant.dtype), found["bandwidth"]
    moved = cost.gigabytes(mode, batch_size, contestant.dtype)
    share = cost.gflop(mode, batch_size) / median(seconds) / peak if seconds and peak else None
    return {
        "peak_gflops": _rounded(peak, 1),
        "share_of_peak": _rounded(share, 3),
        "bandwidth_step_time": _rounded(moved / bandwidth, 3, 1e3) if bandwidth else None,
    }


def _prefix_of(mode: str) -> str:
    """What timm's columns of a mode begin with."""
    return "infer_" if mode == INFERENCE else "train_"


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


def groups(rows: Sequence[Row]) -> Iterator[list[Row]]:
    """The rows by what was measured together."""
    for _, together in groupby(rows, key=lambda row: row["configuration"]):
        yield list(together)


def screen(rows: Sequence[Row]) -> str:
    """A configuration's table for a terminal."""
    parts = _parts(rows)
    return "\n".join([parts["title"], parts["machine"], parts["table"], *parts["errors"]])


def page(rows: Sequence[Row]) -> str:
    """All configurations as Markdown."""
    return render("bench.md", groups=[_parts(together, markdown=True) for together in groups(rows)])


def _parts(rows: Sequence[Row], markdown: bool = False) -> dict[str, Any]:
    """What a configuration's title, machine, table and errors read."""
    row = rows[0]
    prefix = _prefix_of(row["mode"])
    batch = f"batch {row[prefix + 'batch_size']} at {row[prefix + 'img_size']}"
    peaks = {one["dtype"]: one["peak_gflops"] for one in rows if one["peak_gflops"]}
    told = "".join(f", {dtype} peak {float(peak):,.0f} GFLOP/s" for dtype, peak in peaks.items())
    copy = f", copies {row['bandwidth_gb_per_sec']} GB/s" if row["bandwidth_gb_per_sec"] else ""
    versions = ", ".join(f"{name} {row[name]}" for name in ("torch", "timm", "convnext_ablation"))
    cells = [_cells(one) for one in rows]
    shown = [place for place in range(len(_HEADER)) if any(each[place] for each in cells)]
    return {
        "title": f"{row['mode']}, {batch}, {row['device']}, {row['threads']} threads, "
        f"{row['allocator']} allocator",
        "machine": f"{row['processor']}{told}{copy}; {versions}; {row['rounds']} rounds",
        "table": table(
            [_HEADER[place] for place in shown],
            [[each[place] or "–" for place in shown] for each in cells],
            words=(0, 1, 2),
            markdown=markdown,
        ),
        "errors": [
            f"{one['model']} {one['form']} {one['dtype']}: {one['error']}" for one in rows if one["error"]
        ],
    }


def _cells(row: Row) -> tuple[str, ...]:
    prefix, failed = _prefix_of(row["mode"]), bool(row["error"])

    def number(column: str, pattern: str, factor: float = 1.0) -> str:
        return format(factor * float(row[column]), pattern) if row[column] else ""

    step = [number(name, ".4g") for name in (f"{prefix}step_time", "step_time_lowest", "step_time_highest")]
    memory = number("peak_memory_mb", ".0f")
    ratio = row["ratio"]  # earlier versions wrote "inconclusive" in the place of some
    if ratio[:1].isdigit():
        ratio = (
            f"{number('ratio', '.2f')} [{number('ratio_lowest', '.2f')}, {number('ratio_highest', '.2f')}]"
        )
    elif f"{row['model']}:{row['form']}:{row['dtype']}" == row["baseline"]:
        ratio = "baseline"
    return (
        row["model"],
        row["form"],
        row["dtype"],
        "failed" if failed else number(f"{prefix}samples_per_sec", ",.1f"),
        "" if failed else f"{step[0]} [{step[1]}, {step[2]}]",
        ratio,
        number("share_of_peak", ".0f", 100) + (" %" if row["share_of_peak"] else ""),
        number("bandwidth_step_time", ".3g"),
        f"{memory} [{number('idle_memory_mb', '.0f')}]" if memory else "",
        number("preparation_sec", ".1f"),
        row["difference"],
        row["param_count"],
        row["infer_gmacs"],
    )
