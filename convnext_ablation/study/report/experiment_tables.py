"""The tables of a whole experiment: accuracies, effects on each data set, and how these differ."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any

from convnext_ablation.console import counted, markdown_text
from convnext_ablation.files import write_text
from convnext_ablation.study.report.across import AcrossFindings, EffectAcross, set_name
from convnext_ablation.study.report.answer import p_text
from convnext_ablation.study.report.experiment_findings import ExperimentReport, Line, PhaseReport
from convnext_ablation.study.report.findings import Estimate
from convnext_ablation.study.report.reported import write_reported_tables
from convnext_ablation.study.report.tables import (
    EFFECTS,
    Column,
    attributes,
    bullets,
    csv_file,
    for_terminal,
    interval,
    laid_out,
    latex_with_notes,
)
from convnext_ablation.study.stats.effects import Difference, Interval

ALL, KEPT = "all", "without excluded"  # test images
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


def accuracy_columns(report: ExperimentReport, decimals: int, with_interval: bool = True) -> list[Column]:
    """The columns of the table of accuracies: a phase each, and one without the images that are excluded."""

    def top1(rows: str, phase: PhaseReport, line: Line) -> Interval | None:
        row = getattr(line, rows).get(phase.name)
        return None if row is None else row.top1

    def text(found: Interval) -> str:
        form = f".{decimals}f"
        return interval(found, form) if with_interval else format(100 * found.estimate, form)

    columns = [Column("network", lambda line: line.label)]
    for phase in report.phases:
        columns.append(Column(f"{phase.name}, {phase.facts.pixels}", partial(top1, "rows", phase), text))
        if phase.kept:
            heading = f"{phase.name} without {counted(phase.excluded, 'image')}"
            columns.append(Column(heading, partial(top1, "kept", phase), text))
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


def terminal_accuracies(report: ExperimentReport, width: int) -> str:
    """The accuracies as plain text; intervals are left to the files where `width` is too little."""
    choices = (accuracy_columns(report, 1), accuracy_columns(report, 1, with_interval=False))
    return for_terminal(report.lines, width, *choices)


def write_experiment_tables(report: ExperimentReport) -> None:
    """Writes the tables and the answer into the report's folder, and the 11785-FGVC project's tables."""
    folder, across = report.folder, report.across
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / "answer.txt", report.answer + "\n")
    write_text(folder / "table.md", _markdown(report))
    csv_file(folder / "data_sets.csv", _ACCURACIES, _accuracy_lines(report))
    write_text(
        folder / "data_sets.tex",
        latex_with_notes(accuracy_columns(report, 2), report.lines, [_LEGEND, *report.faults]),
    )
    if across and across.effects:
        header = [*EFFECTS]
        header[_NAMED:_NAMED] = ["images", "what", "sets", "minus"]
        csv_file(folder / "effects_across.csv", header, _effect_lines(report))
        effects, gaps = effect_columns_across(across, 2), gap_columns(across, 2)
        write_text(
            folder / "effects_across.tex",
            latex_with_notes(effects, across.effects, [_EFFECTS, *report.faults]),
        )
        write_text(
            folder / "differences_across.tex", latex_with_notes(gaps, across.effects, [_GAPS, *report.faults])
        )
    if report.measured:
        write_reported_tables(folder, report.measured)


def _markdown(report: ExperimentReport) -> str:
    across, beside = report.across, [bullets(report.faults)] if report.faults else []
    parts = [markdown_text(f"# {report.title}"), *map(markdown_text, report.answer.split("\n\n"))]
    parts += [laid_out(accuracy_columns(report, 2), report.lines, form="markdown"), _LEGEND, *beside]
    if across and across.effects:
        tables = (effect_columns_across(across, 2), _EFFECTS), (gap_columns(across, 2), _GAPS)
        parts += ["![Each effect on each data set](effects_across.svg)", *beside]
        for columns, legend in tables:
            parts += [laid_out(columns, across.effects, form="markdown"), legend, *beside]
    if report.measured:
        parts.append("Beside the figures of the 11785-FGVC project: [fgvc_11785.md](fgvc_11785.md).")
    parts += ["## What was done", bullets(f"{name}: {text}" for name, text in report.phase_texts().items())]
    parts.append(f"```\n{report.command}\n```")
    if report.warnings:
        parts += ["## What these figures don't say", bullets(report.warnings)]
    return "\n\n".join(parts) + "\n"


def _accuracy_lines(report: ExperimentReport) -> Iterator[list[Any]]:
    for phase in report.phases:
        for images, results in ((ALL, phase.results), (KEPT, phase.kept)):
            for row in results.findings.rows if results else ():
                found, network = row.top1, row.network
                yield [
                    *(phase.name, phase.data, phase.facts.image_size, network.name, row.label, row.runs),
                    *(images, len(network.runs[0].correct)),
                    *(100 * found.estimate, 100 * found.low, 100 * found.high),
                ]


def _effect_lines(report: ExperimentReport) -> Iterator[list[Any]]:
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
