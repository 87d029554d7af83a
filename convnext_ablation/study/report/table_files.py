"""A report's tables, of one data set or of several side by side: terminal, Markdown, LaTeX and CSV files."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

from convnext_ablation.console import counted, markdown_text
from convnext_ablation.files import write_text
from convnext_ablation.study.report.across import AcrossFindings, EffectAcross, set_name
from convnext_ablation.study.report.answer import p_text
from convnext_ablation.study.report.contents import ClassGain, Confusion, Contents, CurvePoint, RunLine
from convnext_ablation.study.report.evidence import FinishedRun
from convnext_ablation.study.report.findings import Estimate
from convnext_ablation.study.report.reported import write_reported_tables
from convnext_ablation.study.report.tables import (
    COST,
    EFFECTS,
    NETWORKS,
    Column,
    attributes,
    bullets,
    csv_file,
    effect_columns,
    for_terminal,
    interval,
    laid_out,
    latex_with_notes,
    network_columns,
    shows_baseline,
)
from convnext_ablation.study.report.whole import Line, Report
from convnext_ablation.study.stats.effects import Difference, Interval

ALL, KEPT = "all", "without excluded"  # test images
BALANCED = "effects_balanced"
SEEDS = (
    *("network", "pretraining_seed", "seed"),
    *("val_top1_percent", "test_top1_percent", "images_per_second", "seconds"),
)
# the columns of data_sets.csv
_ACCURACIES = (
    *("phase", "data", "image_size", "network", "label", "runs", "images", "test_images"),
    *("top1_percent", "top1_low_percent", "top1_high_percent"),
)
_NAMED = 4  # columns of `EFFECTS` that name an effect; those that say where it is estimated stand after them
_LEGEND = "Top-1 on the test images in percent, with 95 % intervals over seeds and images."
_EFFECTS = (
    "Effects in percentage points of top-1, with 95 % intervals over seeds and images; p of primary ones is "
    "adjusted (Holm) over those on the set."
)
_GAPS = (
    "How much larger each effect is on one set than on the other, in percentage points, with 95 % intervals; "
    "p of primary effects is adjusted (Holm) over those in all columns."
)
_FOUND = (
    "Effects in percentage points of top-1, with 95 % intervals over seeds and images. P(better): how "
    "probable it is that the effect is above 0. p (Holm) is adjusted over all effects that have one; p is of "
    "the effect alone. Findings of what is not significant: smaller than a size, if all of the interval is; "
    "could not have been detected, if fewer than 80 of 100 such studies find an effect of that size."
)
_BALANCED = (
    "Balanced (macro) accuracy is the mean of the classes' accuracies, whatever their numbers of images. "
    f"In {BALANCED}.csv."
)
_AS_TOP1 = (
    "All classes have as many test images, so balanced (macro) accuracy equals top-1, as do its effects."
)


class Table(NamedTuple):
    """A table for people: its name is that of its file; `shown` says whether Markdown has it, too."""

    name: str
    caption: str
    columns: list[Column]
    lines: Sequence[Any]
    legend: str
    shown: bool = True


def tables_of(report: Report) -> list[Table]:
    """The tables of a report: of accuracies first, then of effects."""
    if alone := report.alone:
        found, facts = alone.findings, alone.facts
        baseline = "named" if shows_baseline(found.rows) else "in the row above"
        compared = any(row.difference for row in found.rows)
        change = f", change in percentage points against the network {baseline}" if compared else ""
        legend = (
            f"Top-1 on the {facts.split} images in percent{change}; 95 % intervals over seeds and images. "
            f"M par.: million parameters. GMACs: of one image of {facts.pixels}. img/s: in training, median "
            "over seeds. time: mean of a run."
        )
        networks, effects, balanced = (
            network_columns(found.rows, 2),
            effect_columns(2),
            alone.balanced_effects,
        )
        return [
            Table("networks", "Networks, with 95 % intervals of top-1", networks, found.rows, legend),
            Table("effects", "Effects on top-1", effects, found.effects, _FOUND, not found.shown_by_rows),
            *(
                [Table(BALANCED, "Effects on balanced accuracy", effects, balanced, _BALANCED)]
                if balanced
                else []
            ),
        ]
    accuracies = accuracy_columns(report, 2)
    tables = [Table("data_sets", "Top-1 on the test images", accuracies, report.lines, _LEGEND)]
    if (across := report.across) and across.effects:
        sizes, gaps = effect_columns_across(across, 2), gap_columns(across, 2)
        tables += [
            Table("effects_across", "Effects on each data set", sizes, across.effects, _EFFECTS),
            Table("differences_across", "Differences between data sets", gaps, across.effects, _GAPS),
        ]
    return tables


def accuracy_columns(report: Report, decimals: int, with_interval: bool = True) -> list[Column]:
    """The columns of the table of accuracies: a phase each, and one without the images that are excluded."""

    def top1(rows: str, contents: Contents, line: Line) -> Interval | None:
        row = getattr(line, rows).get(contents.name)
        return None if row is None else row.top1

    def text(found: Interval) -> str:
        form = f".{decimals}f"
        return interval(found, form) if with_interval else format(100 * found.estimate, form)

    columns = [Column("network", lambda line: line.label)]
    for each in report.sets:
        columns.append(Column(f"{each.name}, {each.facts.pixels}", partial(top1, "rows", each), text))
        if each.kept:
            heading = f"{each.name} without {counted(each.excluded, 'image')}"
            columns.append(Column(heading, partial(top1, "kept", each), text))
    return columns


def effect_columns_across(findings: AcrossFindings, decimals: int) -> list[Column]:
    """The columns of the table of effects: a set each."""

    def size(place: int, each: EffectAcross) -> Difference | None:
        effect = each.effects[place]
        return None if effect is None else effect.difference

    return _columns(enumerate(findings.sets), size, decimals)


def gap_columns(findings: AcrossFindings, decimals: int) -> list[Column]:
    """The columns of the table of differences: a set each, and the mean of all, minus the general one."""

    def size(sets: tuple[str, ...], each: EffectAcross) -> Difference | None:
        return next((gap.difference for gap in each.gaps if gap.sets == sets), None)

    general, *others = findings.sets
    choices = [(name,) for name in others] + ([tuple(others)] if len(others) > 1 else [])
    return _columns([(sets, f"{set_name(sets)} − {general}") for sets in choices], size, decimals)


def _columns(
    headings: Iterable[tuple[Any, str]], size: Callable[[Any, Any], Difference | None], decimals: int
) -> list[Column]:
    def text(found: Difference) -> str:
        return f"{interval(found, f'+.{decimals}f')}, p {p_text(found.p_holm)}"

    effect = Column("effect", lambda each: each.contrast.label)
    return [effect, *(Column(heading, partial(size, key), text) for key, heading in headings)]


def terminal(report: Report, width: int) -> str:
    """The tables as plain text; a `width` that is too little leaves columns to the files."""
    if not (alone := report.alone):
        choices = (accuracy_columns(report, 1), accuracy_columns(report, 1, with_interval=False))
        return for_terminal(report.lines, width, *choices)
    columns, effects = network_columns(alone.findings.rows, 1), effect_columns(1)
    text = for_terminal(alone.findings.rows, width, columns, columns[:-COST])
    if alone.findings.shown_by_rows:
        return text
    return f"{text}\n\n{for_terminal(alone.findings.effects, width, effects, effects[:-1])}"


def write_tables(report: Report) -> None:
    """Writes the tables and the answer into the report's folder, and the 11785-FGVC project's tables."""
    folder = report.folder
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / "answer.txt", report.answer_with_faults + "\n")
    write_text(folder / "table.md", _markdown(report))
    for table in tables_of(report):
        if table.name != BALANCED:
            notes = [] if report.alone else [table.legend, *report.faults]
            write_text(folder / f"{table.name}.tex", latex_with_notes(table.columns, table.lines, notes))
    if report.alone:
        _write_csv_files(report.alone)
        return
    csv_file(folder / "data_sets.csv", _ACCURACIES, _accuracy_lines(report))
    if report.across and report.across.effects:
        header = [*EFFECTS]
        header[_NAMED:_NAMED] = ["images", "what", "sets", "minus"]
        csv_file(folder / "effects_across.csv", header, _effect_lines(report))
    if report.measured:
        write_reported_tables(folder, report.measured)


def _write_csv_files(contents: Contents) -> None:
    folder, findings = contents.folder, contents.findings
    csv_file(folder / "seeds.csv", SEEDS, (_seed(run) for row in findings.rows for run in row.network.runs))
    csv_file(folder / "networks.csv", NETWORKS, (attributes(row, NETWORKS) for row in findings.rows))
    for name, effects in (("effects", findings.effects), (BALANCED, contents.balanced_effects)):
        csv_file(folder / f"{name}.csv", EFFECTS, (attributes(each, EFFECTS) for each in effects))
    if not contents.balanced_effects:
        (folder / f"{BALANCED}.csv").unlink()  # of a report on other images, too
    csv_file(folder / "curves.csv", CurvePoint._fields, contents.curves)
    csv_file(folder / "classes.csv", ClassGain._fields, contents.class_gains)
    csv_file(folder / "confusions.csv", Confusion._fields, contents.confusions)
    csv_file(folder / "runs.csv", RunLine._fields, contents.runs)


def _markdown(report: Report) -> str:
    """The tables with the answer, what was done, and what the figures can't say."""
    beside = [bullets(report.faults)] if report.faults and not report.alone else []
    said = report.answer if report.alone else report.answer_with_faults
    parts = [markdown_text(f"# {report.title}"), *map(markdown_text, said.split("\n\n"))]
    for place, table in enumerate(tables_of(report)):
        if place == 1 and not report.alone:
            parts += ["![Each effect on each data set](effects_across.svg)", *beside]
        if table.name == BALANCED:
            parts += [f"## {table.caption}", table.legend]
        if table.shown:
            parts.append(laid_out(table.columns, table.lines, form="markdown"))
            parts += [table.legend] if table.name != BALANCED else []
            parts += beside
        if place == 0 and report.alone:
            parts.append("![Top-1 of each network](roadmap.svg)")
    if alone := report.alone:
        equal = alone.findings.effects and not alone.balanced_effects
        parts += [_AS_TOP1] if equal else []
        parts += [bullets(alone.facts.notes)] if alone.facts.notes else []
    if report.measured:
        parts.append("Beside the figures of the 11785-FGVC project: [fgvc_11785.md](fgvc_11785.md).")
    parts += ["## What was done", bullets(f"{what}: {text}" for what, text in report.method.items())]
    parts.append(f"```\n{report.command}\n```")
    if report.warnings:
        parts += ["## What these figures don't say", bullets(report.warnings)]
    return "\n\n".join(parts) + "\n"


def _seed(run: FinishedRun) -> list[Any]:
    speed, seconds = run.measured("train_images_per_second"), run.measured("train_seconds")
    top1 = (run.val_top1_percent, run.test_top1_percent)
    return [run.network, run.pretraining_seed, run.seed, *top1, speed, seconds]


def _accuracy_lines(report: Report) -> Iterator[list[Any]]:
    for each in report.sets:
        for images, findings in ((ALL, each.findings), (KEPT, each.kept)):
            for row in findings.rows if findings else ():
                found, network = row.top1, row.network
                yield [
                    *(each.name, each.data, each.facts.image_size, network.name, row.label, row.runs),
                    *(images, len(network.runs[0].correct)),
                    *(100 * found.estimate, 100 * found.low, 100 * found.high),
                ]


def _effect_lines(report: Report) -> Iterator[list[Any]]:
    for images, findings in ((ALL, report.across), (KEPT, report.across_kept)):
        if findings is None:
            continue
        for each in findings.effects:
            for name, effect in zip(findings.sets, each.effects, strict=True):
                if effect:
                    yield _effect_line(effect, images, "effect", name, "")
            for gap in each.gaps:
                yield _effect_line(gap, images, "difference", "+".join(gap.sets), findings.sets[0])


def _effect_line(found: Estimate, *where: str) -> list[Any]:
    values = attributes(found, EFFECTS)
    return [*values[:_NAMED], *where, *values[_NAMED:]]
