"""`convnext-ablation study report`: a study's page, tables and figures, of the runs that are finished.

Or those of another design, all of whose runs the study has.
"""

from __future__ import annotations

import argparse
import shlex
import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from convnext_ablation.errors import UserError
from convnext_ablation.study.designs.design import DESIGNS, GROUPED
from convnext_ablation.study.designs.groups import parse_groups
from convnext_ablation.study.experiment import TEST_SPLIT, Study
from convnext_ablation.study.report.answer import answer, caveats
from convnext_ablation.study.report.findings import compare
from convnext_ablation.study.report.page import PageExtras, PageRun, write_page
from convnext_ablation.study.report.report import terminal_effects, terminal_table, write_report
from convnext_ablation.study.results import StudyResults, read_results
from convnext_ablation.study.shared_runs import origin_of, seen_as
from convnext_ablation.study.store import read_study
from convnext_ablation.study.tuning import write_tuning

REPORT = "report"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of the `study report` command."""
    parser.add_argument("study", type=Path, help="the study's folder")
    parser.add_argument(
        "--output",
        type=Path,
        metavar="FOLDER",
        help="by default STUDY/report, of another design STUDY/report-NAME",
    )
    parser.add_argument(
        "--design",
        metavar="NAME|FILE",
        help=f"report on another design from the study's runs: {', '.join(DESIGNS)}, or a YAML file",
    )
    parser.add_argument(
        "--groups",
        nargs="+",
        metavar="NAME=COMPONENT,...",
        help=f"components that are switched together, for the designs {', '.join(GROUPED)}",
    )


def run(args: argparse.Namespace) -> None:
    """Writes the report.

    Raises:
        UserError: The folder holds no study, or one without a finished run, or not all that a design needs.
    """
    study, output, origin = read_study(args.study), args.output, ""
    if args.groups and not args.design:
        raise UserError("--groups: of which design? give --design")
    if args.design:
        part = seen_as(study, args.study, args.design, parse_groups(args.groups) if args.groups else None)
        origin = origin_of(part, study, args.study)
        command = shlex.join(["convnext-ablation", *sys.argv[1:]])
        study = replace(part, command=f"{study.command}\n{command}")
        output = output or args.study / f"{REPORT}-{study.design.name}"
    report(study, args.study, output, origin)


def report(
    study: Study,
    folder: Path,
    output: Path | None = None,
    origin: str = "",
    told: Callable[[str], None] = lambda line: None,
) -> None:
    """Writes the report of the finished runs, and prints tables and answer.

    Args:
        study: The study.
        folder: Its folder.
        output: Where the report goes, by default below the study's folder.
        origin: Where the runs come from, if they were made for another design.
        told: Hears of what is being done.
    """
    output = output or folder / REPORT
    results = read_results(study, folder)
    networks, facts = results.networks(), replace(results.facts(), origin=origin)
    findings = compare(networks, study.design.contrasts)
    paths = write_report(output, networks, findings, facts)
    paths += [write_tuning(study, folder, output)] if study.tuning else []
    extras = PageExtras(
        answer=answer(findings, facts),
        caveats=caveats(findings, facts),
        runs=_page_runs(results),
        ids=results.ids,
        targets=results.targets,
        classes=results.classes,
        data_folder=Path(study.data_dir),
        split=TEST_SPLIT,
        roadmap=output / "roadmap.svg",
        warnings=[warning for warning in facts.warnings if warning.startswith("WARNING")],
    )
    page = write_page(output, findings.rows, findings.effects, facts, extras, told)
    width = shutil.get_terminal_size((120, 24)).columns
    print(f"\n{terminal_table(findings.rows, width)}\n")
    if not findings.shown_by_rows:
        print(f"{terminal_effects(findings.effects, width)}\n")
    print(f"{answer(findings, facts)}\n")
    print(f"report: {page[0]}, and {len(paths) + len(page) - 1} tables and figures beside it")


def _page_runs(results: StudyResults) -> list[PageRun]:
    return [
        PageRun(
            outcome.run.point.key,
            outcome.run.arguments.seed,
            outcome.run.folder(results.folder),
            outcome.predicted,
            outcome.run.pretraining_seed or 0,
        )
        for outcome in results.outcomes
    ]
