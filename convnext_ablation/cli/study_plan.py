"""`convnext-ablation study plan`: what a study would cost and could show, before anything is trained."""

from __future__ import annotations

import argparse
import math
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from convnext_ablation.cli.experiment import add_plan_arguments, plan_study
from convnext_ablation.console import table
from convnext_ablation.errors import UserError
from convnext_ablation.files import write_csv
from convnext_ablation.study.designs.contrasts import Contrast
from convnext_ablation.study.engine import local_places
from convnext_ablation.study.experiment import Run, Study
from convnext_ablation.study.forecast import Timing, read_scatter, time_networks
from convnext_ablation.study.stats.power import MOST_SEEDS, POWER, detectable, level_of, seeds_needed
from convnext_ablation.study.stats.variance import Scatter, assumed_scatter
from convnext_ablation.study.wording import counted

WIDTH = 80  # characters
SECONDS = 30.0  # that timing steps may take


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of the `study plan` command: those of `study`, and what to assume."""
    add_plan_arguments(parser)
    parser.add_argument(
        "--output", type=Path, metavar="FOLDER", help="the study's folder, if it is begun; nothing is written"
    )
    parser.add_argument("--jobs", type=int, help="runs at the same time; by default as many as cores allow")
    parser.add_argument("--no-timing", action="store_true", help="leave out the cost, which takes a minute")
    parser.add_argument("--csv", type=Path, metavar="FILE", help="write the effects and what can be resolved")
    group = parser.add_argument_group("assumptions, in percent or percent points")
    group.add_argument(
        "--like",
        type=Path,
        metavar="STUDY",
        help="take them from a finished study's runs, instead of defaults",
    )
    group.add_argument("--accuracy", type=float, help="top-1 (default 80)")
    group.add_argument(
        "--seed-sd", type=float, help="SD of a network's true top-1 between seeds (default 0.3)"
    )
    group.add_argument(
        "--seed-disagreement",
        type=float,
        help="images that just one of two seeds of a network gets right (default: half of the errors)",
    )
    group.add_argument(
        "--network-disagreement",
        type=float,
        help="the same of two networks that are equally good (default: 0.7 of the errors)",
    )
    group.add_argument(
        "--resolve",
        type=float,
        default=1.0,
        metavar="POINTS",
        help="say how many seeds that takes (default 1)",
    )


def run(args: argparse.Namespace) -> None:
    """Prints what the study would cost and what it could show.

    Raises:
        UserError: The study can't be run as asked, or there can't be such networks as are assumed.
    """
    if args.jobs is not None and args.jobs < 1:
        raise UserError(f"--jobs is {args.jobs}; it must be at least 1")
    if not args.resolve > 0:
        raise UserError(f"--resolve is {args.resolve:g}; give the size of an effect in points, such as 1.0")
    scatter = _scatter(args)
    study, data = plan_study(args, args.output)
    images = data.counts["test"]
    print(_headline(study, images))
    if not args.no_timing:
        print("timing training steps, about a minute ...", flush=True)
        timing = _time(study, data.counts)
        print(f"\n{cost_text(study, timing, args.jobs)}")
    effects = resolved(study, scatter, images, args.resolve / 100)
    print(f"\n{effects_text(study, effects, scatter, args.resolve)}")
    if args.csv:
        write_effects(args.csv, effects, args.resolve)
        print(f"\neffects: {args.csv}")


@dataclass(frozen=True)
class Resolved:
    """What a study can say of an effect.

    Attributes:
        contrast: The effect.
        level: What its own p-value must be below.
        detectable: The smallest size that is found with `POWER`, a fraction; NaN if none can be claimed.
        seeds: Seeds that an effect of the size asked for takes; None if more than `MOST_SEEDS`.
    """

    contrast: Contrast
    level: float
    detectable: float
    seeds: int | None


def resolved(study: Study, scatter: Scatter, images: int, size: float) -> list[Resolved]:
    """Says of each effect of a study what it can resolve; `size` is a fraction to find out the seeds for."""
    units = _units(study)
    family = study.design.family
    found = []
    for contrast in study.design.contrasts:
        level = level_of(contrast.primary, family)
        weights = list(contrast.weights.values())
        found.append(
            Resolved(
                contrast,
                level,
                detectable(scatter, units, images, weights, level),
                seeds_needed(size, scatter, images, weights, level),
            )
        )
    return found


def _units(study: Study) -> int:
    """How many seeds count as draws: see `effects`."""
    return len(study.pretraining_seeds) if len(study.pretraining_seeds) > 1 else len(study.seeds)


def _scatter(args: argparse.Namespace) -> Scatter:
    names = ("accuracy", "seed_sd", "seed_disagreement", "network_disagreement")
    given = {name: getattr(args, name) / 100 for name in names if getattr(args, name) is not None}
    return assumed_scatter(like=read_scatter(args.like) if args.like else None, **given)


def _all_runs(study: Study) -> list[Run]:
    """The tuning runs and the others, at any learning rate where it is yet to be chosen."""
    rates = study.learning_rates or {point.key: study.tuning[0] for point in study.points}
    return [*study.tuning_runs(), *study.runs(rates)]


def _time(study: Study, counts: Mapping[str, int]) -> Timing:
    runs = {run.point.key: run.arguments for run in _all_runs(study)}  # the last: tested as well
    first = next(iter(runs.values()))
    by_split = {first.train_split: counts["train"], str(first.val_split): counts["val"]}
    by_split[str(first.test_split)] = counts["test"]
    return time_networks(runs, study.gmacs, by_split, study.threads, SECONDS)


def _headline(study: Study, images: int) -> str:
    what = f"{counted(len(study.points), 'network')} x {counted(len(study.seeds), 'seed')}"
    if study.pretraining_seeds:
        what += f" x {counted(len(study.pretraining_seeds), 'pre-training seed')}"
    if study.tuning:
        what += f" + {len(study.tuning)} learning rates"
    count = counted(len(_all_runs(study)), "run")
    return f"{study.design.name} on {study.data_name} ({counted(images, 'test image')}): {what} = {count}"


def cost_text(study: Study, timing: Timing, jobs: int | None) -> str:
    """What the runs take: a table of networks, and all together."""
    kind = "CPU" if study.device == "cpu" else "GPU"
    runs: dict[str, int] = {}
    for each in _all_runs(study):
        runs[each.point.key] = runs.get(each.point.key, 0) + 1
    total = sum(timing.costs[key].run_seconds * count for key, count in runs.items())
    lines = []
    for point in study.points:
        cost = timing.costs[point.key]
        step = _short(cost.step_seconds) if cost.measured else f"~{_short(cost.step_seconds)}"
        gmacs = f"{study.gmacs[point.key]:.3g}"
        lines.append([point.key, gmacs, step, _short(cost.run_seconds), str(runs[point.key])])
    hours = total * (study.threads if kind == "CPU" else 1) / 3600
    at_once = len(local_places(study.device, jobs, study.threads))
    estimated = "; ~: from the others', by GMACs" if len(timing.costs) > timing.measured else ""
    batch = (study.tuning_runs() or study.runs())[0].arguments.batch_size
    if timing.smallest_batch < batch:
        estimated += f"; long ones with {timing.smallest_batch} images or more instead of {batch}"
    said = (
        f"Together {hours:.2g} {kind}-hours; with {at_once} at a time {_short(total / at_once)}, longer if "
        f"they hinder one another. Steps timed in turn, medians, {study.precision}{estimated}."
        f" A run includes loading ({_short(timing.loading_seconds)} an image), validation, test."
    )
    return table(["network", "GMACs", "step", "run", "runs"], lines) + "\n" + _wrapped(said)


def effects_text(study: Study, effects: Sequence[Resolved], scatter: Scatter, resolve: float) -> str:
    """What the study can resolve: a table of effects, what it rests on, and the design's notes."""
    lines = [
        [each.contrast.label, each.contrast.kind, _points(each.detectable), _seeds(each.seeds)]
        for each in effects
    ]
    units = _units(study)
    primary, others = study.design.family, len(effects) - study.design.family
    said = [
        f"Detectable: the smallest true effect, in percent points, that {100 * POWER:.0f} of 100 such "
        f"studies find with {counted(units, 'seed')}, at an adjusted p below 0.05 (Holm, "
        + counted(primary, "effect")
        + (f"; the other {others} are not adjusted)." if others else ").")
    ]
    if units == 1:
        said.append("One seed supports no claim, so no effect is detectable.")
    if any(each.seeds is None for each in effects):
        said.append(f"Where over {MOST_SEEDS} seeds would be needed, it is the test images that are too few.")
    said.append(
        f"Taken: top-1 {100 * scatter.accuracy:.3g} %, SD between seeds {100 * scatter.seed_sd:.2g} points; "
        f"{100 * scatter.seed_disagreement:.3g} % of the images told otherwise by another seed and "
        f"{100 * scatter.network_disagreement:.3g} % by another network. Source: {scatter.source}."
    )
    if len(study.pretraining_seeds) > 1:
        said.append("A seed is a pre-training seed here; its fine-tuning seeds make it no worse than this.")
    text = table(
        ["effect", "kind", "detectable", f"seeds for {resolve:g}"], lines, words=(0, 1), wrap={0: WIDTH - 42}
    )
    return "\n".join([text, *map(_wrapped, said), *(_wrapped(f"- {note}") for note in study.design.notes)])


def write_effects(path: Path, effects: Sequence[Resolved], resolve: float) -> None:
    """Writes the effects as CSV: fractions, the seeds empty where more than `MOST_SEEDS` would be needed."""
    header = ["contrast", "label", "kind", "primary", "level", "detectable", "resolve", "seeds"]
    rows = [
        [
            each.contrast.name,
            each.contrast.label,
            each.contrast.kind,
            each.contrast.primary,
            repr(each.level),
            "" if math.isnan(each.detectable) else repr(each.detectable),
            repr(resolve / 100),
            "" if each.seeds is None else each.seeds,
        ]
        for each in effects
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    write_csv(path, header, rows)


def _wrapped(text: str) -> str:
    return textwrap.fill(text, WIDTH, break_long_words=False, break_on_hyphens=False)


def _points(size: float) -> str:
    if math.isnan(size):
        return "none"
    return f"{100 * size:.2f}" if size < 1 else "over 100"


def _seeds(seeds: int | None) -> str:
    return str(seeds) if seeds else f"over {MOST_SEEDS}"


def _short(seconds: float) -> str:
    if seconds < 0.1:
        return f"{1000 * seconds:.3g} ms"
    if seconds < 99.5:
        return f"{seconds:.3g} s"
    return f"{seconds / 60:.0f} min" if seconds < 99.5 * 60 else f"{seconds / 3600:.3g} h"
