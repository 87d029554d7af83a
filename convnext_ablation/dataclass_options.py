"""An argument of a script: a field of a dataclass, as the command line, YAML files and checks see it."""

from __future__ import annotations

import types
from collections.abc import Mapping
from dataclasses import MISSING, field, fields
from typing import Any, Literal, NamedTuple, get_args, get_origin, get_type_hints

from convnext_ablation.errors import UserError, unknown_name


def argument(group: str, default: Any, text: str) -> Any:
    """Makes the field of an argument.

    Args:
        group: What it is about.
        default: Its default.
        text: What it does.
    """
    metadata = {"group": group, "help": text}
    if isinstance(default, dict):
        return field(default_factory=dict, metadata=metadata)
    return field(default=default, metadata=metadata)


class Argument(NamedTuple):
    """What the command line and the checks need to know of an argument.

    Attributes:
        name: Its name, as a YAML key.
        kind: Type of a value, or of each of several.
        several: Whether it takes several.
        optional: Whether it may be None.
        choices: Values it takes, where they are few.
        default: Its default.
        group: What it is about.
        help: What it does.
    """

    name: str
    kind: type
    several: bool
    optional: bool
    choices: tuple[str, ...]
    default: Any
    group: str
    help: str

    def check(self, value: Any) -> Any:
        """Returns the value, with a list as a tuple and a whole number as a float where those are meant.

        Raises:
            UserError: It has another type, or isn't one of the choices.
        """
        if value is None and self.optional:
            return None
        if self.kind is dict:
            if isinstance(value, Mapping):
                return dict(value)
            raise UserError(f"{self.name} is {value!r}; it takes names and values")
        if self.several:
            if not isinstance(value, (list, tuple)):
                raise UserError(f"{self.name} is {value!r}; it takes a list")
            return tuple(self._one(item) for item in value)
        return self._one(value)

    def _one(self, value: Any) -> Any:
        if self.kind is float and type(value) is int:
            value = float(value)
        if type(value) is not self.kind:
            words = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}
            hint = ""
            if self.kind is float and isinstance(value, str):
                hint = "; YAML reads 4e-3 as text, write 4.0e-3"
            raise UserError(f"{self.name} is {value!r}; it takes {words[self.kind]}{hint}")
        if self.choices and value not in self.choices:
            raise unknown_name(self.name, str(value), [choice for choice in self.choices if choice])
        return value


def described(arguments: type) -> dict[str, Argument]:
    """Describes the fields of a dataclass of arguments, by name."""
    hints = get_type_hints(arguments)
    return {
        each.name: _described(
            each.name,
            hints[each.name],
            {} if each.default is MISSING else each.default,
            each.metadata["group"],
            each.metadata["help"],
        )
        for each in fields(arguments)
    }


def _described(name: str, hint: Any, default: Any, group: str, text: str) -> Argument:
    optional = types.NoneType in get_args(hint)
    if optional:
        hint = next(part for part in get_args(hint) if part is not types.NoneType)
    choices: tuple[str, ...] = ()
    several = get_origin(hint) is tuple
    if several:
        kind = get_args(hint)[0]
    elif get_origin(hint) is Literal:
        kind, choices = str, get_args(hint)
    else:
        kind = dict if get_origin(hint) is not None else hint
    return Argument(name, kind, several, optional, choices, default, group, text)
