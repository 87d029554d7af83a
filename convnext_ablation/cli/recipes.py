"""`convnext-ablation recipes`: what recipes there are, one of them, or where its file is."""

from __future__ import annotations

import argparse

from convnext_ablation.console import table
from convnext_ablation.errors import UserError
from convnext_ablation.training.settings import read_recipe, recipe_names, recipe_path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    parser.add_argument("name", nargs="?", help="a recipe to print; without it, all are listed")
    parser.add_argument("--path", action="store_true", help="print where its file is, for timm's train.py")


def run(args: argparse.Namespace) -> None:
    """Runs the command.

    Raises:
        UserError: There is no such recipe.
    """
    if args.name is None:
        if args.path:
            raise UserError("--path needs the name of a recipe")
        rows = [_row(name) for name in recipe_names()]
        print(table(("recipe", "for", "input", "epochs"), rows, words=range(4)))
    elif args.path:
        print(recipe_path(args.name))
    else:
        print(recipe_path(args.name).read_text(encoding="utf-8"), end="")


def _row(name: str) -> tuple[str, ...]:
    recipe = read_recipe(name)
    first_line = recipe_path(name).read_text(encoding="utf-8").partition("\n")[0]
    warmup = recipe["warmup_epochs"] if recipe.get("warmup_prefix") else 0
    epochs = f"{recipe['epochs']} + {warmup} of warm-up" if warmup else str(recipe["epochs"])
    return name, first_line.removeprefix("# "), "x".join(map(str, recipe["input_size"])), epochs
