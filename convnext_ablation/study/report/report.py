"""The report of a study: tables for people, its runs, the roadmap figure, and the answer in words.

Everything but the last two columns of a table, which are timings, is reproducible to the last digit from the
predictions. Each file is written whole or not at all. The page (`page`) has the other tables for programs.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

from convnext_ablation.files import write_csv, write_text
from convnext_ablation.study.report.answer import answer, caveats, p_text
from convnext_ablation.study.report.findings import Effect, Findings, NetworkResult, Row, StudyFacts
from convnext_ablation.study.report.roadmap import plot_roadmap
from convnext_ablation.study.stats.effects import Difference, Interval
from convnext_ablation.study.wording import counted, seeds_text

__all__ = [
    "terminal_effects",
    "terminal_table",
    "write_report",
    "write_table_markdown",
]

MISSING = "–"  # what tables for people show where there is no figure

Line = TypeVar("Line")  # Row or Effect


@dataclass(frozen=True)
class _Column(Generic[Line]):
    """A column of a table for people.

    Attributes:
        text: The cell of a row, given the number of decimals that percentages have.
        words: Whether the cells are words, which stand left, rather than figures, which stand right.
    """

    heading: str
    text: Callable[[Line, int], str]
    words: bool = False


COLUMNS: tuple[_Column[Row], ...] = (
    _Column("network", lambda row, _: row.label, words=True),
    _Column("adds", lambda row, _: row.adds, words=True),
    _Column("against", lambda row, _: row.baseline or MISSING, words=True),
    _Column("seeds", lambda row, _: str(row.seeds)),
    _Column("top-1 % [95 %]", lambda row, decimals: _percent(row.top1, decimals)),
    _Column("change [95 %]", lambda row, decimals: _change(row.difference, decimals)),
    _Column("p (Holm)", lambda row, _: p_text(row.difference.p_holm) if row.difference else MISSING),
    _Column("lr", lambda row, _: f"{row.learning_rate:g}"),
    _Column("M par.", lambda row, _: f"{row.parameters / 1e6:.2f}"),
    _Column("GMACs", lambda row, _: f"{row.gmacs:.3f}"),
    _Column("img/s", lambda row, _: _measured(row.images_per_second, _three_digits)),
    _Column("time", lambda row, _: _measured(row.seconds, _duration)),
)
EFFECTS: tuple[_Column[Effect], ...] = (
    _Column("effect", lambda effect, _: effect.label, words=True),
    _Column("kind", lambda effect, _: effect.contrast.kind, words=True),
    _Column("runs", lambda effect, _: str(effect.runs)),
    _Column("points [95 %]", lambda effect, decimals: _change(effect.difference, decimals)),
    _Column(
        "p (Holm)", lambda effect, _: p_text(effect.difference.p_holm) if effect.contrast.primary else MISSING
    ),
    _Column("p", lambda effect, _: p_text(effect.difference.p_value)),
    _Column("P(better)", lambda effect, _: _measured(effect.difference.p_better, "{:.3f}".format)),
)
# Columns that a terminal too narrow for all of them goes without, in this order; the CSV files have them.
DISPENSABLE = ("lr", "seeds", "img/s", "time", "M par.", "GMACs", "runs", "kind", "p", "P(better)")
WRAPPED = ("adds", "effect")
NARROWEST = 14  # characters of a wrapped column; below that, words are hard to read


def write_table_markdown(
    path: Path, results: Sequence[NetworkResult], findings: Findings, facts: StudyFacts
) -> None:
    """Writes the tables with the answer, what was done, and what the figures can't say."""
    table, effects = findings.rows, findings.effects
    baseline = "named" if _shows_baseline(table) else "in the row above"
    change = (
        f", change in percent points against the network {baseline}"
        if any(row.difference for row in table)
        else ""
    )
    parts = [
        f"# {facts.title}",
        answer(findings, facts),
        _markdown_table(_columns(table), table),
        f"Top-1 on the test images in percent{change}; 95 % intervals over seeds and images. M par.: "
        f"million parameters. GMACs: of one image of {facts.image_size} px. img/s: in training, median over "
        "seeds. time: mean of a run.",
        "![Top-1 of each network](roadmap.svg)",
        *([] if findings.shown_by_rows else [_markdown_table(list(EFFECTS), effects), EFFECTS_LEGEND]),
        *(["\n".join(f"- {note}" for note in facts.notes)] if facts.notes else []),
        "## What was done",
        "\n".join(f"- {what}: {value}" for what, value in _about(results, facts).items()),
        f"```\n{facts.command}\n```",
        "## What these figures don't say",
        "\n".join(f"- {caveat}" for caveat in caveats(findings, facts)),
    ]
    write_text(path, "\n\n".join(parts) + "\n")


EFFECTS_LEGEND = (
    "Effects in percent points of top-1, with 95 % intervals over seeds and images. P(better): how probable "
    "it is that the effect is above 0. p (Holm) is adjusted over all effects that have one; p is of the "
    "effect alone."
)


def _about(results: Sequence[NetworkResult], facts: StudyFacts) -> dict[str, str]:
    seeds = sorted({seed for result in results for seed in result.seeds})
    start = "from pre-trained weights" if facts.pretrained else "from scratch"
    return {
        "design": facts.design,
        **({"runs": facts.origin} if facts.origin else {}),
        "data": f"{facts.data_name}, {facts.classes} classes, {counted(facts.test_images, 'test image')}, "
        f"{facts.image_size} x {facts.image_size} px",
        "training": f"{counted(facts.epochs, 'epoch')} {start}, {facts.precision}, {seeds_text(seeds)}",
        "machine": f"{facts.machine}, {counted(facts.threads, 'thread')}",
        "versions": ", ".join(f"{name} {version}" for name, version in facts.versions.items()),
    }


def terminal_table(table: Sequence[Row], width: int = 110) -> str:
    """Lays the networks out as plain text of at most `width` columns, if that is 60 or more.

    What a network adds is wrapped. If even that leaves too little room, columns are left out.
    """
    return _terminal(_columns(table), table, width)


def terminal_effects(effects: Sequence[Effect], width: int = 110) -> str:
    """Lays the effects out likewise."""
    return _terminal(list(EFFECTS), effects, width)


def _terminal(columns: list[_Column[Line]], table: Sequence[Line], width: int) -> str:
    cells: list[list[str]] = []
    for heading in ("", *DISPENSABLE):
        columns = [column for column in columns if column.heading != heading]
        cells = [[column.text(line, 1) for column in columns] for line in table]
        widths = [
            max(len(text) for text in (column.heading, *(line[place] for line in cells)))
            for place, column in enumerate(columns)
        ]
        wrapped = next(place for place, column in enumerate(columns) if column.heading in WRAPPED)
        room = width - (sum(widths) - widths[wrapped]) - 2 * (len(columns) - 1)
        if room >= min(NARROWEST, widths[wrapped]):
            break
    widths[wrapped] = min(widths[wrapped], max(room, NARROWEST))
    lines = [[column.heading for column in columns], ["-" * size for size in widths]]
    for texts in cells:
        first, *rest = textwrap.wrap(texts[wrapped], widths[wrapped]) or [""]
        lines.append([*texts[:wrapped], first, *texts[wrapped + 1 :]])
        lines += [[words if place == wrapped else "" for place in range(len(columns))] for words in rest]
    return "\n".join(_aligned(line, widths, columns) for line in lines)


def write_report(
    folder: Path, results: Sequence[NetworkResult], findings: Findings, facts: StudyFacts
) -> list[Path]:
    """Writes the tables, the figure and the answer into `folder`, which is made if need be.

    Returns:
        The files: seeds.csv, table.md, answer.txt, roadmap.svg, roadmap.png.
    """
    folder.mkdir(parents=True, exist_ok=True)
    names = ("seeds.csv", "table.md", "answer.txt", "roadmap.svg", "roadmap.png")
    paths = [folder / name for name in names]
    seeds_csv, table_md, answer_txt, svg, png = paths
    write_seeds_csv(seeds_csv, results)
    write_table_markdown(table_md, results, findings, facts)
    write_text(answer_txt, answer(findings, facts) + "\n")
    plot_roadmap(results, findings.rows, facts, svg)
    plot_roadmap(results, findings.rows, facts, png)
    return paths


def write_seeds_csv(path: Path, results: Sequence[NetworkResult]) -> None:
    """Writes one line per run, in full precision, accuracies as fractions."""
    headings = [
        "network",
        "pretraining_seed",
        "seed",
        "val_top1",
        "test_top1",
        "images_per_second",
        "seconds",
    ]
    lines = [[_exact(value) for value in run] for result in results for run in _runs(result)]
    write_csv(path, headings, lines)


def _runs(result: NetworkResult) -> Iterator[tuple[str | float, ...]]:
    starts: list[int | str] = [*result.pretraining_seeds] or [""] * len(result.seeds)
    return zip(
        [result.name] * len(result.seeds),
        starts,
        result.seeds,
        result.val_top1,
        result.correct.mean(axis=1).tolist(),
        result.train_images_per_second,
        result.seconds,
        strict=True,
    )


def _markdown_table(columns: list[_Column[Line]], table: Sequence[Line]) -> str:
    lines = [
        [column.heading for column in columns],
        ["---" if column.words else "---:" for column in columns],
        *([column.text(line, 2).replace("|", "\\|") for column in columns] for line in table),
    ]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _columns(table: Sequence[Row]) -> list[_Column[Row]]:
    return [column for column in COLUMNS if column.heading != "against" or _shows_baseline(table)]


def _shows_baseline(table: Sequence[Row]) -> bool:
    """Says whether some network is compared with another than the one above it."""
    return any(row.difference is not None and not row.follows for row in table)


def _aligned(line: list[str], widths: list[int], columns: Sequence[_Column[Line]]) -> str:
    cells = [
        text.ljust(size) if column.words else text.rjust(size)
        for text, size, column in zip(line, widths, columns, strict=True)
    ]
    return "  ".join(cells).rstrip()


def _exact(value: str | float) -> str:
    """Writes a value so that reading it back gives the same; empty for one that isn't known."""
    if isinstance(value, float):
        return "" if math.isnan(value) else repr(value)
    return str(value)


def _percent(top1: Interval, decimals: int) -> str:
    estimate, low, high = (f"{100 * x:.{decimals}f}" for x in (top1.estimate, top1.low, top1.high))
    return f"{estimate} [{low}, {high}]"


def _adjusted_p(effect: Effect) -> str:
    return p_text(effect.difference.p_holm) if effect.contrast.primary else MISSING


def _change(d: Difference | None, decimals: int) -> str:
    if d is None:
        return MISSING
    estimate, low, high = (f"{100 * x:+.{decimals}f}" for x in (d.estimate, d.low, d.high))
    return f"{estimate} [{low}, {high}]"


def _measured(value: float, text: Callable[[float], str]) -> str:
    return MISSING if math.isnan(value) else text(value)


def _three_digits(value: float) -> str:
    return f"{value:.0f}" if value >= 99.5 else f"{value:.3g}"


def _duration(seconds: float) -> str:
    if seconds < 99.5:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 99.5 * 60 else f"{seconds / 3600:.1f} h"
