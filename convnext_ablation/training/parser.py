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


class OneLineParser(argparse.ArgumentParser):
    """An argument parser whose errors are one line, with the nearest option for one that doesn't exist."""

    def error(self, message: str) -> NoReturn:
        """Raises the message as the user's error."""
        raise UserError(message)

    def refuse_unknown(self, unknown: Sequence[str]) -> None:
        """Raises an error if options are left that nothing knows."""
        if not unknown:
            return
        option = next((word for word in unknown if word.startswith("-")), unknown[0]).partition("=")[0]
        known = [option for action in self._actions for option in action.option_strings]
        nearest = difflib.get_close_matches(option, known, n=1)
        raise UserError(
            f"unknown argument {option!r}; " + (f"did you mean {nearest[0]!r}?" if nearest else "see --help")
        )


def parse_arguments(argv: Sequence[str] | None = None) -> TrainingArguments:
    """Reads the command line of `train.py`, that of the process if None."""
    parser = build_parser("train.py", _TRAINS, ARGUMENTS)
    parser.add_argument(
        "-c",
        "--config",
        metavar="FILE|NAME",
        help="YAML file of arguments, or one of the recipes that `convnext-ablation recipes` lists",
    )
    given = given_arguments(parser, argv, TIMM_ONLY)
    config = given.pop("config", None)
    return TrainingArguments(**{**(read_recipe(config) if config else {}), **given})


def build_parser(program: str, description: str, arguments: Mapping[str, Option]) -> OneLineParser:
    """Makes the parser of a script from its arguments; what isn't given is left out of what it returns."""
    parser = OneLineParser(
        prog=program,
        description=description,
        argument_default=argparse.SUPPRESS,
        allow_abbrev=False,
    )
    parser.add_argument("data", nargs="?", metavar="DIR", help="the same as --data-dir")
    add_options(parser, arguments, _ALSO, _ALONE)
    return parser


def given_arguments(
    parser: OneLineParser, argv: Sequence[str] | None, timms: Collection[str]
) -> dict[str, Any]:
    """Reads a command line, that of the process if None; `timms` are arguments of timm's script alone."""
    options, unknown = parser.parse_known_args(sys.argv[1:] if argv is None else argv)
    for word in unknown:
        name = word.lstrip("-").partition("=")[0].replace("-", "_")
        if word.startswith("--") and name in timms:
            raise timm_only(name, "command line", parser.prog)
    parser.refuse_unknown(unknown)
    given: dict[str, Any] = vars(options)
    folder = given.pop("data", None)
    if folder is not None:
        given.setdefault("data_dir", folder)
    return given
