"""The report's charts as Vega-Lite specifications: effects, networks and cost, learning curves, classes.

The page draws a specification with what a hover, a choice or a zoom shows; the same one gives the SVG and PDF
files beside it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from textwrap import wrap
from typing import NamedTuple

from convnext_ablation.console import counted, printable
from convnext_ablation.study.report.answer import p_text, percent_points, points_text
from convnext_ablation.study.report.contents import ClassGain, Contents, CurvePoint, surest
from convnext_ablation.study.report.figures import write_specification
from convnext_ablation.study.report.findings import Effect, Estimate
from convnext_ablation.study.report.forest import (
    COLOURS,
    CONFIG,
    LETTER,
    NARROW,
    POINTS,
    WIDE,
    Spec,
    forest,
    lookup,
    mark_of,
    turned,
)
from convnext_ablation.study.report.whole import Line, Report
from convnext_ablation.study.stats.effects import ALPHA

_MOST = 6  # effects that a small screen shows on each data set
_CONTRASTS, _CLASSES = 4, 5  # contrasts in the chart of classes, and classes at either end of each
_ZOOM: Spec = {
    "type": "interval",
    "encodings": ["x"],
    "zoom": "wheel![event.shiftKey]",  # else the page could not be scrolled
    "translate": "[pointerdown[event.shiftKey], window:pointerup] > window:pointermove!",
}
_ORDERS = ("as in the design", "largest effect first")


class Chart(NamedTuple):
    """A chart for a screen, and one for a small screen; `title` says what it shows."""

    title: str
    wide: Spec
    narrow: Spec


def charts(report: Report) -> dict[str, Chart]:
    """The charts that there is something for, by the name of their files."""
    found = {"roadmap": _networks(report)}
    if report.estimates:
        found["effects_across" if report.across else "effects"] = _effects(report)
    if any(contents.curves for contents in report.sets):
        found["curves"] = _curves(report)
    if (alone := report.alone) and (shown := surest(alone.findings.effects, alone.evidence, _CONTRASTS)):
        found["classes"] = _classes(shown, alone.class_gains)
    return found


def write_charts(report: Report) -> dict[str, Chart]:
    """Writes the charts into the report's folder, with what is wrong with the data, and returns them."""
    found, faults = charts(report), map(printable, report.faults)
    remarks = [line for fault in faults for line in wrap(fault, 150, break_on_hyphens=False)]
    for name, chart in found.items():
        write_specification(report.folder, name, {**chart.wide, "title": remarks} if remarks else chart.wide)
    return found


def _effects(report: Report) -> Chart:
    estimates, names = report.estimates, report.columns
    rows = [next(each.label for each in line if each) for line in estimates]
    marks = [
        _difference(found, row, column, max(abs(each.difference.estimate) for each in line if each))
        for row, line in enumerate(estimates)
        for column, found in enumerate(line)
        if found
    ]
    last = [mark for mark in marks if mark["column"] == len(names) - 1]
    few = last if report.across and len(rows) > _MOST else marks
    wide = forest(marks, rows, names, POINTS)
    wide["spec"]["layer"][0]["params"] = [{"name": "zoom", "select": _ZOOM, "bind": "scales"}]
    _offer_choices(wide, names)
    short = [*names[:-1], "difference"] if report.across else names
    return Chart("Effects on top-1, with 95 % intervals", wide, turned(few, rows, short, POINTS))


def _difference(found: Estimate, row: int, column: int, size: float) -> Spec:
    d, power = found.difference, found.power
    takes = power.takes.removesuffix(" test images") if found.verdict == "undetectable" and power else ""
    return {
        **mark_of(row, column, 100 * d.estimate, 100 * d.low, 100 * d.high, points_text(d)),
        "takes": takes.replace("more", "more images"),
        "filled": bool(d.p_holm < ALPHA),
        "shape": "diamond" if found.contrast.primary else "circle",
        "size": 100 * size,
        "effect": printable(found.label),
        "points": points_text(d),
        "p (Holm)": p_text(d.p_holm),
        "finding": found.finding,
        "runs": found.runs,
    }


def _offer_choices(spec: Spec, columns: Sequence[str]) -> None:
    """Lets a reader sort the rows, and choose the columns where there are several."""
    select = {"input": "select", "options": _ORDERS, "name": "Order "}
    spec["params"] = [{"name": "order", "value": _ORDERS[0], "bind": select}]
    rank = f"order == '{_ORDERS[0]}' ? datum.row : -datum.size"
    spec["transform"] = [{"calculate": rank, "as": "rank"}]
    if len(columns) > 1:
        boxes = [{"input": "checkbox", "name": f"{name} "} for name in columns]
        spec["params"] += [{"name": f"c{k}", "value": True, "bind": box} for k, box in enumerate(boxes)]
        shown = ", ".join(f"c{place}" for place in range(len(columns)))
        spec["transform"] += [{"filter": f"[{shown}][datum.column]"}]


def _networks(report: Report) -> Chart:
    """Top-1 of each network and its runs on each data set, and what the network costs."""
    names = [f"top-1 on {contents.called}, %" for contents in report.sets]
    marks = [
        mark
        for row, line in enumerate(report.lines)
        for column, contents in enumerate(report.sets)
        if contents.name in line.rows
        for mark in _reached(row, column, line, contents)
    ]
    costs = []
    for row, line in enumerate(report.lines):
        network = next(iter(line.rows.values())).network
        for place, value, form in ((0, network.parameters / 1e6, ".2f"), (1, network.gmacs, ".3f")):
            costs.append(mark_of(row, len(names) + place, value, 0, value, format(value, form)))
    rows = [line.label for line in report.lines]
    wide = forest([*marks, *costs], rows, [*names, "parameters, millions", "GMACs of an image"], "")
    short = [contents.called for contents in report.sets]
    return Chart("Top-1 of each network, and its cost", wide, turned(marks, rows, short, "top-1, %"))


def _reached(row: int, column: int, line: Line, contents: Contents) -> Iterator[Spec]:
    """A network's top-1 on a data set, and its runs, which a hover names."""
    found = line.rows[contents.name]
    top1, low, high = (100 * x for x in (found.top1.estimate, found.top1.low, found.top1.high))
    text = f"{top1:.1f} [{low:.1f}, {high:.1f}]"
    yield mark_of(row, column, top1, low, high, text) | {"network": printable(line.label), "top-1 %": text}
    for run in contents.runs:
        if run.network == found.network.name:
            yield {
                "row": row,
                "column": column,
                "estimate": run.test_top1_percent,
                "network": run.network,
                "top-1 %": f"{run.test_top1_percent:.2f}",
                "seed": run.seed,
                "pre-training seed": run.pretraining_seed,
                "command": run.command,
            }


def _classes(effects: Sequence[Effect], gains: Sequence[ClassGain]) -> Chart:
    """The classes that gain most and least with some effects: mean over seeds, and least and most of any."""
    groups = [[gain for gain in gains if gain.contrast == effect.contrast.name] for effect in effects]
    shown = [
        (effect.label, group if len(group) <= 2 * _CLASSES else group[:_CLASSES] + group[-_CLASSES:])
        for effect, group in zip(effects, groups, strict=True)
    ]
    wide, narrow = (
        {"config": CONFIG, "columns": columns, "concat": [_class_panel(*panel, room) for panel in shown]}
        for columns, room in ((2, WIDE // 2 - 20), (1, NARROW))
    )
    return Chart("Classes that gain most and least with the most significant effects", wide, narrow)


def _class_panel(label: str, group: Sequence[ClassGain], room: int) -> Spec:
    marks = []
    for row, gain in enumerate(group):
        text = f"{percent_points(gain.gain_points / 100)} ({counted(gain.images, 'image')})"
        marks.append(mark_of(row, 0, gain.gain_points, gain.low_points, gain.high_points, text))
    names = [gain.class_name for gain in group]
    return forest(marks, names, [label], POINTS, room)


# Learning curves


def _curves(report: Report) -> Chart:
    """Validation top-1 by epoch, a panel for each network: mean and range over runs."""
    lines = [line for line in report.lines if any(_points(report, line))]
    values = [
        {
            "row": row,
            "network": printable(line.label),
            "data set": contents.called,
            "epoch": point.epoch + 1,
            "top-1 %": point.top1_percent,
            "runs": point.runs,
            "least": point.top1_low_percent,
            "most": point.top1_high_percent,
        }
        for row, line in enumerate(lines)
        for contents, point in _points(report, line)
    ]
    labels = [line.label for line in lines]
    wide, narrow = (
        _curve_panels(values, labels, min(panels, len(lines)), room)
        for panels, room in ((4, WIDE), (2, NARROW))
    )
    return Chart("Learning curves: validation top-1 by epoch of each network", wide, narrow)


def _points(report: Report, line: Line) -> Iterator[tuple[Contents, CurvePoint]]:
    for contents in report.sets:
        name = line.rows[contents.name].network.name if contents.name in line.rows else None
        yield from ((contents, point) for point in contents.curves if point.network == name)


def _curve_panels(values: list[Spec], labels: Sequence[str], panels: int, room: int) -> Spec:
    width = room // panels - 40
    several = len({value["data set"] for value in values}) > 1
    data = {"field": "data set", "type": "nominal", **({} if several else {"legend": None})}
    colour = {"color": {**data, "scale": {"range": COLOURS}}}
    epoch = {"field": "epoch", "type": "quantitative", "scale": {"zero": False, "nice": False}}
    top1 = {"type": "quantitative", "title": "validation top-1, %", "scale": {"zero": False}}
    told = [{"field": name, "type": "nominal"} for name in ("network", "data set", "epoch", "runs")]
    told += [
        {"field": name, "type": "quantitative", "format": ".2f"} for name in ("top-1 %", "least", "most")
    ]
    x = {"x": {**epoch, "axis": {"tickMinStep": 1, "format": "d"}}}
    curve = {**x, **colour, "y": {**top1, "field": "top-1 %"}}
    band = {**x, **colour, "y": {**top1, "field": "least"}, "y2": {"field": "most"}}
    header = {"title": None, "labelExpr": lookup(labels, int(width / LETTER))}
    return {
        "config": CONFIG,
        "data": {"values": values},
        "facet": {"field": "row", "type": "ordinal", "header": header},
        "columns": panels,
        "spacing": 16,
        "spec": {
            "width": width,
            "height": 110,
            "layer": [
                {"mark": {"type": "rule", "strokeWidth": 1}, "encoding": band},
                {"mark": {"type": "line", "strokeWidth": 1.5}, "encoding": {**curve, "strokeDash": data}},
                {
                    "mark": {"type": "point", "size": 24},
                    "encoding": {**curve, "shape": data, "tooltip": told},
                },
            ],
        },
    }
