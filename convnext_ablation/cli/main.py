"""The `convnext-ablation` command."""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import Any

import convnext_ablation
from convnext_ablation.dataclass_options import Parser
from convnext_ablation.errors import UserError, exit_code_of
from convnext_ablation.machine import remove_empty_cache
from convnext_ablation.version import __version__

# What each command does. A command's module has its name and is imported when the command is used, since some
# need the extra `study`. A group's first command is the one that its bare name runs.
COMMANDS: Mapping[str, str | Mapping[str, str]] = {
    "study": {
        "run": "train a design's networks and measure each component's effect on accuracy",
        "plan": "estimate a study's cost and the effects it could detect",
        "status": "show how far a study is",
        "report": "write a study's report again",
    },
    "prepare": "write a data set as an image folder",
    "data-report": "find duplicates, leaks and broken images in a data set",
    "models": "list the networks, their cost and their weights",
    "predict": "give the classes of pictures without labels",
    "bench": "measure how fast networks are on this machine",
    "publish": "release a finished run",
    "verify": "recompute the accuracy that a release claims",
    "convert": "convert another project's checkpoint to safetensors",
    "recipes": "list recipes and experiments, print one, or locate its file",
}
# these need no network, and answer before torch would be imported
WITHOUT_NETWORKS = {"study status", "prepare", "data-report", "recipes"}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line `argv`, that of the process if None; returns the exit code."""
    return exit_code_of("convnext-ablation", lambda: _run(argv))


def _run(argv: Sequence[str] | None) -> None:
    argv = _with_default_command(sys.argv[1:] if argv is None else list(argv))
    try:
        args = _parser(argv).parse_args(argv)
        if not {argv[0], " ".join(argv[:2])} & WITHOUT_NETWORKS:
            convnext_ablation.register_networks()
        args.run(args)
    finally:
        remove_empty_cache()


def _with_default_command(argv: list[str]) -> list[str]:
    """Inserts a group's first command where none of them is named: ``study --data X`` is ``study run``."""
    group = COMMANDS.get(argv[0]) if argv else None
    if isinstance(group, Mapping) and (len(argv) < 2 or argv[1] not in group):
        return [argv[0], next(iter(group)), *argv[1:]]
    return argv


def _parser(argv: Sequence[str]) -> argparse.ArgumentParser:
    parser = Parser(
        prog="convnext-ablation", description="From ResNet-50 to ConvNeXt-T, one component at a time."
    )
    parser.add_argument("--version", action="version", version=__version__)
    _add_commands(parser, COMMANDS, argv, "convnext_ablation.cli.")
    return parser


def _add_commands(
    parser: argparse.ArgumentParser,
    known: Mapping[str, Any],
    argv: Sequence[str],
    module: str,
    default: str | None = None,
) -> None:
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    for name, what in known.items():
        group = what if isinstance(what, Mapping) else None
        summary = next(iter(group.values())) if group else what
        command = commands.add_parser(name, help=summary, description=summary)
        module_name = module + name.replace("-", "_")
        if argv[:1] != [name]:
            continue
        if group:
            _add_commands(command, group, argv[1:], module_name + "_", next(iter(group)))
        else:
            imported = _import(module_name)
            imported.add_arguments(command)
            command.set_defaults(run=imported.run)
            if default and name == default:
                command.prog = parser.prog  # without the name that users leave out
                others = ", ".join(f"{parser.prog} {other}" for other in known if other != default)
                command.epilog = f"See also: {others}."


def _import(module_name: str) -> ModuleType:
    try:
        return importlib.import_module(module_name)
    except ImportError as error:
        if error.name is None or error.name.startswith("convnext_ablation"):
            raise
        raise UserError(f"{error.name} is missing; pip install 'convnext_ablation[study]'") from error


if __name__ == "__main__":
    sys.exit(main())
