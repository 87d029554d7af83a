"""The report's charts as Vega-Lite specifications: effects, networks and cost, learning curves, classes.

The page draws a specification with what a hover, a choice or a zoom shows; the same one gives the SVG and PDF
files beside it. Fill, shape and dashes say what matters; colours, those of Okabe and Ito (2008), repeat it.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from pathlib import Path
from textwrap import wrap
from typing import Any, NamedTuple

from convnext_ablation.console import counted, printable
from convnext_ablation.files import write_text, written_whole
from convnext_ablation.study.report.answer import p_text, percent_points, points_text
from convnext_ablation.study.report.contents import ClassGain, Contents, CurvePoint, surest
from convnext_ablation.study.report.figures import fonts_with, tell_of_boxes
from convnext_ablation.study.report.findings import Effect, Estimate
from convnext_ablation.study.report.whole import Line, Report
from convnext_ablation.study.stats.effects import ALPHA

Spec = dict[str, Any]

WIDE, NARROW = 1110, 320  # pixels that a chart may take on a screen, and on a small one
_LABEL, _STEP = 240, 24  # pixels of the names left of a chart, and of a row
_LINE, _LETTER = 11, 6  # pixels of a line of names, and of a letter
_MOST = 6  # effects that a small screen shows on each data set
_CONTRASTS, _CLASSES = 4, 5  # contrasts in the chart of classes, and classes at either end of each
_COLOURS = ["#000000", "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00"]
_CONFIG: Spec = {
    "font": "DejaVu Sans, Verdana, sans-serif",
    "aria": False,  # a region of the page bears the name, and a table the numbers
    "view": {"stroke": None},
    "mark": {
        "aria": False,
        "opacity": 1,
    },  # with transparency, or a second font, PDF files differ from one time to the next
    "axis": {
        "aria": False,
        "labelLimit": 0,
        "titleFontWeight": "normal",
        "labelFontSize": 10,
        "titleFontSize": 10,
        "labelLineHeight": _LINE,
    },
    "header": {"labelLimit": 0, "labelFontSize": 12, "labelFontWeight": "normal", "labelLineHeight": _LINE},
    "legend": {"aria": False, "labelLimit": 0, "orient": "bottom", "title": None},
    "title": {"orient": "bottom", "anchor": "start", "fontWeight": "normal", "fontSize": 10},
}
_ZOOM: Spec = {
    "type": "interval",
    "encodings": ["x"],
    "zoom": "wheel![event.shiftKey]",  # else the page could not be scrolled
    "translate": "[pointerdown[event.shiftKey], window:pointerup] > window:pointermove!",
}
_POINTS = "percentage points"
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
    found, remarks = (
        charts(report),
        [line for fault in report.faults for line in wrap(printable(fault), 150, break_on_hyphens=False)],
    )
    for name, chart in found.items():
        write_chart(report.folder, name, {**chart.wide, "title": remarks} if remarks else chart.wide)
    return found


def write_chart(folder: Path, name: str, spec: Spec) -> None:
    """Writes a chart as SVG and PDF into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    svg = _converter().vegalite_to_svg(spec)
    drawn = iter(range(len(svg)))  # Vega numbers what it clips through all charts of a process
    numbers: dict[str, int] = defaultdict(lambda: next(drawn))
    svg = re.sub(r'(id="|url\(#)clip(\d+)', lambda found: f"{found[1]}clip{numbers[found[2]]}", svg)
    write_text(folder / f"{name}.svg", svg)
    with written_whole(folder / f"{name}.pdf") as temporary:
        pdf = _converter().svg_to_pdf(svg)  # what made it is left out, in as many bytes
        temporary.write_bytes(re.sub(rb"/Producer \([^)]*\)", lambda found: b" " * len(found[0]), pdf))
    others = {letter for letter in json.dumps(spec, ensure_ascii=False) if ord(letter) not in _letters()}
    if others:  # vl-convert takes a font of the machine that has them
        tell_of_boxes(folder, name, fonts_with(others)[1])


@cache
def chart_library() -> str:
    """The JavaScript of Vega, Vega-Lite and vega-embed in one piece, to stand in a page."""
    script = str(_converter().javascript_bundle())
    return script.replace("</script", "<\\/script").replace("<!--", "<\\!--")


@cache
def _converter() -> Any:
    """vl-convert, with the fonts that matplotlib brings."""
    import vl_convert

    vl_convert.register_font_directory(str(_fonts()))
    return vl_convert


@cache
def _letters() -> frozenset[int]:
    """The letters that these have."""
    from matplotlib.ft2font import FT2Font

    return frozenset(FT2Font(str(_fonts() / "DejaVuSans.ttf")).get_charmap())


def _fonts() -> Path:
    import matplotlib

    return Path(matplotlib.get_data_path()) / "fonts" / "ttf"


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
    wide = _forest(marks, rows, names, _POINTS)
    wide["spec"]["layer"][0]["params"] = [{"name": "zoom", "select": _ZOOM, "bind": "scales"}]
    _offer_choices(wide, names)
    short = [*names[:-1], "difference"] if report.across else names
    return Chart("Effects on top-1, with 95 % intervals", wide, _turned(few, rows, short, _POINTS))


def _difference(found: Estimate, row: int, column: int, size: float) -> Spec:
    d, power = found.difference, found.power
    takes = power.takes.removesuffix(" test images") if found.verdict == "undetectable" and power else ""
    return {
        **_mark(row, column, 100 * d.estimate, 100 * d.low, 100 * d.high, points_text(d)),
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
            costs.append(_mark(row, len(names) + place, value, 0, value, format(value, form)))
    rows = [line.label for line in report.lines]
    wide = _forest([*marks, *costs], rows, [*names, "parameters, millions", "GMACs of an image"], "")
    return Chart("Top-1 of each network, and its cost", wide, _turned(marks, rows, names, "top-1, %"))


def _reached(row: int, column: int, line: Line, contents: Contents) -> Iterator[Spec]:
    """A network's top-1 on a data set, and its runs, which a hover names."""
    found = line.rows[contents.name]
    top1, low, high = (100 * x for x in (found.top1.estimate, found.top1.low, found.top1.high))
    text = f"{top1:.1f} [{low:.1f}, {high:.1f}]"
    yield _mark(row, column, top1, low, high, text) | {"network": printable(line.label), "top-1 %": text}
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
        {"config": _CONFIG, "columns": columns, "concat": [_class_panel(*panel, room) for panel in shown]}
        for columns, room in ((2, WIDE // 2 - 20), (1, NARROW))
    )
    return Chart("Classes that gain most and least with the most significant effects", wide, narrow)


def _class_panel(label: str, group: Sequence[ClassGain], room: int) -> Spec:
    marks = []
    for row, gain in enumerate(group):
        text = f"{percent_points(gain.gain_points / 100)} ({counted(gain.images, 'image')})"
        marks.append(_mark(row, 0, gain.gain_points, gain.low_points, gain.high_points, text))
    names = [gain.class_name for gain in group]
    return _forest(marks, names, [label], _POINTS, room)


# Estimates with their intervals


def _mark(row: int, column: int, estimate: float, low: float, high: float, text: str) -> Spec:
    """An estimate in a chart: what else it has, a hover shows."""
    place = {"row": row, "column": column, "estimate": estimate, "low": low, "high": high, "text": text}
    return {**place, "filled": True, "shape": "circle", "takes": ""}


def _forest(
    marks: list[Spec], rows: Sequence[str], columns: Sequence[str], text: str, room: int = WIDE
) -> Spec:
    """Estimates with their intervals: a row each, in a panel a column.

    Args:
        marks: Of each `_mark`; one without an interval is a run.
        rows: Names.
        columns: Names.
        text: What all panels show; empty where each has an axis of its own.
        room: Pixels that it may take.
    """
    left = min(_LABEL if len(columns) > 1 else 2 * _LABEL, room // 2)
    letters, width = int(left / _LETTER), (room - left) // len(columns) - 16
    step = max(_STEP if len(rows) > 8 else 32, 4 + _LINE * max(len(_lines(name, letters)) for name in rows))
    top = 8 - step // 2  # of a row: its name and its figures stand there
    axis: Spec = {"title": None, "ticks": False, "domain": False, "labelExpr": _lookup(rows, letters)}
    axis["labelOffset"] = top
    y = {"y": {"field": "row", "type": "ordinal", "sort": {"field": "rank", "op": "min"}, "axis": axis}}
    written = [_text(y, "text", 2, yOffset=top), _text(y, "takes", 116, yOffset=top)]
    header = {"title": None, "labelExpr": _lookup(columns, int(width / _LETTER))}
    return {
        "config": _CONFIG,
        "data": {"values": marks},
        "transform": [{"calculate": "datum.row", "as": "rank"}],
        "facet": {"column": {"field": "column", "type": "ordinal", "header": header}},
        "spacing": 16,
        "spec": {
            "width": width,
            "height": {"step": step},
            "layer": [*_layers(marks, y, text, top + 13), *written],
        },
        "resolve": {"scale": {"x": "shared" if text else "independent"}},
    }


def _turned(marks: list[Spec], rows: Sequence[str], columns: Sequence[str], text: str) -> Spec:
    """The same for a small screen: of each row its name, in lines, and below it a line a column."""
    names = [_lines(name, int(NARROW / _LETTER)) for name in rows]
    above, used = max(map(len, names)), sorted({mark["column"] for mark in marks})
    values = [{**mark, "line": above + mark["column"]} for mark in marks]
    for row, lines in enumerate(names):
        values += [{"row": row, "line": above - k, "name": line} for k, line in enumerate(lines[::-1], 1)]
        if len(used) > 1:
            values += [{"row": row, "line": above + column, "set": columns[column]} for column in used]
    width = NARROW - (int(_LETTER * max(map(len, columns))) if len(used) > 1 else 0)
    scale = {"paddingInner": 0.08, "paddingOuter": 0}
    y: Spec = {"y": {"field": "row", "type": "ordinal", "axis": None, "scale": scale}}
    y["yOffset"] = {"field": "line", "type": "ordinal"}
    written = [_text(y, "name", 0), _text(y, "set", width + 6)]
    return {
        "config": _CONFIG,
        "data": {"values": values},
        "width": width,
        "height": {"step": _LINE, "for": "offset"},
        "layer": _layers(marks, y, text) + written[: min(2, len(used))],
    }


def _layers(marks: Sequence[Spec], y: Spec, text: str, below: int = 0) -> list[Spec]:
    """What is drawn of marks, so many pixels `below` the middle of their place `y`."""
    x = {"field": "estimate", "type": "quantitative", "title": text or None, "scale": {"zero": False}}
    place = {"yOffset": below} if below else {}
    estimates = [{"filter": "isValid(datum.low)"}]
    whole, single = (_told(mark for mark in marks if ("low" in mark) == has) for has in (True, False))
    thick = {"condition": {"test": "datum.filled", "value": 2}, "value": 1}
    filled = {"condition": {"test": "datum.filled", "value": "black"}, "value": "white"}
    shape = {"field": "shape", "type": "nominal", "scale": None}
    layers: list[Spec] = [
        {
            "transform": estimates,
            "mark": {"type": "rule", "color": "black", **place},
            "encoding": {**y, "x": {**x, "field": "low"}, "x2": {"field": "high"}, "strokeWidth": thick},
        },
        {
            "transform": estimates,
            "mark": {"type": "point", "size": 60, "stroke": "black", **place},
            "encoding": {**y, "x": x, "fill": filled, "shape": shape, "tooltip": whole},
        },
    ]
    if single:
        runs = [{"filter": "isValid(datum.estimate) && !isValid(datum.low)"}]
        mark = {"type": "point", "size": 18, "strokeWidth": 1, "color": _COLOURS[1], **place}
        layers.append({"transform": runs, "mark": mark, "encoding": {**y, "x": x, "tooltip": single}})
    if text == _POINTS:
        zero = {"datum": 0, "type": "quantitative", "title": text}
        layers.append({"mark": {"type": "rule", "color": "#aaaaaa"}, "encoding": {"x": zero}})
    return layers


def _text(y: Spec, field: str, left: int, **style: Any) -> Spec:
    """What is written of marks, so many pixels from the left."""
    mark = {"type": "text", "align": "left", "fontSize": 10, **style}
    encoding = {**y, "x": {"value": left}, "text": {"field": field}}
    return {"transform": [{"filter": f"isValid(datum.{field})"}], "mark": mark, "encoding": encoding}


def _told(marks: Iterable[Spec]) -> list[Spec]:
    """What a hover shows of marks: all that says more than where they stand and how they look."""
    hidden = {*_mark(0, 0, 0, 0, 0, ""), "size"}
    names = dict.fromkeys(name for mark in marks for name in mark if name not in hidden)
    return [{"field": name, "type": "nominal"} for name in names]


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
    colour = {"color": {**data, "scale": {"range": _COLOURS}}}
    epoch = {"field": "epoch", "type": "quantitative", "scale": {"zero": False, "nice": False}}
    top1 = {"type": "quantitative", "title": "validation top-1, %", "scale": {"zero": False}}
    told = [{"field": name, "type": "nominal"} for name in ("network", "data set", "epoch", "runs")]
    told += [
        {"field": name, "type": "quantitative", "format": ".2f"} for name in ("top-1 %", "least", "most")
    ]
    x = {"x": {**epoch, "axis": {"tickMinStep": 1, "format": "d"}}}
    curve = {**x, **colour, "y": {**top1, "field": "top-1 %"}}
    band = {**x, **colour, "y": {**top1, "field": "least"}, "y2": {"field": "most"}}
    header = {"title": None, "labelExpr": _lookup(labels, int(width / _LETTER))}
    return {
        "config": _CONFIG,
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


def _lines(name: str, letters: int) -> list[str]:
    return wrap(printable(name), max(letters, 12)) or [""]


def _lookup(names: Sequence[str], letters: int) -> str:
    """An expression for the name of a row or a column, in lines."""
    return f"{json.dumps([_lines(name, letters) for name in names])}[datum.value]"
