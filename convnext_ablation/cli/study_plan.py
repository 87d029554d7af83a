"""`convnext-ablation study plan`: what a study would cost and could show, before anything is trained."""

from __future__ import annotations

import argparse
import math
import shlex
import textwrap
from pathlib import Path

from convnext_ablation.cli.experiment import add_plan_arguments
from convnext_ablation.console import counted, duration, table
from convnext_ablation.errors import UserError
from convnext_ablation.study.experiment import Study
from convnext_ablation.study.forecast import Timing, read_scatter, time_networks
from convnext_ablation.study.setup import local_places, plan_phases
from convnext_ablation.study.stats.power import MOST_SEEDS, POWER, detectable, level_of, seeds_needed
from convnext_ablation.study.stats.variance import Scatter, assumed_scatter

WIDTH = 80  # characters


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of the `study plan` command: those of `study`, and what to assume."""
    add_plan_arguments(parser)
    _add_own(parser)


def _add_own(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--no-timing", action="store_true", help="leave out the cost, which takes a minute")
    group = parser.add_argument_group("assumptions, in percent or percentage points")
    group.add_argument("--like", type=Path, metavar="STUDY", help="measure them in a study's finished runs")
    group.add_argument("--accuracy", type=float, default=80, help="top-1 without --like (default 80)")
    seed_sd = "SD of a network's true top-1 between seeds without --like (default 0.3)"
    group.add_argument("--seed-sd", type=float, default=0.3, help=seed_sd)
    group.add_argument(
        "--resolve",
        type=float,
        default=1.0,
        metavar="POINTS",
        help="say how many seeds an effect of this size takes (default 1)",
    )


def run(args: argparse.Namespace) -> None:
    """Prints what the study would cost and what it could show."""
    if not args.resolve > 0:
        raise UserError(f"--resolve is {args.resolve:g}; give the size of an effect in points, such as 1.0")
    assumed = assumed_scatter(args.accuracy / 100, args.seed_sd / 100)
    scatter = read_scatter(args.like) if args.like else assumed
    (study, data), *_ = plan_phases(args)
    images = data.counts["test"]
    print(
        f"{study.design.name} on {study.data_name} ({counted(images, 'test image')}): {study.size} = "
        + counted(len(study.points) * study.runs_each, "run")
    )
    if not args.no_timing:
        print("timing training steps, about a minute ...", flush=True)
        timing = time_networks(study, data.counts)
        print(f"\n{cost_text(study, timing, args.jobs)}")
    print(f"\n{effects_text(study, scatter, images, args.resolve)}")
    print("\nThe same runs by each engine:\n" + "\n".join(commands(study)))


def commands(study: Study) -> list[str]:
    """What to give to have each engine do a study that was planned."""
    own = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    _add_own(own)
    words = own.parse_known_args(shlex.split(study.command))[1]
    command = shlex.join(word for word in words if word != "plan") + " --output FOLDER"
    engines = ("", " --engine slurm --sbatch partition=NAME", " --engine ray --ray-address auto")
    return [command + engine for engine in engines]


def cost_text(study: Study, timing: Timing, jobs: int | None) -> str:
    """What the runs take: a table of networks, and all together."""
    rows = []
    for key, step in timing.steps.items():
        rows.append([key, _short(step), _short(timing.runs[key] / study.processes), str(study.runs_each)])
    kind, threads = ("CPU", study.threads) if study.device == "cpu" else ("GPU", 1)
    total = sum(timing.runs.values()) * study.runs_each
    at_once = len(local_places(study.device, jobs, study.threads, study.processes))
    shared = f" It is told as if {study.processes} processes were {study.processes} times as fast as one."
    said = (
        f"Together {total * threads / 3600:.2g} {kind}-hours; with {at_once} at a time "
        f"{_short(total / at_once / study.processes)}, longer if they slow one another down. "
        f"Steps are in {study.precision}. "
        f"A run includes loading ({_short(timing.loading)} an image), validation, test."
    )
    said += shared if study.processes > 1 else ""
    return table(["network", "step", "run", "runs"], rows) + "\n" + _wrapped(said)


def effects_text(study: Study, scatter: Scatter, images: int, resolve: float) -> str:
    """What the study can detect: a table of effects, what it rests on, and the design's notes.

    Args:
        study: Its design and seeds.
        scatter: How much seeds and images vary.
        images: Test images.
        resolve: Size of an effect to say the seeds for, in points.
    """
    # where there are several pre-trainings, these are the draws: see stats/effects.py
    units = len(study.pretraining_seeds) if len(study.pretraining_seeds) > 1 else len(study.seeds)
    primary, rows, too_few_images = study.design.family, [], False
    for contrast in study.design.contrasts:
        level, weights = level_of(contrast.primary, primary), list(contrast.weights.values())
        smallest = detectable(scatter, units, images, weights, level)
        seeds = seeds_needed(resolve / 100, scatter, images, weights, level)
        too_few_images |= seeds is None
        rows.append([contrast.label, contrast.kind, _points(smallest), str(seeds or f"over {MOST_SEEDS}")])
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
    return f"{1000 * seconds:.4g} ms" if seconds < 10 else duration(seconds)
