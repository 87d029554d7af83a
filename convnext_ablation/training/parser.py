"""The command lines of `train.py` and `validate.py`: timm's options, with lines of ours for what is wrong."""

from __future__ import annotations

import argparse
import difflib
import sys
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NoReturn

from convnext_ablation.dataclass_options import Option, add_options
from convnext_ablation.errors import UserError
from convnext_ablation.training.arguments import ARGUMENTS, TrainingArguments
from convnext_ablation.training.recipes import TIMM_ONLY, read_recipe, timm_only

# timm's short forms
_ALSO = {
    "batch_size": "-b",
    "validation_batch_size": "-vb",
    "workers": "-j",
    "decay_rate": "--dr",
    "model": "-m",
}
_TRAINS = "Trains a network as timm's train.py does, exactly resumable and exactly evaluated."
# options that may stand without a value, and what they mean then
_ALONE = {"torchcompile": "inductor"}


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """Raises the message, one line, as the user's error."""
        raise UserError(message)


def parse_arguments(argv: Sequence[str] | None = None) -> TrainingArguments:
    """Reads the command line of `train.py`, that of the process if None."""
    given = read_command_line("train.py", _TRAINS, ARGUMENTS, TIMM_ONLY, argv, config=True)
    config = given.pop("config", None)
    return TrainingArguments(**{**(read_recipe(config) if config else {}), **given})


def read_command_line(
    program: str,
    description: str,
    options: Mapping[str, Option],
    timms: Collection[str],
    argv: Sequence[str] | None,
    config: bool = False,
) -> dict[str, Any]:
    """Reads the values that a command line gives, by name.

    Args:
        program: Name of the script.
        description: What it does.
        options: What it takes.
        timms: Names of arguments that timm's script of that name alone takes.
        argv: The command line, that of the process if None.
        config: Whether it takes a recipe, too.
    """
    parser = _Parser(prog=program, description=description, allow_abbrev=False)
    parser.add_argument("data", nargs="?", metavar="DIR", help="the same as --data-dir")
    add_options(parser, options, _ALSO, _ALONE)
    if config:
        text = "YAML file of arguments, or one of the recipes that `convnext-ablation recipes` lists"
        parser.add_argument("-c", "--config", metavar="FILE|NAME", help=text)
    found, unknown = parser.parse_known_args(sys.argv[1:] if argv is None else argv)
    for word in unknown:
        name = word.lstrip("-").partition("=")[0].replace("-", "_")
        if word.startswith("--") and name in timms:
            raise timm_only(name, "command line", program)
    if unknown:
        option = next((word for word in unknown if word.startswith("-")), unknown[0]).partition("=")[0]
        known = ["--help", "--config", *("--" + name.replace("_", "-") for name in options)]
        nearest = difflib.get_close_matches(option, known, n=1)
        hint = f"did you mean {nearest[0]!r}?" if nearest else "see --help"
        raise UserError(f"unknown argument {option!r}; {hint}")
    given: dict[str, Any] = {name: value for name, value in vars(found).items() if value is not None}
    folder = given.pop("data", None)
    return given if folder is None else {"data_dir": folder, **given}
