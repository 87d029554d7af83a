"""The page of a study: one self-contained ``index.html``, with what was found, how, and from which runs."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from operator import attrgetter as get
from pathlib import Path
from typing import Any, NamedTuple

from convnext_ablation.files import write_text
from convnext_ablation.page import render
from convnext_ablation.study.report.answer import answer, caveats, method
from convnext_ablation.study.report.contents import Contents
from convnext_ablation.study.report.pictures import attention_maps, confusion_pictures
from convnext_ablation.study.report.tables import Column, effect_columns, network_columns


class Table(NamedTuple):
    """A table that sorts by each of its columns; its caption is unique on the page."""

    caption: str
    columns: Sequence[Column]
    lines: Sequence[Any]


def write_page(contents: Contents, charts: Sequence[Path]) -> Path:
    """Writes the page; its charts have been drawn."""
    findings, facts = contents.findings, contents.facts
    known = caveats(findings, facts)
    done = method(findings, facts)
    done["intervals"] = (
        "95 %, over seeds and test images, paired; p-values adjusted by Holm's method for the primary "
        "effects together"
    )
    path = contents.folder / "index.html"
    text = render(
        "study.html",
        title=facts.title,
        facts=facts,
        answer=answer(findings, facts),
        caveats=known,
        warnings=[caveat for caveat in known if caveat.startswith("WARNING")],
        charts={path.stem: _uri(path) for path in charts},
        tables=_tables(contents),
        changes=confusion_pictures(contents),
        attention=attention_maps(contents),
        method=[f"{what}: {value}" for what, value in done.items()],
    )
    write_text(path, text)
    return path


def _uri(svg: Path) -> str:
    return "data:image/svg+xml;base64," + base64.b64encode(svg.read_bytes()).decode()


def _tables(contents: Contents) -> dict[str, Table]:
    findings = contents.findings
    runs = [
        Column("run", lambda run: f"{run.network}, seed {run.seed}"),
        Column("identity", lambda run: run.identity[:12]),
        Column("best epoch", lambda run: int(run.best_epoch) if run.best_epoch else None, str),
        Column("val top-1 %", get("val_top1"), _percent),
        Column("test top-1 %", get("test_top1"), _percent),
        Column("command, from this report's folder", get("command")),
        Column("versions", get("versions")),
    ]
    networks = network_columns(findings.rows, 2)
    return {
        "networks": Table("Networks, with 95 % intervals of top-1 (networks.csv)", networks, findings.rows),
        "effects": Table(
            "Effects on top-1 in percent points (effects.csv)", effect_columns(2), findings.effects
        ),
        "runs": Table("Runs (runs.csv)", runs, contents.runs),
    }


def _percent(value: float) -> str:
    return f"{100 * value:.2f}"
