"""`convnext-ablation study run`: trains a study's networks, and reports the effects."""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from convnext_ablation.cli.study_report import Asked, report
from convnext_ablation.console import counted, duration
from convnext_ablation.errors import UserError
from convnext_ablation.study.clusters import RayCluster, Slurm
from convnext_ablation.study.engine import Engine, Local, drive
from convnext_ablation.study.experiment import Study
from convnext_ablation.study.pretrained import fetch_published
from convnext_ablation.study.setup import local_places, plan_phases
from convnext_ablation.study.status import RunState, StudyProgress, Survey, totals
from convnext_ablation.study.store import FAILURE, HeldError, folder_of, held, save_phases
from convnext_ablation.study.tuning import TUNING_FILE, as_known, write_tuning


def run(args: argparse.Namespace) -> None:
    """Executes the study's remaining runs, prints its tables and answer, and writes its report."""
    start = time.monotonic()
    asked = Asked(size=args.resolve / 100)
    phases = [study for study, _ in plan_phases(args)]
    phases = [replace(phase, published=fetch_published(phase)) for phase in phases]
    engine = engine_of(args, phases[0])
    try:
        with held(args.output):
            phases = save_phases(args.output, phases)
            states = _do_runs(phases, args.output, engine, args.retry_failed)
            for phase in phases:
                folder = folder_of(phase, args.output)
                if phase.tuning:
                    write_tuning(as_known(phase, folder), folder)
                    print(f"learning rates: {folder / TUNING_FILE}")
            _check_all_done(states)
            report(phases, args.output, asked)
    except HeldError as error:
        since = duration(time.time() - error.holder.since)
        raise UserError(
            f"{args.output}: has been run by {error.holder.where} for {since}; "
            f"`convnext-ablation study status {args.output}` shows its progress"
        ) from error
    print(f"took {duration(time.monotonic() - start)}")


def engine_of(args: argparse.Namespace, study: Study) -> Engine:
    """Makes the engine that --engine names."""
    if args.engine == "slurm":
        return Slurm(study, args.output, args.jobs, args.sbatch)
    if args.engine == "ray":
        return RayCluster(study, args.output, args.jobs, args.ray_address or "auto")
    return Local(local_places(study.device, args.jobs, study.threads, study.processes))


def _do_runs(phases: Sequence[Study], folder: Path, engine: Engine, retry_failed: bool) -> list[RunState]:
    progress = StudyProgress()
    try:
        states = Survey(phases, folder).look()
        failed = [state for state in states if state.status == "failed"]
        if retry_failed:
            for each in failed:
                (each.folder / FAILURE).unlink(missing_ok=True)
        _introduce(phases, states, len(failed), retry_failed)
        return drive(phases, folder, engine, progress)
    except KeyboardInterrupt as error:
        if engine.leave:
            how_far = f"`convnext-ablation study status {folder}` shows how far it is"
            error.args += (f"{engine.leave}; {how_far}, and the same command follows it",)
        raise
    finally:
        progress.bar.close()


def _introduce(phases: Sequence[Study], states: Sequence[RunState], failed: int, retried: bool) -> None:
    counts = totals(states)
    sizes = "; ".join(f"{phase.phase}: {phase.size}" if phase.phase else phase.size for phase in phases)
    parts = [f"{counted(len(states), 'run')} ({sizes})", f"{counts['done']} done before"]
    parts += [f"{counts['running']} running already"] if counts["running"] else []
    parts += [f"{failed} that failed {'tried again' if retried else 'left out'}"] if failed else []
    precisions = ", ".join(dict.fromkeys(phase.precision for phase in phases))
    print(f"{', '.join(parts)}; {precisions}", flush=True)


def _check_all_done(states: Sequence[RunState]) -> None:
    failed = [state for state in states if state.failure and state.status == "failed"]
    if failed:
        reasons = "; ".join(f"{state.title}: {state.failure.reason}" for state in failed if state.failure)
        raise UserError(
            f"{len(failed)} of {counted(len(states), 'run')} failed ({reasons}); fix the cause, and run the "
            "same command with --retry-failed"
        )
    left = sorted({state.run.point.key for state in states if state.status != "done"})
    if left:
        raise UserError(
            f"no learning rate of those tried trains {', '.join(left)}: the loss diverged; give lower ones "
            "to --tune, and another --output"
        )
