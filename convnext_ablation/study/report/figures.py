"""Which figures a report has, what of the findings is in them, how to read them, and how they are saved.

What matters shows in shapes and words, so that figures read the same in black and white. The same rows give
the same bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from convnext_ablation.files import written_whole
from convnext_ablation.study.report.charts import draw_classes, draw_cost, draw_curves, draw_effects
from convnext_ablation.study.report.classes import ClassGain, surest
from convnext_ablation.study.report.contents import Contents, CurvePoint
from convnext_ablation.study.report.findings import Effect
from convnext_ablation.study.report.roadmap import draw_roadmap
from convnext_ablation.study.stats.effects import ALPHA

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Plan", "planned", "write_figure", "write_figures"]

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


def write_figures(contents: Contents) -> tuple[list[Plan], list[Path]]:
    """Draws the figures that there is something for into the report's folder, as SVG and PNG."""
    plans = planned(contents)
    contents.folder.mkdir(parents=True, exist_ok=True)
    return plans, [path for plan in plans for path in write_figure(plan.draw, contents.folder, plan.name)]


def write_figure(draw: Callable[[], Figure], folder: Path, name: str) -> list[Path]:
    """Draws a figure once and writes it as SVG and as PNG, whole or not at all."""
    import matplotlib

    paths = [folder / f"{name}.svg", folder / f"{name}.png"]
    dpi, salt = (150, "convnext_ablation") if name == "roadmap" else (120, name)
    # The user's own settings must not change the bytes, nor ours the user's.
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update({**_SETTINGS, "svg.hashsalt": salt})
        figure = draw()
        # Neither the date nor the program's version may get into the file.
        for path, unwanted in zip(paths, (["Date", "Creator"], ["Software"]), strict=True):
            with written_whole(path) as temporary:
                metadata: Any = dict.fromkeys(unwanted)
                figure.savefig(temporary, format=path.suffix[1:], dpi=dpi, metadata=metadata)
    return paths


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
        Plan(
            "cost",
            partial(draw_cost, rows),
            "Top-1 against training speed and against multiply-accumulates",
            "Each network by its number: top-1 with its 95 % interval. Training speed is the median over "
            "runs; it was measured on a machine that may have done other things meanwhile.",
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
        "Validation images, not test images: the best epoch was picked by these."
        + _cut(len(shown), len(there), "networks", "curves.csv"),
    )


def _classes(shown: Sequence[Effect], gains: Sequence[ClassGain]) -> Plan:
    hold = sum(effect.difference.p_holm < ALPHA for effect in shown)
    groups = [[gain for gain in gains if gain.contrast == effect.contrast.name] for effect in shown]
    return Plan(
        "classes",
        partial(draw_classes, [_ends(group) for group in groups]),
        "Classes that gain most and least with the most significant effects",
        f"Of each of the {len(groups)} most significant effects ({hold} of them with adjusted p < "
        f"{ALPHA:g}), the {CLASSES} classes that gain most and the {CLASSES} that gain least: gain in top-1 "
        "on the images of the class, and its range over seeds. They were picked for being extreme among all "
        "classes, from few images each: expect less of them on other images.",
    )


def _ends(gains: Sequence[ClassGain]) -> Sequence[ClassGain]:
    """The classes that gain most and least, of gains in order."""
    return gains if len(gains) <= 2 * CLASSES else [*gains[:CLASSES], *gains[-CLASSES:]]
