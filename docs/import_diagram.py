"""The diagram of docs/architecture.md: which part of the package imports which, read from the code."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from pathlib import Path

import grimp
from importlinter.api import read_configuration

PACKAGE = "convnext_ablation"
ROOT = Path(__file__).parents[1]
WIDE, HIGH, STEP, ROW = 132, 32, 148, 84  # a box, and from one box and row to the next, in pixels

Edges = set[tuple[str, str]]


def imports() -> tuple[list[list[str]], Edges]:
    """Returns the parts by layer, the highest first, and which part imports which."""
    contracts = read_configuration(str(ROOT / "pyproject.toml"))["contracts_options"]
    contract = next(each for each in contracts if each.get("containers") == [PACKAGE])
    layers = [[part.strip() for part in layer.split(":")] for layer in contract["layers"]]
    graph = grimp.build_graph(PACKAGE, cache_dir=None)
    names = {f"{PACKAGE}.{part}": part for part in chain(*layers)}
    for module in names:
        graph.squash_module(module)
    found = {(module, used) for module in names for used in graph.find_modules_directly_imported_by(module)}
    return layers, {(names[a], names[b]) for a, b in found if b in names and a != b}


def reduced(edges: Edges) -> Edges:
    """Leaves out what follows from the others: an import of a part that another imported part imports."""

    def reaches(part: str, goal: str) -> bool:
        return any(b == goal or reaches(b, goal) for a, b in edges if a == part)

    return {(a, c) for a, c in edges if not any(b != c and reaches(b, c) for x, b in edges if x == a)}


def draw(layers: Sequence[Sequence[str]], edges: Edges) -> str:
    """Returns the diagram as SVG, and a table of all imports."""
    width, height = STEP * max(map(len, layers)), ROW * len(layers)
    at = {
        part: (width / 2 + STEP * (place - (len(layer) - 1) / 2), ROW * row + HIGH / 2 + 2)
        for row, layer in enumerate(layers)
        for place, part in enumerate(layer)
    }
    shapes = [*(_arrow(*at[a], *at[b]) for a, b in sorted(reduced(edges))), *map(_box, at, at.values())]
    table = "\n".join(f"| `{part}` | {_listed(part, edges)} |" for part in at)
    return (
        f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="Imports, listed below" font-size="13" '
        'stroke="currentColor" fill="none" xmlns="http://www.w3.org/2000/svg">'
        '<marker id="tip" markerWidth="8" markerHeight="8" refX="7" refY="4" orient="auto">'
        f'<path d="M1 1 7 4 1 7" /></marker>{"".join(shapes)}</svg>\n\n'
        f"| part | imports |\n|---|---|\n{table}\n"
    )


def _listed(part: str, edges: Edges) -> str:
    return ", ".join(f"`{used}`" for importer, used in sorted(edges) if importer == part)


def _arrow(x1: float, y1: float, x2: float, y2: float) -> str:
    start, bend = y1 + HIGH / 2, ROW / 2
    end, back = (start, -bend) if y1 == y2 else (y2 - HIGH / 2, bend)
    return (
        f'<path d="M{x1:g} {start:g} C{x1:g} {start + bend:g} {x2:g} {end - back:g} {x2:g} {end:g}" '
        'marker-end="url(#tip)" opacity="0.6" />'
    )


def _box(part: str, place: tuple[float, float]) -> str:
    x, y = place
    return (
        f'<rect x="{x - WIDE / 2:g}" y="{y - HIGH / 2:g}" width="{WIDE}" height="{HIGH}" rx="4" '
        'style="fill: var(--md-default-bg-color, #fff)" />'
        f'<text x="{x:g}" y="{y + 5:g}" text-anchor="middle" fill="currentColor" stroke="none">{part}</text>'
    )
