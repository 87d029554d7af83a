"""Dataclass fields as options of the command line and of YAML files, checked by type and range."""

from __future__ import annotations

import argparse
import ast
import dataclasses
import json
import math
import re
import sys
import types
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, field, fields
from typing import Any, Literal, NamedTuple, NoReturn, get_args, get_origin, get_type_hints

from convnext_ablation.errors import UserError, nearest, shown, unknown_name

__all__ = ["Option", "Parser", "add_options", "given_options", "identity", "option", "options_of"]


class Parser(argparse.ArgumentParser):
    """Raises a `UserError` for invalid arguments and suggests the nearest valid name."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(formatter_class=argparse.RawDescriptionHelpFormatter, **kwargs)

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Parses as argparse does, and keeps the arguments for error messages."""
        self.words = sys.argv[1:] if args is None else list(args)
        return super().parse_known_args(self.words, namespace)

    def error(self, message: str) -> NoReturn:
        """Raises argparse's message as a `UserError`, or names the unknown option behind it."""
        choice = re.search(r"invalid choice: '(.*?)' \(choose from (.*)\)", message)
        if choice:
            near = nearest(choice[1], re.findall(r"[\w-]+", choice[2]))
            message += f"; did you mean {near!r}?" if near else ""
        elif unknown := [word for word in self.words if word.startswith("--") and not self._has(word)]:
            raise self.unknown_argument(unknown[0])
        elif re.search(r"invalid (int|float) value: '[^']*,", message):
            message += "; separate numbers by spaces, as in 0 1 2"
        raise UserError(message)

    def _has(self, word: str) -> bool:
        return any(known.startswith(word.partition("=")[0]) for known in self._option_string_actions)

    def unknown_argument(self, word: str) -> UserError:
        """Builds the error for an unknown argument, with the nearest known option."""
        option = word.partition("=")[0]
        near = nearest(option, self._option_string_actions) if option.startswith("-") else None
        hint = f"did you mean {near!r}?" if near else "see --help"
        return UserError(f"unknown argument {option!r}; {hint}")


def option(
    default: Any,
    help: str,
    within: str = "",
    *,
    group: str = "",
    parse: Callable[[str], Any] | None = None,
    choices: Sequence[str] = (),
    identity: bool = True,
) -> Any:
    """Declares a dataclass field as an option; its type hint determines the accepted values.

    Args:
        default: Default value; a bool becomes a flag, a tuple takes several values.
        help: Help text.
        within: Range of a number, such as ``(0, 1]``: above 0 and at most 1. No range includes NaN; only one
            that ends with ``inf]`` includes infinity.
        group: Section of ``--help`` that lists the option.
        parse: Converts text to the value; by default the type itself.
        choices: Accepted values, if the type hint isn't a `Literal`.
        identity: Whether the value affects the result; the location of a file, for example, doesn't.
    """
    metadata = {
        "help": help, "within": within, "group": group, "parse": parse, "choices": choices,
        "identity": identity,
    }  # fmt: skip
    if isinstance(default, dict):
        return field(default_factory=dict, metadata=metadata)
    return field(default=default, metadata=metadata)


_METAVAR = 30  # characters; longer lists of choices go into the help text
_MOST = 2**63  # torch and NumPy accept only smaller integers
_WORDS = {
    bool: "true or false", int: "a whole number", float: "a number", str: "text", dict: "names and values",
}  # fmt: skip


class Option(NamedTuple):
    """Description of an option for the command line and for validation."""

    name: str
    kind: type  # of the value, or of each element if `several`
    several: bool
    length: int  # number of elements; 0 if not fixed
    optional: bool
    choices: tuple[str, ...]
    default: Any
    group: str
    help: str
    within: str
    parse: Callable[[str], Any]

    def check(self, value: Any) -> Any:
        """Returns the value, lists as tuples and integers as floats where needed; raises `UserError`."""
        if value is None and self.optional:
            return None
        if self.several:
            if not isinstance(value, (list, tuple)):
                raise UserError(f"{self.name} is {shown(value)}; it takes a list")
            if self.length and len(value) != self.length:
                raise UserError(f"{self.name} is {shown(list(value))}; it takes {self.length} numbers")
            return tuple(self._one(item) for item in value)
        return self._one(value)

    def _one(self, value: Any) -> Any:
        if self.kind is float and type(value) is int and abs(value) < _MOST:
            value = float(value)
        if type(value) is not self.kind or value != value:  # rejects NaN
            hint = ""
            if self.kind is float and isinstance(value, str):
                hint = "; YAML reads 4e-3 as text, write 4.0e-3"
            raise UserError(f"{self.name} is {shown(value)}; it takes {_WORDS[self.kind]}{hint}")
        if isinstance(value, str) and "\0" in value:
            raise UserError(f"{self.name} is {shown(value)}; it takes text without a NUL character")
        if self.choices and value not in self.choices:
            raise unknown_name(self.name, str(value), [choice for choice in self.choices if choice])
        if isinstance(value, (int, float)) and (bound := _broken_bound(value, self.within or "(-inf, inf)")):
            raise UserError(f"{self.name} is {shown(value)}; it must be {bound}")
        return value

    def for_argparse(self) -> dict[str, Any]:
        """Keyword arguments for `argparse.ArgumentParser.add_argument`."""
        told = self.default is not False and self.default not in (None, "", (), {})
        choices = "|".join(choice or '""' for choice in self.choices)
        default = ", ".join(map(str, self.default)) if self.several and told else self.default
        notes = [f"default: {default}"] if told else []
        notes += [f"choices: {choices}"] if len(choices) > _METAVAR else []
        notes += [f"range: {self.within}"] if self.within else []
        text = f"{self.help} ({'; '.join(notes)})" if notes else self.help
        form: dict[str, Any] = {"dest": self.name, "help": text.replace("%", "%%")}
        if self.kind is bool:
            return {**form, "action": "store_true"}
        if self.kind is dict:
            form |= {"action": _NamedValues, "metavar": "NAME=VALUE", "type": _assignment}
            return {**form, "nargs": "*"}
        choices = choices if len(choices) <= _METAVAR else ""
        form |= {"type": self.parse, "metavar": choices or self.name.rpartition("_")[2].upper()}
        return {**form, "nargs": "+"} if self.several else form


class _NamedValues(argparse.Action):
    """Stores NAME=VALUE pairs as a dict, with Python literals or text for values, as timm's `ParseKwargs`."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: Any = None) -> None:
        setattr(namespace, self.dest, dict(filter(None, values)))


def _assignment(word: str) -> tuple[str, Any] | None:
    """Parses NAME=VALUE; None for an empty word."""
    name, equals, value = word.partition("=")
    if word and not equals:
        raise argparse.ArgumentTypeError(f"{shown(word)}; write NAME=VALUE")
    try:
        return (name, ast.literal_eval(value)) if word else None
    except (MemoryError, RecursionError, SyntaxError, ValueError):
        return name, value


def _broken_bound(value: float, within: str) -> str:
    """The bound that a number violates, such as ``at least 1``; empty if none."""
    low, high = map(float, within[1:-1].split(","))
    if value < low or (value == low and within.startswith("(")):
        bound = f"{'above' if within.startswith('(') else 'at least'} {low:g}"
    elif value > high or (value == high and within.endswith(")")):
        bound = f"{'below' if within.endswith(')') else 'at most'} {high:g}"
    else:
        return f"smaller than {_MOST:,}" if isinstance(value, int) and abs(value) >= _MOST else ""
    return bound if math.isfinite(float(bound.split()[-1])) else "finite"


def options_of(arguments: type) -> dict[str, Option]:
    """Returns the fields of a dataclass that were declared by `option`, by name."""
    hints = get_type_hints(arguments)
    return {
        each.name: _described(each, hints[each.name]) for each in fields(arguments) if "help" in each.metadata
    }


def _described(each: dataclasses.Field[Any], hint: Any) -> Option:
    optional = types.NoneType in get_args(hint)
    if optional:
        hint = next(part for part in get_args(hint) if part is not types.NoneType)
    choices = tuple(each.metadata["choices"])
    several, length = get_origin(hint) is tuple, 0
    if several:
        kind, *others = get_args(hint)
        length = 0 if ... in others else 1 + len(others)
    elif get_origin(hint) is Literal:
        kind, choices = str, get_args(hint)
    else:
        kind = dict if get_origin(hint) is not None else hint
    return Option(
        name=each.name,
        kind=kind,
        several=several,
        length=length,
        optional=optional,
        choices=choices,
        default={} if each.default is MISSING else each.default,
        group=each.metadata["group"],
        help=each.metadata["help"],
        within=each.metadata["within"],
        parse=each.metadata["parse"] or kind,
    )


def add_options(
    parser: argparse.ArgumentParser,
    options: Mapping[str, Option],
    short: Mapping[str, str] = types.MappingProxyType({}),
    alone: Mapping[str, str] = types.MappingProxyType({}),
) -> None:
    """Adds options to a parser, by group; the parsed namespace holds only the options that were given.

    Args:
        parser: The parser.
        options: From `options_of`.
        short: Short flags by option name.
        alone: Options whose value may be omitted, and the value they take then.
    """
    groups: dict[str, Any] = {"": parser}
    for name, each in options.items():
        if each.group not in groups:
            groups[each.group] = parser.add_argument_group(each.group)
        spellings = [*([short[name]] if name in short else ()), "--" + name.replace("_", "-")]
        form = each.for_argparse() | ({"nargs": "?", "const": alone[name]} if name in alone else {})
        groups[each.group].add_argument(*spellings, default=argparse.SUPPRESS, **form)


def given_options(args: argparse.Namespace, options: Mapping[str, Option]) -> dict[str, Any]:
    """Returns the parsed values of options, with defaults for those not given."""
    values = {name: getattr(args, name, each.default) for name, each in options.items()}
    return {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}


def identity(arguments: Any) -> dict[str, Any]:
    """Returns the fields that determine the result, as JSON types."""
    values = dataclasses.asdict(arguments)
    names = [each.name for each in fields(arguments) if each.metadata.get("identity", True)]
    return json.loads(json.dumps({name: values[name] for name in names}))
