"""The page of a study: one self-contained ``index.html``, with what was found, how, and from which runs."""

from __future__ import annotations

import base64
import os
from collections.abc import Iterable, Sequence
from operator import attrgetter as get
from pathlib import Path
from typing import Any
from urllib.parse import quote

from convnext_ablation.files import write_text
from convnext_ablation.page import render
from convnext_ablation.study.report.answer import answer, caveats, method
from convnext_ablation.study.report.contents import Contents
from convnext_ablation.study.report.experiment_findings import ExperimentReport
from convnext_ablation.study.report.experiment_tables import (
    accuracy_columns,
    effect_columns_across,
    gap_columns,
)
from convnext_ablation.study.report.pictures import attention_maps, confusion_pictures
from convnext_ablation.study.report.tables import Column, effect_columns, network_columns

_RUN_COLUMNS = [
    Column("run", lambda run: f"{run.network}, seed {run.seed}"),
    Column("identity", lambda run: run.identity[:12]),
    Column("best epoch", lambda run: int(run.best_epoch) if run.best_epoch else None, str),
    Column("val top-1 %", get("val_top1_percent"), "{:.2f}".format),
    Column("test top-1 %", get("test_top1_percent"), "{:.2f}".format),
    Column("command, from this report's folder", get("command")),
    Column("versions", get("versions")),
]


def write_page(contents: Contents, charts: Sequence[Path]) -> Path:
    """Writes the page; its charts have been drawn."""
    findings, facts = contents.findings, contents.facts
    known = caveats(findings, facts)
    path = contents.folder / "index.html"
    text = render(
        "study.html",
        title=facts.title,
        facts=facts,
        answer=answer(findings, facts),
        caveats=known,
        warnings=[caveat for caveat in known if caveat.startswith("WARNING")],
        charts={path.stem: _uri(path) for path in charts},
        networks=(network_columns(findings.rows, 2), findings.rows),
        effects=(effect_columns(2), findings.effects),
        runs=(_RUN_COLUMNS, contents.runs),
        changes=confusion_pictures(contents),
        attention=attention_maps(contents),
        method=[f"{what}: {value}" for what, value in method(findings, facts).items()],
    )
    write_text(path, text)
    return path


def write_experiment_page(report: ExperimentReport, chart: Path | None) -> Path:
    """Writes the page of a whole experiment, which links those of its phases; its chart has been drawn."""
    across, path = report.across, report.folder / "index.html"
    tables: list[tuple[str, list[Column], Iterable[Any]]] = [
        ("Top-1 on the test images (data_sets.csv)", accuracy_columns(report, 2), report.lines)
    ]
    if across and chart:
        tables += [
            (
                "Effects on each data set (effects_across.csv)",
                effect_columns_across(across, 2),
                across.effects,
            ),
            ("Differences between data sets (effects_across.csv)", gap_columns(across, 2), across.effects),
        ]
    texts = report.phase_texts()
    links = [(phase.name, texts[phase.name], _link(phase.page, report.folder)) for phase in report.phases]
    text = render(
        "experiment.html",
        title=report.title,
        answer=report.answer.split("\n\n"),
        tables=[_shown(*table) for table in tables],
        chart=_uri(chart) if chart else "",
        faults=report.faults,
        warnings=report.warnings,
        phases=links,
        command=report.command,
    )
    write_text(path, text)
    return path


def _shown(caption: str, columns: Sequence[Column], lines: Iterable[Any]) -> dict[str, Any]:
    """A table as `parts.html` takes it."""
    cells = [[column.cell(line) for column in columns] for line in lines]
    return {"caption": caption, "head": [column.heading for column in columns], "rows": cells}


def _link(page: Path, folder: Path) -> str:
    return quote(Path(os.path.relpath(page, folder)).as_posix())


def _uri(svg: Path) -> str:
    return "data:image/svg+xml;base64," + base64.b64encode(svg.read_bytes()).decode()
