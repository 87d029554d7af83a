"""`convnext-ablation recipes`: what recipes there are, one of them, or where its file is."""

from __future__ import annotations

import argparse
from typing import Any

from convnext_ablation.errors import UserError
from convnext_ablation.training.recipes import read_recipe, recipe_names, recipe_path

HEADER = ("recipe", "for", "input", "epochs")


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
        print("\n".join(table()))
    elif args.path:
        print(recipe_path(args.name))
    else:
        print(recipe_path(args.name).read_text(encoding="utf-8"), end="")


def table() -> list[str]:
    """The recipes as an aligned table, one a line."""
    rows = [HEADER, *(_row(name) for name in recipe_names())]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    ]


def _row(name: str) -> tuple[str, str, str, str]:
    recipe = read_recipe(name)
    first_line = recipe_path(name).read_text(encoding="utf-8").partition("\n")[0]
    size = "x".join(map(str, recipe["input_size"]))
    return name, first_line.removeprefix("# "), size, _epochs(recipe)


def _epochs(recipe: dict[str, Any]) -> str:
    if recipe.get("warmup_prefix") and recipe["warmup_epochs"]:
        return f"{recipe['epochs']} + {recipe['warmup_epochs']} of warm-up"
    return str(recipe["epochs"])
