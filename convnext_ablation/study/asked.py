"""Checks of a study's command-line arguments that don't need torch, which takes seconds to import."""

from __future__ import annotations

import argparse
from pathlib import Path

from convnext_ablation.data.prepare import BUILT_IN, DATASETS, as_published
from convnext_ablation.errors import UserError, unknown_name
from convnext_ablation.study.designs.contrasts import parse_groups
from convnext_ablation.study.designs.design import design_of
from convnext_ablation.study.experiment import TUNING_SEED
from convnext_ablation.study.experiment_file import named, overridden, phases_of
from convnext_ablation.training.settings import read_recipe
from convnext_ablation.yaml_files import built_in


def asked_phases(args: argparse.Namespace) -> list[argparse.Namespace]:
    """Returns the checked arguments of each phase; raises `UserError` for unknown names and bad values."""
    phases = phases_of(args)
    for phase in phases:  # quick checks first, for all phases
        with named(phase.phase):
            _check_numbers(phase)
            _check_data(phase)
    for phase in phases:
        with named(phase.phase):
            recipe = phase.recipe or phase.data.replace("-", "_")
            if not phase.recipe and recipe not in built_in("recipes"):
                raise UserError(f"--data {phase.data}: no recipe has its name; give one with --recipe")
            overridden(read_recipe(recipe), phase)
            design_of(phase.design, phase.width, parse_groups(phase.groups) if phase.groups else None)
    return phases


def trains_elsewhere(args: argparse.Namespace) -> bool:
    """Whether this machine trains and times nothing, so it needs neither the device nor published data."""
    return bool(getattr(args, "only_counts", False))


def _check_numbers(args: argparse.Namespace) -> None:
    numbers = {"--threads": args.threads, "--jobs": args.jobs, "--gpus-per-run": args.gpus_per_run}
    for option, number in numbers.items():
        if number is not None and number < 1:
            raise UserError(f"{option} is {number}; it must be at least 1")
    if args.workers is not None and args.workers < 0:
        raise UserError(f"--workers is {args.workers}; it must be at least 0")
    for option, seeds in (("--seeds", args.seeds), ("--pretraining-seeds", args.pretraining_seeds)):
        if len(set(seeds)) != len(seeds):
            raise UserError(f"{option} {' '.join(map(str, seeds))}: a seed is given twice")
    if args.from_scratch and args.init:
        raise UserError("--from-scratch and --init are both given; give one")
    if args.tune and TUNING_SEED in args.seeds:
        raise UserError(f"--seeds {TUNING_SEED}: learning rates are chosen with this seed; leave it out")


def _check_data(args: argparse.Namespace) -> None:
    if args.data in BUILT_IN:
        return
    if not Path(args.data).exists():
        if trains_elsewhere(args) and as_published(args.data):
            return
        if args.data in DATASETS:
            name_it = f"give --data {args.data_name}=OUT" if args.phase else "name that folder"
            raise UserError(
                f"--data {args.data}: make its folder first with `convnext-ablation prepare "
                f"{args.data} OUT`, and {name_it}"
            )
        raise unknown_name("data set or folder", args.data, (*BUILT_IN, *DATASETS))
    if not args.recipe:
        raise UserError(f"--data {args.data}: a folder of your own needs --recipe NAME or --recipe FILE.yaml")
