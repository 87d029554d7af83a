"""Arguments as files set them: recipes, which are YAML files that timm's own `train.py -c` reads too."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

import yaml

from convnext_ablation.errors import UserError, unknown_name
from convnext_ablation.training.arguments import ARGUMENTS

# What timm's `train.py` takes besides, in any version that is supported, with its defaults: a configuration
# that leaves them alone is accepted.
TIMM_ONLY: Mapping[str, Any] = {
    "data": None,  # the folder by position, which the command line takes
    "aug_repeats": 0, "aug_splits": 0, "bn_eps": None, "bn_momentum": None, "drop_block": None,
    "drop_connect": None, "epoch_repeats": 0.0, "fuser": "", "jsd_loss": False, "local_rank": 0,
    "no_prefetcher": False, "resplit": False, "save_images": False, "split_bn": False,
    "synchronize_step": False, "torchscript": False, "tta": 0, "use_multi_epochs_loader": False,
    "worker_seeding": "all",
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


def known_settings(settings: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Returns the settings that are arguments here; `where` they stand is for messages about the others."""
    for name, value in settings.items():
        if name in TIMM_ONLY:
            if value != TIMM_ONLY[name]:
                raise timm_only(name, where)
        elif name not in ARGUMENTS:
            raise unknown_name(f"argument in {where}", str(name), (*ARGUMENTS, *TIMM_ONLY))
    return {name: value for name, value in settings.items() if name in ARGUMENTS}


def timm_only(name: str, where: str, script: str = "train.py") -> UserError:
    """Builds the error for an argument that only timm's script follows."""
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
