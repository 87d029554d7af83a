"""Errors that a user can mend: one line that says what is wrong, where, and what to do."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager


class UserError(Exception):
    """Something the user gave or set up is wrong; the message is one line for a person.

    The command line prints the message without a traceback and exits with code 2.
    """


def unknown_name(kind: str, name: str, known: Iterable[str]) -> UserError:
    """Builds the error for a name that doesn't exist, with the nearest one that does.

    Args:
        kind: What the name should have been, e.g. ``"design"``.
        name: What was given.
        known: All names that exist.
    """
    options = sorted(known)
    nearest = difflib.get_close_matches(name, options, n=1, cutoff=0.5)
    hint = f"did you mean {nearest[0]!r}?" if nearest else f"known: {', '.join(options)}"
    return UserError(f"unknown {kind} {name!r}; {hint}")


@contextmanager
def in_one_line(what: str) -> Iterator[None]:
    """Makes a `UserError` of what libraries raise for bad input: `what`, then their reason.

    Args:
        what: What could not be done, e.g. ``"last.pth.tar: can't be loaded"``.
    """
    try:
        yield
    except (AssertionError, ImportError, LookupError, OSError, RuntimeError, TypeError, ValueError) as error:
        reason = " ".join(str(error).split())[:400] or type(error).__name__
        raise UserError(f"{what}: {reason}") from error


def first_line(error: BaseException) -> str:
    """The first line of what an error says; its class's name where it says nothing."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
