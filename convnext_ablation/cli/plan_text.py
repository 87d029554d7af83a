"""What `study plan` says of runs, cost, disk and power."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence

from convnext_ablation.console import counted, duration, table
from convnext_ablation.study.experiment import Study
from convnext_ablation.study.forecast import (
    PlannedEffect,
    PlannedPhase,
    Timing,
    differences,
    disk_needed,
    effects_of,
)
from convnext_ablation.study.setup import local_places
from convnext_ablation.study.stats.power import MOST_SEEDS, POWER

WIDTH = 80  # characters


def runs_text(phases: Sequence[PlannedPhase]) -> str:
    """The runs of each phase, and of all."""
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
    """What the runs take: a table of networks, and all together.

    Args:
        studies: The phases.
        timings: Of each.
        jobs: Runs at the same time; by default as many as this machine has room for.
        told: What was given instead of a timing.
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
    """What the runs leave on disk."""
    disk = disk_needed(phases)
    return _wrapped(
        f"Disk: about {_bytes(disk.total)} stay: {_bytes(disk.checkpoints)} of checkpoints (one a run), "
        f"{_bytes(disk.predictions)} of predictions, {_bytes(disk.logs)} of logs; reports come on top. While "
        f"it is at work, a run has up to {_bytes(disk.at_work)} (last and best epoch, with the optimizer's "
        "state)."
    )


def experiment_text(phases: Sequence[PlannedPhase], resolve: float) -> str:
    """What an experiment can detect: effects on each data set, and how they differ between sets."""
    effects = {phase.study.phase: effects_of(phase) for phase in phases if phase.study.design.contrasts}
    texts = [f"Detectable effects (in brackets: seeds for {resolve:g})\n{_sizes(effects, resolve)}"]
    gaps = differences(phases)
    if gaps:
        texts.append(f"Detectable differences between data sets\n{_sizes(gaps, resolve)}")
    said = [
        f"Detectable: the smallest true size, in percentage points, that {100 * POWER:.0f} of 100 such "
        "experiments find at an adjusted p below 0.05 (Holm: over the effects on one set; over all "
        f"differences). In brackets: the seeds for {resolve:g} (pre-training seeds where there are several)."
    ]
    if any(size.draws == 1 for each in (effects | gaps).values() for size in each):
        said.append("One seed supports no claim, so it detects no effect.")
    if any(not phase.study.start and len(phase.study.seeds) == 1 for phase in phases) and gaps:
        said.append("With one pre-training, what is found holds for that one.")
    assumed = [
        [
            phase.study.phase,
            f"{100 * phase.scatter.accuracy:.3g}",
            f"{100 * phase.scatter.seed_sd:.2g}",
            f"{100 * phase.scatter.seed_disagreement:.3g}",
            f"{100 * phase.scatter.network_disagreement:.3g}",
        ]
        for phase in phases
    ]
    header = ["assumed", "top-1 %", "seed SD, points", "otherwise by seed, %", "by network, %"]
    read = ["Otherwise by seed, by network: images that another seed, or network, classifies otherwise."]
    read += [f"Source: {source}." for source in dict.fromkeys(phase.scatter.source for phase in phases)]
    notes = dict.fromkeys(note for phase in phases for note in phase.study.design.notes)
    texts += ["\n".join(map(_wrapped, said)), table(header, assumed)]
    return "\n\n".join(texts) + "\n" + "\n".join(map(_wrapped, [*read, *(f"- {note}" for note in notes)]))


def _sizes(columns: Mapping[str, Sequence[PlannedEffect]], resolve: float) -> str:
    """A table of effects by what they are measured on."""
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


def effects_text(phase: PlannedPhase, resolve: float) -> str:
    """What the study can detect: a table of effects, what it rests on, and the design's notes.

    Args:
        phase: The study, its images, and how much they and seeds are taken to vary.
        resolve: Size of an effect to say the seeds for, in points.
    """
    study, scatter, units = phase.study, phase.scatter, phase.units
    primary, rows, too_few_images = study.design.family, [], False
    for effect in effects_of(phase):
        seeds = effect.asked.seeds_needed(resolve / 100)
        too_few_images |= seeds is None
        smallest = _points(effect.asked.detectable(units))
        rows.append(
            [effect.contrast.label, effect.contrast.kind, smallest, str(seeds or f"over {MOST_SEEDS}")]
        )
    others = len(rows) - primary
    said = [
        f"Detectable: the smallest true effect, in percentage points, that {100 * POWER:.0f} of 100 such "
        f"studies find with {counted(units, 'seed')}, at an adjusted p below 0.05 (Holm, "
        + counted(primary, "effect")
        + (f"; the other {others} are not adjusted)." if others else ").")
    ]
    if units == 1:
        said.append("One seed supports no claim, so no effect is detectable.")
    if too_few_images:
        said.append(f"Where over {MOST_SEEDS} seeds would be needed, there are too few test images.")
    said.append(
        f"Assumed: top-1 {100 * scatter.accuracy:.3g} %, seed SD {100 * scatter.seed_sd:.2g} points; "
        f"{100 * scatter.seed_disagreement:.3g} % of the images classified otherwise by another seed and "
        f"{100 * scatter.network_disagreement:.3g} % by another network. Source: {scatter.source}."
    )
    if len(study.pretraining_seeds) > 1:
        said.append("A seed is a pre-training seed here; fine-tuning seeds only make effects easier to find.")
    header = ["effect", "kind", "detectable", f"seeds for {resolve:g}"]
    text = table(header, rows, words=(0, 1), wrap={0: WIDTH - 42})
    return "\n".join([text, *map(_wrapped, said), *(_wrapped(f"- {note}") for note in study.design.notes)])


def _wrapped(text: str) -> str:
    return textwrap.fill(text, WIDTH, break_long_words=False, break_on_hyphens=False)


def _points(size: float) -> str:
    if math.isnan(size):
        return "none"
    return f"{100 * size:.2f}" if size < 1 else "over 100"


def _short(seconds: float) -> str:
    """A duration, also of a step, with two or three digits."""
    if seconds < 1:
        return f"{1000 * seconds:.3g} ms"
    return f"{seconds:.2g} s" if seconds < 10 else duration(seconds)


def _computed(seconds: float, kind: str) -> str:
    """Computing time of a kind of device, such as ``12 CPU-minutes``."""
    number, unit = (seconds, "seconds") if seconds < 90 else (seconds / 60, "minutes")
    if seconds >= 90 * 60:
        number, unit = seconds / 3600, "hours"
    return f"{number:,.1f} {kind}-{unit}" if number < 10 else f"{number:,.0f} {kind}-{unit}"


def _bytes(number: float) -> str:
    """A size, such as ``3.9 GB``."""
    size, unit = next(
        (
            each
            for each in ((number / 1e3, "kB"), (number / 1e6, "MB"), (number / 1e9, "GB"))
            if each[0] < 999.5
        ),
        (number / 1e12, "TB"),
    )
    return f"{size:.1f} {unit}" if size < 10 else f"{size:,.0f} {unit}"
