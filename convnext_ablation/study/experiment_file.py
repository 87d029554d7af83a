"""Reads the phases of an experiment from a file or flags, and the recipe values that each overrides."""

from __future__ import annotations

import argparse
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from copy import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

from convnext_ablation.errors import UserError, unknown_name
from convnext_ablation.files import check_name
from convnext_ablation.study.designs.contrasts import repeated
from convnext_ablation.training.arguments import ARGUMENTS, TrainingArguments
from convnext_ablation.training.settings import known_settings
from convnext_ablation.yaml_files import find_yaml, mapping, parse_yaml, read_yaml

# keys that a phase may set; all other options apply to every phase
PHASE_KEYS = (
    "data", "recipe", "start", "networks", "seeds", "tune", "epochs", "batch_size", "precision", "init",
    "pretraining_seeds", "set", "by_network",
)  # fmt: skip
NETWORKS = ("design", "models", "all")
_TOP_KEYS = ("design", "width", "groups", "models", "phases")
_NAME = re.compile(r"[a-z0-9][a-z0-9_-]*")
_RESERVED = ("runs", "tuning", "logs", "report", "slurm", "weights", "recipe")  # folders and `start` values
_SET = "drop_path=0.1 or aa=null"  # example for error messages
_LISTS = ("seeds", "pretraining_seeds")  # comma-separated on the command line
# training arguments that a study sets itself, and the option to use instead
_SET_BY_STUDY = {
    "model": "--design", "seed": "--seeds", "data_dir": "--data", "device": "--device",
    "workers": "--workers", "output": "--output", "pretrained_path": "--init", "initial_checkpoint": "--init",
    "experiment": "", "test_split": "", "resume": "", "checkpoint_hist": "",
}  # fmt: skip
# training arguments that have an option of their own
SAME_AS = {
    "epochs": "epochs", "batch_size": "batch_size", "amp": "precision", "amp_dtype": "precision",
    "model_dtype": "precision", "lr": "tune", "pretrained": "from_scratch",
}  # fmt: skip

Phase = Mapping[str, Any]


def phases_of(args: argparse.Namespace) -> list[argparse.Namespace]:
    """Returns the arguments of each phase, every phase after the one that it starts from.

    Without an experiment, the result is one phase with an empty name.

    Raises:
        UserError: A phase is incomplete or invalid, or phases start from one another.
    """
    asked = _read(args.experiment) if args.experiment else {}
    named_there = asked.get("phases", {}).items()
    phases = {_checked_name(str(name)): _checked(str(name), said) for name, said in named_there}
    for words in args.phase:
        name = _checked_name(words[0])
        pairs = [_pair("--phase", word, "data=imagenet recipe=in1k_112") for word in words[1:]]
        if twice := repeated([key for key, _ in pairs]):
            raise UserError(f"--phase {name}: {twice} is given twice; give one")
        phases[name] = {**phases.get(name, {}), **_checked(name, dict(pairs))}
    every = dict(phases)
    for name in args.without:
        if phases.pop(name, None) is None:
            raise unknown_name("phase in --without", name, phases)
    if args.experiment and not phases:
        raise UserError(f"{args.experiment}: {'no phase is left' if args.without else 'names no phases'}")
    data = [word for words in args.data for word in words]
    if phases:
        for name, said in every.items():
            if said.get("data") is None:
                raise UserError(f"phase {name}: names no data; give it data: NAME")
        folders = _folders(data, every)
    elif len(data) == 1:
        folders = {Path(data[0]).name: data[0]}
        every = phases = {"": {"data": Path(data[0]).name}}
    else:
        raise UserError(
            "--data: name one data set or folder, or an experiment and the folder of each, NAME=FOLDER"
        )
    shared = copy(args)
    shared.design = args.design or asked.get("design") or "stages"
    shared.width = args.width or asked.get("width") or "atto"
    shared.models = args.models or asked.get("models") or []
    if asked.get("groups") and not args.groups:
        shared.groups = [f"{name}={','.join(components)}" for name, components in asked["groups"].items()]
    settings = _settings(args.set, every)
    return [_arguments(shared, name, phases[name], folders, settings[name]) for name in _in_order(phases)]


@contextmanager
def named(phase: str) -> Iterator[None]:
    """Prefixes errors with the phase's name."""
    try:
        yield
    except UserError as error:
        if not phase:
            raise
        raise UserError(f"phase {phase}: {error}") from error


def _arguments(
    shared: argparse.Namespace,
    name: str,
    said: Phase,
    folders: Mapping[str, str],
    settings: Mapping[str, Any],
) -> argparse.Namespace:
    phase = copy(shared)
    phase.phase, phase.start, phase.networks = name, said.get("start") or "", said.get("networks")
    phase.data_name = str(said["data"])
    phase.data = folders.get(phase.data_name, phase.data_name)
    phase.recipe = said.get("recipe") or phase.recipe
    replaced = {argument for argument, option in SAME_AS.items() if getattr(shared, option)}
    replaced |= settings.keys()
    own = said.get("by_network") or {}
    with named(name):
        phase.set = {**_kept(said.get("set"), replaced), **settings}
        phase.by_network = {
            network: (each.get("recipe"), _kept(each.get("set"), replaced)) for network, each in own.items()
        }
    for key in ("seeds", "tune", "epochs", "batch_size", "precision", "init", "pretraining_seeds"):
        if key in said and not getattr(shared, key):
            setattr(phase, key, said[key])
    phase.seeds = phase.seeds or [0, 1, 2]
    return phase


def _read(name_or_file: str) -> dict[str, Any]:
    content = read_yaml(find_yaml("experiment", name_or_file), name_or_file)
    if not isinstance(content, dict) or not isinstance(content.get("phases"), dict):
        raise UserError(f"{name_or_file}: an experiment has `phases:`, a name and settings for each")
    return mapping(content, name_or_file, _TOP_KEYS)


def _checked_name(name: str) -> str:
    if not _NAME.fullmatch(name) or name in _RESERVED:
        raise UserError(
            f"phase {name!r}: write its name in small letters, digits, - and _, and not one of "
            f"{', '.join(_RESERVED)}"
        )
    return check_name(name, "phase")


def _checked(name: str, said: object) -> dict[str, Any]:
    """Checks a phase's keys and values, and parses its lists of seeds."""
    phase = mapping(said, f"phase {name}", PHASE_KEYS)
    for key, value in phase.items():
        if key in _LISTS:
            phase[key] = _numbers(name, key, value)
    if phase.get("networks", "all") not in NETWORKS:
        raise unknown_name(f"networks in phase {name}", str(phase["networks"]), NETWORKS)
    if not isinstance(phase.get("set") or {}, Mapping):
        raise UserError(f"phase {name}: `set` takes `argument: value` lines")
    for key, each in mapping(phase.get("by_network") or {}, f"phase {name}: by_network").items():
        mapping(each, f"phase {name}: {key}", ("recipe", "set"))
    return phase


def _numbers(name: str, key: str, value: object) -> list[int]:
    values = value.split(",") if isinstance(value, str) else value if isinstance(value, list) else [value]
    try:
        numbers = [int(str(each)) for each in values]
    except ValueError:
        numbers = []
    if not numbers:
        raise UserError(f"phase {name}: {key} is {value!r}; give whole numbers, such as [0, 1, 2]")
    return numbers


def _pair(option: str, word: str, example: str) -> tuple[str, Any]:
    """Parses ``NAME=VALUE``; the value is YAML."""
    name, equals, text = word.partition("=")
    if not equals:
        what = "NAME" if option == "--set" else "KEY"
        raise UserError(f"{option} {word}: write {what}=VALUE, such as {example}")
    return name.replace("-", "_"), parse_yaml(text, f"{option} {word}")


def _kept(values: Mapping[str, Any] | None, replaced: Collection[str]) -> dict[str, Any]:
    """Recipe values that the command line doesn't override."""
    return {name: value for name, value in _values((values or {}).items()).items() if name not in replaced}


def _folders(words: Iterable[str], phases: Mapping[str, Phase]) -> dict[str, str]:
    """Parses ``NAME=FOLDER`` words into the folder of each data set."""
    used = list(dict.fromkeys(str(phase["data"]) for phase in phases.values()))
    folders: dict[str, str] = {}
    for word in words:
        name, equals, folder = word.partition("=")
        if not equals or not folder:
            raise UserError(
                f"--data {word}: an experiment takes NAME=FOLDER, with a name of {', '.join(used)}"
            )
        if name in folders:
            raise UserError(f"--data {name}: is given twice, {folders[name]} and {folder}; give one")
        if name not in used:
            raise unknown_name("data set that no phase uses:", name, used)
        same = [each for each in folders if Path(folders[each]).resolve() == Path(folder).resolve()]
        if same and Path(folder).exists():
            raise UserError(f"--data {name}={folder}: is the folder of {same[0]}, too; give another")
        folders[name] = folder
    return folders


def _settings(words: Iterable[str], phases: Mapping[str, Phase]) -> dict[str, dict[str, Any]]:
    """The `--set` values of each phase: ``PHASE.NAME=VALUE``, or ``NAME=VALUE`` for all."""
    if "" in phases:
        return {"": _values(_pair("--set", word, _SET) for word in words)}
    found: dict[str, list[str]] = {name: [] for name in phases}
    for word in words:
        name, dot, rest = word.partition("=")[0].partition(".")
        if dot and name not in phases:
            raise unknown_name("phase in --set", name, phases)
        for each in [name] if dot else phases:
            found[each].append(f"{rest}={word.partition('=')[2]}" if dot else word)
    return {name: _values(_pair("--set", word, _SET) for word in said) for name, said in found.items()}


def _in_order(phases: Mapping[str, Phase]) -> list[str]:
    """Names of phases in the given order, but each after the phase that it starts from."""
    order: list[str] = []
    for name in phases:
        path = [name]
        while start := phases[path[-1]].get("start"):
            if start not in phases:
                raise unknown_name(f"phase that {path[-1]} starts from:", str(start), phases)
            path.append(start)
            if start in path[:-1]:
                raise UserError(f"phases start from one another: {' <- '.join(path[path.index(start) :])}")
        order += [each for each in reversed(path) if each not in order]
    return order


def overridden(recipe: Mapping[str, Any], args: argparse.Namespace) -> tuple[dict[str, Any], dict[str, Any]]:
    """Returns a recipe with the command line's overrides, and the values of `--set` alone.

    Raises:
        UserError: A value is invalid, or an argument is given twice.
    """
    given = known_settings(args.set, "--set")
    for name in args.set:
        option = SAME_AS.get(name, "")
        if option and getattr(args, option):
            raise UserError(f"--set {name} and --{option.replace('_', '-')} are both given; give one")
        if name not in given:
            raise UserError(f"--set {name}: an argument of timm's train.py without effect here; leave it out")
        ARGUMENTS[name].check(given[name])
    changed = {**recipe, **given}
    if given.keys() & {"lr_base", "lr_base_size", "lr_base_scale"} and "lr" not in given:
        changed.pop("lr", None)  # it would take precedence
    if args.batch_size is not None:
        changed["batch_size"] = args.batch_size
    if args.epochs is not None:
        changed |= scaled(TrainingArguments(**changed), args.epochs)
    TrainingArguments(**changed)  # validates
    return changed, given


def _values(pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    """Normalises argument names; refuses duplicates and arguments that a study sets itself."""
    found: dict[str, Any] = {}
    for given, value in pairs:
        name = str(given).replace("-", "_")
        if name in found:
            raise UserError(f"--set {name} is given twice; give one")
        if name in _SET_BY_STUDY:
            instead = _SET_BY_STUDY[name]
            raise UserError(
                f"--set {name}: a study sets it itself; {f'use {instead}' if instead else 'leave it out'}"
            )
        found[name] = value
    return found


def scaled(arguments: TrainingArguments, epochs: int) -> dict[str, Any]:
    """Returns the overrides that scale a schedule to `epochs` in total, including warm-up and cooldown.

    Every setting that counts epochs keeps its share of the total. Warm-up and cooldown are rounded to whole
    epochs, and leave at least one epoch between them.
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
