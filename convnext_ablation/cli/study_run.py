"""`convnext-ablation study`: from a data set's name to an answer."""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from convnext_ablation.cli.study_report import report
from convnext_ablation.errors import UserError
from convnext_ablation.study.experiment import Study
from convnext_ablation.study.options import add_plan_arguments, plan_study
from convnext_ablation.study.progress import (
    Progress,
    RunState,
    Survey,
    forget_failures,
    total_by_status,
)
from convnext_ablation.study.slurm import LOGS, any_alive, parse_slurm, submit, wait_for_local
from convnext_ablation.study.store import claim_folder, read_study
from convnext_ablation.study.tuning import TUNING_FILE, write_tuning
from convnext_ablation.study.wording import counted
from convnext_ablation.study.workers import places_for, supervise


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of the `study` command."""
    add_plan_arguments(parser)
    parser.add_argument("--output", type=Path, required=True, metavar="FOLDER", help="the study's folder")
    parser.add_argument(
        "--jobs", type=int, help="runs at the same time; by default one a GPU, or as many as cores allow"
    )
    parser.add_argument(
        "--slurm",
        nargs="+",
        metavar="KEY=VALUE",
        help="do the runs in jobs of Slurm with these settings, such as partition=gpu gpus_per_node=1 "
        "timeout_min=240 (the extra `slurm`)",
    )
    parser.add_argument("--slurm-jobs", type=int, default=1, metavar="N", help="how many of them")


def run(args: argparse.Namespace) -> None:
    """Runs what is left of the study, prints its table and answer, and writes its report.

    Raises:
        UserError: The study can't be run as asked, or runs of it failed.
    """
    start = time.monotonic()
    for name in ("jobs", "slurm_jobs"):
        if getattr(args, name) is not None and getattr(args, name) < 1:
            raise UserError(f"--{name.replace('_', '-')} is {getattr(args, name)}; it must be at least 1")
    parameters = parse_slurm(args.slurm) if args.slurm else None
    study = claim_folder(args.output, plan_study(args, args.output)[0])
    states = Survey(args.output).look(study)
    retried = forget_failures(states, args.output)
    progress = Progress(study)
    try:
        _introduce(study, states, retried)
        if parameters is None:
            places = places_for(study.device, args.jobs, study.threads)
            states = supervise(args.output, places, progress)
        else:
            states = _with_slurm(args, parameters, progress)
    finally:
        progress.close()
    if study.tuning:
        write_tuning(study, args.output)
        print(f"learning rates: {args.output / TUNING_FILE}")
    _check_all_done(states)
    report(read_study(args.output), args.output, told=lambda line: print(line, flush=True))
    print(f"took {_clock(time.monotonic() - start)}")


def _introduce(study: Study, states: Sequence[RunState], retried: int) -> None:
    totals = total_by_status(states)
    what = f"{counted(len(study.points), 'network')} x {counted(len(study.seeds), 'seed')}"
    if study.pretraining_seeds:
        what += f" x {counted(len(study.pretraining_seeds), 'pre-training seed')}"
    if study.tuning:
        what += f", and {len(study.tuning)} learning rates for each network"
    parts = [f"{counted(len(states), 'run')} ({what})", f"{totals['done']} done before"]
    parts += [f"{totals['running']} being done by others"] if totals["running"] else []
    parts += [f"{retried} that failed tried again"] if retried else []
    print(f"{', '.join(parts)}; {study.precision}", flush=True)


def _with_slurm(args: argparse.Namespace, parameters: dict[str, Any], progress: Progress) -> list[RunState]:
    """Submits jobs, and watches what they do."""
    jobs = submit(args.output, parameters, args.slurm_jobs, args.jobs)
    names = ", ".join(str(job.job_id) for job in jobs)
    print(
        f"submitted {names}; Ctrl-C ends this command and not the jobs; `convnext-ablation study status "
        f"{args.output}` says how far they are",
        flush=True,
    )
    states = supervise(args.output, [], progress, others_alive=lambda: any_alive(jobs))
    wait_for_local(jobs, parameters)
    left = sum(state.status in ("left", "running") for state in states)
    failed = any(state.status == "failed" for state in states)
    if left and not failed:
        raise UserError(
            f"the jobs have ended with {counted(left, 'run')} left; their logs are in {args.output / LOGS}"
        )
    return states


def _check_all_done(states: Sequence[RunState]) -> None:
    failed = [state for state in states if state.status == "failed"]
    if failed:
        reasons = "; ".join(f"{state.name}: {state.reason}" for state in failed)
        raise UserError(f"{len(failed)} of {counted(len(states), 'run')} failed ({reasons})")
    left = sorted({state.network for state in states if state.status != "done"})
    if left:
        raise UserError(
            f"no learning rate of those tried trains {', '.join(left)}: the loss diverged; give lower ones "
            "to --tune, and another --output"
        )


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
