"""The `convnext-ablation` command."""

from __future__ import annotations

import argparse
import difflib
import importlib
import os
import re
import sys
from collections.abc import Sequence
from types import ModuleType
from typing import NoReturn

from convnext_ablation.errors import UserError
from convnext_ablation.version import __version__

# the modules are imported when their command is used: some need the extra `study`
COMMANDS = {
    "study": ("convnext_ablation.cli.study", "train a design's networks and say what each step is worth"),
    "study plan": (
        "convnext_ablation.cli.study_plan",
        "say what a study costs and could show",
    ),
    "study status": ("convnext_ablation.cli.study_status", "say how far a study is"),
    "study work": (
        "convnext_ablation.cli.study_work",
        "help with a study's runs",
    ),
    "study report": (
        "convnext_ablation.cli.study_report",
        "write a study's report anew",
    ),
    "prepare": ("convnext_ablation.cli.prepare", "write a data set as an image folder"),
    "data-report": ("convnext_ablation.cli.data_report", "say what is wrong with an image data set"),
    "models": ("convnext_ablation.cli.models", "list the networks, or say what differs between two"),
    "bench": ("convnext_ablation.cli.bench", "measure how fast networks are on this machine"),
    "publish": ("convnext_ablation.cli.publish", "make a release of a finished run, or of a whole study"),
    "verify": ("convnext_ablation.cli.verify", "recompute the accuracy that a release claims"),
    "convert": ("convnext_ablation.cli.convert", "turn another project's checkpoint into safetensors"),
    "recipes": ("convnext_ablation.cli.recipes", "list the recipes, print one, or say where it is"),
    "timm-scripts": (
        "convnext_ablation.cli.timm_scripts",
        "say where to get timm's scripts, or check a checkout",
    ),
}


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """Prints one line, without the usage above it, and the nearest name for an unknown one."""
        choice = re.search(r"invalid choice: '(.*?)' \(choose from (.*)\)", message)
        if choice:
            nearest = difflib.get_close_matches(choice[1], re.findall(r"[\w-]+", choice[2]), n=1)
            message += f"; did you mean {nearest[0]!r}?" if nearest else ""
        self.exit(2, f"{self.prog}: error: {message}\n")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line.

    Args:
        argv: The arguments, those of the process if None.

    Returns:
        The exit code: 0, 2 for what the user can mend, 130 when interrupted, 141 when nobody reads any more.
    """
    argv = _with_two_words_joined(sys.argv[1:] if argv is None else list(argv))
    try:
        args = _parser(argv).parse_args(argv)
        args.run(args)
    except UserError as error:
        print(f"convnext-ablation: error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nstopped; what was finished is kept: the same command goes on from there", file=sys.stderr)
        return 130
    except BrokenPipeError:  # whoever reads the output, such as `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    return 0


def _with_two_words_joined(argv: list[str]) -> list[str]:
    """Makes one of the first two arguments where they are a command, such as ``study plan``."""
    first = " ".join(argv[:2])
    return [first, *argv[2:]] if first in COMMANDS else argv


def _parser(argv: Sequence[str]) -> argparse.ArgumentParser:
    parser = _Parser(
        prog="convnext-ablation", description="From ResNet-50 to ConvNeXt-T, one component at a time."
    )
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    for name, (module_name, summary) in COMMANDS.items():
        command = commands.add_parser(name, help=summary, description=summary)
        if name in argv[:1]:
            module = _import(module_name)
            module.add_arguments(command)
            command.set_defaults(run=module.run)
    return parser


def _import(module_name: str) -> ModuleType:
    try:
        return importlib.import_module(module_name)
    except ImportError as error:
        if error.name is None or error.name.startswith("convnext_ablation"):
            raise
        raise UserError(f"{error.name} is missing; pip install 'convnext_ablation[study]'") from error


if __name__ == "__main__":
    sys.exit(main())
