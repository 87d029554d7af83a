"""Parts of the page: tables that sort, and figures with what belongs to them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from convnext_ablation.webpage import bullets, region

__all__ = ["Column", "details", "figure", "known", "long_table", "minded", "sortable"]

MISSING = "–"  # what tables show where there is no figure
MOST_ROWS = 2000  # of a table on the page; its CSV file has all


@dataclass(frozen=True)
class Column:
    """A column of a table.

    Attributes:
        heading: Its heading.
        text: What a row shows in it.
        value: The number that it is sorted by; none for words.
    """

    heading: str
    text: Callable[[Any], str]
    value: Callable[[Any], float] | None = None


def sortable(caption: str, columns: Sequence[Column], rows: Sequence[Any], high: bool = False) -> str:
    """A table that sorts by each of its columns; the first cell of a row is its heading.

    Args:
        caption: What it shows; unique on the page.
        columns: What is in it.
        rows: What the columns take.
        high: Whether it has so many rows that it scrolls.
    """
    head = "".join(f'<th scope="col"{_class(each)}>{escape(each.heading)}</th>' for each in columns)
    body = "".join(f"<tr>{''.join(_cells(columns, row))}</tr>" for row in rows)
    return region(
        caption,
        f'<table class="sortable"><caption>{escape(caption)}</caption><thead><tr>{head}</tr></thead>'
        f"<tbody>{body}</tbody></table>",
        "high" if high else "",
    )


def _cells(columns: Sequence[Column], row: Any) -> list[str]:
    cells = []
    for place, column in enumerate(columns):
        tag, scope = ("th", ' scope="row"') if place == 0 else ("td", "")
        value = f' data-value="{column.value(row)!r}"' if column.value else ""
        cells.append(f"<{tag}{scope}{_class(column)}{value}>{escape(column.text(row))}</{tag}>")
    return cells


def _class(column: Column) -> str:
    return "" if column.value else ' class="words"'


def known(text: Callable[[float], str], value: float) -> str:
    """A number as text, or a dash if it isn't known."""
    return MISSING if math.isnan(value) else text(value)


def details(summary: str, content: str) -> str:
    """What is shown when it is opened."""
    return f"<details><summary>{escape(summary)}</summary>{content}</details>"


def long_table(summary: str, caption: str, columns: Sequence[Column], rows: Sequence[Any]) -> str:
    """A table of many rows, shown when it is opened; nothing if it has none.

    Args:
        summary: What is there to be opened.
        caption: What the table shows; unique on the page.
        columns: What is in it.
        rows: What the columns take; of very many, the first are shown.
    """
    if not rows:
        return ""
    cut = f" (the first {MOST_ROWS:,} of {len(rows):,})" if len(rows) > MOST_ROWS else ""
    return details(summary + cut, sortable(caption, columns, rows[:MOST_ROWS], high=True))


def minded(warnings: Sequence[str]) -> str:
    """What a reader must bear in mind of the figure above; nothing if there is nothing."""
    return bullets(warnings).replace("<ul>", '<ul class="mind">', 1) if warnings else ""


def figure(drawing: str, label: str, caption: str, warnings: Sequence[str]) -> str:
    """A figure, which scrolls where there is no room for it, its caption, and what to bear in mind.

    Args:
        drawing: HTML of it.
        label: Name for those who don't see it; unique on the page.
        caption: How to read it, as plain text.
        warnings: What to bear in mind.
    """
    return f"<figure>{region(label, drawing)}<figcaption>{escape(caption)}</figcaption></figure>" + minded(
        warnings
    )
