"""`convnext-ablation study status`: what is done, running, failed and left, and how long it will take."""

from __future__ import annotations

import argparse
import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from convnext_ablation.study.experiment import Study
from convnext_ablation.study.progress import (
    RunState,
    Survey,
    duration,
    seconds_left,
    total_by_status,
)
from convnext_ablation.study.run_files import FAILURE
from convnext_ablation.study.store import read_study
from convnext_ablation.study.wording import counted

SOME_FAILED, WORK_LEFT = 1, 3
_WATCH_SECONDS = 5.0
_NARROWEST_CELL = 5
_EXIT_CODES = "exit code: 0 if all runs are done, 1 if some have failed, 3 if work is left, 2 for an error"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    parser.epilog = _EXIT_CODES
    parser.add_argument("study", type=Path, metavar="STUDY", help="the study's folder")
    parser.add_argument("--watch", action="store_true", help="look again every few seconds until it is over")


def run(args: argparse.Namespace) -> None:
    """Prints how far the study is, and ends with an exit code that says so.

    Raises:
        UserError: There is no such study.
        SystemExit: Runs are left (3), or have failed (1).
    """
    survey = Survey(args.study)
    while True:
        study = read_study(args.study)
        states = survey.look(study)
        text = report(study, states, survey, shutil.get_terminal_size((110, 24)).columns)
        over = not any(state.status in ("left", "running") for state in states)
        if args.watch and sys.stdout.isatty():
            print("\033[2J\033[H", end="")
        print(text, flush=True)
        if over or not args.watch:
            break
        time.sleep(_WATCH_SECONDS)
    code = exit_code(states)
    if code:
        sys.exit(code)


def exit_code(states: Sequence[RunState]) -> int:
    """0 where all runs are done, `SOME_FAILED` where some have, else `WORK_LEFT`."""
    totals = total_by_status(states)
    if totals["failed"]:
        return SOME_FAILED
    return WORK_LEFT if totals["left"] or totals["running"] else 0


def report(study: Study, states: Sequence[RunState], survey: Survey, width: int) -> str:
    """What the command prints.

    Args:
        study: The study.
        states: Its runs.
        survey: Who looked at them.
        width: Columns of the terminal.
    """
    now = survey.clock.now()
    parts = [_heading(study, states, survey.folder, now)]
    table = _table(study, states, width)
    if table:
        parts.append(table)
    running = [_running_line(state, study, now) for state in states if state.status == "running"]
    if running:
        parts.append("\n".join(["running:", *running]))
    failed = [_failed_line(state, survey.folder) for state in states if state.status == "failed"]
    if failed:
        parts.append("\n".join(["failed (`study` tries them again):", *failed]))
    return "\n\n".join(parts)


def _heading(study: Study, states: Sequence[RunState], folder: Path, now: float) -> str:
    totals = total_by_status(states)
    counts = ", ".join(f"{count} {status}" for status, count in totals.items())
    seeds = len(study.seeds) * len(study.starts)
    lines = [
        f"{folder}: {study.design.name} on {study.data_name}, {counted(len(study.points), 'network')} x "
        + counted(seeds, "seed")
        + (f", {len(study.tuning)} learning rates tried" if study.tuning else ""),
        f"{counted(len(states), 'run')}: {counts}",
    ]
    if totals["left"] or totals["running"]:
        lines.append(_time_to_go(study, states, totals["running"], now))
    return "\n".join(lines)


def _time_to_go(study: Study, states: Sequence[RunState], workers: int, now: float) -> str:
    seconds = seconds_left(states, study, now)
    if seconds is None:
        return "time to go: not known before an epoch is finished"
    if not workers:
        return f"nobody is at work; one worker would take about {duration(seconds)}"
    return f"about {duration(seconds)} to go with {counted(workers, 'worker')}"


def _table(study: Study, states: Sequence[RunState], width: int) -> str:
    """Networks x seeds with the top-1 on validation of what is done; nothing if it doesn't fit."""
    columns = list(dict.fromkeys(state.seed for state in states if not _is_tuning(state)))
    cells = {
        (state.network, state.seed): _cell(state, study.epochs) for state in states if not _is_tuning(state)
    }
    labels = [point.label for point in study.points]
    first = max(len(label) for label in (*labels, "val top-1 %, by seed"))
    size = max(_NARROWEST_CELL, *(len(text) for text in (*columns, *cells.values())))
    if first + len(columns) * (size + 2) > width:
        return ""
    lines = [["val top-1 %, by seed", *columns]]
    lines += [
        [point.label, *(cells.get((point.key, seed), "") for seed in columns)] for point in study.points
    ]
    return "\n".join(
        line[0].ljust(first) + "".join(f"  {text.rjust(size)}" for text in line[1:]) for line in lines
    )


def _is_tuning(state: RunState) -> bool:
    return state.run is not None and state.run.tuning


def _cell(state: RunState, epochs: int) -> str:
    if state.status == "done":
        return f"{state.result['val_top1']:.2f}"
    if state.status == "failed":
        return "failed"
    return f"{state.epochs}/{epochs}" if state.epochs or state.status == "running" else "."


def _running_line(state: RunState, study: Study, now: float) -> str:
    if state.holder is None:
        return f"  {state.title}: begins"
    return (
        f"  {state.title}: {state.epochs} of {counted(study.epochs, 'epoch')}, on {state.holder.host} "
        f"(process {state.holder.pid}) for {duration(max(0.0, now - state.holder.since))}"
    )


def _failed_line(state: RunState, folder: Path) -> str:
    where = f" ({state.run.folder(folder) / FAILURE})" if state.run else ""
    return f"  {state.title}: {state.reason}{where}"
