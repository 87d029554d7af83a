"""`convnext-ablation recipes`: lists recipes and experiments, prints one, or locates its file."""

from __future__ import annotations

import argparse
from pathlib import Path

from convnext_ablation.console import table
from convnext_ablation.errors import UserError, unknown_name
from convnext_ablation.training.settings import read_recipe
from convnext_ablation.yaml_files import built_in


def run(args: argparse.Namespace) -> None:
    """Runs the command.

    Raises:
        UserError: There is no such recipe or experiment.
    """
    recipes, experiments = built_in("recipes"), built_in("experiments")
    if args.name is None:
        if args.path:
            raise UserError("--path needs the name of a recipe or experiment")
        rows = [_row(name, path) for name, path in recipes.items()]
        print(table(("recipe", "for", "input", "epochs"), rows, words=range(4), fit=1))
        print()
        rows = [(name, _first_line(path)) for name, path in experiments.items()]
        print(table(("experiment of `study`", "for"), rows, words=range(2), fit=1))
        return
    if args.name not in (known := {**experiments, **recipes}):
        raise unknown_name("recipe", args.name, known)
    path = known[args.name]
    print(path) if args.path else print(path.read_text(encoding="utf-8"), end="")


def _first_line(path: Path) -> str:
    return path.read_text(encoding="utf-8").partition("\n")[0].removeprefix("# ")


def _row(name: str, path: Path) -> tuple[str, ...]:
    recipe = read_recipe(name)
    warmup = recipe["warmup_epochs"] if recipe.get("warmup_prefix") else 0
    epochs = f"{recipe['epochs']} + {warmup} of warm-up" if warmup else str(recipe["epochs"])
    return name, _first_line(path), "x".join(map(str, recipe["input_size"])), epochs
