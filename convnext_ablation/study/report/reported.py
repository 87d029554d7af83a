"""The three tables of the 11785-FGVC project: what it reported, and beside it what was measured.

The project's figures are in ``convnext_ablation/reported/``, copied as they were published:

- ``imagenet``: Models I to V after pre-training on ImageNet at 112 px;
- ``finetune``: Models I to V after fine-tuning on CUB-200-2011 and Stanford Dogs at 224 px;
- ``baselines``: ResNet-50, ConvNeXt-T and ViT-S/16 after the same fine-tuning, at 224 and 448 px.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Mapping, Sequence
from importlib import resources
from operator import itemgetter as get
from pathlib import Path
from typing import NamedTuple

from convnext_ablation.console import counted
from convnext_ablation.data.folder import KNOWN_FAULTS
from convnext_ablation.files import write_text
from convnext_ablation.study.report.findings import Row
from convnext_ablation.study.report.tables import MISSING, Column, csv_file, laid_out, latex_with_notes

PROJECT = "the 11785-FGVC project"
REPORTED = f"reported by {PROJECT}, one seed, epoch picked on test"
TABLES = {
    "imagenet": "Pre-training accuracy",
    "finetune": "Five models after fine-tuning",
    "baselines": "Baselines after the same fine-tuning",
}
NETWORKS = {
    "model_i": "Model I",
    "model_ii": "Model II",
    "model_iii": "Model III",
    "model_iv": "Model IV",
    "model_v": "Model V",
    "resnet50": "ResNet-50",
    "convnext_tiny": "ConvNeXt-T",
    "vit_small_patch16": "ViT-S/16",
}
DATA_SETS = {"imagenet": "ImageNet", "cub200": "CUB-200-2011", "stanford_dogs": "Stanford Dogs"}
_LEGEND = (
    f"Top-1 in percent: {REPORTED}; measured, with the 95 % interval over seeds and test images (of one "
    "run, over test images alone). A dash: not measured."
)


Key = tuple[str, str, int]  # of an accuracy: network, data set, pixels of the images that it is given


class Line(NamedTuple):
    """A line of a table's CSV file: a reported accuracy, and what was measured; None where nothing was."""

    network: str
    label: str
    data: str
    image_size: int
    reported_top1_percent: float
    reported: str  # whose it is
    measured_top1_percent: float | None
    measured_low_percent: float | None
    measured_high_percent: float | None
    measured: str  # over how many runs; empty where nothing was measured


def write_reported_tables(folder: Path, measured: Mapping[Key, Row]) -> None:
    """Writes the project's three tables with what was measured beside what it reported.

    The files are ``fgvc_11785_TABLE.csv`` in full precision and ``fgvc_11785_TABLE.tex`` (booktabs) for each
    of `TABLES`, and ``fgvc_11785.md`` with all three. What was not measured is empty, for people a dash.
    """
    tables = beside_reported(measured)
    for name, lines in tables.items():
        stem = folder / f"fgvc_11785_{name}"
        csv_file(stem.with_suffix(".csv"), Line._fields, lines)
        write_text(stem.with_suffix(".tex"), latex_with_notes(*_layout(lines), [_LEGEND, *_faults(lines)]))
    write_text(folder / "fgvc_11785.md", _markdown(tables))


def beside_reported(measured: Mapping[Key, Row]) -> dict[str, list[Line]]:
    """Returns the lines of each of `TABLES`, in the project's order."""
    return {name: [_line(row, measured) for row in reported_rows(name)] for name in TABLES}


def is_reported(key: Key) -> bool:
    """Says whether the project reported an accuracy."""
    return any(key == _row_key(row) for name in TABLES for row in reported_rows(name))


def reported_rows(table: str) -> list[dict[str, str]]:
    """Reads what the project reported: the rows of one of `TABLES` by column, accuracies in percent."""
    path = resources.files("convnext_ablation") / "reported" / f"{table}.csv"
    return list(csv.DictReader(path.read_text(encoding="utf-8").splitlines()))


def key_of(network: str, data: str, image_size: int) -> Key:
    """Which of the project's accuracies one stands beside: its names have no timm tag, nor a ViT's size."""
    name = re.sub(r"(patch16)_\d+$", r"\1", network.partition(".")[0])
    return name, data.replace("-", "_"), image_size


def _row_key(row: dict[str, str]) -> Key:
    return row["model"], row.get("dataset", "imagenet"), int(row["input_size"])


def _line(row: dict[str, str], measured: Mapping[Key, Row]) -> Line:
    network, data, size = key = _row_key(row)
    known = (network, NETWORKS[network], data, size, float(row["top1_percent"]), REPORTED)
    if key not in measured:
        return Line(*known, None, None, None, "")
    top1, runs = measured[key].top1, measured[key].runs
    return Line(
        *known, 100 * top1.estimate, 100 * top1.low, 100 * top1.high, f"measured: {counted(runs, 'run')}"
    )


def _markdown(tables: dict[str, list[Line]]) -> str:
    parts = [f"# The tables of {PROJECT}", _LEGEND]
    for name, lines in tables.items():
        columns, rows = _layout(lines)
        parts += [f"## {TABLES[name]}", laid_out(columns, rows, form="markdown"), *_faults(lines)]
    return "\n\n".join(parts) + "\n"


def _faults(lines: Sequence[Line]) -> list[str]:
    """What is known to be wrong with the data sets of a table."""
    names = dict.fromkeys(line.data.replace("_", "-") for line in lines)
    return [KNOWN_FAULTS[name] for name in names if name in KNOWN_FAULTS]


def _layout(lines: Sequence[Line]) -> tuple[list[Column], list[dict[str, Line]]]:
    """A table for people: a row a network and size, and in it two columns a data set."""
    rows: dict[tuple[int, str], dict[str, Line]] = {}
    for line in lines:
        rows.setdefault((line.image_size, line.label), {})[line.data] = line
    columns = [
        Column("network", lambda row: next(iter(row.values())).label),
        Column("px", lambda row: next(iter(row.values())).image_size, str),
    ]
    for data in dict.fromkeys(line.data for line in lines):
        columns += [
            Column(f"{DATA_SETS[data]}: reported", get(data), _reported_text),
            Column(f"{DATA_SETS[data]}: measured", get(data), _measured_text),
        ]
    return columns, list(rows.values())


def _reported_text(line: Line) -> str:
    return f"{line.reported_top1_percent:.1f}"


def _measured_text(line: Line) -> str:
    if line.measured_top1_percent is None:
        return MISSING
    interval = f"[{line.measured_low_percent:.1f}, {line.measured_high_percent:.1f}]"
    return f"{line.measured_top1_percent:.1f} {interval}, {line.measured.removeprefix('measured: ')}"
