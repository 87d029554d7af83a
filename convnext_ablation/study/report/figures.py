"""Which figures a report has, what of the findings is in them, how to read them, and how they are saved.

The same rows give the same bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from convnext_ablation.files import written_whole
from convnext_ablation.study.report.charts import draw_classes, draw_curves, draw_effects, draw_roadmap
from convnext_ablation.study.report.classes import ClassGain, surest
from convnext_ablation.study.report.contents import Contents, CurvePoint
from convnext_ablation.study.report.findings import Effect
from convnext_ablation.study.stats.effects import ALPHA

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MOST_EFFECTS, MOST_PANELS = 80, 36  # in a figure
CLASS_CONTRASTS, CLASSES = 4, 5  # contrasts in the figure of classes, and classes at either end of each
_SETTINGS: Any = {  # matplotlib's annotations accept no plain dict of str
    "svg.fonttype": "none",  # text stays text: it can be searched, copied and restyled
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 9,
    "hatch.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.unicode_minus": True,
}


class Plan(NamedTuple):
    """A figure to be drawn: name of its file, what it shows, and how to read it."""

    name: str
    draw: Callable[[], Figure]
    title: str
    caption: str


def write_figures(contents: Contents) -> list[Plan]:
    """Draws the figures that there is something for into the report's folder, as SVG."""
    plans = planned(contents)
    contents.folder.mkdir(parents=True, exist_ok=True)
    for plan in plans:
        _write(plan.draw, contents.folder / f"{plan.name}.svg")
    return plans


def _write(draw: Callable[[], Figure], path: Path) -> None:
    """Draws a figure and writes it, whole or not at all."""
    import matplotlib

    # The user's own settings must not change the bytes, nor ours the user's.
    with matplotlib.rc_context(), written_whole(path) as temporary:
        matplotlib.rcdefaults()
        matplotlib.rcParams.update({**_SETTINGS, "svg.hashsalt": path.stem})
        # Neither the date nor the program's version may get into the file.
        draw().savefig(temporary, format="svg", metadata={"Date": None, "Creator": None})


def planned(contents: Contents) -> list[Plan]:
    """The figures that there is something for."""
    rows, effects = contents.findings.rows, contents.findings.effects
    plans = [
        Plan(
            "roadmap",
            partial(draw_roadmap, rows, contents.facts),
            "Roadmap: top-1 and cost of each network",
            "Top-1 of each network with its 95 % interval, single seeds as circles, what it changes and "
            "costs. The numbers are those of the table below.",
        ),
    ]
    if effects:
        plans.append(_effects(effects))
    if contents.curves:
        plans.append(_curves(contents.curves, {row.network.name: row.label for row in rows}))
    if shown := surest(effects, contents.evidence, CLASS_CONTRASTS):
        plans.append(_classes(shown, contents.class_gains))
    return plans


def _effects(effects: Sequence[Effect]) -> Plan:
    shown = effects[:MOST_EFFECTS]
    if len(shown) < len(effects):
        shown = sorted(effects, key=lambda effect: not effect.contrast.primary)[:MOST_EFFECTS]
    return Plan(
        "effects",
        partial(draw_effects, shown),
        "Forest plot: effect of each component on top-1",
        "Effects in percent points with their 95 % intervals. Diamonds are primary effects, circles "
        f"secondary ones. A filled mark is significant after Holm's correction (adjusted p < {ALPHA:g})."
        + _cut(len(shown), len(effects), "effects", "effects.csv"),
    )


def _cut(shown: int, there: int, what: str, file: str) -> str:
    return f" {shown} of {there} {what} are shown; all are in {file}." if shown < there else ""


def _curves(curves: Sequence[CurvePoint], labels: dict[str, str]) -> Plan:
    there = {point.network: labels.get(point.network, point.network) for point in curves}
    shown = dict(list(there.items())[:MOST_PANELS])
    return Plan(
        "curves",
        partial(draw_curves, curves, shown),
        "Learning curves: validation top-1 by epoch of each network",
        f"Mean over runs, and the range of all of them as a band; dashed: {next(iter(shown.values()))}. "
        "Validation images, not test images: the best epoch was picked by these. Numbers: curves.csv."
        + _cut(len(shown), len(there), "networks", "curves.csv"),
    )


def _classes(shown: Sequence[Effect], gains: Sequence[ClassGain]) -> Plan:
    hold = sum(effect.difference.p_holm < ALPHA for effect in shown)
    groups = [[gain for gain in gains if gain.contrast == effect.contrast.name] for effect in shown]
    ends = [group if len(group) <= 2 * CLASSES else [*group[:CLASSES], *group[-CLASSES:]] for group in groups]
    return Plan(
        "classes",
        partial(draw_classes, ends),
        "Classes that gain most and least with the most significant effects",
        f"Of each of the {len(groups)} most significant effects ({hold} of them with adjusted p < "
        f"{ALPHA:g}), the {CLASSES} classes that gain most and the {CLASSES} that gain least: gain in top-1 "
        "on the images of the class, and its range over seeds. They were picked for being extreme among all "
        "classes, from few images each: expect less of them on other images. All are in classes.csv.",
    )
