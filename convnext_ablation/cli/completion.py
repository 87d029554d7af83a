"""Shell completion for `convnext-ablation`, by argcomplete; see docs/tutorial.md."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

from convnext_ablation.data.prepare import BUILT_IN
from convnext_ablation.models.components import NETWORKS
from convnext_ablation.study.designs.design import DESIGNS, WIDTHS
from convnext_ablation.yaml_files import built_in

_RECIPES, _EXPERIMENTS = built_in("recipes"), built_in("experiments")
_NAMES: Mapping[str, Iterable[str]] = {  # by argparse destination; file names are completed as well
    "config": _RECIPES,
    "data": BUILT_IN,
    "design": DESIGNS,
    "experiment": _EXPERIMENTS,
    "model": NETWORKS,
    "models": NETWORKS,
    "name": [*_RECIPES, *_EXPERIMENTS],
    "pattern": NETWORKS,
    "recipe": _RECIPES,
    "source": NETWORKS,
    "width": WIDTHS,
}


def complete(
    with_default: Callable[[list[str]], list[str]], parser_of: Callable[[list[str]], argparse.ArgumentParser]
) -> None:
    """Prints completions for the shell, and exits.

    Args:
        with_default: Inserts a group's default command where the typed words omit it.
        parser_of: Makes the parser for these words.
    """
    import argcomplete

    line, point = os.environ["COMP_LINE"], int(os.environ["COMP_POINT"])
    typed = line[:point].split()[1:]
    words = with_default(typed)
    if words != typed and typed[1:2] and (typed[1].startswith("-") or typed[2:]):
        whole = line.split(" ")
        os.environ["COMP_LINE"] = " ".join([*whole[:2], words[1], *whole[2:]])
        os.environ["COMP_POINT"] = str(point + len(words[1]) + 1)
    parser = parser_of(words)
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
