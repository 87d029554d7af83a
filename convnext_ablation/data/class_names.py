"""Class names: normalised spelling, and mappings between names and class indices."""

from __future__ import annotations

import os
import pickle
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from convnext_ablation.errors import UserError, nearest

NOT_UTF8 = re.compile("[\ud800-\udfff]")  # surrogate escapes of bytes that aren't UTF-8
_SHOWN = 10  # maximum number of names in a message


def in_utf8(name: str) -> str:
    """Decodes a file name as UTF-8, whatever the locale's encoding."""
    with suppress(UnicodeError):
        return os.fsencode(name).decode("utf-8")
    return name


def spelled(name: str) -> str:
    """Normalises a name: UTF-8, NFC, without surrounding whitespace."""
    return unicodedata.normalize("NFC", in_utf8(name)).strip()


def by_name(numbers: Iterable[tuple[str, Any]], where: str) -> dict[str, Any]:
    """Returns class indices by normalised name; `where` names their source in messages.

    Raises:
        UserError: A name is empty or not UTF-8, or two names are equal once normalised.
    """
    found: dict[str, Any] = {}
    for name, number in numbers:
        spelling = spelled(str(name))
        if not spelling:
            raise UserError(f"{where}: a class has no name; images belong in a folder that is named after it")
        if NOT_UTF8.search(spelling):
            raise UserError(f"{where}: the class {spelling!r} is not UTF-8; rename it")
        if spelling in found:
            both = f"two classes are called {spelling!r} but for blanks or accents"
            raise UserError(f"{where}: {both}; rename one")
        found[spelling] = number
    return found


def read_class_map(path: Path) -> dict[str, int]:
    """Reads a class map: UTF-8 text with a name per line, or a pickled dictionary of names and indices.

    Raises:
        UserError: It can't be read, or the indices aren't 0, 1, 2, ...
    """
    try:
        if path.suffix == ".pkl":
            with open(path, "rb") as file:
                content = _PlainUnpickler(file).load()
        else:
            lines = path.read_text(encoding="utf-8-sig").rstrip().split("\n")
            content = [(line, number) for number, line in enumerate(lines)]
    except Exception as error:  # unpickling may raise any exception
        form = "a .pkl of a dictionary of names and numbers" if path.suffix == ".pkl" else "names in UTF-8"
        raise UserError(f"{path}: can't be read as a class map, {form} ({error})") from error
    if isinstance(content, Mapping):
        content = list(content.items())
    elif path.suffix == ".pkl":
        raise UserError(f"{path}: holds a {type(content).__name__}; a class map is a dictionary")
    if blank := [number for number, (name, _) in enumerate(content, start=1) if not str(name).strip()]:
        raise UserError(f"{path}: line {blank[0]} is empty, and would be a class; remove it")
    numbers = sorted({number for _, number in content if type(number) is int})
    if numbers != list(range(len(numbers))) or any(type(number) is not int for _, number in content):
        there = ", ".join(map(repr, sorted({number for _, number in content}, key=str)[:_SHOWN]))
        raise UserError(
            f"{path}: classes are numbered 0, 1, 2, ... without a gap, and here {there}; renumber them"
        )
    return by_name(content, str(path))


class _PlainUnpickler(pickle.Unpickler):
    """Unpickles built-in types only, so that no code in the file can run."""

    def find_class(self, module: str, name: str) -> Any:
        raise pickle.UnpicklingError(f"refused, it names {module}.{name}")


def names_of(numbers: Mapping[str, int]) -> list[str]:
    """Returns the name of each class index; several names of one index are joined by commas."""
    names: list[list[str]] = [[] for _ in range(max(numbers.values(), default=-1) + 1)]
    for name, number in numbers.items():
        names[number].append(name)
    return [", ".join(each) for each in names]


def numbers_of(names: Iterable[str]) -> dict[str, int]:
    """Returns the class index of each normalised name."""
    return {spelled(name): number for number, name in enumerate(names)}


def check_known(found: Iterable[str], known: Iterable[str], whose: str, where: str, remedy: str) -> None:
    """Raises a `UserError` if classes found at `where` are missing from `known`, the classes of `whose`."""
    options = list(known)
    if unknown := sorted(set(found) - set(options)):
        near = nearest(unknown[0], options)
        hint = f" (nearest: {near!r})" if near else ""
        noun = "class" if len(unknown) == 1 else "classes"
        raise UserError(
            f"{whose}: lacks the {noun} {listed(unknown)}{hint}, whose images are in {where}; {remedy}"
        )


def listed(names: Sequence[str]) -> str:
    """Formats names for a message; after the tenth, only the number of the rest is given."""
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(map(repr, names[:_SHOWN])) + more
