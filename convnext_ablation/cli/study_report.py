"""`convnext-ablation study report`: pages, tables and figures of finished runs, also for another design."""

from __future__ import annotations

import argparse
import shlex
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from convnext_ablation.data.folder import data_set_name
from convnext_ablation.errors import UserError, unknown_name
from convnext_ablation.study.designs.contrasts import parse_groups
from convnext_ablation.study.experiment import Study
from convnext_ablation.study.report.charts import write_charts
from convnext_ablation.study.report.contents import Contents
from convnext_ablation.study.report.evidence import NetworkResult
from convnext_ablation.study.report.findings import RESOLVED, Findings, compare
from convnext_ablation.study.report.html_page import write_page
from convnext_ablation.study.report.table_files import terminal, write_tables
from convnext_ablation.study.report.whole import Report, report_of
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
    """Options of a report.

    Attributes:
        output: Folder to write to; by default inside the study's.
        design: Name or file of another design to report on with the same runs.
        groups: Groups of components for that design.
        exclude: By phase, a file of test images to leave out, as for `validate.py --exclude`.
        size: Effect size of interest, as a fraction; non-significant effects are compared with it.
        command: The command line that requested the report.
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
    """Writes the reports of each phase and of the whole experiment; prints tables and the answer.

    By default, reports go to the experiment's folder and to each phase's folder.
    """
    asked = asked or Asked()
    found, notes = _finished(phases, folder, asked)
    kept = [_kept(results, asked.exclude) for results, _ in found]
    first, several = found[0][0].study, len(phases) > 1
    sets = []
    for (results, origin), images in zip(found, kept, strict=True):
        study = results.study
        where = results.folder / _name(study, asked)
        if asked.output:
            where = asked.output / study.phase if several else asked.output
        sets.append(_contents(results, where, origin, images, asked.size))
        page = _write(report_of(sets[-1]))
        if study.tuning:
            write_tuning(study, results.folder, where)
    whole = report_of(sets[0])
    if several:
        designs = [results.study.design for results, _ in found]
        contrasts = next((each.contrasts for each in designs if each.contrasts), ())
        output = asked.output or folder / _name(first, asked)
        whole = Report(output, sets, contrasts, first.command, notes, asked.size)
        page = _write(whole)
    print(f"\n{terminal(whole, shutil.get_terminal_size((120, 24)).columns)}\n")
    print(f"{whole.answer_with_faults}\n")
    for warning in whole.warnings if several else ():
        print(warning)
    links = ", which links those of the phases," if several else ","
    print(f"report: {page}{links} with tables and figures beside it")


def _write(report: Report) -> Path:
    """Writes tables, figures and the page; returns the page's path."""
    write_tables(report)
    return write_page(report, write_charts(report))


def _finished(
    phases: Sequence[Study], folder: Path, asked: Asked
) -> tuple[list[tuple[StudyResults, str]], list[str]]:
    """Returns results and origin of each phase with finished runs, and warnings on omitted phases."""
    found, notes = [], []
    for phase in phases:
        own = folder_of(phase, folder)
        models_only = not phase.design.contrasts and all(p.components is None for p in phase.points)
        if asked.design and models_only and len(phases) > 1:
            notes.append(
                f"WARNING: {phase.phase}: left out, as it has no networks of the design {asked.design}."
            )
            continue
        study, origin = _seen(phase, own, asked)
        try:
            found.append((read_results(study, own), origin))
        except NothingFinishedError:
            if len(phases) == 1:
                raise
            notes.append(f"WARNING: {phase.phase}: left out, as none of its runs is finished.")
    if not found:
        raise UserError(f"{folder}: no run of this experiment is finished; nothing to report")
    return found, notes


def _seen(study: Study, folder: Path, asked: Asked) -> tuple[Study, str]:
    """The requested part of a study, and the origin of its runs (empty for the study's own design)."""
    if not asked.design:
        return study, ""
    part = seen_as(as_known(study, folder), folder, asked.design, asked.groups)
    return replace(part, command=f"{study.command}\n{asked.command}"), origin_of(part, study, folder)


def _name(study: Study, asked: Asked) -> str:
    return f"{REPORT}-{study.design.name}" if asked.design else REPORT


def _contents(
    results: StudyResults, folder: Path, origin: str, kept: np.ndarray | None, size: float
) -> Contents:
    study, networks = results.study, results.networks()
    facts = replace(results.facts(), origin=origin)

    def found(networks: Sequence[NetworkResult]) -> Findings:
        return compare(networks, study.design.contrasts, facts.classes, size)

    return Contents(
        folder,
        found(networks),
        facts,
        results.evidence,
        name=study.phase,
        data=data_set_name(Path(study.data_dir)),
        fingerprint=study.data_fingerprint,
        start=study.start.phase if study.start else "",
        has_effects=bool(study.design.contrasts),
        kept=None if kept is None else found([network.on(kept) for network in networks]),
    )


def _kept(results: StudyResults, exclude: Mapping[str, Path]) -> np.ndarray | None:
    """Boolean mask of the test images that --exclude keeps, (N,); None without --exclude."""
    study = results.study
    if study.phase not in exclude:
        return None
    path, ids = exclude[study.phase], results.ids.tolist()
    left_out = excluded_ids(path, ids, str(Path(study.data_dir) / study.test_split), study.test_split)
    kept = np.array([name not in left_out for name in ids], dtype=bool)
    if not kept.any():
        raise UserError(f"{path}: all {len(kept)} test images of {study.phase} are excluded; leave some in")
    return kept
