"""`convnext-ablation study plan`: an experiment's estimated cost and detectable effects before training."""

from __future__ import annotations

import argparse
import math
import shlex
import textwrap
from collections.abc import Mapping, Sequence

from convnext_ablation.cli.parsers import add_plan_only
from convnext_ablation.console import counted, duration, table
from convnext_ablation.errors import UserError, unknown_name
from convnext_ablation.study.experiment import Study
from convnext_ablation.study.forecast import (
    PlannedEffect,
    PlannedPhase,
    Timing,
    differences,
    disk_needed,
    effects_of,
    read_scatter,
    reckoned,
    time_networks,
)
from convnext_ablation.study.setup import local_places, plan_phases
from convnext_ablation.study.stats import ACCURACY, SEED_SD
from convnext_ablation.study.stats.power import MOST_SEEDS, POWER
from convnext_ablation.study.stats.variance import assumed_scatter
from convnext_ablation.study.store import read_phases

WIDTH = 80  # characters


def run(args: argparse.Namespace) -> None:
    """Prints the experiment's estimated cost and detectable effects."""
    seconds = _by_phase("--seconds-per-image", args.seconds_per_image)
    if any(not value > 0 for value in seconds.values()):
        raise UserError("--seconds-per-image: give a number above 0, such as 0.004")
    further = " --device cuda" if seconds and args.device is None else ""
    args.device = args.device or ("cuda" if seconds else "cpu")
    phases = _planned(args, seconds)
    timings, told = reckoned(phases, seconds) if seconds else ([], [])
    print(runs_text(phases))
    if not args.no_timing:
        if not seconds:
            minutes = "a minute" if len(phases) == 1 else f"{len(phases)} minutes"
            print(f"timing training steps, about {minutes} ...", flush=True)
            timings = [time_networks(phase) for phase in phases]
        print(f"\n{cost_text([phase.study for phase in phases], timings, args.jobs, told)}")
    print(f"\n{disk_text(phases)}\n\n{effects_text(phases, args.resolve)}")
    absent = [phase.study for phase in phases if not phase.data.root.exists()]
    data = dict.fromkeys(f"{each.data_name}=FOLDER" if each.phase else "FOLDER" for each in absent)
    print("\nThe same runs by each engine:\n" + "\n".join(commands(phases[0].study, further, [*data])))


def _planned(args: argparse.Namespace, seconds: Mapping[str, float]) -> list[PlannedPhase]:
    """The phases, each with its assumed or measured variance."""
    accuracy, seed_sd = _by_phase("--accuracy", args.accuracy), _by_phase("--seed-sd", args.seed_sd)
    assumed = {
        name: assumed_scatter(
            accuracy.get(name, accuracy.get("", 100 * ACCURACY)) / 100,
            seed_sd.get(name, seed_sd.get("", 100 * SEED_SD)) / 100,
        )
        for name in {"": 0, **accuracy, **seed_sd}
    }
    if args.like:
        read_phases(args.like)  # reports a damaged study before data sets are prepared
    planned = plan_phases(args)
    names = [study.phase for study, _ in planned]
    for option, given in (("seconds-per-image", seconds), ("accuracy", accuracy), ("seed-sd", seed_sd)):
        for name in given:
            if name and name not in names:
                raise unknown_name(f"phase in --{option}:", name, names)
    found = []
    for study, data in planned:
        if args.like:
            single = bool(study.phase) and len(study.seeds) == 1
            scatter = read_scatter(args.like, study.phase, single)
        else:
            scatter = assumed.get(study.phase, assumed[""])
        found.append(PlannedPhase(study, data, scatter))
    return found


def _by_phase(option: str, words: Sequence[str]) -> dict[str, float]:
    """Parses ``[PHASE=]NUMBER`` words; the key "" holds the number for all phases."""
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


def commands(study: Study, further: str = "", data: Sequence[str] = ()) -> list[str]:
    """The command that runs the plan with each engine, with `further` options and `--data` words."""
    own = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    add_plan_only(own)
    if data and not study.phase:  # the folder replaces the planned data set's name
        own.add_argument("--data", nargs="+")
    words = own.parse_known_args(shlex.split(study.command))[1]
    command = shlex.join(word for word in words if word != "plan") + further
    command += (f" --data {' '.join(data)}" if data else "") + " --output FOLDER"
    engines = ("", " --engine slurm --sbatch partition=NAME", " --engine ray --ray-address auto")
    return [command + engine for engine in engines]


def runs_text(phases: Sequence[PlannedPhase]) -> str:
    """Describes the number of runs of each phase and in total."""
    lines, total = [], 0
    for phase in phases:
        study = phase.study
        runs = sum(map(study.runs_of, study.points))
        total += runs
        of = f"{study.phase}: " if study.phase else ""
        kind = f"{study.test_split} image"
        lines.append(
            f"{of}{study.design.name} on {study.data_name} ({counted(phase.images, kind)}): {study.size} = "
            + counted(runs, "run")
        )
    absent = dict.fromkeys(phase.study.data_name for phase in phases if not phase.data.root.exists())
    lines += [f"In all {counted(total, 'run')}."] if len(phases) > 1 else []
    lines += [f"Not here, counted as published: {', '.join(absent)}."] if absent else []
    return "\n".join(lines)


def cost_text(
    studies: Sequence[Study], timings: Sequence[Timing], jobs: int | None, told: Sequence[str] = ()
) -> str:
    """Describes compute time: a table by network, and the total.

    Args:
        studies: The phases.
        timings: The timing of each phase.
        jobs: Number of concurrent runs; by default as many as fit on this machine.
        told: The given step times that replace measurements, if any.
    """
    rows, by_phase, several = [], [], len(studies) > 1
    for study, timing in zip(studies, timings, strict=True):
        counts = {point.key: study.runs_of(point) for point in study.points}
        by_phase.append(sum(seconds * counts[key] for key, seconds in timing.runs.items()))
        for key, step in timing.steps.items():
            run = _short(timing.runs[key] / study.processes)
            rows.append([study.phase] * several + [key, _short(step), run, str(counts[key])])
    study, total = studies[0], sum(by_phase)
    kind, threads = ("CPU", study.threads) if study.device == "cpu" else ("GPU", 1)
    said = f"Together {_computed(total * threads, kind)}"
    if several:
        parts = [
            f"{each.phase} {_computed(seconds * threads, kind)}"
            for each, seconds in zip(studies, by_phase, strict=True)
        ]
        said += f" ({', '.join(parts)})"
    at_once = jobs or (1 if told else len(local_places(study.device, jobs, study.threads, study.processes)))
    said += f"; with {at_once} at a time {_short(total / at_once / study.processes)}"
    said += "." if told else ", longer if they slow one another down."
    if study.processes > 1:
        said += f" It is told as if {study.processes} processes were {study.processes} times as fast as one."
    if told:
        said += (
            f" Steps are as given, {', '.join(told)}; those of others are in proportion to "
            "multiply-accumulates, so a network's real ones may differ by a factor of 2. A run includes "
            "validation and test, and no loading."
        )
    else:
        said += f" Steps are in {', '.join(dict.fromkeys(each.precision for each in studies))}."
        loading = ", ".join(dict.fromkeys(_short(timing.loading) for timing in timings))
        said += f" A run includes loading ({loading} an image), validation, test."
    words = (0, 1) if several else (0,)
    header = ["phase"] * several + ["network", "step", "run", "runs"]
    return table(header, rows, words=words) + "\n" + _wrapped(said)


def disk_text(phases: Sequence[PlannedPhase]) -> str:
    """Describes the runs' disk use."""
    disk = disk_needed(phases)
    return _wrapped(
        f"Disk: about {_bytes(disk.total)} stay: {_bytes(disk.checkpoints)} of checkpoints (one a run), "
        f"{_bytes(disk.predictions)} of predictions, {_bytes(disk.logs)} of logs; reports come on top. While "
        f"it is at work, a run has up to {_bytes(disk.at_work)} (last and best epoch, with the optimizer's "
        "state)."
    )


def effects_text(phases: Sequence[PlannedPhase], resolve: float) -> str:
    """Describes detectable effects, their detectable differences between data sets, and the assumptions.

    Args:
        phases: The phases with their numbers of images and assumed variances.
        resolve: Effect size, in percentage points, for which to give the number of seeds.
    """
    names = [phase.study.phase or phase.study.data_name for phase in phases]
    designs = [phase.study.design for phase in phases]
    found = zip(names, map(effects_of, phases), strict=True)
    effects = {name: sizes for name, sizes in found if sizes}
    texts = [f"Detectable effects (in brackets: seeds for {resolve:g})\n{_sizes(effects, resolve)}"]
    gaps = differences(phases)
    if gaps:
        texts.append(f"Detectable differences between data sets\n{_sizes(gaps, resolve)}")
    primary, others = designs[0].family, len(designs[0].contrasts) - designs[0].family
    holm = f"Holm, {counted(primary, 'effect')}"
    holm += f"; the other {others} are not adjusted" if others else ""
    said = [
        f"Detectable: the smallest true size, in percentage points, that {100 * POWER:.0f} of 100 such "
        f"{'experiments' if gaps else 'studies'} find at an adjusted p below 0.05 "
        f"({'Holm: over the effects on one set; over all differences' if gaps else holm}). In brackets: the "
        f"seeds for {resolve:g} (pre-training seeds where there are several)."
    ]
    if any(size.draws == 1 for sizes in (effects | gaps).values() for size in sizes):
        said.append("One seed supports no claim, so it detects no effect.")
    if any(f"(> {MOST_SEEDS})" in text for text in texts):
        said.append(f"Where over {MOST_SEEDS} seeds would be needed, there are too few test images.")
    if any(not phase.study.start and len(phase.study.seeds) == 1 for phase in phases) and gaps:
        said.append("With one pre-training, what is found holds for that one.")
    scatters = [phase.scatter for phase in phases]
    assumed = [
        [
            name,
            f"{100 * scatter.accuracy:.3g}",
            f"{100 * scatter.seed_sd:.2g}",
            f"{100 * scatter.seed_disagreement:.3g}",
            f"{100 * scatter.network_disagreement:.3g}",
        ]
        for name, scatter in zip(names, scatters, strict=True)
    ]
    header = ["assumed", "top-1 %", "seed SD, points", "otherwise by seed, %", "by network, %"]
    read = ["Otherwise by seed, by network: images that another seed, or network, classifies otherwise."]
    read += [f"Source: {source}." for source in dict.fromkeys(scatter.source for scatter in scatters)]
    notes = dict.fromkeys(note for design in designs for note in design.notes)
    texts += ["\n".join(map(_wrapped, said)), table(header, assumed)]
    return "\n\n".join(texts) + "\n" + "\n".join(map(_wrapped, [*read, *(f"- {note}" for note in notes)]))


def _sizes(columns: Mapping[str, Sequence[PlannedEffect]], resolve: float) -> str:
    """A table of effects (rows) by data set or comparison (columns)."""
    contrasts = dict.fromkeys(each.contrast.name for column in columns.values() for each in column)
    labels = {each.contrast.name: each.contrast.label for column in columns.values() for each in column}
    cells = {
        (each.contrast.name, name): _size(each, resolve)
        for name, column in columns.items()
        for each in column
    }
    rows = [[labels[name], *(cells.get((name, column), "") for column in columns)] for name in contrasts]
    room = WIDTH - sum(max(len(column), 12) + 2 for column in columns)
    return table(["effect", *columns], rows, wrap={0: max(20, room)})


def _size(effect: PlannedEffect, resolve: float) -> str:
    seeds = effect.asked.seeds_needed(resolve / 100)
    return f"{_points(effect.asked.detectable(effect.draws))} ({seeds or f'> {MOST_SEEDS}'})"


def _wrapped(text: str) -> str:
    return textwrap.fill(text, WIDTH, break_long_words=False, break_on_hyphens=False)


def _points(size: float) -> str:
    if math.isnan(size):
        return "none"
    return f"{100 * size:.2f}" if size < 1 else "over 100"


def _short(seconds: float) -> str:
    """Formats a duration, possibly below 1 s, with two or three digits."""
    if seconds < 1:
        return f"{1000 * seconds:.3g} ms"
    return f"{seconds:.2g} s" if seconds < 10 else duration(seconds)


def _computed(seconds: float, kind: str) -> str:
    """Formats compute time, such as ``12 CPU-minutes``."""
    number, unit = (seconds, "seconds") if seconds < 90 else (seconds / 60, "minutes")
    if seconds >= 90 * 60:
        number, unit = seconds / 3600, "hours"
    return f"{number:,.1f} {kind}-{unit}" if number < 10 else f"{number:,.0f} {kind}-{unit}"


def _bytes(number: float) -> str:
    """Formats a number of bytes, such as ``3.9 GB``."""
    size, units = number / 1e3, ["kB", "MB", "GB", "TB"]
    while size >= 999.5 and units[1:]:
        size, units = size / 1e3, units[1:]
    return f"{size:.1f} {units[0]}" if size < 10 else f"{size:,.0f} {units[0]}"
