"""What tables show of networks and effects, for people and for programs.

All but the last two columns of the table of networks, which are timings, is reproducible to the last digit.
CSV files have full precision; what isn't known is empty. The end of a column's name is its unit: accuracies
are in ``_percent``, effects in ``_points``, percentage points.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from operator import attrgetter as get
from pathlib import Path
from typing import Any

from convnext_ablation.console import duration, latex_text, markdown_text, table
from convnext_ablation.files import write_csv
from convnext_ablation.study.report.answer import p_text
from convnext_ablation.study.report.findings import Row
from convnext_ablation.study.stats.effects import Difference, Interval

MISSING = "–"  # what tables for people show where there is no figure
COST = 5  # the last columns of the table of networks, which a narrow terminal goes without
NARROWEST = 12  # characters of a wrapped column; below that, words are hard to read
UNITS = ("_percent", "_points")  # of columns that show a fraction
# the columns of two CSV files, and what they show of a row and of an effect
NETWORKS = {
    "number": "number", "network": "network.name", "label": "label", "adds": "network.adds", "runs": "runs",
    "top1_percent": "top1.estimate", "top1_low_percent": "top1.low", "top1_high_percent": "top1.high",
    "baseline": "baseline", "difference_points": "difference.estimate",
    "difference_low_points": "difference.low", "difference_high_points": "difference.high",
    "p_value": "difference.p_value", "p_holm": "difference.p_holm",
    "learning_rate": "network.learning_rate", "parameters": "network.parameters", "gmacs": "network.gmacs",
    "images_per_second": "network.images_per_second", "seconds": "network.seconds",
}  # fmt: skip
EFFECTS = {
    "contrast": "contrast.name", "label": "label", "kind": "contrast.kind", "primary": "contrast.primary",
    "runs": "runs", "estimate_points": "difference.estimate", "low_points": "difference.low",
    "high_points": "difference.high",
    "p_value": "difference.p_value", "p_holm": "difference.p_holm", "p_better": "difference.p_better",
    "finding": "finding", "detectable_points": "power.detectable",
}  # fmt: skip


@dataclass(frozen=True)
class Column:
    """A column of a table for people."""

    heading: str
    get: Callable[[Any], Any]  # its value of a row; None or NaN is shown as a dash
    text: Callable[[Any], str] | None = None  # writes that value; None for words, which stand left

    def cell(self, row: Any) -> str:
        """What a row shows in it."""
        value = self.get(row)
        unknown = value is None or value != value
        return MISSING if unknown else self.text(value) if self.text else str(value)

    def number(self, row: Any) -> float | None:
        """What a row is sorted by; None for words."""
        value = self.get(row)
        return None if self.text is None else math.nan if value is None else getattr(value, "estimate", value)


def network_columns(rows: Sequence[Row], decimals: int) -> list[Column]:
    """The columns of the table of networks; percentages have so many decimals."""
    columns = [
        Column("network", get("label")),
        Column("adds", get("network.adds")),
        Column("against", lambda row: row.baseline or None),
        Column("runs", get("runs"), str),
        Column("top-1 % [95 %]", get("top1"), partial(interval, form=f".{decimals}f")),
        Column("change [95 %]", get("difference"), partial(interval, form=f"+.{decimals}f")),
        Column("p (Holm)", lambda row: row.difference and row.difference.p_holm, p_text),
        Column("lr", get("network.learning_rate"), "{:g}".format),
        Column("M par.", get("network.parameters"), lambda count: f"{count / 1e6:.2f}"),
        Column("GMACs", get("network.gmacs"), "{:.3f}".format),
        Column("img/s", get("network.images_per_second"), lambda x: f"{x:.0f}" if x >= 99.5 else f"{x:.3g}"),
        Column("time", get("network.seconds"), duration),
    ]
    named = all(row.network.adds in row.label for row in rows)
    left_out = {"adds" if named else "", "" if shows_baseline(rows) else "against"}
    return [column for column in columns if column.heading not in left_out]


def effect_columns(decimals: int) -> list[Column]:
    """The columns of the table of effects."""
    return [
        Column("effect", get("label")),
        Column("kind", get("contrast.kind")),
        Column("runs", get("runs"), str),
        Column("points [95 %]", get("difference"), partial(interval, form=f"+.{decimals}f")),
        Column("p (Holm)", lambda each: each.difference.p_holm if each.contrast.primary else None, p_text),
        Column("p", get("difference.p_value"), p_text),
        Column("P(better)", get("difference.p_better"), "{:.3f}".format),
        Column("finding", get("finding")),
    ]


def shows_baseline(rows: Sequence[Row]) -> bool:
    """Says whether some network is compared with another than the one above it."""
    return any(row.difference is not None and not row.follows for row in rows)


def for_terminal(lines: Sequence[Any], width: int, wide: Sequence[Column], narrow: Sequence[Column]) -> str:
    """A table with words wrapped; one of fewer columns where that is too wide."""
    text = _fitted(wide, lines, width)
    return text if _width_of(text) <= width else _fitted(narrow, lines, width)


def _fitted(columns: Sequence[Column], lines: Sequence[Any], width: int) -> str:
    """A table for a terminal: the widest words are wrapped until it fits, or they can't be narrower."""
    text = laid_out(columns, lines)
    limits = {place: max(len(columns[place].cell(line)) for line in lines) for place in _words(columns)}
    for _ in range(_width_of(text) - width):
        widest = max(limits, key=limits.__getitem__)
        limits[widest] = max(NARROWEST, limits[widest] - 1)
    return laid_out(columns, lines, wrap=limits)


def _width_of(text: str) -> int:
    """The characters of a text's longest line."""
    return max(map(len, text.splitlines()))


def laid_out(columns: Sequence[Column], lines: Iterable[Any], **style: Any) -> str:
    """A table as text; `style` is what `convnext_ablation.console.table` takes of it."""
    cells = [[column.cell(line) for column in columns] for line in lines]
    return table([column.heading for column in columns], cells, _words(columns), **style)


def _words(columns: Sequence[Column]) -> list[int]:
    return [place for place, column in enumerate(columns) if column.text is None]


def bullets(lines: Iterable[str]) -> str:
    """A list in Markdown, of texts that stand there as they are."""
    return "\n".join(f"- {markdown_text(line)}" for line in lines)


def latex_with_notes(columns: Sequence[Column], lines: Iterable[Any], notes: Iterable[str]) -> str:
    """A table, and below it a paragraph of notes, such as how to read it and what is wrong with its data."""
    body = laid_out(columns, lines, form="latex") + "\n"
    text = " ".join(latex_text(note.replace("`", "")) for note in notes)
    return f"{body}\n\\smallskip\n{{\\footnotesize {text}\\par}}\n" if text else body


def csv_file(path: Path, header: Iterable[str], lines: Iterable[Sequence[Any]]) -> None:
    """Writes a CSV file, numbers in 15 digits."""
    write_csv(path, list(header), ([exact(value) for value in line] for line in lines))


def attributes(line: Any, columns: Mapping[str, str]) -> list[Any]:
    """What each column shows of a row or an effect; None where it has no difference, or no power."""
    return [_attribute(line, name, place) for name, place in columns.items()]


def _attribute(line: Any, column: str, place: str) -> Any:
    first = get(place.partition(".")[0])(line)
    value = None if first is None else get(place)(line)
    return 100 * value if value is not None and column.endswith(UNITS) else value


def exact(value: Any) -> str:
    """Writes a value in 15 digits, so 14 % not as 14.000000000000002; empty for one that isn't known."""
    if value is None or value != value:
        return ""
    return repr(float(f"{value:.15g}")) if isinstance(value, float) else str(value)


def interval(found: Interval | Difference, form: str) -> str:
    """Writes a fraction with its interval in percent, each number as `form` says, such as ``+.2f``."""
    estimate, low, high = (format(100 * x, form) for x in (found.estimate, found.low, found.high))
    return f"{estimate} [{low}, {high}]"
