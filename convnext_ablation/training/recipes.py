"""Recipes: how to train, as YAML files that timm's own `train.py -c` reads too."""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import Any

import yaml

from convnext_ablation.errors import UserError, unknown_name
from convnext_ablation.training.settings import known_settings


def recipe_names() -> list[str]:
    """Names of the recipes that come with the package."""
    return sorted(path.stem for path in _folder().glob("*.yaml"))


def recipe_path(name: str) -> Path:
    """Path of a recipe of the package, for programs that want a file.

    Args:
        name: Name of a recipe of the package.

    Raises:
        UserError: There is no such recipe.
    """
    if name not in recipe_names():
        raise unknown_name("recipe", name, recipe_names())
    return _folder() / f"{name}.yaml"


def read_recipe(name_or_file: str) -> dict[str, Any]:
    """Reads a recipe: the arguments that it sets, by name.

    Args:
        name_or_file: Name of a recipe of the package, or path of a YAML file.

    Raises:
        UserError: There is no such recipe, or it sets something that is not an argument.
    """
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
