"""Makes matplotlib's SVG files part of a page: ids of their own, and colours that follow light and dark."""

from __future__ import annotations

import re
from collections.abc import Iterable
from html import escape

__all__ = ["colours_of", "inlined", "palette"]

_PAINT = re.compile(r"((?:fill|stroke): )(#[0-9a-fA-F]{6})")
_PIXELS = 1.15  # a point, below which a figure scrolls: its text would be too small
# ends of the scale on the dark page: what is white turns into the page, what is black into the text
_DARK_PAGE, _DARK_TEXT = (13, 17, 23), (230, 237, 243)


def inlined(svg: str, name: str, title: str) -> str:
    """An SVG file's text as an element of a page.

    Args:
        svg: As matplotlib writes it.
        name: Precedes each of its ids, so that they are unique on the page.
        title: What it shows, for those who don't see it.
    """
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>", "", svg, flags=re.DOTALL)
    svg = re.sub(r' xmlns(:\w+)?="[^"]*"', "", svg).replace("xlink:href", "href")
    svg = re.sub(r'\b(id|clip-path|href)="(url\()?(#?)', rf'\1="\2\3{name}-', svg)
    svg = re.sub(r"(?<!\")url\(#", f"url(#{name}-", svg)
    svg = _PAINT.sub(lambda paint: paint[1] + _variable(paint[2]), svg)
    width = re.search(r'viewBox="0 0 ([\d.]+)', svg)
    size = f'style="min-width: {float(width[1]) * _PIXELS:.0f}px"' if width else ""
    head = f'<svg class="chart" role="img" aria-label="{escape(title)}" {size} '
    return re.sub(r"<svg (?:width|height)=\"[^\"]*\" *(?:height=\"[^\"]*\")?", head, svg, count=1).strip()


def _variable(colour: str) -> str:
    return f"var(--c{colour[1:].lower()})"


def colours_of(svgs: Iterable[str]) -> list[str]:
    """The colours that SVG files paint with, ``#rrggbb``."""
    return sorted({paint[2].lower() for svg in svgs for paint in _PAINT.finditer(svg)})


def palette(colours: Iterable[str]) -> str:
    """CSS that gives each colour a variable: itself on a light page, on a dark one its counterpart."""
    light = "".join(f"--c{colour[1:]}: {colour};" for colour in colours)
    dark = "".join(f"--c{colour[1:]}: {_dark(colour)};" for colour in colours)
    return f"\n:root {{ {light} }}\n@media (prefers-color-scheme: dark) {{ :root {{ {dark} }} }}\n"


def _dark(colour: str) -> str:
    """White turns into the dark page, black into its text, and greys into what lies between."""
    channels = [int(colour[start : start + 2], 16) / 255 for start in (1, 3, 5)]
    mixed = [
        round(text + (page - text) * value)
        for value, page, text in zip(channels, _DARK_PAGE, _DARK_TEXT, strict=True)
    ]
    return "#" + "".join(f"{value:02x}" for value in mixed)
