"""The page of a study: one self-contained ``index.html``, with what was found, how, and from which runs."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from operator import attrgetter as get
from pathlib import Path

from convnext_ablation.files import write_text
from convnext_ablation.page import render
from convnext_ablation.study.report.answer import answer, caveats, method
from convnext_ablation.study.report.contents import Contents
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


def _uri(svg: Path) -> str:
    return "data:image/svg+xml;base64," + base64.b64encode(svg.read_bytes()).decode()
