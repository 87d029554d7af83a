"""The report's charts: effects, accuracy against cost, learning curves, and per-class change."""

from __future__ import annotations

import math
from collections.abc import Sequence
from textwrap import fill
from typing import TYPE_CHECKING, Any

import numpy as np

from convnext_ablation.study.report.answer import p_text, percent_points
from convnext_ablation.study.report.classes import ClassGain
from convnext_ablation.study.report.contents import CurvePoint
from convnext_ablation.study.report.findings import Effect, Row
from convnext_ablation.study.stats.effects import ALPHA
from convnext_ablation.study.wording import counted

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["draw_classes", "draw_cost", "draw_curves", "draw_effects"]

INK, SOFT, GRID, BAND = "black", "0.35", "0.85", "0.75"
_ROW = 0.24  # inches
_PANELS = 4  # in a row of learning curves
_LONGEST, _LONGEST_BOLD = 50, 40  # characters of a label
_TITLE = 36  # characters in a line above a panel
_APART = 9  # points upwards between the numbers of two networks
# points sideways between networks whose numbers share a column, and across all of them
_BESIDE, _WIDEST = 16, 40
_TEXT: Any = {"textcoords": "offset points", "annotation_clip": False}


def draw_effects(effects: Sequence[Effect]) -> Figure:
    """The effects with their intervals, one below the other; significant ones have a filled mark."""
    middle = 4.6
    figure, axes = _rows(3.3, middle, 2.6, 0.55, 0.95, len(effects))
    for place, effect in enumerate(effects):
        _draw_effect(axes, place, effect)
        _beside(axes, place, -8, _short(effect.label), "right")
        d = effect.difference
        estimate, low, high = map(percent_points, (d.estimate, d.low, d.high))
        _beside(axes, place, 72 * middle + 8, f"{estimate} [{low}, {high}]", "left")
        _beside(axes, place, 72 * middle + 130, p_text(d.p_holm), "left")
    _beside(axes, -1, 72 * middle + 8, "points [95 %]", "left", color=SOFT)
    _beside(axes, -1, 72 * middle + 130, "p (Holm)", "left", color=SOFT)
    axes.set_xlabel("effect on top-1, percent points, with its 95 % interval")
    legend = "filled: adjusted p < 0.05;  open: not significant, or not tested"
    axes.annotate(legend, (0.5, 0), (0, -46), "axes fraction", ha="center", fontsize=8, color=SOFT, **_TEXT)
    return figure


def _rows(
    left: float, middle: float, right: float, top: float, bottom: float, rows: int
) -> tuple[Figure, Axes]:
    """A figure of rows around 0: inches left of the axes for labels, of the axes, and right of them."""
    from matplotlib.figure import Figure

    width, height = left + middle + right, top + _ROW * rows + bottom
    figure = Figure(figsize=(width, height))
    axes = figure.add_axes((left / width, bottom / height, middle / width, _ROW * rows / height))
    axes.set_ylim(rows - 0.5, -0.5)
    axes.axvline(0, color=INK, linewidth=0.8)
    axes.set_yticks([])
    axes.set_axisbelow(True)
    axes.grid(axis="x", color=GRID, linewidth=0.6)
    return figure, axes


def _draw_effect(axes: Axes, place: int, effect: Effect) -> None:
    d = effect.difference
    low, estimate, high = (100 * x for x in (d.low, d.estimate, d.high))
    holds = d.p_holm < ALPHA
    axes.plot([low, high], [place, place], color=INK, linewidth=1.4 if holds else 0.8)
    marker = "D" if effect.contrast.primary else "o"
    axes.plot(
        [estimate], [place], marker, color=INK, markersize=5.5, markerfacecolor=INK if holds else "white"
    )


def _beside(axes: Axes, place: float, points: float, text: str, align: str, **style: Any) -> None:
    """Writes text so many points right of the axes' left edge, in the row of a place."""
    at = axes.get_yaxis_transform()
    axes.annotate(text, (0, place), (points, 0), at, ha=align, va="center", fontsize=8, **_TEXT, **style)


def _short(label: str, longest: int = _LONGEST) -> str:
    return label if len(label) <= longest else f"{label[: longest - 1]}…"


def draw_cost(table: Sequence[Row]) -> Figure:
    """Top-1 against training speed and against multiply-accumulates; networks go by number."""
    from matplotlib.figure import Figure

    width, height = 11.2, max(3.6, 0.75 + 0.17 * len(table))
    figure = Figure(figsize=(width, height))
    speed, macs = (
        figure.add_axes((left / width, 0.5 / height, 3.25 / width, (height - 0.7) / height))
        for left in (0.63, 4.5)
    )
    _draw_against(speed, table, [each.network.images_per_second for each in table])
    speed.set_xlabel("images/s in training")
    speed.set_ylabel("top-1, %")
    _draw_against(macs, table, [each.network.gmacs for each in table])
    macs.set_xlabel("GMACs of one image")
    for place, each in enumerate(table):
        y = 1 - (0.3 + 0.17 * place) / height
        style: dict[str, Any] = {"fontsize": 7.5, "va": "center"}
        figure.text(8.03 / width, y, f"{each.number}", ha="right", fontweight="bold", **style)
        figure.text(8.14 / width, y, _short(each.label), **style)
    return figure


def _draw_against(axes: Axes, table: Sequence[Row], cost: Sequence[float]) -> None:
    axes.set_axisbelow(True)
    axes.grid(color=GRID, linewidth=0.6)
    axes.margins(0.12)
    known = [(x, each) for x, each in zip(cost, table, strict=True) if not math.isnan(x)]
    for x, each in known:
        axes.plot([x, x], [100 * each.top1.low, 100 * each.top1.high], color=SOFT, linewidth=0.9)
        axes.plot([x], [100 * each.top1.estimate], "o", color=INK, markersize=4)
    _number(axes, [(x, 100 * each.top1.estimate, each.number) for x, each in known])
    if not known:
        axes.text(0.5, 0.5, "not measured", transform=axes.transAxes, ha="center", color=SOFT)
        axes.set_xticks([])


def _number(axes: Axes, points: Sequence[tuple[float, float, int]]) -> None:
    """Writes numbers beside points, apart from each other where points are close together."""
    if not points:
        return
    axes.autoscale_view()
    at = axes.transData.transform([(x, y) for x, y, _ in points]) * 72 / axes.figure.dpi
    line = {"arrowstyle": "-", "color": SOFT, "linewidth": 0.5, "shrinkA": 0, "shrinkB": 2}
    for group in _close(at[:, 0].tolist()):
        right = max(at[place, 0] for place in group) + (6 if len(group) == 1 else 12)
        for place, height in zip(group, _apart([at[place, 1] for place in group]), strict=True):
            x, y, number = points[place]
            offset = (right - at[place, 0], height - at[place, 1])
            arrow = None if len(group) == 1 else line
            style: dict[str, Any] = {"va": "center", "fontsize": 8, "fontweight": "bold"}
            axes.annotate(str(number), (x, y), offset, textcoords="offset points", arrowprops=arrow, **style)


def _close(positions: Sequence[float]) -> list[list[int]]:
    """Places of positions, in groups whose neighbours are close."""
    groups: list[list[int]] = []
    for place in sorted(range(len(positions)), key=lambda place: positions[place]):
        here, group = positions[place], groups[-1] if groups else []
        if group and here - positions[group[-1]] < _BESIDE and here - positions[group[0]] < _WIDEST:
            group.append(place)
        else:
            groups.append([place])
    return groups


def _apart(heights: Sequence[float]) -> list[float]:
    """Heights that are nearest to those given, in the same order, and far enough apart (least squares)."""
    from scipy.optimize import isotonic_regression

    order = np.argsort(heights, kind="stable")
    steps = _APART * np.arange(len(heights))
    moved = np.empty(len(heights))
    moved[order] = isotonic_regression(np.asarray(heights)[order] - steps).x + steps
    return moved.tolist()


def draw_curves(points: Sequence[CurvePoint], labels: dict[str, str]) -> Figure:
    """Validation top-1 by epoch, a panel for each network: mean and range over runs.

    Args:
        points: Of all networks; the first of them stands dashed in the other panels.
        labels: What the networks are called, for those that are drawn.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    by_network = {name: [point for point in points if point.network == name] for name in labels}
    columns = min(_PANELS, len(labels))
    rows = -(-len(labels) // columns)
    titles = {name: fill(label, _TITLE, max_lines=2, placeholder=" …") for name, label in labels.items()}
    lines = 1 + max(title.count("\n") for title in titles.values())
    figure = Figure(figsize=(10.5, 0.45 + (1.6 + 0.15 * lines) * rows))
    panels = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    first = next(iter(by_network.values()))
    for axes, name in zip(panels.flat, labels, strict=False):
        mine = by_network[name]
        epochs = [point.epoch + 1 for point in mine]
        low, high = ([100 * getattr(point, end) for point in mine] for end in ("top1_low", "top1_high"))
        axes.fill_between(epochs, low, high, color=BAND, linewidth=0)
        if mine is not first:
            means = [100 * point.top1 for point in first]
            axes.plot([point.epoch + 1 for point in first], means, "--", color=SOFT, linewidth=0.9)
        marker = "o" if len(mine) == 1 else None
        means = [100 * point.top1 for point in mine]
        axes.plot(epochs, means, marker=marker, color=INK, markersize=3)
        axes.set_title(titles[name], fontsize=8.5, loc="left")
        axes.grid(color=GRID, linewidth=0.6)
        axes.tick_params(labelsize=7.5)
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    for axes in panels.flat[len(labels) :]:
        axes.set_axis_off()
    figure.supxlabel("epoch", fontsize=9)
    figure.supylabel("validation top-1, %", fontsize=9)
    height, between = figure.get_figheight(), 0.3 if lines == 1 else 0.42
    top, bottom = 1 - (0.13 + 0.15 * lines) / height, 0.55 / height
    figure.subplots_adjust(left=0.07, right=0.985, top=top, bottom=bottom, wspace=0.08, hspace=between)
    return figure


def draw_classes(groups: Sequence[Sequence[ClassGain]]) -> Figure:
    """Gains of classes, a group of rows for each contrast: mean over seeds, and least and most of any."""
    middle, gap = 5.2, 2
    places, rows = [], 0
    for group in groups:
        places.append(rows + 1)
        rows += len(group) + gap
    figure, axes = _rows(3.3, middle, 2.0, 0.3, 0.65, rows)
    for start, group in zip(places, groups, strict=True):
        _beside(axes, start - 1, -8, _short(group[0].label, _LONGEST_BOLD), "right", fontweight="bold")
        for place, gain in enumerate(group, start=start):
            low, high = (100 * x for x in (gain.low, gain.high))
            if not math.isnan(low):
                axes.plot([low, high], [place, place], color=SOFT, linewidth=0.9)
            axes.plot([100 * gain.gain], [place], "o", color=INK, markersize=4)
            _beside(axes, place, -8, _short(gain.class_name), "right")
            text = f"{percent_points(gain.gain)} ({counted(gain.images, 'image')})"
            _beside(axes, place, 72 * middle + 8, text, "left")
    axes.set_xlabel("gain in top-1, percent points; line: range over seeds")
    return figure
