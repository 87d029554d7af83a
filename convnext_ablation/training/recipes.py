"""Recipes: how to train, as YAML files that timm's own `train.py -c` reads too."""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import Any

import yaml

from convnext_ablation.errors import UserError, unknown_name
from convnext_ablation.training.arguments import ARGUMENTS


def recipe_names() -> list[str]:
    """Names of the recipes that come with the package."""
    folder = resources.files("convnext_ablation") / "recipes"
    return sorted(
        entry.name.removesuffix(".yaml") for entry in folder.iterdir() if entry.name.endswith(".yaml")
    )


def read_recipe(name_or_file: str) -> dict[str, Any]:
    """Reads a recipe: the arguments that it sets, by name.

    Args:
        name_or_file: Name of a recipe of the package, or path of a YAML file.

    Raises:
        UserError: There is no such recipe, or it sets something that is not an argument.
    """
    if name_or_file.endswith((".yaml", ".yml")):
        if not Path(name_or_file).is_file():
            raise UserError(f"{name_or_file}: no such recipe file")
        text = Path(name_or_file).read_text(encoding="utf-8")
    elif name_or_file in recipe_names():
        text = (resources.files("convnext_ablation") / "recipes" / f"{name_or_file}.yaml").read_text("utf-8")
    else:
        raise unknown_name("recipe", name_or_file, recipe_names())
    try:
        recipe = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise UserError(f"{name_or_file}: not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(recipe, dict):
        raise UserError(f"{name_or_file}: a recipe is a list of `argument: value` lines")
    for argument in recipe:
        if argument not in ARGUMENTS:
            raise unknown_name(f"argument in {name_or_file}", str(argument), ARGUMENTS)
    return recipe
