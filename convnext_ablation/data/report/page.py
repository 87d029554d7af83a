"""The report for people: one HTML file that needs nothing else, for any screen, keyboard or screen reader."""

from __future__ import annotations

import base64
import io
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path

from PIL import Image

from convnext_ablation.data.report.facts import Table
from convnext_ablation.data.report.findings import KINDS, Finding

__all__ = ["Page", "html"]

_SIDE = 160  # pixels of a picture
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
.pairs { list-style: none; padding: 0; display: grid; gap: 1rem;
  grid-template-columns: repeat(auto-fill, minmax(min(22rem, 100%), 1fr)) }
.pairs > li { background: var(--panel); border: 1px solid var(--line); border-radius: 6px; padding: .75rem }
.two { display: flex; gap: .75rem } figure { margin: 0; flex: 1; min-width: 0 }
figcaption, .ids, code { overflow-wrap: anywhere } figcaption { font-size: .85rem }
.none { color: var(--soft); font-size: .85rem }
img { display: block; width: 100%; max-width: 160px; height: auto }
.mark { background: var(--mark); color: var(--mark-text); padding: 0 .25rem; border-radius: 3px }
"""


@dataclass(frozen=True)
class Page:
    """What the page shows.

    Attributes:
        name: Name of the data set.
        root: Its folder.
        summary: A line for each thing to know.
        notes: How it was measured, and what that can't say.
        tables: Shown as they are.
        long_tables: Shown when they are opened.
        findings: All findings, those to look at first standing first in each kind.
        shown: How many of a kind to show.
        against: Folder of the pre-training set.
    """

    name: str
    root: Path
    summary: Sequence[str]
    notes: Sequence[str]
    tables: Sequence[Table]
    long_tables: Sequence[Table]
    findings: Sequence[Finding]
    shown: int
    against: Path | None = None
    _pictures: dict[Path, str] = field(default_factory=dict, repr=False)

    def picture(self, path: Path) -> str:
        """An image as a small JPEG in a data URI; empty if it can't be decoded."""
        if path not in self._pictures:
            self._pictures[path] = _data_uri(path)
        return self._pictures[path]


def html(page: Page) -> str:
    """Writes the whole page."""
    title = f"Data report: {escape(page.name)}"
    sections = [
        _section(page, kind) for kind in KINDS if any(finding.kind == kind for finding in page.findings)
    ]
    body = [
        f"<header><h1>{title}</h1>",
        *(["<nav aria-label='Contents'><ul>", *_contents(page), "</ul></nav>"]),
        "</header>",
        '<main id="main">',
        '<section aria-labelledby="summary"><h2 id="summary">Summary</h2>',
        _list(page.summary),
        "</section>",
        '<section aria-labelledby="holds"><h2 id="holds">What it holds</h2>',
        *map(_table, page.tables),
        *(
            f"<details><summary>{escape(table.caption)}</summary>{_table(table, high=True)}</details>"
            for table in page.long_tables
        ),
        "</section>",
        *sections,
        '<section aria-labelledby="notes"><h2 id="notes">How it was measured</h2>',
        _list(page.notes),
        "</section>",
        "</main>",
    ]
    return "\n".join([
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{title}</title>\n<style>{_STYLE}</style>\n</head>\n<body>",
        '<a class="skip" href="#main">Skip to the report</a>',
        *body,
        "</body>\n</html>\n",
    ])  # fmt: skip


def _contents(page: Page) -> list[str]:
    counts = Counter(finding.kind for finding in page.findings)
    links = [("summary", "Summary"), ("holds", "What it holds")]
    links += [(kind, f"{KINDS[kind].title} ({counts[kind]:,})") for kind in KINDS if counts[kind]]
    links.append(("notes", "How it was measured"))
    return [f'<li><a href="#{anchor}">{escape(text)}</a></li>' for anchor, text in links]


def _list(lines: Sequence[str]) -> str:
    return "<ul>" + "".join(f"<li>{escape(line)}</li>" for line in lines) + "</ul>"


def _table(table: Table, high: bool = False) -> str:
    head = "".join(f'<th scope="col">{escape(cell)}</th>' for cell in table.head)
    rows = [
        f'<tr><th scope="row">{escape(row[0])}</th>'
        + "".join(f"<td>{escape(cell)}</td>" for cell in row[1:])
        + "</tr>"
        for row in table.rows
    ]
    # a part that scrolls must be reached by keyboard, and then needs a name
    name = f'role="region" tabindex="0" aria-label="{escape(table.caption)}"'
    return (
        f'<div class="scroll{" high" * high}" {name}>'
        f"<table><caption>{escape(table.caption)}</caption><thead><tr>{head}</tr></thead>"
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )


def _section(page: Page, kind: str) -> str:
    found = [finding for finding in page.findings if finding.kind == kind]
    shown = found[: page.shown]
    count = f"{len(found):,} in all"
    if len(shown) < len(found):
        count += f"; {len(shown):,} are shown, all are in findings.csv"
    items = [_pair(page, finding) if finding.other else _single(finding) for finding in shown]
    list_class = "pairs" if found[0].other else "ids"
    return (
        f'<section aria-labelledby="{kind}"><h2 id="{kind}">{escape(KINDS[kind].title)}</h2>'
        f"<p>{count}. {escape(KINDS[kind].meaning)}</p>"
        f'<ul class="{list_class}">{"".join(items)}</ul></section>'
    )


def _single(finding: Finding) -> str:
    what = finding.id or f"{finding.split}/{finding.class_name}"
    note = f" ({escape(finding.note)})" if finding.note else ""
    return f"<li><code>{escape(what)}</code>{note}</li>"


def _pair(page: Page, finding: Finding) -> str:
    marks = []
    if finding.leaks:
        marks.append("a test image")
    if finding.disagrees:
        marks.append(f"classes differ: {finding.class_name}, {finding.other_class}")
    if finding.phash >= 0:
        marks.append(f"{finding.phash} + {finding.dhash} bits differ")
    if finding.agreement >= 0:
        marks.append(f"agreement {finding.agreement:.3f}")
    other_root = page.against if finding.kind.startswith("pretraining") and page.against else page.root
    return (
        "<li>"
        + "<p>"
        + " ".join(f'<span class="mark">{escape(mark)}</span>' for mark in marks)
        + "</p>"
        + '<div class="two">'
        + _figure(page, page.root, finding.id)
        + _figure(page, other_root, finding.other)
        + "</div></li>"
    )


def _figure(page: Page, root: Path, id_: str) -> str:
    source = page.picture(root / id_)
    picture = f'<img src="{source}" alt="{escape(id_)}">' if source else '<p class="none">no picture</p>'
    return f"<figure>{picture}<figcaption><code>{escape(id_)}</code></figcaption></figure>"


def _data_uri(path: Path) -> str:
    try:
        with Image.open(path) as image:
            small = image.convert("RGB")
    except Exception:  # decoders raise anything
        return ""
    small.thumbnail((_SIDE, _SIDE))
    file = io.BytesIO()
    small.save(file, "JPEG", quality=_QUALITY)
    return "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode()
