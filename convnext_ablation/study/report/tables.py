"""A report's tables: on the terminal, as Markdown with the answer, as LaTeX, and as CSV files for programs.

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
from convnext_ablation.files import write_csv, write_text
from convnext_ablation.study.report.answer import answer, caveats, method, p_text
from convnext_ablation.study.report.contents import ClassGain, Confusion, Contents, CurvePoint, RunLine
from convnext_ablation.study.report.evidence import FinishedRun
from convnext_ablation.study.report.findings import Effect, Row
from convnext_ablation.study.stats.effects import Difference, Interval

MISSING = "–"  # what tables for people show where there is no figure
COST = 5  # the last columns of the table of networks, which a narrow terminal goes without
NARROWEST = 12  # characters of a wrapped column; below that, words are hard to read
_LEGEND = (
    "Effects in percentage points of top-1, with 95 % intervals over seeds and images. P(better): how "
    "probable it is that the effect is above 0. p (Holm) is adjusted over all effects that have one; p is of "
    "the effect alone. Findings of what is not significant: smaller than a size, if all of the interval is; "
    "could not have been detected, if fewer than 80 of 100 such studies find an effect of that size."
)

BALANCED = "effects_balanced.csv"
UNITS = ("_percent", "_points")  # of columns that show a fraction
SEEDS = (
    *("network", "pretraining_seed", "seed"),
    *("val_top1_percent", "test_top1_percent", "images_per_second", "seconds"),
)
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
    return [column for column in columns if column.heading != "against" or _shows_baseline(rows)]


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


def _shows_baseline(rows: Sequence[Row]) -> bool:
    """Says whether some network is compared with another than the one above it."""
    return any(row.difference is not None and not row.follows for row in rows)


def terminal_table(rows: Sequence[Row], width: int) -> str:
    """The networks as plain text; cost is left to the files where `width` is too little."""
    columns = network_columns(rows, 1)
    return for_terminal(rows, width, columns, columns[:-COST])


def terminal_effects(effects: Sequence[Effect], width: int) -> str:
    """The effects as plain text; findings are left to the answer where `width` is too little."""
    return for_terminal(effects, width, effect_columns(1), effect_columns(1)[:-1])


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


def write_tables(contents: Contents) -> None:
    """Writes the tables and the answer into the report's folder."""
    folder, findings = contents.folder, contents.findings
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / "answer.txt", f"{answer_text(contents)}\n")
    write_text(folder / "table.md", _markdown(contents))
    write_text(folder / "networks.tex", _latex(network_columns(findings.rows, 2), findings.rows))
    write_text(folder / "effects.tex", _latex(effect_columns(2), findings.effects))
    csv_file(folder / "seeds.csv", SEEDS, (_seed(run) for row in findings.rows for run in row.network.runs))
    csv_file(folder / "networks.csv", NETWORKS, (attributes(row, NETWORKS) for row in findings.rows))
    csv_file(folder / "effects.csv", EFFECTS, (attributes(each, EFFECTS) for each in findings.effects))
    if contents.balanced_effects:
        lines = (attributes(each, EFFECTS) for each in contents.balanced_effects)
        csv_file(folder / BALANCED, EFFECTS, lines)
    else:
        (folder / BALANCED).unlink(missing_ok=True)  # of a report on other images
    csv_file(folder / "curves.csv", CurvePoint._fields, contents.curves)
    csv_file(folder / "classes.csv", ClassGain._fields, contents.class_gains)
    csv_file(folder / "confusions.csv", Confusion._fields, contents.confusions)
    csv_file(folder / "runs.csv", RunLine._fields, contents.runs)


def answer_text(contents: Contents) -> str:
    """The answer, and below it what is known to be wrong with the data."""
    found, fault = answer(contents.findings, contents.facts), contents.facts.fault
    return f"{found}\n\n{fault}" if fault else found


def _markdown(contents: Contents) -> str:
    """The tables with the answer, what was done, and what the figures can't say."""
    findings, facts = contents.findings, contents.facts
    rows, effects = findings.rows, findings.effects
    baseline = "named" if _shows_baseline(rows) else "in the row above"
    compared = any(row.difference for row in rows)
    change = f", change in percentage points against the network {baseline}" if compared else ""
    parts = [
        markdown_text(f"# {facts.title}"),
        markdown_text(answer(findings, facts)),
        laid_out(network_columns(rows, 2), rows, form="markdown"),
        f"Top-1 on the {facts.split} images in percent{change}; 95 % intervals over seeds and images. "
        f"M par.: million parameters. GMACs: of one image of {facts.pixels}. img/s: in training, median over "
        "seeds. time: mean of a run.",
        "![Top-1 of each network](roadmap.svg)",
        *([] if findings.shown_by_rows else [laid_out(effect_columns(2), effects, form="markdown"), _LEGEND]),
        *_balanced(contents),
        *([bullets(facts.notes)] if facts.notes else []),
        "## What was done",
        bullets(f"{what}: {value}" for what, value in method(findings, facts).items()),
        f"```\n{facts.command}\n```",
        "## What these figures don't say",
        bullets(caveats(findings, facts)),
    ]
    return "\n\n".join(parts) + "\n"


def _balanced(contents: Contents) -> list[str]:
    """The effects on balanced accuracy, or why they would be the same table again."""
    if contents.balanced_effects:
        return [
            "## Effects on balanced accuracy",
            "Balanced (macro) accuracy is the mean of the classes' accuracies, whatever their numbers of "
            f"images. In {BALANCED}:",
            laid_out(effect_columns(2), contents.balanced_effects, form="markdown"),
        ]
    if not contents.findings.effects:
        return []
    return [
        "All classes have as many test images, so balanced (macro) accuracy equals top-1, as do its effects."
    ]


def bullets(lines: Iterable[str]) -> str:
    """A list in Markdown, of texts that stand there as they are."""
    return "\n".join(f"- {markdown_text(line)}" for line in lines)


def _latex(columns: Sequence[Column], lines: Iterable[Any]) -> str:
    return laid_out(columns, lines, form="latex") + "\n"


def latex_with_notes(columns: Sequence[Column], lines: Iterable[Any], notes: Iterable[str]) -> str:
    """A table, and below it a paragraph that says how to read it and what is wrong with its data."""
    text = " ".join(latex_text(note.replace("`", "")) for note in notes)
    return f"{_latex(columns, lines)}\n\\smallskip\n{{\\footnotesize {text}\\par}}\n"


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


def _seed(run: FinishedRun) -> list[Any]:
    speed, seconds = run.measured("train_images_per_second"), run.measured("train_seconds")
    top1 = (run.val_top1_percent, run.test_top1_percent)
    return [run.network, run.pretraining_seed, run.seed, *top1, speed, seconds]


def exact(value: Any) -> str:
    """Writes a value in 15 digits, so 14 % not as 14.000000000000002; empty for one that isn't known."""
    if value is None or value != value:
        return ""
    return repr(float(f"{value:.15g}")) if isinstance(value, float) else str(value)


def interval(found: Interval | Difference, form: str) -> str:
    """Writes a fraction with its interval in percent, each number as `form` says, such as ``+.2f``."""
    estimate, low, high = (format(100 * x, form) for x in (found.estimate, found.low, found.high))
    return f"{estimate} [{low}, {high}]"
