"""A data set's parameters, which are the fields of its class, as options of the command line."""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Callable, Sequence
from dataclasses import Field, field, fields
from typing import Any

__all__ = ["add_options", "given_options", "identity", "option"]


def option(
    default: Any,
    help: str,
    *,
    parse: Callable[[str], Any] | None = None,
    choices: Sequence[str] = (),
    identity: bool = True,
) -> Any:
    """A field that is an option of the command line.

    Args:
        default: Its value if it isn't given; a bool becomes a flag, a tuple takes several values.
        help: What it does.
        parse: Makes its value from text, if not the default's type.
        choices: The values that it may have.
        identity: Whether another value gives another folder; where an original lies, for one, doesn't.
    """
    metadata = {"help": help, "parse": parse, "choices": choices, "identity": identity}
    return field(default=default, metadata=metadata)


def add_options(command: argparse.ArgumentParser, dataset: type[Any]) -> None:
    """Adds the options of a data set to its sub-command."""
    for option_ in _options(dataset):
        flag, known = f"--{option_.name.replace('_', '-')}", option_.metadata
        if isinstance(option_.default, bool):
            command.add_argument(flag, action="store_true", help=known["help"])
            continue
        default = f" (default: {option_.default})" if option_.default not in (None, "", ()) else ""
        parse = known["parse"] or type(option_.default)
        values: dict[str, Any] = {"nargs": "+"} if isinstance(option_.default, tuple) else {}
        if known["choices"]:
            values["choices"] = known["choices"]
        else:
            values["metavar"] = "N" if parse is int else parse.__name__.upper()
        command.add_argument(
            flag, type=parse, default=option_.default, help=f"{known['help']}{default}", **values
        )


def given_options(args: argparse.Namespace, dataset: type[Any]) -> dict[str, Any]:
    """The parameters of a data set as they were given."""
    return {
        option_.name: tuple(value) if isinstance(value := getattr(args, option_.name), list) else value
        for option_ in _options(dataset)
    }


def _options(dataset: type[Any]) -> list[Field[Any]]:
    return [field_ for field_ in fields(dataset) if "help" in field_.metadata]


def identity(dataset: Any) -> dict[str, Any]:
    """The parameters that determine what is written, in JSON's own types."""
    values = dataclasses.asdict(dataset)
    names = [field_.name for field_ in fields(dataset) if field_.metadata.get("identity", True)]
    return json.loads(json.dumps({name: values[name] for name in names}))
