"""Charts of one network's predictions: the confusion matrix, and a reliability diagram."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from convnext_ablation.console import printable
from convnext_ablation.study.report.figures import write_chart
from convnext_ablation.training.classification import (
    BINS,
    MOST_CLASSES,
    Calibration,
    Confusion,
    Labels,
    calibration,
    confusions,
    matrix_of,
    name_of,
)
from convnext_ablation.training.predictions import Predictions

if TYPE_CHECKING:
    from matplotlib.figure import Figure

INK, SOFT, GRID, BAND = "black", "0.35", "0.85", "0.75"
_NAMED = 40  # classes of a matrix that names them and counts images
_LISTED = 20  # confusions beside a larger one
_CELL, _SMALL_CELL = 0.3, 0.035  # inches
_LONGEST = 30  # characters of a name


def write_classification_charts(
    folder: Path, predictions: Predictions, classes: int, names: Sequence[str]
) -> None:
    """Draws both as SVG and PDF; of more than `MOST_CLASSES` classes, no matrix."""
    bins = calibration(predictions)
    write_chart(folder, "reliability", partial(draw_reliability, bins, predictions.top1))
    if classes <= MOST_CLASSES:
        targets, predicted = predictions.targets, predictions.predicted
        called = [name_of(number, names) for number in range(classes)]
        draw = partial(
            draw_matrix, matrix_of(targets, predicted, classes), called, confusions(targets, predicted, names)
        )
        write_chart(folder, "confusion_matrix", draw)


def draw_matrix(matrix: Labels, names: Sequence[str], found: Sequence[Confusion]) -> Figure:
    """A confusion matrix: a row a class, as shares of its images; `found` are the confusions, most first.

    Up to 40 classes are named, and images counted. Of more, classes are numbered, and the most frequent
    confusions stand beside.
    """
    from matplotlib.colors import PowerNorm
    from matplotlib.figure import Figure

    classes, named = len(names), len(names) <= _NAMED
    side = max(2.4, _CELL * classes) if named else min(max(6.5, _SMALL_CELL * classes), 20)
    figure = Figure(figsize=(side, side))
    axes = figure.add_axes((0, 0, 1, 1))
    shares = 100 * matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    # rare confusions would be invisible in equal steps of grey
    drawn = axes.imshow(shares, cmap="Greys", norm=PowerNorm(0.5, 0, 100), interpolation="nearest")
    bar = figure.colorbar(drawn, cax=figure.add_axes((1 + 0.15 / side, 0, 0.12 / side, 1)))
    bar.set_label("share of the class's images, %")
    axes.spines[["top", "right"]].set_visible(True)
    axes.set_xlabel("predicted class")
    axes.set_ylabel("class")
    if named:
        shown = [_shown(name) for name in names]
        if len(set(shown)) < classes:
            shown = [f"{name} ({number})" for number, name in enumerate(shown)]
        axes.set_xticks(range(classes), shown, rotation=90)
        axes.set_yticks(range(classes), shown)
        for (row, column), images in np.ndenumerate(matrix):
            if images:
                colour = "white" if shares[row, column] > 30 else INK
                axes.text(column, row, str(images), ha="center", va="center", color=colour, fontsize=7)
    elif found:
        lines = [_taken(each) for each in found[:_LISTED]]
        text = "\n".join(["most frequent confusions, in images:", *lines])
        axes.annotate(text, (1, 1), (70, 0), "axes fraction", textcoords="offset points", va="top")
    title = f"Most frequent confusion: {_taken(found[0])}" if found else "No confusions"
    axes.set_title(title, loc="left", fontsize=10, fontweight="bold")
    return figure


def _shown(name: str) -> str:
    """A name as a figure shows it: of a long one its two ends, as names may differ in either."""
    name = printable(name)
    return name if len(name) <= _LONGEST else f"{name[: _LONGEST // 2]}…{name[-_LONGEST // 2 + 1 :]}"


def _taken(found: Confusion) -> str:
    return f"{_shown(found.class_name)} as {_shown(found.taken_for)}, {found.images} of {found.class_images}"


def draw_reliability(bins: Calibration, top1: float) -> Figure:
    """Accuracy by confidence, after Guo et al. (arXiv:1706.04599), and how many images each bin has."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.2, 5))
    above, below = figure.subplots(2, sharex=True, height_ratios=(3, 1))
    width, centres = 100 / BINS, 50 * (bins.bounds[:-1] + bins.bounds[1:])
    above.plot([0, 100], [0, 100], "--", color=SOFT, linewidth=0.9, label="perfectly calibrated")
    above.bar(centres, 100 * bins.accuracy, width, facecolor=BAND, edgecolor=INK, linewidth=0.8)
    means: dict[str, Any] = {
        "color": INK,
        "markersize": 3.5,
        "linestyle": "",
        "marker": "o",
        "label": "means of a bin",
    }
    above.plot(100 * bins.confidence, 100 * bins.accuracy, **means)
    above.set_ylabel("top-1, %")
    above.set_ylim(0, 100)
    below.bar(centres, bins.images, width, facecolor="white", edgecolor=INK, linewidth=0.8)
    below.set_ylabel("images")
    below.set_xlabel("probability of the predicted class, %")
    below.set_xlim(0, 100)
    for axes in (above, below):
        axes.set_axisbelow(True)
        axes.grid(axis="y", color=GRID, linewidth=0.6)
    mean = 100 * float(np.nansum(bins.images * bins.confidence) / bins.images.sum())
    finding = f"{'Over' if mean > top1 else 'Under'}confident by {abs(mean - top1):.1f} points"
    title = f"{finding}; ECE {100 * bins.ece:.1f} %"
    above.set_title(title, loc="left", pad=18, fontsize=10, fontweight="bold")
    text = f"mean probability {mean:.1f} %, top-1 {top1:.1f} %, {BINS} bins"
    above.annotate(text, (0, 1), (0, 6), "axes fraction", textcoords="offset points", fontsize=8, color=SOFT)
    figure.legend(loc="upper center", bbox_to_anchor=(0.5, 0.03), ncols=2, frameon=False, fontsize=8)
    return figure
