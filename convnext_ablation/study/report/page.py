"""The page of a study: one self-contained ``index.html``, with the figures and the numbers beside it.

`inputs` says what it is made from. `tables` and `classes` compute its numbers, which are CSV files too;
`figures` draws what `drawings` chooses of them and `inline` puts it into the page; `pictures` shows test
images. `html` and `parts` write it all down, with ``page.css`` and ``page.js``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from convnext_ablation.files import write_text
from convnext_ablation.study.report import classes, tables
from convnext_ablation.study.report.drawings import planned
from convnext_ablation.study.report.figures import write_figure
from convnext_ablation.study.report.findings import Effect, Row, StudyFacts
from convnext_ablation.study.report.html import Contents, Drawing, html
from convnext_ablation.study.report.inputs import PageExtras, PageRun
from convnext_ablation.study.report.pictures import attention_part, confusion_part

__all__ = ["PageExtras", "PageRun", "write_page"]


def write_page(
    folder: Path,
    rows: Sequence[Row],
    effects: Sequence[Effect],
    facts: StudyFacts,
    extras: PageExtras,
    told: Callable[[str], None] = lambda line: None,
) -> list[Path]:
    """Writes the page, its figures as SVG and PNG, and the numbers of each figure as CSV.

    Args:
        folder: Where the files go; it is made if need be.
        rows: The networks.
        effects: What is compared, in the order in which it is shown.
        facts: What was done.
        extras: What else the page shows.
        told: Hears of what is being done.

    Returns:
        The files; the page stands first.
    """
    folder.mkdir(parents=True, exist_ok=True)
    told("numbers of the page")
    curves, without = tables.curve_table(extras.runs)
    networks, effect_rows = tables.network_table(rows), tables.effect_table(effects)
    gains, confusions = classes.class_table(effects, extras), classes.confusion_table(effects, extras)
    runs = tables.run_table(extras, folder)
    paths = [
        tables.write_rows(folder / "networks.csv", tables.NetworkLine, networks),
        tables.write_rows(folder / "effects.csv", tables.EffectLine, effect_rows),
        tables.write_rows(folder / "curves.csv", tables.CurveLine, curves),
        tables.write_rows(folder / "classes.csv", classes.ClassGain, gains),
        tables.write_rows(folder / "confusions.csv", classes.Confusion, confusions),
        tables.write_rows(folder / "runs.csv", tables.RunLine, runs),
    ]
    told("figures of the page")
    drawings, missing = _roadmap(extras), {}
    if without:
        missing["curves"] = f"{len(without)} of {len(extras.runs)} runs have no summary.csv that can be read."
    for plan in planned(networks, effect_rows, curves, gains):
        paths += write_figure(plan.draw, folder, plan.name)
        svg = (folder / f"{plan.name}.svg").read_text(encoding="utf-8")
        drawings[plan.name] = Drawing(svg, plan.title, plan.caption)
    told("pictures of the page")
    pictures = {
        "confusions": confusion_part(effects, confusions, extras),
        "attention": attention_part(rows, extras, told),
    }
    contents = Contents(
        facts, extras, networks, effect_rows, curves, gains, confusions, runs, drawings, pictures,
        _warnings(rows, extras), missing,
    )  # fmt: skip
    write_text(folder / "index.html", html(contents))
    return [folder / "index.html", *paths]


def _roadmap(extras: PageExtras) -> dict[str, Drawing]:
    if extras.roadmap is None:
        return {}
    caption = (
        "Top-1 of each network with its 95 % interval, single seeds as circles, what it changes and costs. "
        "The numbers are those of the table below."
    )
    svg = extras.roadmap.read_text(encoding="utf-8")
    return {"roadmap": Drawing(svg, "Roadmap: top-1 and cost of each network", caption)}


def _warnings(rows: Sequence[Row], extras: PageExtras) -> list[str]:
    alone = [row.label for row in rows if row.seeds == 1]
    found = list(extras.warnings)
    if alone:
        found.append(
            f"One seed only for {', '.join(alone)}: intervals leave out what another seed would change, and "
            "no effect is tested."
        )
    return found
