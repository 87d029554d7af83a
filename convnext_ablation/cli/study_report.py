"""`convnext-ablation study report`: a study's page, tables and figures, of the runs that are finished.

Or those of another design, all of whose runs the study has.
"""

from __future__ import annotations

import argparse
import shlex
import shutil
import sys
from dataclasses import replace
from pathlib import Path

from convnext_ablation.errors import UserError
from convnext_ablation.study.designs.contrasts import parse_groups
from convnext_ablation.study.designs.design import DESIGNS, GROUPED
from convnext_ablation.study.experiment import Study
from convnext_ablation.study.report.answer import answer
from convnext_ablation.study.report.charts import write_charts
from convnext_ablation.study.report.contents import Contents
from convnext_ablation.study.report.findings import compare
from convnext_ablation.study.report.html_page import write_page
from convnext_ablation.study.report.tables import terminal_effects, terminal_table, write_tables
from convnext_ablation.study.results import origin_of, read_results, seen_as
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
    """Writes the report."""
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


def report(study: Study, folder: Path, output: Path | None = None, origin: str = "") -> None:
    """Writes the report of the finished runs, by default below the study's folder; prints tables and answer.

    `origin` says where the runs come from, if they were made for another design.
    """
    output = output or folder / REPORT
    results = read_results(study, folder)
    facts = replace(results.facts(), origin=origin)
    findings = compare(results.networks(), study.design.contrasts, facts.classes)
    contents = Contents(output, findings, facts, results.evidence)
    write_tables(contents)
    if study.tuning:
        write_tuning(study, folder, output)
    page = write_page(contents, write_charts(contents))
    width = shutil.get_terminal_size((120, 24)).columns
    print(f"\n{terminal_table(findings.rows, width)}\n")
    if not findings.shown_by_rows:
        print(f"{terminal_effects(findings.effects, width)}\n")
    print(f"{answer(findings, facts)}\n")
    print(f"report: {page}, with tables and figures beside it")
