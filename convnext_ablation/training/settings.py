"""Arguments as they are given: on a command line, or in a recipe that timm's own `train.py -c` reads too."""

from __future__ import annotations

import argparse
import difflib
import sys
from collections.abc import Collection, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any, NoReturn

import yaml

from convnext_ablation.dataclass_options import Option, add_options
from convnext_ablation.errors import UserError, unknown_name
from convnext_ablation.training.arguments import ARGUMENTS, RETIRED, TrainingArguments

# What timm's `train.py` takes besides, in any version that is supported, with its defaults: a configuration
# that leaves them alone is accepted.
TIMM_ONLY: Mapping[str, Any] = {
    "data": None,  # the folder by position, which the command line takes
    "aug_repeats": 0, "aug_splits": 0, "bn_eps": None, "bn_momentum": None, "drop_block": None,
    "drop_connect": None, "epoch_repeats": 0.0, "fuser": "", "jsd_loss": False, "local_rank": 0,
    "no_prefetcher": False, "resplit": False, "save_images": False, "split_bn": False,
    "synchronize_step": False, "torchscript": False, "train_num_samples": None, "tta": 0,
    "use_multi_epochs_loader": False, "val_num_samples": None, "worker_seeding": "all",
    # several sizes in one training
    "train_batch_sizes": None, "train_batches_per_epoch": None, "train_img_sizes": None,
    "train_size_probs": None, "train_size_random_mix": 0.1, "train_size_schedule": "constant",
    "train_size_schedule_spread": 0.65, "variable_batch_loss_scale": "none",
    # NaFlex
    "naflex_loader": False, "naflex_loss_scale": "linear", "naflex_max_seq_len": 576,
    "naflex_patch_size_probs": None, "naflex_patch_sizes": None, "naflex_patchify_channels_first": False,
    "naflex_train_seq_lens": [128, 256, 576, 784, 1024],
    # distillation
    "distill_loss_weight": None, "kd_distill_type": "logit", "kd_loss_type": "kl", "kd_model_name": None,
    "kd_student_feature_dim": None, "kd_teacher_feature_dim": None, "kd_temperature": 4.0,
    "kd_token_distill_type": "soft", "task_loss_weight": None,
}  # fmt: skip
# timm's short forms
_ALSO = {
    "batch_size": "-b", "validation_batch_size": "-vb", "workers": "-j", "decay_rate": "--dr", "model": "-m",
}  # fmt: skip
_TRAINS = "Trains a network as timm's train.py does, exactly resumable and exactly evaluated."


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """Raises the message, one line, as the user's error."""
        raise UserError(message)


def parse_arguments(argv: Sequence[str] | None = None) -> TrainingArguments:
    """Reads the command line of `train.py`, that of the process if None."""
    given = read_command_line("train.py", _TRAINS, ARGUMENTS, TIMM_ONLY, argv)
    config = given.pop("config", None)
    return TrainingArguments(**{**(read_recipe(config) if config else {}), **given})


def read_command_line(
    program: str,
    description: str,
    options: Mapping[str, Option],
    timms: Collection[str],
    argv: Sequence[str] | None,
) -> dict[str, Any]:
    """Reads the values that a command line gives, by name.

    Args:
        program: Name of the script; `train.py` takes a recipe, too.
        description: What it does.
        options: What it takes.
        timms: Names of arguments that timm's script of that name alone takes.
        argv: The command line, that of the process if None.
    """
    parser = _Parser(prog=program, description=description, allow_abbrev=False)
    parser.add_argument("data", nargs="?", metavar="DIR", help="the same as --data-dir")
    add_options(parser, options, _ALSO, alone={"torchcompile": "inductor"})
    if program == "train.py":
        text = "YAML file of arguments, or one of the recipes that `convnext-ablation recipes` lists"
        parser.add_argument("-c", "--config", metavar="FILE|NAME", help=text)
    found, unknown = parser.parse_known_args(sys.argv[1:] if argv is None else argv)
    for word in unknown:
        option = word.partition("=")[0]
        name = option.lstrip("-").replace("-", "_")
        if word.startswith("--") and name in timms:
            raise _timm_only(name, "command line", program)
        known = ["--help", "--config", *("--" + name.replace("_", "-") for name in options)]
        nearest = difflib.get_close_matches(option, known, n=1)
        hint = f"did you mean {nearest[0]!r}?" if nearest else "see --help"
        raise UserError(f"unknown argument {option!r}; {hint}")
    given: dict[str, Any] = {name: value for name, value in vars(found).items() if value is not None}
    folder = given.pop("data", None)
    return given if folder is None else {"data_dir": folder, **given}


def known_settings(settings: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Returns the settings that are arguments here; `where` they stand is for messages about the others."""
    for name, value in settings.items():
        if name in TIMM_ONLY:
            if value != TIMM_ONLY[name]:
                raise _timm_only(name, where)
        elif name not in ARGUMENTS and name not in RETIRED:
            raise unknown_name(f"argument in {where}", str(name), (*ARGUMENTS, *TIMM_ONLY))
    return {name: value for name, value in settings.items() if name in ARGUMENTS}


def _timm_only(name: str, where: str, script: str = "train.py") -> UserError:
    return UserError(
        f"{where}: {name} is an argument of timm's {script} that this one doesn't take; run timm's with "
        f"`python -m convnext_ablation.stock path/to/timm/{script} ...`"
    )


def recipe_names() -> list[str]:
    """Names of the recipes that come with the package."""
    return sorted(path.stem for path in _folder().glob("*.yaml"))


def recipe_path(name: str) -> Path:
    """Path of a recipe of the package, for programs that want a file."""
    if name not in recipe_names():
        raise unknown_name("recipe", name, recipe_names())
    return _folder() / f"{name}.yaml"


def read_recipe(name_or_file: str) -> dict[str, Any]:
    """Reads the arguments that a recipe of the package, or a YAML file, sets."""
    is_file = name_or_file.endswith((".yaml", ".yml"))
    path = Path(name_or_file) if is_file else recipe_path(name_or_file)
    if not path.is_file():
        raise UserError(f"{name_or_file}: no such recipe file")
    try:
        recipe = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise UserError(f"{name_or_file}: not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(recipe, dict):
        raise UserError(f"{name_or_file}: a recipe is a list of `argument: value` lines")
    return known_settings(recipe, name_or_file)


def _folder() -> Path:
    return Path(str(resources.files("convnext_ablation") / "recipes"))
