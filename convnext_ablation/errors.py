"""Errors that a user can mend: one line that says what is wrong, where, and what to do."""

from __future__ import annotations

import difflib
import errno
import os
import reprlib
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress

# what libraries raise for bad input
_REFUSALS = (
    ArithmeticError, AssertionError, AttributeError, EOFError, ImportError, LookupError, MemoryError, OSError,
    RuntimeError, TypeError, ValueError,
)  # fmt: skip
_MOST = 360  # characters of a message; the command that prints it puts its name before
_values = reprlib.Repr()
_values.maxstring = _values.maxother = _values.maxlong = 80


class UserError(Exception):
    """Something the user gave or set up is wrong; the message is one line for a person, cut if it is long.

    The command line prints the message without a traceback and exits with code 2.
    """

    def __str__(self) -> str:
        """The message."""
        words = " ".join(super().__str__().split())
        line = "".join(each if each.isprintable() else "?" for each in words)
        return line if len(line) <= _MOST else f"{line[: _MOST - 123]} ... {line[-118:]}"


def shown(value: object) -> str:
    """A value of the user's as a message shows it: on one line, and in part if it is large."""
    return _values.repr(value)


def unknown_name(kind: str, name: str, known: Iterable[str]) -> UserError:
    """Builds the error for a name that doesn't exist, with the nearest one that does.

    Args:
        kind: What the name should have been, e.g. ``"design"``.
        name: What was given.
        known: All names that exist.
    """
    options = sorted(known)
    nearest = difflib.get_close_matches(name[:100], options, n=1, cutoff=0.5)
    hint = f"did you mean {nearest[0]!r}?" if nearest else f"known: {', '.join(options)}"
    return UserError(f"unknown {kind} {shown(name)}; {hint}")


@contextmanager
def in_one_line(what: str) -> Iterator[None]:
    """Makes a `UserError` of what libraries raise for bad input: `what`, then their reason.

    Args:
        what: What could not be done, e.g. ``"last.pth.tar: can't be loaded"``.
    """
    try:
        yield
    except _REFUSALS as error:
        raise UserError(f"{what}: {str(error).strip() or type(error).__name__}") from error


def system_line(error: OSError) -> str:
    """What the system refuses, such as a full disk or a folder that can't be written, in one line.

    Raises:
        OSError: The error itself, if the system doesn't say why.
    """
    if not error.strerror:
        raise error
    if error.errno == errno.ENOSPC:
        _leave_stdout()  # it may be what is full, and Python writes the rest of it at its end
    return f"{error.filename}: {error.strerror}" if error.filename else f"{error.strerror}, of disk or output"


def nobody_reads() -> int:
    """The exit code where whoever reads the output, such as ``head``, has seen enough."""
    _leave_stdout()
    return 141


def _leave_stdout() -> None:
    with suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def first_line(error: BaseException) -> str:
    """The first line of what an error says; its class's name where it says nothing."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
