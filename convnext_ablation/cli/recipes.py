"""`convnext-ablation recipes`: lists recipes and experiments, prints one, or locates its file."""

from __future__ import annotations

import argparse
from pathlib import Path

from convnext_ablation.console import table
from convnext_ablation.errors import UserError, unknown_name
from convnext_ablation.study.experiment_file import experiment_names, experiment_path
from convnext_ablation.training.settings import read_recipe, recipe_names, recipe_path


def run(args: argparse.Namespace) -> None:
    """Runs the command.

    Raises:
        UserError: There is no such recipe or experiment.
    """
    if args.name is None:
        if args.path:
            raise UserError("--path needs the name of a recipe or experiment")
        rows = [_row(name) for name in recipe_names()]
        print(table(("recipe", "for", "input", "epochs"), rows, words=range(4), fit=1))
        print()
        rows = [(name, _first_line(name)) for name in experiment_names()]
        print(table(("experiment of `study`", "for"), rows, words=range(2), fit=1))
    elif args.path:
        print(_path(args.name))
    else:
        print(_path(args.name).read_text(encoding="utf-8"), end="")


def _path(name: str) -> Path:
    if name not in (known := [*recipe_names(), *experiment_names()]):
        raise unknown_name("recipe", name, known)
    return recipe_path(name) if name in recipe_names() else experiment_path(name)


def _first_line(name: str) -> str:
    return _path(name).read_text(encoding="utf-8").partition("\n")[0].removeprefix("# ")


def _row(name: str) -> tuple[str, ...]:
    recipe = read_recipe(name)
    warmup = recipe["warmup_epochs"] if recipe.get("warmup_prefix") else 0
    epochs = f"{recipe['epochs']} + {warmup} of warm-up" if warmup else str(recipe["epochs"])
    return name, _first_line(name), "x".join(map(str, recipe["input_size"])), epochs
