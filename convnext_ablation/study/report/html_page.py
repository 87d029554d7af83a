"""The page of a study: one self-contained ``index.html``, with what was found, how, and from which runs."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from operator import attrgetter as get
from pathlib import Path
from typing import Any

from markupsafe import Markup

from convnext_ablation.files import write_text
from convnext_ablation.page import render
from convnext_ablation.study.report.answer import answer, caveats, method, percent_points
from convnext_ablation.study.report.contents import Contents, history
from convnext_ablation.study.report.figures import Plan
from convnext_ablation.study.report.pictures import attention_maps, confusion_pictures
from convnext_ablation.study.report.tables import Column, effect_columns, network_columns

__all__ = ["write_page"]

_MOST_ROWS = 2000  # of a table on the page; its CSV file has all
_PAINT = re.compile(r"((?:fill|stroke): )(#[0-9a-fA-F]{6})")
_PIXELS = 1.15  # a point, below which a figure scrolls: its text would be too small
# ends of the scale on the dark page: what is white turns into the page, what is black into the text
_DARK_PAGE, _DARK_TEXT = (13, 17, 23), (230, 237, 243)


@dataclass(frozen=True)
class Table:
    """A table that sorts by each of its columns.

    Attributes:
        caption: What it shows; unique on the page.
        rows: The cells of each: their text and the number that they are sorted by, None for words.
        summary: What is there to be opened, of a table that is closed at first.
    """

    caption: str
    columns: Sequence[Column]
    rows: list[list[tuple[str, float | None]]]
    summary: str = ""


@dataclass(frozen=True)
class Chart:
    """A figure on the page: its SVG element, what it shows, and how to read it."""

    svg: Markup
    title: str
    caption: str


def write_page(contents: Contents, plans: Sequence[Plan]) -> Path:
    """Writes the page; its figures have been drawn."""
    svgs = {plan.name: (contents.folder / f"{plan.name}.svg").read_text(encoding="utf-8") for plan in plans}
    charts = {plan.name: Chart(inlined(svgs[plan.name], plan.name, plan.title), *plan[2:]) for plan in plans}
    done = method(contents.findings, contents.facts)
    done["intervals"] = (
        "95 %, over seeds and test images, paired; p-values adjusted by Holm's method for the primary "
        "effects together"
    )
    path = contents.folder / "index.html"
    text = render(
        "study.html",
        title=contents.facts.title,
        facts=contents.facts,
        answer=answer(contents.findings, contents.facts),
        caveats=caveats(contents.findings, contents.facts),
        warnings=_warnings(contents),
        palette=Markup(palette(colours_of(svgs.values()))),
        charts=charts,
        tables=_tables(contents),
        remarks={"curves": _without_curves(contents), "runs": _versions(contents)},
        changes=confusion_pictures(contents),
        attention=attention_maps(contents),
        method=[f"{what}: {value}" for what, value in done.items()],
    )
    write_text(path, text)
    return path


def _warnings(contents: Contents) -> list[str]:
    """What stands beneath each figure of accuracy."""
    found = [warning for warning in contents.facts.warnings if warning.startswith("WARNING")]
    if alone := [row.label for row in contents.findings.rows if row.seeds == 1]:
        found.append(
            f"One seed only for {', '.join(alone)}: intervals leave out what another seed would change, and "
            "no effect is tested."
        )
    return found


def _without_curves(contents: Contents) -> str:
    runs = contents.evidence.runs
    lost = sum(not history(run) for run in runs)
    return f"{lost} of {len(runs)} runs have no summary.csv that can be read." if lost else ""


def _versions(contents: Contents) -> str:
    versions = list(dict.fromkeys(run.versions for run in contents.runs))
    if len(versions) > 1:
        return f"With {len(versions)} sets of versions, so they may differ by more than their networks."
    return f"All with {versions[0]}." if versions[0] else ""


def _tables(contents: Contents) -> dict[str, Table]:
    findings = contents.findings
    label, *others = network_columns(findings.rows, 2)
    labels = {row.network.name: row.label for row in findings.rows}
    last = {point.network: point for point in contents.curves}
    several = len({run.versions for run in contents.runs}) > 1
    effect, class_ = Column("effect", get("label")), Column("class", get("class_name"))
    networks = [label, Column("number", get("number"), str), *others]
    curves = [
        Column("network", lambda point: labels.get(point.network, point.network)),
        Column("epochs", lambda point: point.epoch + 1, str),
        Column("runs", get("runs"), str),
        Column("top-1 %", get("top1"), _percent),
        Column("least %", get("top1_low"), _percent),
        Column("most %", get("top1_high"), _percent),
        Column("training loss", get("train_loss"), "{:.4f}".format),
    ]
    classes = [
        *(effect, class_, Column("images", get("images"), str)),
        Column("points", get("gain"), percent_points),
        Column("least", get("low"), percent_points),
        Column("most", get("high"), percent_points),
    ]
    confusions = [
        *(effect, class_, Column("taken for", get("taken_for"))),
        Column("without", get("images_without"), "{:.2f}".format),
        Column("with", get("images_with"), "{:.2f}".format),
        Column("change", get("change"), lambda value: f"{value:+.2f}".replace("-", "−")),
    ]
    runs = [
        Column("run", lambda run: f"{run.network}, seed {run.seed}"),
        Column("identity", lambda run: run.identity[:12]),
        Column("best epoch", lambda run: int(run.best_epoch) if run.best_epoch else None, str),
        Column("val top-1 %", get("val_top1"), _percent),
        Column("test top-1 %", get("test_top1"), _percent),
        Column("command, from this report's folder", get("command")),
        *([Column("versions", get("versions"))] if several else []),
    ]
    return {
        "networks": _table("Networks, with 95 % intervals of top-1 (networks.csv)", networks, findings.rows),
        "effects": _table(
            "Effects on top-1 in percent points (effects.csv)", effect_columns(2), findings.effects
        ),
        "curves": _table(
            "Validation top-1 after the last epoch (curves.csv)",
            curves,
            list(last.values()),
            "The last epoch in numbers",
        ),
        "classes": _table(
            "Gain of each class (classes.csv)", classes, contents.class_gains, "Each class in numbers"
        ),
        "confusions": _table(
            "Confusions, test images a run (confusions.csv)",
            confusions,
            contents.confusions,
            "The confusions that change most",
        ),
        "runs": _table("Runs (runs.csv)", runs, contents.runs),
    }


def _percent(value: float) -> str:
    return f"{100 * value:.2f}"


def _table(caption: str, columns: Sequence[Column], lines: Sequence[Any], summary: str = "") -> Table:
    if summary and len(lines) > _MOST_ROWS:
        summary += f" (the first {_MOST_ROWS:,} of {len(lines):,})"
        lines = lines[:_MOST_ROWS]
    rows = [[(each.cell(line), each.number(line)) for each in columns] for line in lines]
    return Table(caption, columns, rows, summary)


def inlined(svg: str, name: str, title: str) -> Markup:
    """A figure of matplotlib as an element of a page: ids of its own, and colours that follow light and dark.

    Args:
        svg: As matplotlib writes it.
        name: Precedes each of its ids, so that they are unique on the page.
        title: What it shows, for those who don't see it.
    """
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>", "", svg, flags=re.DOTALL)
    svg = re.sub(r' xmlns(:\w+)?="[^"]*"', "", svg).replace("xlink:href", "href")
    svg = re.sub(r'\b(id|clip-path|href)="(url\()?(#?)', rf'\1="\2\3{name}-', svg)
    svg = re.sub(r"(?<!\")url\(#", f"url(#{name}-", svg)
    svg = _PAINT.sub(lambda paint: f"{paint[1]}var(--c{paint[2][1:].lower()})", svg)
    width = re.search(r'viewBox="0 0 ([\d.]+)', svg)
    size = f'style="min-width: {float(width[1]) * _PIXELS:.0f}px"' if width else ""
    head = f'<svg class="chart" role="img" aria-label="{escape(title)}" {size} '
    head_of = r"<svg (?:width|height)=\"[^\"]*\" *(?:height=\"[^\"]*\")?"
    return Markup(re.sub(head_of, head, svg, count=1).strip())


def colours_of(svgs: Iterable[str]) -> list[str]:
    """The colours that SVG files paint with, ``#rrggbb``."""
    return sorted({paint[2].lower() for svg in svgs for paint in _PAINT.finditer(svg)})


def palette(colours: Iterable[str]) -> str:
    """CSS that gives each colour a variable: itself on a light page, on a dark one its counterpart."""
    light = "".join(f"--c{colour[1:]}: {colour};" for colour in colours)
    dark = "".join(f"--c{colour[1:]}: {_dark(colour)};" for colour in colours)
    return f"\n:root {{ {light} }}\n@media (prefers-color-scheme: dark) {{ :root {{ {dark} }} }}\n"


def _dark(colour: str) -> str:
    """White turns into the dark page, black into its text, and greys into what lies between."""
    channels = [int(colour[start : start + 2], 16) / 255 for start in (1, 3, 5)]
    mixed = [
        round(text + (page - text) * value)
        for value, page, text in zip(channels, _DARK_PAGE, _DARK_TEXT, strict=True)
    ]
    return "#" + "".join(f"{value:02x}" for value in mixed)
