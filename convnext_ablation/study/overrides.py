"""Values of a recipe that a study's command line replaces: `--set`, `--epochs` and `--batch-size`."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from convnext_ablation.errors import UserError
from convnext_ablation.training.arguments import ARGUMENTS, TrainingArguments
from convnext_ablation.training.settings import known_settings
from convnext_ablation.yaml_files import parse_yaml

# arguments of training that a study sets itself, and what of the command line says them
_SET_BY_STUDY = {
    "model": "--design", "seed": "--seeds", "data_dir": "--data", "device": "--device",
    "workers": "--workers", "output": "--output", "pretrained_path": "--init", "initial_checkpoint": "--init",
    "experiment": "", "test_split": "", "resume": "", "checkpoint_hist": "",
}  # fmt: skip
# what says the same as an option of its own
SAME_AS = {
    "epochs": "epochs", "batch_size": "batch_size", "amp": "precision", "amp_dtype": "precision",
    "model_dtype": "precision", "lr": "tune", "pretrained": "from_scratch",
}  # fmt: skip


def overridden(recipe: Mapping[str, Any], args: argparse.Namespace) -> tuple[dict[str, Any], dict[str, Any]]:
    """A recipe with the values that the command line gives instead, and those of `--set` alone.

    Raises:
        UserError: A value is not what the argument takes, or something is given twice.
    """
    given = _parsed(args.set)
    for name in given:
        option = SAME_AS.get(name, "")
        if option and getattr(args, option):
            raise UserError(f"--set {name} and --{option.replace('_', '-')} are both given; give one")
    changed = {**recipe, **given}
    if given.keys() & {"lr_base", "lr_base_size", "lr_base_scale"} and "lr" not in given:
        changed.pop("lr", None)  # it would come before them
    if args.batch_size is not None:
        changed["batch_size"] = args.batch_size
    if args.epochs is not None:
        changed |= scaled(TrainingArguments(**changed), args.epochs)
    TrainingArguments(**changed)  # checks them
    return changed, given


def _parsed(words: Sequence[str]) -> dict[str, Any]:
    """Reads ``NAME=VALUE`` words, with values in YAML."""
    given: dict[str, Any] = {}
    for word in words:
        name, equals, text = word.partition("=")
        if not equals:
            raise UserError(f"--set {word}: write NAME=VALUE, such as drop_path=0.1 or aa=null")
        name = name.replace("-", "_")
        if name in given:
            raise UserError(f"--set {name} is given twice; give one")
        if name in _SET_BY_STUDY:
            instead = _SET_BY_STUDY[name]
            raise UserError(
                f"--set {name}: a study sets it itself; {f'use {instead}' if instead else 'leave it out'}"
            )
        given[name] = parse_yaml(text, f"--set {word}")
    known = known_settings(given, "--set")
    for name in given:
        if name not in known:
            raise UserError(f"--set {name}: an argument of timm's train.py without effect here; leave it out")
        ARGUMENTS[name].check(known[name])
    return known


def scaled(arguments: TrainingArguments, epochs: int) -> dict[str, Any]:
    """What makes training take so many epochs in all, warm-up and cooldown included, each with its share.

    So do the other epochs that a schedule counts. Shares are rounded to whole epochs, and at least one epoch
    is neither warm-up nor cooldown.
    """
    if epochs < 1:
        raise UserError(f"--epochs is {epochs}; it must be at least 1")
    if arguments.lr_cycle_limit > 1:
        raise UserError("--epochs: the recipe has several cycles; give the length of one, --set epochs=N")
    share = epochs / arguments.epochs_in_all
    warmup = min(round(arguments.warmup_epochs * share), epochs - 1)
    cooldown = min(round(arguments.cooldown_epochs * share), epochs - 1 - warmup)
    counted: dict[str, Any] = {"warmup_epochs": warmup, "cooldown_epochs": cooldown}
    if arguments.sched == "multistep":
        counted["decay_milestones"] = [max(1, round(each * share)) for each in arguments.decay_milestones]
    elif arguments.decay_epochs >= 1 and arguments.sched in ("step", "wsd", "rsqrt"):
        counted["decay_epochs"] = arguments.decay_epochs * share
    if arguments.mixup_off_epoch:
        counted["mixup_off_epoch"] = max(1, round(arguments.mixup_off_epoch * share))
    longer = replace(arguments, epochs=epochs, **counted)
    counted["epochs"] = 2 * epochs - longer.epochs_in_all
    before = arguments.to_dict()
    return {name: value for name, value in counted.items() if value != before[name]}
