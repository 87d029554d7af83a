"""The roadmap figure: top-1 of each network and what it costs, after Figure 2 of the ConvNeXt paper.

Networks grow downwards. What a change did shows in the fill of its bar and in words, so that the figure
reads the same in black and white.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from convnext_ablation.study.report.answer import p_text, verdict
from convnext_ablation.study.report.findings import Row, StudyFacts
from convnext_ablation.study.wording import counted

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["draw_roadmap"]

# Inches: the figure grows by a row per network, everything else stays where it is.
ROW, TOP, BOTTOM = 0.56, 0.95, 1.15
LEFT, BARS, RIGHT = 3.3, 4.2, 3.75
BAR_HEIGHT = 0.62  # of a row
ADDS_WIDTH = 50  # characters in a line below the network's name
LABEL_POINTS = 345  # font size x characters of a name that just fits
# Right of the bars, each column's right edge in inches from them.
COLUMNS = {"change, points [95 %]": 1.75, "p (Holm)": 2.4, "M par.": 3.0, "GMACs": 3.6}

FILLS: dict[str, dict[str, Any]] = {
    "raised": {"facecolor": "0.62"},
    "lowered": {"facecolor": "white", "hatch": "////"},
    "unclear": {"facecolor": "0.93"},
    "untested": {"facecolor": "white"},
}
LEGEND = {
    "raised": "higher than its baseline (adjusted p < 0.05)",
    "lowered": "lower than its baseline (adjusted p < 0.05)",
    "unclear": "not significantly different from its baseline",
    "untested": "without p-value: no baseline, or one seed",
}


def draw_roadmap(table: Sequence[Row], facts: StudyFacts) -> Figure:
    """Draws the networks; `facts` are for the headings."""
    from matplotlib.figure import Figure

    width, height = LEFT + BARS + RIGHT, TOP + ROW * len(table) + BOTTOM
    figure = Figure(figsize=(width, height))
    axes = figure.add_axes((LEFT / width, BOTTOM / height, BARS / width, ROW * len(table) / height))
    start, end = _axis_range(table)
    axes.set_xlim(start, end)
    axes.set_ylim(len(table) - 0.5, -0.5)
    for place, row in enumerate(table):
        _draw_bar(axes, place, row)
        _write_row(axes, place, row)
    _label_axes(axes, start, facts)
    _write_title(figure, table, facts, height)
    _draw_legend(axes, table)
    return figure


def _axis_range(table: Sequence[Row]) -> tuple[float, float]:
    """Chooses where the axis starts and ends, in percent: at 0 if differences are visible from there."""
    shown = [100 * x for row in table for x in (row.top1.low, row.top1.high)]
    shown += [100 * run.test_top1 for row in table for run in row.network.runs]
    low, high = min(shown), max(shown)
    span = max(high - low, 1.0)
    step = 1 if span < 5 else 5
    start = math.floor((low - span / 2) / step) * step
    if start < 0.3 * high:
        start = 0
    return start, high + 0.03 * (high - start)


def _draw_bar(axes: Axes, place: int, row: Row) -> None:
    start = axes.get_xlim()[0]
    top1 = [100 * x for x in (row.top1.low, row.top1.estimate, row.top1.high)]
    fill = FILLS[verdict(row.difference)]
    axes.barh(place, top1[1] - start, BAR_HEIGHT, left=start, edgecolor="0.25", linewidth=0.8, **fill)
    errors = [[top1[1] - top1[0]], [top1[2] - top1[1]]]
    axes.errorbar(top1[1], place, xerr=errors, color="black", capsize=3.5, linewidth=1.3)
    seeds = [100 * run.test_top1 for run in row.network.runs]
    circles: dict[str, Any] = {"markerfacecolor": "white", "markersize": 3.8, "clip_on": False}
    axes.plot(seeds, [place + 0.2] * len(seeds), "o", color="black", **circles)
    box = {"facecolor": "white", "edgecolor": "none", "boxstyle": "square,pad=0.15"}
    text: dict[str, Any] = {"textcoords": "offset points", "va": "center", "fontweight": "bold", "bbox": box}
    axes.annotate(f"{top1[1]:.1f}", (start, place), (5, 0), **text)


def _write_row(axes: Axes, place: int, row: Row) -> None:
    """Writes the network's name left of the bar, and what it changed and costs right of it."""
    adds = (
        row.network.adds if row.follows or not row.baseline else f"{row.network.adds}; against {row.baseline}"
    )
    lines = textwrap.wrap(adds, ADDS_WIDTH, max_lines=2, placeholder=" …")
    size = min(9.0, LABEL_POINTS / max(1, len(row.label)))
    _write(axes, place, -0.12, row.label, nudge=5 * len(lines), fontweight="bold", fontsize=size)
    _write(axes, place, -0.12, "\n".join(lines), nudge=-7, fontsize=7.5, linespacing=1.1)
    d = row.difference
    change, p = "–", "–"
    if d is not None:
        estimate, low, high = (f"{100 * x:+.1f}".replace("-", "−") for x in (d.estimate, d.low, d.high))
        change, p = f"{estimate} [{low}, {high}]", p_text(d.p_holm)
    texts = (change, p, f"{row.network.parameters / 1e6:.2f}", f"{row.network.gmacs:.3f}")
    for inches, text in zip(COLUMNS.values(), texts, strict=True):
        _write(axes, place, BARS + inches, text)


def _write(axes: Axes, place: float, inches: float, text: str, nudge: float = 0, **style: Any) -> None:
    """Writes text that ends `inches` right of the axes' left edge, `nudge` points above the row's middle."""
    at = (inches / BARS, place)
    style |= {"textcoords": "offset points", "ha": "right", "va": "center", "annotation_clip": False}
    axes.annotate(text, at, (0, nudge), axes.get_yaxis_transform(), **style)


def _label_axes(axes: Axes, start: float, facts: StudyFacts) -> None:
    axes.set_yticks([])
    axes.set_axisbelow(True)
    axes.grid(axis="x", color="0.85", linewidth=0.6)
    cut = f" (the axis starts at {start:g} %, not at 0)" if start else ""
    axes.set_xlabel(f"top-1 on {facts.test_images} test images, %{cut}")
    for heading, inches in COLUMNS.items():
        _write(axes, -0.5, BARS + inches, heading, nudge=8, fontsize=8, color="0.3")


def _write_title(figure: Figure, table: Sequence[Row], facts: StudyFacts, height: float) -> None:
    over = "seeds and test images" if max(row.seeds for row in table) > 1 else "test images only (one seed)"
    text = (
        f"{facts.data_name}, {facts.classes} classes, {facts.image_size} px, "
        f"{counted(facts.epochs, 'epoch')}. Whiskers: 95 % intervals over {over}; circles: single seeds."
    )
    figure.text(0.015, 1 - 0.25 / height, facts.title, fontsize=12, fontweight="bold", va="center")
    figure.text(0.015, 1 - 0.5 / height, text, fontsize=8, va="center", color="0.3")


def _draw_legend(axes: Axes, table: Sequence[Row]) -> None:
    from matplotlib.patches import Patch

    present = [what for what in FILLS if what in {verdict(row.difference) for row in table}]
    axes.legend(
        handles=[Patch(edgecolor="0.25", label=LEGEND[what], **FILLS[what]) for what in present],
        loc="upper center",
        bbox_to_anchor=(0.5 + (RIGHT - LEFT) / 2 / BARS, -0.55 / (ROW * len(table))),
        ncols=len(present),
        frameon=False,
        fontsize=8,
    )
