"""The report's charts: the roadmap, effects, learning curves, and per-class change.

All is black, grey and white, and what matters shows in shapes and words too. Axes fill a figure, and words
stand outside of it: a figure is saved as large as all that is drawn, as SVG for the page and PDF for LaTeX.
The same rows give the same bytes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from textwrap import fill, wrap
from typing import TYPE_CHECKING, Any

from convnext_ablation.console import counted, printable
from convnext_ablation.study.report.across import AcrossFindings, set_name
from convnext_ablation.study.report.answer import p_text, percent_points, points_text
from convnext_ablation.study.report.contents import ClassGain, Contents, CurvePoint, surest
from convnext_ablation.study.report.figures import write_chart
from convnext_ablation.study.report.findings import Effect, Row, StudyFacts, verdict
from convnext_ablation.study.stats.effects import ALPHA, Difference

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, SOFT, GRID, BAND = "black", "0.35", "0.85", "0.75"
_ROW, _BAR_ROW = 0.24, 0.56  # inches
_LEFT = 3.2  # inches between a figure's title and the axes
_FOREST = 4.6  # inches of the axes of differences
_PANELS = 4  # in a row of learning curves
_LONGEST = 50  # characters in a line of a label
_REMARK = 120  # characters in a line of remarks below a figure
_TITLE = 36  # characters in a line above a panel
_CONTRASTS, _CLASSES = 4, 5  # contrasts in the chart of classes, and classes at either end of each
# Right of the roadmap's bars, each column's right edge in inches from their left.
_COLUMNS = {"change, points [95 %]": 5.95, "p (Holm)": 6.6, "M par.": 7.2, "GMACs": 7.8}
_BAR: dict[str, Any] = {"facecolor": "white", "edgecolor": "0.25"}
# What the fill of a bar means; see `verdict`.
_FILLS: dict[str, dict[str, Any]] = {
    "raised": {"facecolor": "0.62", "label": "higher than its baseline (adjusted p < 0.05)"},
    "lowered": {"hatch": "////", "label": "lower than its baseline (adjusted p < 0.05)"},
    "unclear": {"facecolor": "0.93", "label": "not significantly different from its baseline"},
    "untested": {"label": "without p-value: no baseline, one seed, or a network not above chance"},
}


def write_charts(contents: Contents) -> list[Path]:
    """Draws the charts that there is something for, as SVG and PDF; returns the SVG files."""
    return [write_chart(contents.folder, name, draw) for name, draw in _charts(contents).items()]


def _charts(contents: Contents) -> dict[str, Callable[[], Figure]]:
    rows, effects = contents.findings.rows, contents.findings.effects
    charts: dict[str, Callable[[], Figure]] = {"roadmap": partial(draw_roadmap, rows, contents.facts)}
    if effects:
        charts["effects"] = partial(draw_effects, effects)
    if contents.curves:
        labels = {row.network.name: row.label for row in rows}
        charts["curves"] = partial(draw_curves, contents.curves, labels)
    if shown := surest(effects, contents.evidence, _CONTRASTS):
        charts["classes"] = partial(draw_classes, shown, contents.class_gains)
    return charts


def _rows(width: float, rows: int, row: float = _ROW) -> tuple[Figure, Axes]:
    """A figure of rows: inches of its width, and of a row."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, row * rows))
    axes = figure.add_axes((0, 0, 1, 1))
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
    shown = "\n".join(map(printable, text.split("\n")))
    axes.annotate(shown, (0, place), offset, at, textcoords="offset points", **style)


def _lines(label: str) -> list[str]:
    return wrap(printable(label), _LONGEST) or [""]


def _name(axes: Axes, place: float, label: str, **style: Any) -> int:
    """Writes a name left of the axes, from a row on; returns how many rows it takes."""
    lines = _lines(label)
    _beside(axes, place + (len(lines) - 1) / 2, -0.11, "\n".join(lines), linespacing=1.5, **style)
    return len(lines)


def draw_roadmap(table: Sequence[Row], facts: StudyFacts) -> Figure:
    """Top-1 of each network and what it costs, after Figure 2 of the ConvNeXt paper."""
    lines = max(len(_changed(row)) for row in table)
    figure, axes = _rows(4.2, len(table), max(_BAR_ROW, 0.3 + 0.13 * lines))
    start, end = _axis_range(table)
    axes.set_xlim(start, end)
    for place, row in enumerate(table):
        _draw_bar(axes, place, row)
        _write_row(axes, place, row)
    cut = f" (the axis starts at {start:g} %, not at 0)" if start else ""
    axes.set_xlabel(f"top-1 on {facts.test_images} test images, %{cut}")
    for heading, inches in _COLUMNS.items():
        _beside(axes, -0.5, inches, heading, nudge=8, color=SOFT)
    over = "seeds and test images" if max(row.runs for row in table) > 1 else "test images only (one seed)"
    text = (
        f"{facts.data_name}, {facts.classes} classes, {facts.pixels}, "
        f"{counted(facts.epochs, 'epoch')}. Whiskers: 95 % intervals over {over}; circles: single seeds."
    )
    _beside(axes, -0.5, -_LEFT, facts.title, "left", nudge=50, fontsize=12, fontweight="bold")
    _beside(axes, -0.5, -_LEFT, text, "left", nudge=32, color=SOFT)
    _draw_legend(figure, {verdict(row.difference) for row in table})
    return figure


def _axis_range(table: Sequence[Row]) -> tuple[float, float]:
    """Chooses where the axis starts and ends, in percent: at 0 if differences are visible from there."""
    shown = [100 * x for row in table for x in (row.top1.low, row.top1.high)]
    shown += [run.test_top1_percent for row in table for run in row.network.runs]
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
    seeds = [run.test_top1_percent for run in row.network.runs]
    circles: dict[str, Any] = {"markerfacecolor": "white", "markersize": 3.8, "clip_on": False}
    axes.plot(seeds, [place + 0.2] * len(seeds), "o", color=INK, **circles)
    box = {"facecolor": "white", "edgecolor": "none", "boxstyle": "square,pad=0.15"}
    _beside(axes, place, 5 / 72, f"{top1:.1f}", "left", fontsize=9, fontweight="bold", bbox=box)


def _changed(row: Row) -> list[str]:
    """What a network changes, in lines."""
    against = "" if row.follows or not row.baseline else f"; against {row.baseline}"
    return _lines(row.network.adds + against)


def _write_row(axes: Axes, place: int, row: Row) -> None:
    """Writes the network's name left of the bar, and what it changed and costs right of it."""
    lines = _changed(row)
    _beside(axes, place, -0.12, row.label, nudge=5 * len(lines), fontweight="bold", fontsize=9)
    _beside(axes, place, -0.12, "\n".join(lines), nudge=-7, fontsize=7.5, linespacing=1.1)
    d = row.difference
    change, p = ("–", "–") if d is None else (points_text(d), p_text(d.p_holm))
    texts = (change, p, f"{row.network.parameters / 1e6:.2f}", f"{row.network.gmacs:.3f}")
    for inches, text in zip(_COLUMNS.values(), texts, strict=True):
        _beside(axes, place, inches, text, fontsize=9)


def _draw_legend(figure: Figure, present: set[str]) -> None:
    from matplotlib.patches import Patch

    figure.legend(
        handles=[Patch(**{**_BAR, **fill}) for what, fill in _FILLS.items() if what in present],
        loc="upper center",
        bbox_to_anchor=(0.5, -0.55 / figure.get_figheight()),
        ncols=2,
        frameon=False,
        fontsize=8,
    )


def draw_effects(effects: Sequence[Effect]) -> Figure:
    """The effects with their intervals, one below the other; significant ones have a filled mark."""
    figure, axes = _forest(sum(len(_lines(effect.label)) for effect in effects))
    place = 0
    for effect in effects:
        rows = _name(axes, place, effect.label)
        marker = "D" if effect.contrast.primary else "o"
        _draw_difference(axes, place + (rows - 1) / 2, effect.difference, marker)
        place += rows
    return figure


def draw_across(findings: AcrossFindings, remarks: Sequence[str] = ()) -> Figure:
    """Each effect on each data set, and how it differs from the general one; `remarks` stand below."""
    groups = []
    for each in findings.effects:
        found = [effect.difference if effect else None for effect in each.effects]
        gap = f"{set_name(each.whole.sets)} − {findings.sets[0]}"
        groups.append([*zip(findings.sets, found, strict=True), (gap, each.whole.difference)])
    names = [each.contrast.label for each in findings.effects] + [
        name for group in groups for name, _ in group
    ]
    rows = sum(len(_lines(name)) for name in names) + len(groups) - 1  # with an empty one between effects
    figure, axes = _forest(rows)
    place = 0
    for each, group in zip(findings.effects, groups, strict=True):
        place += _name(axes, place, each.contrast.label, fontweight="bold")
        for number, (name, difference) in enumerate(group):
            lines = _name(axes, place, name)
            _draw_difference(
                axes, place + (lines - 1) / 2, difference, "o" if number < len(group) - 1 else "D"
            )
            place += lines
        place += 1
    text = "\n".join(fill(remark, _REMARK) for remark in remarks)
    _beside(axes, rows - 0.5, -_LEFT, text, "left", nudge=-60, va="top")
    return figure


def _forest(rows: int) -> tuple[Figure, Axes]:
    """A figure of differences with their intervals, one below the other."""
    figure, axes = _rows(_FOREST, rows)
    axes.axvline(0, color=INK, linewidth=0.8)
    _beside(axes, -1, _FOREST + 0.11, "points [95 %]", "left", color=SOFT)
    _beside(axes, -1, _FOREST + 1.8, "p (Holm)", "left", color=SOFT)
    axes.set_xlabel("effect on top-1, percentage points, with its 95 % interval")
    legend = "filled: adjusted p < 0.05;  open: not significant, or not tested"
    _beside(axes, rows - 0.5, _FOREST / 2, legend, "center", nudge=-46, color=SOFT)
    return figure, axes


def _draw_difference(axes: Axes, place: float, d: Difference | None, marker: str) -> None:
    """Draws a difference; a significant one has a filled mark, and one that isn't known a dash."""
    if d is None:
        _beside(axes, place, _FOREST + 0.11, "–", "left")
        return
    holds = d.p_holm < ALPHA
    axes.plot([100 * d.low, 100 * d.high], [place, place], color=INK, linewidth=1.4 if holds else 0.8)
    face = INK if holds else "white"
    axes.plot([100 * d.estimate], [place], marker, color=INK, markersize=5.5, markerfacecolor=face)
    _beside(axes, place, _FOREST + 0.11, points_text(d), "left")
    _beside(axes, place, _FOREST + 1.8, p_text(d.p_holm), "left")


def draw_curves(points: Sequence[CurvePoint], labels: dict[str, str]) -> Figure:
    """Validation top-1 by epoch, a panel for each network: mean and range over runs; the first one dashed."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    by_network: dict[str, list[CurvePoint]] = {}
    for point in points:
        by_network.setdefault(point.network, []).append(point)
    columns = min(_PANELS, len(by_network))
    rows = -(-len(by_network) // columns)
    figure = Figure(figsize=(10, 1.8 * rows))
    figure.subplots_adjust(0, 0, 1, 1, wspace=0.08, hspace=0.3)
    panels = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    first = next(iter(by_network.values()))
    for axes, (name, mine) in zip(panels.flat, by_network.items(), strict=False):
        epochs = [point.epoch + 1 for point in mine]
        low, high = [point.top1_low_percent for point in mine], [point.top1_high_percent for point in mine]
        axes.fill_between(epochs, low, high, color=BAND, linewidth=0)
        if mine is not first:
            means = [point.top1_percent for point in first]
            axes.plot([point.epoch + 1 for point in first], means, "--", color=SOFT, linewidth=0.9)
        marker = "o" if len(mine) == 1 else None
        axes.plot(epochs, [point.top1_percent for point in mine], marker=marker, color=INK, markersize=3)
        axes.set_title(fill(printable(labels[name]), _TITLE), fontsize=8.5, loc="left")
        axes.grid(color=GRID, linewidth=0.6)
        axes.tick_params(labelsize=7.5)
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    for axes in panels.flat[len(by_network) :]:
        axes.set_axis_off()
    for axes in panels[-1]:
        axes.set_xlabel("epoch")
    for axes in panels[:, 0]:
        axes.set_ylabel("validation top-1, %")
    return figure


def draw_classes(effects: Sequence[Effect], gains: Sequence[ClassGain]) -> Figure:
    """The classes that gain most and least with some effects: mean over seeds, and least and most of any."""
    groups = [[gain for gain in gains if gain.contrast == effect.contrast.name] for effect in effects]
    shown = [
        group if len(group) <= 2 * _CLASSES else group[:_CLASSES] + group[-_CLASSES:] for group in groups
    ]
    middle = 5.2
    names = [
        [effect.label, *(gain.class_name for gain in group)]
        for effect, group in zip(effects, shown, strict=True)
    ]
    figure, axes = _rows(middle, sum(len(_lines(name)) for group in names for name in group) + len(names))
    axes.axvline(0, color=INK, linewidth=0.8)
    place = 0
    for effect, group in zip(effects, shown, strict=True):
        place += _name(axes, place, effect.label, fontweight="bold")
        for gain in group:
            lines = _name(axes, place, gain.class_name)
            row = place + (lines - 1) / 2
            axes.plot([gain.low_points, gain.high_points], [row, row], color=SOFT, linewidth=0.9)
            axes.plot([gain.gain_points], [row], "o", color=INK, markersize=4)
            text = f"{percent_points(gain.gain_points / 100)} ({counted(gain.images, 'image')})"
            _beside(axes, row, middle + 0.11, text, "left")
            place += lines
        place += 1
    axes.set_xlabel("gain in top-1, percentage points; line: range over seeds")
    return figure
