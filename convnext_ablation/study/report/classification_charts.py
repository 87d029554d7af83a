"""Charts of one network's predictions: the confusion matrix, and a reliability diagram."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from convnext_ablation.console import printable
from convnext_ablation.study.report.figures import write_specification
from convnext_ablation.study.report.forest import CONFIG, Spec, lookup
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

_NAMED = 40  # classes of a matrix that names them and counts images
_SIDE, _CELL = 600, 22  # pixels of a larger matrix, and of a class in one that names them
_LONGEST = 30  # characters of a name


def write_classification_charts(
    folder: Path, predictions: Predictions, classes: int, names: Sequence[str]
) -> None:
    """Draws both as SVG and PDF; of more than `MOST_CLASSES` classes, no matrix."""
    write_specification(folder, "reliability", reliability(calibration(predictions), predictions.top1))
    if classes <= MOST_CLASSES:
        targets, predicted = predictions.targets, predictions.predicted
        called = [name_of(number, names) for number in range(classes)]
        found = confusions(targets, predicted, names)
        write_specification(
            folder, "confusion_matrix", matrix_chart(matrix_of(targets, predicted, classes), called, found)
        )


def matrix_chart(matrix: Labels, names: Sequence[str], found: Sequence[Confusion]) -> Spec:
    """A confusion matrix: a row a class, as shares of its images; `found` are the confusions, most first.

    Up to 40 classes are named, and images counted. Of more, classes are numbered.
    """
    classes, named = len(names), len(names) <= _NAMED
    images = matrix.sum(axis=1)
    cells = [
        {"class": row, "predicted": column, "images": count, "share": 100 * count / int(images[row])}
        for (row, column), count in zip(
            np.argwhere(matrix).tolist(), matrix[matrix > 0].tolist(), strict=True
        )
    ]
    axis: Spec = {"domain": False, "values": [*range(0, classes, 1 if named else -(-classes // 20))]}
    if named:
        shown = [_shown(name) for name in names]
        if len(set(shown)) < classes:
            shown = [f"{name} ({number})" for number, name in enumerate(shown)]
        axis |= {"ticks": False, "labelExpr": lookup(shown, 2 * _LONGEST)}
    place = {"type": "ordinal", "scale": {"domain": [*range(classes)], "padding": 0}}
    share = {
        "field": "share",
        "type": "quantitative",
        # rare confusions would be invisible in equal steps of grey
        "scale": {"type": "sqrt", "domain": [0, 100], "range": ["white", "black"]},
        "legend": {"title": "share of the class's images, %", "titleLimit": 0, "orient": "right"},
    }
    ink = {"condition": {"test": "datum.share > 30", "value": "white"}, "value": "black"}
    counted = {
        "mark": {"type": "text", "fontSize": 8},
        "encoding": {"text": {"field": "images"}, "color": ink},
    }
    side: Spec | float = {"step": _CELL} if named else _SIDE
    return {
        "config": {**CONFIG, "view": {"stroke": "black"}},
        "title": _title(f"Most frequent confusion: {_taken(found[0])}" if found else "No confusions"),
        "data": {"values": cells},
        "width": side,
        "height": side,
        "encoding": {
            "x": {"field": "predicted", **place, "axis": {**axis, "title": "predicted class"}},
            "y": {"field": "class", **place, "axis": {**axis, "title": "class"}},
        },
        "layer": [{"mark": "rect", "encoding": {"color": share}}, *([counted] if named else [])],
    }


def _title(text: str, below: str = "") -> Spec:
    return {"text": text, "subtitle": below, "orient": "top", "fontWeight": "bold", "subtitleFontSize": 9}


def _shown(name: str) -> str:
    """A name as a figure shows it: of a long one its two ends, as names may differ in either."""
    name = printable(name)
    return name if len(name) <= _LONGEST else f"{name[: _LONGEST // 2]}…{name[-_LONGEST // 2 + 1 :]}"


def _taken(found: Confusion) -> str:
    return f"{_shown(found.class_name)} as {_shown(found.taken_for)}, {found.images} of {found.class_images}"


def reliability(bins: Calibration, top1: float) -> Spec:
    """Accuracy by confidence, after Guo et al. (arXiv:1706.04599), and how many images each bin has."""
    mean = 100 * float(np.nansum(bins.images * bins.confidence) / bins.images.sum())
    finding = f"{'Over' if mean > top1 else 'Under'}confident by {abs(mean - top1):.1f} points"
    columns = (100 * bins.bounds[:-1], 100 * bins.bounds[1:], 100 * bins.confidence, 100 * bins.accuracy)
    rows = zip(*(column.tolist() for column in columns), bins.images.tolist(), strict=True)
    names = ("low", "high", "confidence", "accuracy", "images")
    percent = {"type": "quantitative", "scale": {"domain": [0, 100]}}
    probability = {**percent, "title": "probability of the predicted class, %"}
    across = {"x": {"field": "low", **probability}, "x2": {"field": "high"}}
    top1_axis = {**percent, "title": "top-1, %"}
    zero = {"y2": {"datum": 0}}
    bar = {"type": "bar", "stroke": "black", "strokeWidth": 0.8}
    calibrated = {"x": {"field": "low", **probability}, "y": {"field": "low", **top1_axis}}
    means = {"x": {"field": "confidence", **probability}, "y": {"field": "accuracy", **top1_axis}}
    above = [
        {
            "mark": {**bar, "color": "#bbbbbb"},
            "encoding": {**across, "y": {"field": "accuracy", **top1_axis}, **zero},
        },
        {
            "data": {"values": [{"low": 0}, {"low": 100}]},
            "mark": {"type": "line", "color": "#555555", "strokeDash": [4, 3]},
            "encoding": calibrated,
        },
        {"mark": {"type": "point", "filled": True, "color": "black"}, "encoding": means},
    ]
    counts = {"field": "images", "type": "quantitative"}
    below = {"mark": {**bar, "color": "white"}, "encoding": {**across, "y": counts, **zero}}
    text = f"mean probability {mean:.1f} %, top-1 {top1:.1f} %, {BINS} bins; dots: means of a bin"
    return {
        "config": CONFIG,
        "title": _title(f"{finding}; ECE {100 * bins.ece:.1f} %", f"{text}; dashed: perfectly calibrated"),
        "data": {"values": [dict(zip(names, row, strict=True)) for row in rows if row[-1]]},
        "vconcat": [{"width": 320, "height": 240, "layer": above}, {"width": 320, "height": 80, **below}],
    }
