"""Arguments from a command line or from a recipe, which timm's own `train.py -c` reads too."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from convnext_ablation.errors import UserError, unknown_name
from convnext_ablation.training.arguments import ARGUMENTS, RETIRED, TrainingArguments
from convnext_ablation.yaml_files import find_yaml, read_yaml

# Further arguments of timm's `train.py`, in any supported version: a configuration is accepted if they are
# off ...
TIMM_ONLY = (
    "aug_repeats", "aug_splits", "bn_eps", "bn_momentum", "data", "distill_loss_weight", "drop_block",
    "drop_connect", "epoch_repeats", "fuser", "jsd_loss", "kd_model_name", "kd_student_feature_dim",
    "kd_teacher_feature_dim", "local_rank", "naflex_loader", "no_prefetcher", "resplit", "save_images",
    "split_bn", "synchronize_step", "task_loss_weight", "torchscript", "train_img_sizes", "train_num_samples",
    "tta", "use_multi_epochs_loader", "val_num_samples",
)  # fmt: skip
# ... in which case these have no effect and may have any value
WITHOUT_EFFECT = (
    "kd_distill_type", "kd_loss_type", "kd_temperature", "kd_token_distill_type", "naflex_loss_scale",
    "naflex_max_seq_len", "naflex_patch_size_probs", "naflex_patch_sizes", "naflex_patchify_channels_first",
    "naflex_train_seq_lens", "train_batch_sizes", "train_batches_per_epoch", "train_size_probs",
    "train_size_random_mix", "train_size_schedule", "train_size_schedule_spread",
    "variable_batch_loss_scale", "worker_seeding",
    # from earlier versions
    "log_tensorboard",
)  # fmt: skip
# timm's short forms
SHORT_FORMS = {
    "batch_size": "-b", "validation_batch_size": "-vb", "workers": "-j", "decay_rate": "--dr", "model": "-m",
}  # fmt: skip


def arguments_of(found: Mapping[str, Any]) -> TrainingArguments:
    """Makes the arguments from parsed options: a recipe's values, overridden by those given."""
    given, config = given_values(found, ARGUMENTS), found.get("config")
    values = {**(read_recipe(config) if config else {}), **given}
    if found.get("from_scratch"):
        for name in ("pretrained", "pretrained_path", "initial_checkpoint"):
            if given.get(name):
                option = name.replace("_", "-")
                raise UserError(f"--from-scratch and --{option} are both given; give one")
            values.pop(name, None)
    return TrainingArguments(**values)


def given_values(found: Mapping[str, Any], options: Collection[str]) -> dict[str, Any]:
    """The given values of options; the positional folder sets `data_dir`."""
    given = {name: value for name, value in found.items() if name in options}
    return given if found.get("data") is None else {"data_dir": found["data"], **given}


def known_settings(settings: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Returns the settings that are arguments here, and refuses unknown ones; `where` is for messages."""
    for name, value in settings.items():
        if name in ARGUMENTS or name in WITHOUT_EFFECT:
            continue
        if name not in TIMM_ONLY and name not in RETIRED:
            raise unknown_name(f"argument in {where}", str(name), (*ARGUMENTS, *TIMM_ONLY))
        if value and value != RETIRED.get(name):
            raise timm_only(name, where, "train.py")
    return {name: value for name, value in settings.items() if name in ARGUMENTS}


def timm_only(name: str, where: str, script: str) -> UserError:
    """Builds the error for an argument of timm's script that ours doesn't support."""
    return UserError(
        f"{where}: {name} is an argument of timm's {script} that this one doesn't take; run timm's with "
        f"`python -m convnext_ablation.stock path/to/timm/{script} ...`"
    )


def read_recipe(name_or_file: str) -> dict[str, Any]:
    """Reads the arguments set by a built-in recipe or a YAML file."""
    path = find_yaml("recipe", name_or_file)
    if not path.exists():
        raise UserError(f"{name_or_file}: no such recipe file")
    recipe = read_yaml(path, name_or_file)
    if not isinstance(recipe, dict):
        raise UserError(f"{name_or_file}: a recipe is a list of `argument: value` lines")
    return known_settings(recipe, name_or_file)
