"""Estimates with their intervals as a chart, for a screen and for a small one: a Vega-Lite specification.

What is significant is filled, and shapes tell kinds apart. Colours, Okabe and Ito's (2008), only repeat it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from textwrap import wrap
from typing import Any

from convnext_ablation.console import printable

Spec = dict[str, Any]

WIDE, NARROW = 1110, 320  # pixels that a chart may take on a screen, and on a small one
_LABEL, _STEP = 240, 24  # pixels of the names left of a chart, and of a row
_LINE, LETTER = 11, 6  # pixels of a line of names, and of a letter
COLOURS = ["#000000", "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00"]
CONFIG: Spec = {
    "font": "DejaVu Sans, Verdana, sans-serif",
    "aria": False,  # a region of the page bears the name, and a table the numbers
    "view": {"stroke": None},
    # with transparency, or a second font, PDF files differ from one time to the next
    "mark": {"aria": False, "opacity": 1},
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
POINTS = "percentage points"


def mark_of(row: int, column: int, estimate: float, low: float, high: float, text: str) -> Spec:
    """An estimate in a chart: what else it has, a hover shows."""
    place = {"row": row, "column": column, "estimate": estimate, "low": low, "high": high, "text": text}
    return {**place, "filled": True, "shape": "circle", "takes": ""}


def forest(
    marks: list[Spec], rows: Sequence[str], columns: Sequence[str], text: str, room: int = WIDE
) -> Spec:
    """Estimates with their intervals: a row each, in a panel a column.

    Args:
        marks: Of each `mark_of`; one without an interval is a run.
        rows: Names.
        columns: Names.
        text: What all panels show; empty where each has an axis of its own.
        room: Pixels that it may take.
    """
    left = min(_LABEL if len(columns) > 1 else 2 * _LABEL, room // 2)
    letters, width = int(left / LETTER), (room - left) // len(columns) - 16
    step = max(_STEP if len(rows) > 8 else 32, 4 + _LINE * max(len(_lines(name, letters)) for name in rows))
    top = 8 - step // 2  # of a row: its name and its figures stand there
    axis: Spec = {"title": None, "ticks": False, "domain": False, "labelExpr": lookup(rows, letters)}
    axis["labelOffset"] = top
    y = {"y": {"field": "row", "type": "ordinal", "sort": {"field": "rank", "op": "min"}, "axis": axis}}
    written = [_text(y, "text", 2, yOffset=top), _text(y, "takes", 116, yOffset=top)]
    header = {"title": None, "labelExpr": lookup(columns, int(width / LETTER))}
    return {
        "config": CONFIG,
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


def turned(marks: list[Spec], rows: Sequence[str], columns: Sequence[str], text: str) -> Spec:
    """The same for a small screen: of each row its name, in lines, and below it a line a column."""
    names = [_lines(name, int(NARROW / LETTER)) for name in rows]
    above, used = max(map(len, names)), sorted({mark["column"] for mark in marks})
    values = [{**mark, "line": above + mark["column"]} for mark in marks]
    for row, lines in enumerate(names):
        values += [{"row": row, "line": above - k, "name": line} for k, line in enumerate(lines[::-1], 1)]
        if len(used) > 1:
            values += [{"row": row, "line": above + column, "set": columns[column]} for column in used]
    width = NARROW - (int(LETTER * max(map(len, columns))) if len(used) > 1 else 0)
    scale = {"paddingInner": 0.08, "paddingOuter": 0}
    y: Spec = {"y": {"field": "row", "type": "ordinal", "axis": None, "scale": scale}}
    y["yOffset"] = {"field": "line", "type": "ordinal"}
    written = [_text(y, "name", 0), _text(y, "set", width + 6)]
    return {
        "config": CONFIG,
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
        mark = {"type": "point", "size": 18, "strokeWidth": 1, "color": COLOURS[1], **place}
        layers.append({"transform": runs, "mark": mark, "encoding": {**y, "x": x, "tooltip": single}})
    if text == POINTS:
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
    hidden = {*mark_of(0, 0, 0, 0, 0, ""), "size"}
    names = dict.fromkeys(name for mark in marks for name in mark if name not in hidden)
    return [{"field": name, "type": "nominal"} for name in names]


def _lines(name: str, letters: int) -> list[str]:
    return wrap(printable(name), max(letters, 12)) or [""]


def lookup(names: Sequence[str], letters: int) -> str:
    """An expression for the name of a row or a column, in lines."""
    lines = [_lines(name, letters) for name in names]
    return f"{json.dumps(lines, ensure_ascii=False)}[datum.value]"
