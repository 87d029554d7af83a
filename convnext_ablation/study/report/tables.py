"""A report's tables: on the terminal, as Markdown with the answer, and as CSV files for programs.

All but the last two columns of the table of networks, which are timings, is reproducible to the last digit.
CSV files hold fractions, not percent, in full precision; what isn't known is empty.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from typing import Any

from convnext_ablation.console import table
from convnext_ablation.files import write_csv, write_text
from convnext_ablation.study.report.answer import answer, caveats, method, p_text
from convnext_ablation.study.report.classes import ClassGain, Confusion
from convnext_ablation.study.report.contents import Contents, CurvePoint, RunLine
from convnext_ablation.study.report.findings import Effect, NetworkResult, Row
from convnext_ablation.study.stats.effects import Difference, Interval

__all__ = [
    "Column",
    "effect_columns",
    "known",
    "network_columns",
    "terminal_effects",
    "terminal_table",
    "write_tables",
]

MISSING = "–"  # what tables for people show where there is no figure
# Columns that a terminal too narrow for all of them goes without, in this order; the CSV files have them.
DISPENSABLE = ("lr", "seeds", "img/s", "time", "M par.", "GMACs", "runs", "kind", "p", "P(better)")
WRAPPED = ("adds", "effect")
NARROWEST = 14  # characters of a wrapped column; below that, words are hard to read
EFFECTS_LEGEND = (
    "Effects in percent points of top-1, with 95 % intervals over seeds and images. P(better): how probable "
    "it is that the effect is above 0. p (Holm) is adjusted over all effects that have one; p is of the "
    "effect alone."
)


@dataclass(frozen=True)
class Column:
    """A column of a table for people.

    Attributes:
        text: What a row shows in it.
        value: The number that it is sorted by; None for words, which stand left.
    """

    heading: str
    text: Callable[[Any], str]
    value: Callable[[Any], float] | None = None


def network_columns(rows: Sequence[Row], decimals: int) -> list[Column]:
    """The columns of the table of networks; percentages have so many decimals."""
    columns = [
        Column("network", lambda row: row.label),
        Column("adds", lambda row: row.network.adds),
        Column("against", lambda row: row.baseline or MISSING),
        Column("seeds", lambda row: str(row.seeds), lambda row: row.seeds),
        Column("top-1 % [95 %]", lambda row: _percent(row.top1, decimals), lambda row: row.top1.estimate),
        Column(
            "change [95 %]",
            lambda row: _change(row.difference, decimals),
            lambda row: row.difference.estimate if row.difference else math.nan,
        ),
        Column(
            "p (Holm)",
            lambda row: p_text(row.difference.p_holm if row.difference else math.nan),
            lambda row: row.difference.p_holm if row.difference else math.nan,
        ),
        Column("lr", lambda row: f"{row.network.learning_rate:g}", lambda row: row.network.learning_rate),
        Column(
            "M par.", lambda row: f"{row.network.parameters / 1e6:.2f}", lambda row: row.network.parameters
        ),
        Column("GMACs", lambda row: f"{row.network.gmacs:.3f}", lambda row: row.network.gmacs),
        Column(
            "img/s",
            lambda row: known(_three_digits, row.network.images_per_second),
            lambda row: row.network.images_per_second,
        ),
        Column(
            "time",
            lambda row: known(_duration, row.network.mean_seconds),
            lambda row: row.network.mean_seconds,
        ),
    ]
    return [column for column in columns if column.heading != "against" or _shows_baseline(rows)]


def effect_columns(decimals: int) -> list[Column]:
    """The columns of the table of effects."""
    return [
        Column("effect", lambda effect: effect.label),
        Column("kind", lambda effect: effect.contrast.kind),
        Column("runs", lambda effect: str(effect.runs), lambda effect: effect.runs),
        Column(
            "points [95 %]",
            lambda effect: _change(effect.difference, decimals),
            lambda effect: effect.difference.estimate,
        ),
        Column("p (Holm)", lambda effect: p_text(_adjusted(effect)), lambda effect: _adjusted(effect)),
        Column(
            "p", lambda effect: p_text(effect.difference.p_value), lambda effect: effect.difference.p_value
        ),
        Column(
            "P(better)",
            lambda effect: known("{:.3f}".format, effect.difference.p_better),
            lambda effect: effect.difference.p_better,
        ),
    ]


def _adjusted(effect: Effect) -> float:
    return effect.difference.p_holm if effect.contrast.primary else math.nan


def _shows_baseline(rows: Sequence[Row]) -> bool:
    """Says whether some network is compared with another than the one above it."""
    return any(row.difference is not None and not row.follows for row in rows)


def terminal_table(rows: Sequence[Row], width: int = 110) -> str:
    """Lays the networks out as plain text of at most `width` columns, if that is 60 or more.

    What a network adds is wrapped. If even that leaves too little room, columns are left out.
    """
    return _fitted(network_columns(rows, 1), rows, width)


def terminal_effects(effects: Sequence[Effect], width: int = 110) -> str:
    """Lays the effects out likewise."""
    return _fitted(effect_columns(1), effects, width)


def _fitted(columns: list[Column], lines: Sequence[Any], width: int) -> str:
    text = ""
    for unneeded in ("", *DISPENSABLE):
        columns = [column for column in columns if column.heading != unneeded]
        text = _laid_out(columns, lines)
        place = next(place for place, column in enumerate(columns) if column.heading in WRAPPED)
        widest = max((len(columns[place].text(line)) for line in lines), default=0)
        room = widest - max(0, max(map(len, text.splitlines())) - width)
        if room >= min(NARROWEST, widest):
            break
    return text if room >= widest else _laid_out(columns, lines, {place: max(room, NARROWEST)})


def _laid_out(
    columns: Sequence[Column],
    lines: Iterable[Any],
    wrap: dict[int, int] | None = None,
    markdown: bool = False,
) -> str:
    cells = [[column.text(line) for column in columns] for line in lines]
    words = [place for place, column in enumerate(columns) if column.value is None]
    return table([column.heading for column in columns], cells, words, wrap, markdown)


def write_tables(contents: Contents) -> list[Path]:
    """Writes the tables and the answer into the report's folder, which is made if need be.

    Returns:
        The files: ``answer.txt``, ``table.md``, and the CSV files.
    """
    folder = contents.folder
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / "answer.txt", answer(contents.findings, contents.facts) + "\n")
    write_text(folder / "table.md", _markdown(contents))
    rows, effects = contents.findings.rows, contents.findings.effects

    def names(kind: type[Any]) -> list[str]:
        return [field.name for field in fields(kind)]

    return [
        folder / "answer.txt",
        folder / "table.md",
        _write(folder / "seeds.csv", SEEDS, (line for row in rows for line in _seeds(row.network))),
        _write(folder / "networks.csv", NETWORKS, map(_network, rows)),
        _write(folder / "effects.csv", EFFECTS, map(_effect, effects)),
        _write(folder / "curves.csv", names(CurvePoint), map(astuple, contents.curves)),
        _write(folder / "classes.csv", names(ClassGain), map(astuple, contents.class_gains)),
        _write(folder / "confusions.csv", names(Confusion), map(astuple, contents.confusions)),
        _write(folder / "runs.csv", names(RunLine), map(astuple, contents.runs)),
    ]


def _markdown(contents: Contents) -> str:
    """The tables with the answer, what was done, and what the figures can't say."""
    findings, facts = contents.findings, contents.facts
    rows, effects = findings.rows, findings.effects
    baseline = "named" if _shows_baseline(rows) else "in the row above"
    compared = any(row.difference for row in rows)
    change = f", change in percent points against the network {baseline}" if compared else ""
    done = method(findings, facts)
    parts = [
        f"# {facts.title}",
        answer(findings, facts),
        _laid_out(network_columns(rows, 2), rows, markdown=True),
        f"Top-1 on the test images in percent{change}; 95 % intervals over seeds and images. M par.: "
        f"million parameters. GMACs: of one image of {facts.image_size} px. img/s: in training, median over "
        "seeds. time: mean of a run.",
        "![Top-1 of each network](roadmap.svg)",
        *([] if findings.shown_by_rows else [_laid_out(effect_columns(2), effects, markdown=True)]),
        *([] if findings.shown_by_rows else [EFFECTS_LEGEND]),
        *(["\n".join(f"- {note}" for note in facts.notes)] if facts.notes else []),
        "## What was done",
        "\n".join(f"- {what}: {value}" for what, value in done.items()),
        f"```\n{facts.command}\n```",
        "## What these figures don't say",
        "\n".join(f"- {caveat}" for caveat in caveats(findings, facts)),
    ]
    return "\n\n".join(parts) + "\n"


SEEDS = ("network", "pretraining_seed", "seed", "val_top1", "test_top1", "images_per_second", "seconds")
NETWORKS = (
    *("number", "network", "label", "adds", "runs", "top1", "top1_low", "top1_high"),
    *("baseline", "difference", "difference_low", "difference_high", "p_value", "p_holm"),
    *("learning_rate", "parameters", "gmacs", "images_per_second", "seconds"),
)
EFFECTS = (
    *("contrast", "label", "kind", "primary", "runs"),
    *("estimate", "low", "high", "p_value", "p_holm", "p_better"),
)


def _seeds(result: NetworkResult) -> Iterable[tuple[Any, ...]]:
    starts: Sequence[Any] = result.pretraining_seeds or [""] * len(result.seeds)
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


def _network(row: Row) -> tuple[Any, ...]:
    network, d = row.network, row.difference
    compared = (d.estimate, d.low, d.high, d.p_value, d.p_holm) if d else (math.nan,) * 5
    return (
        *(row.number, network.name, row.label, network.adds, row.seeds, *astuple(row.top1), row.baseline),
        *(*compared, network.learning_rate, network.parameters, network.gmacs),
        *(network.images_per_second, network.mean_seconds),
    )


def _effect(effect: Effect) -> tuple[Any, ...]:
    contrast = effect.contrast
    about = (contrast.name, contrast.label, contrast.kind, contrast.primary, effect.runs)
    return (*about, *astuple(effect.difference))


def _write(path: Path, header: Sequence[str], lines: Iterable[Sequence[Any]]) -> Path:
    write_csv(path, header, ([_exact(value) for value in line] for line in lines))
    return path


def _exact(value: Any) -> str:
    """Writes a value so that reading it back gives the same; empty for one that isn't known."""
    if isinstance(value, float):
        return "" if math.isnan(value) else repr(value)
    return str(value)


def _percent(top1: Interval, decimals: int) -> str:
    estimate, low, high = (f"{100 * x:.{decimals}f}" for x in (top1.estimate, top1.low, top1.high))
    return f"{estimate} [{low}, {high}]"


def _change(d: Difference | None, decimals: int) -> str:
    if d is None:
        return MISSING
    estimate, low, high = (f"{100 * x:+.{decimals}f}" for x in (d.estimate, d.low, d.high))
    return f"{estimate} [{low}, {high}]"


def known(text: Callable[[float], str], value: float) -> str:
    """A number as text, or a dash if it isn't known."""
    return MISSING if math.isnan(value) else text(value)


def _three_digits(value: float) -> str:
    return f"{value:.0f}" if value >= 99.5 else f"{value:.3g}"


def _duration(seconds: float) -> str:
    if seconds < 99.5:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 99.5 * 60 else f"{seconds / 3600:.1f} h"
