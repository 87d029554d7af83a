"""The report for people: one HTML file that needs nothing else, for any screen, keyboard or screen reader."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path

from convnext_ablation.data.report.findings import KINDS, Finding
from convnext_ablation.webpage import Table, bullets, document, picture_uri, section, table

__all__ = ["Page", "html"]

_SIDE = 160  # pixels of a picture
_STYLE = """
.pairs { list-style: none; padding: 0; display: grid; gap: 1rem;
  grid-template-columns: repeat(auto-fill, minmax(min(22rem, 100%), 1fr)) }
.pairs > li { background: var(--panel); border: 1px solid var(--line); border-radius: 6px; padding: .75rem }
.two { display: flex; gap: .75rem } .two figure { flex: 1; min-width: 0 }
.ids { overflow-wrap: anywhere } img { max-width: 160px }
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
            self._pictures[path] = picture_uri(path, _SIDE)
        return self._pictures[path]


def html(page: Page) -> str:
    """Writes the whole page."""
    title = f"Data report: {page.name}"
    sections = [
        _section(page, kind) for kind in KINDS if any(finding.kind == kind for finding in page.findings)
    ]
    body = [
        f"<header><h1>{escape(title)}</h1>",
        *(["<nav aria-label='Contents'><ul>", *_contents(page), "</ul></nav>"]),
        "</header>",
        '<main id="main">',
        section("summary", "Summary", bullets(page.summary)),
        section(
            "holds",
            "What it holds",
            *map(table, page.tables),
            *(
                f"<details><summary>{escape(long.caption)}</summary>{table(long, high=True)}</details>"
                for long in page.long_tables
            ),
        ),
        *sections,
        section("notes", "How it was measured", bullets(page.notes)),
        "</main>",
    ]
    return document(title, body, _STYLE)


def _contents(page: Page) -> list[str]:
    counts = Counter(finding.kind for finding in page.findings)
    links = [("summary", "Summary"), ("holds", "What it holds")]
    links += [(kind, f"{KINDS[kind].title} ({counts[kind]:,})") for kind in KINDS if counts[kind]]
    links.append(("notes", "How it was measured"))
    return [f'<li><a href="#{anchor}">{escape(text)}</a></li>' for anchor, text in links]


def _section(page: Page, kind: str) -> str:
    found = [finding for finding in page.findings if finding.kind == kind]
    shown = found[: page.shown]
    count = f"{len(found):,} in all"
    if len(shown) < len(found):
        count += f"; {len(shown):,} are shown, all are in findings.csv"
    items = [_pair(page, finding) if finding.other else _single(finding) for finding in shown]
    list_class = "pairs" if found[0].other else "ids"
    return section(
        kind,
        KINDS[kind].title,
        f"<p>{count}. {escape(KINDS[kind].meaning)}</p>",
        f'<ul class="{list_class}">{"".join(items)}</ul>',
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
