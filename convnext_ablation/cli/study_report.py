"""`convnext-ablation study report`: pages, tables and figures of a study's or experiment's finished runs.

Or those of another design, all of whose runs there are.
"""

from __future__ import annotations

import argparse
import shlex
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import numpy as np

from convnext_ablation.data.folder import data_set_name
from convnext_ablation.errors import UserError, unknown_name
from convnext_ablation.study.designs.contrasts import parse_groups
from convnext_ablation.study.experiment import Study
from convnext_ablation.study.report.across import SetResults
from convnext_ablation.study.report.charts import draw_across, write_charts
from convnext_ablation.study.report.contents import Contents
from convnext_ablation.study.report.experiment_findings import ExperimentReport, PhaseReport
from convnext_ablation.study.report.experiment_tables import terminal_accuracies, write_experiment_tables
from convnext_ablation.study.report.figures import write_chart
from convnext_ablation.study.report.findings import RESOLVED, compare
from convnext_ablation.study.report.html_page import write_experiment_page, write_page
from convnext_ablation.study.report.tables import (
    answer_text,
    terminal_effects,
    terminal_table,
    write_tables,
)
from convnext_ablation.study.results import (
    NothingFinishedError,
    StudyResults,
    origin_of,
    read_results,
    seen_as,
)
from convnext_ablation.study.store import folder_of, read_phases
from convnext_ablation.study.tuning import as_known, write_tuning
from convnext_ablation.training.predictions import excluded_ids

REPORT = "report"


@dataclass(frozen=True)
class Asked:
    """What a report is asked for.

    Attributes:
        design: Name or file of another design, to report on from the same runs.
        groups: Of its components.
        exclude: By phase: a file of the test images to leave out, as `validate.py --exclude` takes it.
        size: That effects which aren't significant are judged against, a fraction.
        command: The command line that asks for it.
    """

    output: Path | None = None
    design: str = ""
    groups: Mapping[str, Sequence[str]] | None = None
    exclude: Mapping[str, Path] = field(default_factory=dict)
    size: float = RESOLVED
    command: str = ""


def run(args: argparse.Namespace) -> None:
    """Writes the report."""
    phases = read_phases(args.study)
    groups = parse_groups(args.groups) if args.groups else None
    exclude = _exclude(args.exclude, phases)
    command = shlex.join(["convnext-ablation", *args.words])
    asked = Asked(args.output, args.design or "", groups, exclude, args.resolve / 100, command)
    report(phases, args.study, asked)


def _exclude(words: Sequence[str], phases: Sequence[Study]) -> dict[str, Path]:
    found: dict[str, Path] = {}
    names = [phase.phase for phase in phases]
    for word in words:
        name, equals, file = word.partition("=")
        if len(phases) == 1:
            raise UserError(
                "--exclude: is for an experiment of several phases; `validate.py --exclude` is for a network"
            )
        if not equals or not file:
            raise UserError(f"--exclude {word}: write PHASE=FILE, with a phase of {', '.join(names)}")
        if name not in names:
            raise unknown_name("phase in --exclude", name, names)
        if name in found:
            raise UserError(f"--exclude {name}: is given twice, {found[name]} and {file}; give one")
        found[name] = Path(file)
    return found


def report(phases: Sequence[Study], folder: Path, asked: Asked | None = None) -> None:
    """Writes the report of the finished runs, of each phase and of all; prints tables and answer.

    It goes below the folder of the experiment, and each phase's below that of the phase, by default.
    """
    asked = asked or Asked()
    if len(phases) == 1:
        (phase,) = phases
        own = folder_of(phase, folder)
        study, origin = _seen(phase, own, asked)
        output = asked.output or own / _name(study, asked)
        contents, page = _write(read_results(study, own), output, origin, asked.size)
        _print(contents, page)
    else:
        _report_experiment(phases, folder, asked)


def _seen(study: Study, folder: Path, asked: Asked) -> tuple[Study, str]:
    """The part of a study that is asked for, and where its runs come from."""
    if not asked.design:
        return study, ""
    part = seen_as(as_known(study, folder), folder, asked.design, asked.groups)
    return replace(part, command=f"{study.command}\n{asked.command}"), origin_of(part, study, folder)


def _name(study: Study, asked: Asked) -> str:
    return f"{REPORT}-{study.design.name}" if asked.design else REPORT


def _write(results: StudyResults, output: Path, origin: str, size: float) -> tuple[Contents, Path]:
    """Writes the report of one study; returns what it shows, and its page."""
    facts = replace(results.facts(), origin=origin)
    findings = compare(results.networks(), results.study.design.contrasts, facts.classes, size)
    contents = Contents(output, findings, facts, results.evidence)
    write_tables(contents)
    if results.study.tuning:
        write_tuning(results.study, results.folder, output)
    return contents, write_page(contents, write_charts(contents))


def _print(contents: Contents, page: Path) -> None:
    findings, width = contents.findings, _width()
    print(f"\n{terminal_table(findings.rows, width)}\n")
    if not findings.shown_by_rows:
        print(f"{terminal_effects(findings.effects, width)}\n")
    print(f"{answer_text(contents)}\n")
    print(f"report: {page}, with tables and figures beside it")


def _width() -> int:
    return shutil.get_terminal_size((120, 24)).columns


def _report_experiment(phases: Sequence[Study], folder: Path, asked: Asked) -> None:
    found: list[tuple[StudyResults, str]] = []
    notes = []
    for phase in phases:
        own = folder_of(phase, folder)
        if asked.design and not phase.design.contrasts and all(p.components is None for p in phase.points):
            notes.append(
                f"WARNING: {phase.phase}: left out, as it has no networks of the design {asked.design}."
            )
            continue
        study, origin = _seen(phase, own, asked)
        try:
            found.append((read_results(study, own), origin))
        except NothingFinishedError:
            notes.append(f"WARNING: {phase.phase}: left out, as none of its runs is finished.")
    if not found:
        raise UserError(f"{folder}: no run of this experiment is finished; nothing to report")
    kept = {results.study.phase: _kept(results, asked.exclude) for results, _ in found}
    first = found[0][0].study
    output = asked.output or folder / _name(first, asked)
    reports = []
    for results, origin in found:
        study = results.study
        where = output / study.phase if asked.output else results.folder / _name(study, asked)
        contents, page = _write(results, where, origin, asked.size)
        reports.append(_phase_report(results, contents, page, kept[study.phase], asked.size))
    design = next(
        (results.study.design for results, _ in found if results.study.design.contrasts), first.design
    )
    names = ", ".join(each.name for each in reports)
    whole = ExperimentReport(
        output, f"{design.name} on {names}", reports, design.contrasts, first.command, notes, asked.size
    )
    write_experiment_tables(whole)
    chart = None
    if whole.across and whole.across.effects:
        chart = write_chart(output, "effects_across", partial(draw_across, whole.across, whole.faults))
    page = write_experiment_page(whole, chart)
    print(f"\n{terminal_accuracies(whole, _width())}\n")
    print(f"{whole.answer}\n")
    for warning in whole.warnings:
        print(warning)
    print(f"report: {page}, which links those of the phases, with tables and figures beside it")


def _kept(results: StudyResults, exclude: Mapping[str, Path]) -> np.ndarray | None:
    """Which test images are left where a file of excluded ones is given, (N,)."""
    study = results.study
    if study.phase not in exclude:
        return None
    path, ids = exclude[study.phase], results.ids.tolist()
    left_out = excluded_ids(path, ids, str(Path(study.data_dir) / study.test_split), study.test_split)
    kept = np.array([name not in left_out for name in ids], dtype=bool)
    if not kept.any():
        raise UserError(f"{path}: all {len(kept)} test images of {study.phase} are excluded; leave some in")
    return kept


def _phase_report(
    results: StudyResults, contents: Contents, page: Path, kept: np.ndarray | None, size: float
) -> PhaseReport:
    study, networks = results.study, results.networks()
    without = None
    if kept is not None:
        left = [network.on(kept) for network in networks]
        findings = compare(left, study.design.contrasts, contents.facts.classes, size)
        without = SetResults(study.phase, left, findings)
    return PhaseReport(
        SetResults(study.phase, networks, contents.findings),
        contents.facts,
        data=data_set_name(Path(study.data_dir)),
        fingerprint=study.data_fingerprint,
        ids=results.ids.tolist(),
        start=study.start.phase if study.start else "",
        has_effects=bool(study.design.contrasts),
        page=page,
        kept=without,
    )
