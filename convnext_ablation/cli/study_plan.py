"""`convnext-ablation study plan`: what an experiment would cost and show, before anything is trained."""

from __future__ import annotations

import argparse
import math
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from convnext_ablation.cli.experiment import add_plan_arguments, resolve_of
from convnext_ablation.cli.plan_text import cost_text, disk_text, effects_text, experiment_text, runs_text
from convnext_ablation.errors import UserError, unknown_name
from convnext_ablation.study.experiment import Study
from convnext_ablation.study.forecast import (
    PlannedPhase,
    counts_of,
    read_scatter,
    reckoned,
    time_networks,
)
from convnext_ablation.study.setup import plan_phases
from convnext_ablation.study.stats.variance import ACCURACY, SEED_SD, Scatter, assumed_scatter


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of the `study plan` command: those of `study`, and what to assume."""
    add_plan_arguments(parser)
    _add_own(parser)
    parser.set_defaults(device=None)


def _add_own(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--no-timing", action="store_true", help="leave out the cost, which takes a minute a phase"
    )
    many: dict[str, Any] = {"nargs": "+", "action": "extend", "default": []}  # each may name its phase
    parser.add_argument(
        "--seconds-per-image",
        metavar="[PHASE=]SECONDS",
        help="of a training step on a device that the runs will have, instead of a timing here: of the "
        "network with most multiply-accumulates in that phase, or in all; others are reckoned in "
        "proportion. --device is then cuda by default, and published data sets need not be here",
        **many,
    )
    group = parser.add_argument_group("assumptions, in percent or percentage points, of a phase or of all")
    group.add_argument("--like", type=Path, metavar="STUDY", help="measure them in a study's finished runs")
    top1 = f"top-1 without --like (default {100 * ACCURACY:g})"
    group.add_argument("--accuracy", metavar="[PHASE=]PERCENT", help=top1, **many)
    seed_sd = f"SD of a network's true top-1 between seeds without --like (default {100 * SEED_SD:g})"
    group.add_argument("--seed-sd", metavar="[PHASE=]POINTS", help=seed_sd, **many)


def run(args: argparse.Namespace) -> None:
    """Prints what the experiment would cost and what it could show."""
    resolve_of(args)
    seconds = _by_phase("--seconds-per-image", args.seconds_per_image)
    if any(not value > 0 for value in seconds.values()):
        raise UserError("--seconds-per-image: give a number above 0, such as 0.004")
    if seconds and args.no_timing:
        raise UserError("--no-timing and --seconds-per-image are both given; give one")
    args.only_counts = bool(seconds) or args.no_timing
    further = " --device cuda" if seconds and args.device is None else ""
    args.device = args.device or ("cuda" if seconds else "cpu")
    phases = _planned(args, seconds)
    timings, told = reckoned(phases, seconds) if seconds else ([], [])
    print(runs_text(phases))
    if not args.no_timing:
        if not seconds:
            minutes = "a minute" if len(phases) == 1 else f"{len(phases)} minutes"
            print(f"timing training steps, about {minutes} ...", flush=True)
            timings = [time_networks(phase.study, counts_of(phase)) for phase in phases]
        print(f"\n{cost_text([phase.study for phase in phases], timings, args.jobs, told)}")
    if not phases[0].study.phase:
        print(f"\n{effects_text(phases[0], args.resolve)}")
    else:
        print(f"\n{disk_text(phases)}\n\n{experiment_text(phases, args.resolve)}")
    absent = [phase.study for phase in phases if not phase.data.root.exists()]
    if words := dict.fromkeys(f"{each.data_name}=FOLDER" if each.phase else "FOLDER" for each in absent):
        further += f" --data {' '.join(words)}"
    print("\nThe same runs by each engine:\n" + "\n".join(commands(phases[0].study, further)))


def _planned(args: argparse.Namespace, seconds: Mapping[str, float]) -> list[PlannedPhase]:
    """The phases, with what is assumed of each or measured."""
    accuracy, seed_sd = _by_phase("--accuracy", args.accuracy), _by_phase("--seed-sd", args.seed_sd)
    if (
        not args.experiment and not args.phase
    ):  # a study of its own: bad numbers are told before data are made
        scatter = _scatter(args.like, "", False, accuracy, seed_sd)
    planned = plan_phases(args)
    names = [study.phase for study, _ in planned]
    for option, given in (("seconds-per-image", seconds), ("accuracy", accuracy), ("seed-sd", seed_sd)):
        for name in given:
            if name and name not in names:
                raise unknown_name(f"phase in --{option}:", name, names)
    found = []
    for study, data in planned:
        if study.phase:
            scatter = _scatter(args.like, study.phase, len(study.seeds) == 1, accuracy, seed_sd)
        found.append(PlannedPhase(study, data, scatter))
    return found


def _by_phase(option: str, words: Sequence[str]) -> dict[str, float]:
    """Numbers by the phase that they are for; under "" the one for all."""
    found: dict[str, float] = {}
    for word in words:
        name, equals, text = word.rpartition("=")
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not math.isfinite(value) or (equals and not name):
            raise UserError(f"{option} {word}: give a number, or PHASE=NUMBER")
        if name in found:
            raise UserError(f"{option} {word}: is given twice{f' for {name}' if name else ''}; give one")
        found[name] = value
    return found


def _scatter(
    like: Path | None,
    phase: str,
    single: bool,
    accuracy: Mapping[str, float],
    seed_sd: Mapping[str, float],
) -> Scatter:
    """What is assumed of a phase, or measured."""
    top1 = accuracy.get(phase, accuracy.get("", 100 * ACCURACY)) / 100
    sd = seed_sd.get(phase, seed_sd.get("", 100 * SEED_SD)) / 100
    assumed = assumed_scatter(top1, sd)
    return read_scatter(like, phase, single) if like else assumed


def commands(study: Study, further: str = "") -> list[str]:
    """What to give to have each engine do what was planned, with `further` options."""
    own = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    _add_own(own)
    words = own.parse_known_args(shlex.split(study.command))[1]
    command = shlex.join(word for word in words if word != "plan") + further + " --output FOLDER"
    engines = ("", " --engine slurm --sbatch partition=NAME", " --engine ray --ray-address auto")
    return [command + engine for engine in engines]
