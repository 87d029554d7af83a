"""The report's charts: the roadmap, effects, learning curves, and per-class change.

All is black, grey and white, and what matters shows in shapes and words too.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from textwrap import fill, wrap
from typing import TYPE_CHECKING, Any

from convnext_ablation.study.report.answer import p_text, percent_points, verdict
from convnext_ablation.study.report.classes import ClassGain
from convnext_ablation.study.report.contents import CurvePoint
from convnext_ablation.study.report.findings import Effect, Row, StudyFacts
from convnext_ablation.study.stats.effects import ALPHA, Difference
from convnext_ablation.study.wording import counted

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, SOFT, GRID, BAND = "black", "0.35", "0.85", "0.75"
_ROW, _BAR_ROW = 0.24, 0.56  # inches
_LEFT = 3.3  # inches left of the axes, for labels
_PANELS = 4  # in a row of learning curves
_LONGEST, _LONGEST_BOLD = 50, 40  # characters of a label
_TITLE = 36  # characters in a line above a panel
_LABEL_POINTS = 345  # font size x characters of a network's name that just fits
_BARS = 4.2  # inches
# Right of the roadmap's bars, each column's right edge in inches from their left.
_COLUMNS = {"change, points [95 %]": 5.95, "p (Holm)": 6.6, "M par.": 7.2, "GMACs": 7.8}
_BAR: dict[str, Any] = {"facecolor": "white", "edgecolor": "0.25"}
# What the fill of a bar means; see `verdict`.
_FILLS: dict[str, dict[str, Any]] = {
    "raised": {"facecolor": "0.62", "label": "higher than its baseline (adjusted p < 0.05)"},
    "lowered": {"hatch": "////", "label": "lower than its baseline (adjusted p < 0.05)"},
    "unclear": {"facecolor": "0.93", "label": "not significantly different from its baseline"},
    "untested": {"label": "without p-value: no baseline, or one seed"},
}


def _rows(
    middle: float, right: float, top: float, bottom: float, rows: int, row: float = _ROW
) -> tuple[Figure, Axes]:
    """A figure of rows: inches of the axes, right of them, above and below them, and of a row."""
    from matplotlib.figure import Figure

    width, height = _LEFT + middle + right, top + row * rows + bottom
    figure = Figure(figsize=(width, height))
    axes = figure.add_axes((_LEFT / width, bottom / height, middle / width, row * rows / height))
    axes.set_ylim(rows - 0.5, -0.5)
    axes.set_yticks([])
    axes.set_axisbelow(True)
    axes.grid(axis="x", color=GRID, linewidth=0.6)
    return figure, axes


def _beside(
    axes: Axes, place: float, inches: float, text: str, align: str = "right", nudge: float = 0, **style: Any
) -> None:
    """Writes text so many inches right of the axes' left edge, `nudge` points above the middle of a row."""
    style = {"ha": align, "va": "center", "fontsize": 8, "annotation_clip": False, **style}
    offset, at = (72 * inches, nudge), axes.get_yaxis_transform()
    axes.annotate(text, (0, place), offset, at, textcoords="offset points", **style)


def _short(label: str, longest: int = _LONGEST) -> str:
    return label if len(label) <= longest else f"{label[: longest - 1]}…"


def _interval(d: Difference) -> str:
    estimate, low, high = map(percent_points, (d.estimate, d.low, d.high))
    return f"{estimate} [{low}, {high}]"


def draw_roadmap(table: Sequence[Row], facts: StudyFacts) -> Figure:
    """Top-1 of each network and what it costs, after Figure 2 of the ConvNeXt paper."""
    figure, axes = _rows(_BARS, 3.75, 0.95, 1.15, len(table), _BAR_ROW)
    start, end = _axis_range(table)
    axes.set_xlim(start, end)
    for place, row in enumerate(table):
        _draw_bar(axes, place, row)
        _write_row(axes, place, row)
    cut = f" (the axis starts at {start:g} %, not at 0)" if start else ""
    axes.set_xlabel(f"top-1 on {facts.test_images} test images, %{cut}")
    for heading, inches in _COLUMNS.items():
        _beside(axes, -0.5, inches, heading, nudge=8, color=SOFT)
    over = "seeds and test images" if max(row.seeds for row in table) > 1 else "test images only (one seed)"
    text = (
        f"{facts.data_name}, {facts.classes} classes, {facts.image_size} px, "
        f"{counted(facts.epochs, 'epoch')}. Whiskers: 95 % intervals over {over}; circles: single seeds."
    )
    height = figure.get_figheight()
    figure.text(0.015, 1 - 0.25 / height, facts.title, fontsize=12, fontweight="bold", va="center")
    figure.text(0.015, 1 - 0.5 / height, text, fontsize=8, va="center", color=SOFT)
    _draw_legend(figure, {verdict(row.difference) for row in table})
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
    low, top1, high = (100 * x for x in (row.top1.low, row.top1.estimate, row.top1.high))
    fill = {**_BAR, **_FILLS[verdict(row.difference)]}
    axes.barh(place, top1 - start, 0.62, left=start, linewidth=0.8, **fill)
    axes.errorbar(top1, place, xerr=[[top1 - low], [high - top1]], color=INK, capsize=3.5, linewidth=1.3)
    seeds = [100 * run.test_top1 for run in row.network.runs]
    circles: dict[str, Any] = {"markerfacecolor": "white", "markersize": 3.8, "clip_on": False}
    axes.plot(seeds, [place + 0.2] * len(seeds), "o", color=INK, **circles)
    box = {"facecolor": "white", "edgecolor": "none", "boxstyle": "square,pad=0.15"}
    _beside(axes, place, 5 / 72, f"{top1:.1f}", "left", fontsize=9, fontweight="bold", bbox=box)


def _write_row(axes: Axes, place: int, row: Row) -> None:
    """Writes the network's name left of the bar, and what it changed and costs right of it."""
    against = "" if row.follows or not row.baseline else f"; against {row.baseline}"
    lines = wrap(row.network.adds + against, 50, max_lines=2, placeholder=" …")
    size = min(9.0, _LABEL_POINTS / max(1, len(row.label)))
    _beside(axes, place, -0.12, row.label, nudge=5 * len(lines), fontweight="bold", fontsize=size)
    _beside(axes, place, -0.12, "\n".join(lines), nudge=-7, fontsize=7.5, linespacing=1.1)
    d = row.difference
    change, p = ("–", "–") if d is None else (_interval(d), p_text(d.p_holm))
    texts = (change, p, f"{row.network.parameters / 1e6:.2f}", f"{row.network.gmacs:.3f}")
    for inches, text in zip(_COLUMNS.values(), texts, strict=True):
        _beside(axes, place, inches, text, fontsize=9)


def _draw_legend(figure: Figure, present: set[str]) -> None:
    from matplotlib.patches import Patch

    figure.legend(
        handles=[Patch(**{**_BAR, **fill}) for what, fill in _FILLS.items() if what in present],
        loc="lower center",
        bbox_to_anchor=(0.5, 0.1 / figure.get_figheight()),
        ncols=2,
        frameon=False,
        fontsize=8,
    )


def draw_effects(effects: Sequence[Effect]) -> Figure:
    """The effects with their intervals, one below the other; significant ones have a filled mark."""
    middle = 4.6
    points, p = middle + 0.11, middle + 1.8
    figure, axes = _rows(middle, 2.6, 0.55, 0.95, len(effects))
    axes.axvline(0, color=INK, linewidth=0.8)
    for place, effect in enumerate(effects):
        _draw_effect(axes, place, effect)
        _beside(axes, place, -0.11, _short(effect.label))
        _beside(axes, place, points, _interval(effect.difference), "left")
        _beside(axes, place, p, p_text(effect.difference.p_holm), "left")
    _beside(axes, -1, points, "points [95 %]", "left", color=SOFT)
    _beside(axes, -1, p, "p (Holm)", "left", color=SOFT)
    axes.set_xlabel("effect on top-1, percent points, with its 95 % interval")
    legend = "filled: adjusted p < 0.05;  open: not significant, or not tested"
    _beside(axes, len(effects) - 0.5, middle / 2, legend, "center", nudge=-46, color=SOFT)
    return figure


def _draw_effect(axes: Axes, place: int, effect: Effect) -> None:
    d = effect.difference
    holds = d.p_holm < ALPHA
    axes.plot([100 * d.low, 100 * d.high], [place, place], color=INK, linewidth=1.4 if holds else 0.8)
    marker, face = "D" if effect.contrast.primary else "o", INK if holds else "white"
    axes.plot([100 * d.estimate], [place], marker, color=INK, markersize=5.5, markerfacecolor=face)


def draw_curves(points: Sequence[CurvePoint], labels: dict[str, str]) -> Figure:
    """Validation top-1 by epoch, a panel for each network: mean and range over runs; the first one dashed."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    by_network = {name: [point for point in points if point.network == name] for name in labels}
    columns = min(_PANELS, len(labels))
    rows = -(-len(labels) // columns)
    titles = {name: fill(label, _TITLE, max_lines=2, placeholder=" …") for name, label in labels.items()}
    lines = 1 + max(title.count("\n") for title in titles.values())
    height = 0.45 + (1.6 + 0.15 * lines) * rows
    figure = Figure(figsize=(10.5, height))
    panels = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    first = next(iter(by_network.values()))
    for axes, (name, mine) in zip(panels.flat, by_network.items(), strict=False):
        epochs = [point.epoch + 1 for point in mine]
        low, high = [100 * point.top1_low for point in mine], [100 * point.top1_high for point in mine]
        axes.fill_between(epochs, low, high, color=BAND, linewidth=0)
        if mine is not first:
            means = [100 * point.top1 for point in first]
            axes.plot([point.epoch + 1 for point in first], means, "--", color=SOFT, linewidth=0.9)
        marker = "o" if len(mine) == 1 else None
        axes.plot(epochs, [100 * point.top1 for point in mine], marker=marker, color=INK, markersize=3)
        axes.set_title(titles[name], fontsize=8.5, loc="left")
        axes.grid(color=GRID, linewidth=0.6)
        axes.tick_params(labelsize=7.5)
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    for axes in panels.flat[len(labels) :]:
        axes.set_axis_off()
    figure.supxlabel("epoch", fontsize=9)
    figure.supylabel("validation top-1, %", fontsize=9)
    top, bottom, between = 1 - (0.13 + 0.15 * lines) / height, 0.55 / height, 0.18 + 0.12 * lines
    figure.subplots_adjust(left=0.07, right=0.985, top=top, bottom=bottom, wspace=0.08, hspace=between)
    return figure


def draw_classes(groups: Sequence[Sequence[ClassGain]]) -> Figure:
    """Gains of classes, a group of rows for each contrast: mean over seeds, and least and most of any."""
    middle = 5.2
    figure, axes = _rows(middle, 2.0, 0.3, 0.65, sum(len(group) + 2 for group in groups))
    axes.axvline(0, color=INK, linewidth=0.8)
    place = 0
    for group in groups:
        _beside(axes, place, -0.11, _short(group[0].label, _LONGEST_BOLD), fontweight="bold")
        for gain in group:
            place += 1
            if not math.isnan(gain.low):
                axes.plot([100 * gain.low, 100 * gain.high], [place, place], color=SOFT, linewidth=0.9)
            axes.plot([100 * gain.gain], [place], "o", color=INK, markersize=4)
            _beside(axes, place, -0.11, _short(gain.class_name))
            text = f"{percent_points(gain.gain)} ({counted(gain.images, 'image')})"
            _beside(axes, place, middle + 0.11, text, "left")
        place += 2
    axes.set_xlabel("gain in top-1, percent points; line: range over seeds")
    return figure
