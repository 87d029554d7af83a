"""Completion of the `convnext-ablation` command in a shell, by argcomplete; see docs/tutorial.md."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any

from convnext_ablation.data.prepare import BUILT_IN
from convnext_ablation.models.components import NETWORKS
from convnext_ablation.study.designs.design import DESIGNS, WIDTHS
from convnext_ablation.study.experiment_file import experiment_names
from convnext_ablation.training.settings import recipe_names

_NAMES: Mapping[str, Iterable[str]] = {  # by destination of an argument; files are completed besides
    "config": recipe_names(),
    "data": BUILT_IN,
    "design": DESIGNS,
    "experiment": experiment_names(),
    "model": NETWORKS,
    "models": NETWORKS,
    "name": [*recipe_names(), *experiment_names()],
    "pattern": NETWORKS,
    "recipe": recipe_names(),
    "width": WIDTHS,
}


def words_typed() -> list[str]:
    """The words of the line that a shell completes, behind the command and before the cursor."""
    return os.environ["COMP_LINE"][: int(os.environ["COMP_POINT"])].split()[1:]


def insert(place: int, word: str) -> None:
    """Inserts a word into the line that a shell completes, which users leave out."""
    words = os.environ["COMP_LINE"].split(" ")
    os.environ["COMP_LINE"] = " ".join([*words[:place], word, *words[place:]])
    os.environ["COMP_POINT"] = str(int(os.environ["COMP_POINT"]) + len(word) + 1)


def complete(parser: argparse.ArgumentParser) -> None:
    """Answers the shell, and ends the process."""
    import argcomplete

    _name_values(parser)
    argcomplete.autocomplete(parser, always_complete_options=False)


def _name_values(parser: argparse.ArgumentParser) -> None:
    for action in parser._actions:
        if isinstance(action.choices, Mapping):  # commands
            for command in action.choices.values():
                _name_values(command)
        elif action.dest in _NAMES:
            takes: Any = action
            takes.completer = partial(_starting_so, _NAMES[action.dest])


def _starting_so(names: Iterable[str], prefix: str, **_: Any) -> list[str]:
    return [name for name in names if name.startswith(prefix)]
