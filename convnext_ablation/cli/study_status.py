"""`convnext-ablation study status`: finished, running, failed and waiting runs, and the time left."""

from __future__ import annotations

import argparse
import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from convnext_ablation.console import counted, duration, table
from convnext_ablation.study.clusters import queue_of
from convnext_ablation.study.experiment import Study
from convnext_ablation.study.status import RunState, Survey, seconds_left, totals
from convnext_ablation.study.store import FAILURE, Failure, Holder, holder_of, read_phases

SOME_FAILED, WORK_LEFT = 1, 3


def run(args: argparse.Namespace) -> None:
    """Prints the study's progress, and sets the exit code.

    Raises:
        UserError: The folder holds no study.
        SystemExit: Runs have failed (1), or are left (3).
    """
    phases = read_phases(args.study)
    states = Survey(phases, args.study).look()
    print(report(phases, states, args.study, shutil.get_terminal_size((110, 24)).columns), flush=True)
    if totals(states)["failed"]:
        sys.exit(SOME_FAILED)
    if any(state.is_open for state in states):
        sys.exit(WORK_LEFT)


def report(phases: Sequence[Study], states: Sequence[RunState], folder: Path, width: int) -> str:
    """The command's output for a terminal of `width` columns."""
    now = time.time()
    by_phase = [[state for state in states if state.run.phase == phase.phase] for phase in phases]
    seeds = [_by_seed(*each, width) for each in zip(phases, by_phase, strict=True)]
    parts = [_heading(phases, by_phase, folder, now), *filter(None, seeds)]
    running = [_running_line(state, state.holder, now) for state in states if state.holder]
    if running:
        parts.append("\n".join(["running:", *running]))
    failed = [_failed_line(each.title, each.failure, each.folder) for each in states if each.failure]
    if failed:
        parts.append("\n".join(["failed:", *failed]))
    return "\n\n".join(parts)


def _heading(
    phases: Sequence[Study], by_phase: Sequence[Sequence[RunState]], folder: Path, now: float
) -> str:
    states = [state for each in by_phase for state in each]
    counts, lines = totals(states), [f"{folder}:"]
    for phase, own in zip(phases, by_phase, strict=True):
        title = f"{phase.design.name} on {phase.data_name}, {phase.size}"
        lines.append(f"  {phase.phase}: {title}; {totals(own)['done']} of {len(own)} done")
        if len(phases) == 1:
            lines = [f"{folder}: {title}"]
    lines.append(
        f"{counted(len(states), 'run')}: " + ", ".join(f"{count} {name}" for name, count in counts.items())
    )
    if counts["waiting"] or counts["running"]:
        driver = holder_of(folder)
        by = f", driven by {driver.where} for {duration(now - driver.since)}" if driver else ""
        lines.append(_time_to_go(states, counts["running"]) + by)
        if queue := queue_of(folder):
            lines.append(f"Slurm: {queue}")
    return "\n".join(lines)


def _time_to_go(states: Sequence[RunState], running: int) -> str:
    seconds = seconds_left(states)
    if seconds is None:
        return "time to go: not known before an epoch is finished"
    if not running:
        return f"nothing runs; one run at a time would take about {duration(seconds)}"
    return f"about {duration(seconds)} to go with {counted(running, 'run')} at a time"


def _by_seed(study: Study, states: Sequence[RunState], width: int) -> str:
    """A table of validation top-1, networks x seeds; empty if wider than `width`."""
    states = [state for state in states if not state.run.tuning]
    columns = list(dict.fromkeys(state.seed for state in states))
    cells = {(state.run.point.key, state.seed): _cell(state) for state in states}
    rows = [[point.label, *(cells.get((point.key, seed), "") for seed in columns)] for point in study.points]
    of = f"{study.phase}, " if study.phase else ""
    text = table([f"{of}val top-1 %, by seed", *columns], rows)
    return text if max(map(len, text.splitlines())) <= width else ""


def _cell(state: RunState) -> str:
    if state.status == "done":
        return f"{state.result['val_top1_percent']:.2f}"
    if state.status == "failed":
        return "failed"
    return f"{state.epochs}/{state.due}" if state.epochs or state.status == "running" else "."


def _running_line(state: RunState, holder: Holder, now: float) -> str:
    return (
        f"  {state.title}: {state.epochs} of {counted(state.due, 'epoch')}, on {holder.where} for "
        f"{duration(max(0.0, now - holder.since))}"
    )


def _failed_line(title: str, failure: Failure, folder: Path) -> str:
    again = "`study --retry-failed` tries it again" if failure.final else "it is tried again"
    return f"  {title}: {failure.reason}; {again} ({folder / FAILURE})"
