"""Arguments as they are given: on a command line, or in a recipe that timm's own `train.py -c` reads too."""

from __future__ import annotations

import sys
from collections.abc import Collection, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from convnext_ablation.dataclass_options import Option, Parser, add_options
from convnext_ablation.errors import UserError, in_one_line, unknown_name
from convnext_ablation.training.arguments import ARGUMENTS, RETIRED, TrainingArguments
from convnext_ablation.yaml_files import read_yaml

# What timm's `train.py` takes besides, in any supported version: a configuration that leaves these off is
# accepted ...
TIMM_ONLY = (
    "aug_repeats", "aug_splits", "bn_eps", "bn_momentum", "data", "distill_loss_weight", "drop_block",
    "drop_connect", "epoch_repeats", "fuser", "jsd_loss", "kd_model_name", "kd_student_feature_dim",
    "kd_teacher_feature_dim", "local_rank", "naflex_loader", "no_prefetcher", "resplit", "save_images",
    "split_bn", "synchronize_step", "task_loss_weight", "torchscript", "train_img_sizes", "train_num_samples",
    "tta", "use_multi_epochs_loader", "val_num_samples",
)  # fmt: skip
# ... and with them off, it doesn't matter what it says of these
WITHOUT_EFFECT = (
    "kd_distill_type", "kd_loss_type", "kd_temperature", "kd_token_distill_type", "naflex_loss_scale",
    "naflex_max_seq_len", "naflex_patch_size_probs", "naflex_patch_sizes", "naflex_patchify_channels_first",
    "naflex_train_seq_lens", "train_batch_sizes", "train_batches_per_epoch", "train_size_probs",
    "train_size_random_mix", "train_size_schedule", "train_size_schedule_spread",
    "variable_batch_loss_scale", "worker_seeding",
    # of earlier versions
    "log_tensorboard",
)  # fmt: skip
# timm's short forms
SHORT_FORMS = {
    "batch_size": "-b", "validation_batch_size": "-vb", "workers": "-j", "decay_rate": "--dr", "model": "-m",
}  # fmt: skip
_TRAINS = "Trains a network as timm's train.py does, exactly resumable and exactly evaluated."


def parse_arguments(argv: Sequence[str] | None = None) -> TrainingArguments:
    """Reads the command line of `train.py`, that of the process if None."""
    given = read_command_line("train.py", _TRAINS, ARGUMENTS, (*TIMM_ONLY, *WITHOUT_EFFECT), argv)
    config, from_scratch = given.pop("config", None), given.pop("from_scratch", False)
    values = {**(read_recipe(config) if config else {}), **given}
    if from_scratch:
        for name in ("pretrained", "pretrained_path", "initial_checkpoint"):
            if given.get(name):
                option = name.replace("_", "-")
                raise UserError(f"--from-scratch and --{option} are both given; give one")
            values.pop(name, None)
    return TrainingArguments(**values)


def read_command_line(
    program: str,
    description: str,
    options: Mapping[str, Option],
    timms: Collection[str],
    argv: Sequence[str] | None,
) -> dict[str, Any]:
    """Reads the values that a command line gives, by name; `train.py` takes a recipe, too.

    Arguments in `timms` are those that only timm's script of that name takes.
    """
    parser = Parser(prog=program, description=description, allow_abbrev=False)
    parser.add_argument("data", nargs="?", metavar="DIR", help="the same as --data-dir")
    add_options(parser, options, SHORT_FORMS, alone={"torchcompile": "inductor"})
    if program == "train.py":
        text = "YAML file of arguments, or one of the recipes that `convnext-ablation recipes` lists"
        parser.add_argument("-c", "--config", metavar="FILE|NAME", help=text)
        text = "start from random weights, whatever the recipe says of pretrained ones"
        parser.add_argument("--from-scratch", action="store_const", const=True, help=text)
    with in_one_line("the command line can't be read"):
        found, unknown = parser.parse_known_args(sys.argv[1:] if argv is None else argv)
    if unknown:
        option = unknown[0].partition("=")[0]
        if (name := option.removeprefix("--").replace("-", "_")) in timms:
            raise _timm_only(name, "command line", program)
        raise parser.unknown_argument(option)
    given: dict[str, Any] = {name: value for name, value in vars(found).items() if value is not None}
    folder = given.pop("data", None)
    return given if folder is None else {"data_dir": folder, **given}


def known_settings(settings: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Returns the settings that are arguments here; `where` they stand is for messages about the others."""
    for name, value in settings.items():
        if name in ARGUMENTS or name in WITHOUT_EFFECT:
            continue
        if name not in TIMM_ONLY and name not in RETIRED:
            raise unknown_name(f"argument in {where}", str(name), (*ARGUMENTS, *TIMM_ONLY))
        if value and value != RETIRED.get(name):
            raise _timm_only(name, where, "train.py")
    return {name: value for name, value in settings.items() if name in ARGUMENTS}


def _timm_only(name: str, where: str, script: str) -> UserError:
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
    if not path.exists():
        raise UserError(f"{name_or_file}: no such recipe file")
    recipe = read_yaml(path, name_or_file)
    if not isinstance(recipe, dict):
        raise UserError(f"{name_or_file}: a recipe is a list of `argument: value` lines")
    return known_settings(recipe, name_or_file)


def _folder() -> Path:
    return Path(str(resources.files("convnext_ablation") / "recipes"))
