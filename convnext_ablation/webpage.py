"""Pages for people: one HTML file that needs nothing else, for any screen, keyboard or screen reader."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

from PIL import Image

__all__ = ["Table", "bullets", "document", "picture_uri", "region", "section", "table", "uri_of"]

_QUALITY = 75
_STYLE = """
:root { color-scheme: light dark; --text: #1f2328; --page: #fff; --soft: #57606a; --line: #d0d7de;
  --panel: #f6f8fa; --link: #0757b5; --mark: #fff1e5; --mark-text: #7a2e00 }
@media (prefers-color-scheme: dark) { :root { --text: #e6edf3; --page: #0d1117; --soft: #9aa4af;
  --line: #3d444d; --panel: #161b22; --link: #6cb0ff; --mark: #3d2410; --mark-text: #ffb77c } }
body { margin: 0; font: 16px/1.5 system-ui, sans-serif; color: var(--text); background: var(--page) }
header, main { max-width: 72rem; margin: auto; padding: 1rem }
a { color: var(--link) }
:focus-visible { outline: 3px solid var(--link); outline-offset: 2px }
.skip { position: absolute; left: -999rem } .skip:focus { left: 1rem; top: 1rem; background: var(--page) }
h1, h2 { line-height: 1.25 } section { border-top: 1px solid var(--line); margin-top: 2rem }
.scroll { overflow-x: auto } .scroll.high { max-height: 32rem; overflow-y: auto }
table { border-collapse: collapse; margin: 1rem 0 } caption { text-align: left; color: var(--soft) }
th, td { border-bottom: 1px solid var(--line); padding: .25rem .75rem .25rem 0; text-align: right }
th:first-child { text-align: left } th { font-weight: 600 } tbody th { font-weight: 400 }
figure { margin: 0 } figcaption, code { overflow-wrap: anywhere } figcaption { font-size: .85rem }
.none { color: var(--soft); font-size: .85rem }
img { display: block; width: 100%; height: auto }
.mark { background: var(--mark); color: var(--mark-text); padding: 0 .25rem; border-radius: 3px }
"""


@dataclass(frozen=True)
class Table:
    """A table for people.

    Attributes:
        caption: What it shows.
        head: Headings of the columns.
        rows: Cells; the first of a row is its heading.
    """

    caption: str
    head: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]


def document(title: str, body: Sequence[str], style: str = "", head: str = "") -> str:
    """A whole page.

    Args:
        title: What it is of, as plain text.
        body: HTML; an element of it has the id ``main``.
        style: CSS beyond what all pages have.
        head: Further HTML of the head.
    """
    return "\n".join([
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">' + head,
        f"<title>{escape(title)}</title>\n<style>{_STYLE}{style}</style>\n</head>\n<body>",
        '<a class="skip" href="#main">Skip to the report</a>',
        *body,
        "</body>\n</html>\n",
    ])  # fmt: skip


def section(anchor: str, heading: str, *parts: str) -> str:
    """A part of a page, with its heading in plain text."""
    return "\n".join(
        [
            f'<section aria-labelledby="{anchor}"><h2 id="{anchor}">{escape(heading)}</h2>',
            *parts,
            "</section>",
        ]
    )


def bullets(lines: Sequence[str]) -> str:
    """A list of plain texts."""
    return "<ul>" + "".join(f"<li>{escape(line)}</li>" for line in lines) + "</ul>"


def region(label: str, content: str, kind: str = "") -> str:
    """A part that scrolls by itself: it must be reached by keyboard, and then needs a name."""
    classes = f"scroll {kind}".rstrip()
    return f'<div class="{classes}" role="region" tabindex="0" aria-label="{escape(label)}">{content}</div>'


def table(shown: Table, high: bool = False) -> str:
    """A table.

    Args:
        shown: What is in it, as plain text.
        high: Whether it has so many rows that it scrolls.
    """
    head = "".join(f'<th scope="col">{escape(cell)}</th>' for cell in shown.head)
    rows = [
        f'<tr><th scope="row">{escape(row[0])}</th>'
        + "".join(f"<td>{escape(cell)}</td>" for cell in row[1:])
        + "</tr>"
        for row in shown.rows
    ]
    return region(
        shown.caption,
        f"<table><caption>{escape(shown.caption)}</caption><thead><tr>{head}</tr></thead>"
        f"<tbody>{''.join(rows)}</tbody></table>",
        "high" if high else "",
    )


def picture_uri(path: Path, side: int) -> str:
    """An image as a small JPEG in a data URI; empty if it can't be decoded.

    Args:
        path: The file.
        side: Width and height are at most so many pixels.
    """
    try:
        with Image.open(path) as image:
            small = image.convert("RGB")
    except Exception:  # decoders raise anything
        return ""
    small.thumbnail((side, side))
    return uri_of(small)


def uri_of(picture: Image.Image) -> str:
    """A picture in RGB as a JPEG in a data URI."""
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=_QUALITY)
    return "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode()
