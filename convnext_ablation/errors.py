"""Errors that a user can fix: one line that says what is wrong, where, and what to do."""

from __future__ import annotations

import difflib
import errno
import io
import os
import reprlib
import signal
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress

# what libraries raise for bad input
_REFUSALS = (
    ArithmeticError, AssertionError, AttributeError, EOFError, ImportError, LookupError, MemoryError, OSError,
    RuntimeError, TypeError, ValueError,
)  # fmt: skip
NOTHING_KEPT = "nothing was kept"
KEPT = "finished work is kept: run the same command again to resume"
_MOST = 360  # characters of a message; the command that prints it puts its name before
_MOST_NAMES = 50  # of which a message lists all
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
    if near := nearest(name, options):
        hint = f"did you mean {near!r}?"
    elif len(options) > _MOST_NAMES:  # such as timm's models
        hint = f"nearest: {', '.join(difflib.get_close_matches(name[:100], options, 5, 0.0))}"
    else:
        hint = f"known: {', '.join(options)}"
    return UserError(f"unknown {kind} {shown(name)}; {hint}")


def nearest(name: str, known: Iterable[str], cutoff: float = 0.5) -> str | None:
    """The known name that was probably meant, in any case, if one is as similar as `cutoff` (0 to 1)."""
    names = {each.lower(): each for each in known}
    found = difflib.get_close_matches(name[:100].lower(), names, 1, cutoff)
    return names[found[0]] if found else None


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


# what to do where the system refuses to write
_REMEDIES = {
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT), "make room and run the same command again"),
    errno.EFBIG: "raise the limit, `ulimit -f`, and run the same command again",
    errno.EMFILE: "raise the limit, `ulimit -n`, and run the same command again",
    **dict.fromkeys((errno.EROFS, errno.EACCES, errno.EPERM), "choose another place, or change permissions"),
    errno.ELOOP: "remove the link",
}


def system_error(error: OSError, path: object = None) -> UserError:
    """What the system refuses, such as a full disk or a folder that can't be written, in one line.

    Args:
        error: What it says.
        path: What it refuses, if the error doesn't say.

    Raises:
        OSError: The error itself, if the system doesn't say why.
    """
    if not error.strerror:
        raise error
    remedy = f"; {_REMEDIES[error.errno]}" if error.errno in _REMEDIES else ""
    return UserError(f"{error.filename or path or 'disk or output'}: {error.strerror}{remedy}")


def exit_code_of(program: str, work: Callable[[], int | None]) -> int:
    """Does a program's work; what a user can fix becomes one line, and exit code 2.

    Args:
        program: Its name, with which the line begins.
        work: Returns the exit code; None is 0.

    Returns:
        That, 2 for what the user can fix, 128 + n when signal n interrupted it, 141 when nobody reads any
        more. The signal and a text about what is kept are arguments of the `KeyboardInterrupt`.
    """
    _open_outputs()
    try:
        try:
            return work() or 0
        finally:
            sys.stdout.flush()  # else Python does when it ends, and complains if that fails
    except BrokenPipeError:  # whoever reads the output, such as ``head``, has seen enough
        _leave_stdout()
        return 141
    except (UserError, OSError) as error:
        if isinstance(error, OSError):
            if not error.filename:
                _leave_stdout()  # it may be what is full, and Python writes the rest of it at its end
            error = system_error(error)
        print(f"{program}: error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt as error:
        kept = next((each for each in error.args if isinstance(each, str)), NOTHING_KEPT)
        line_end = "\n" if sys.stderr.isatty() else ""  # of the terminal's ^C
        print(f"{line_end}{program}: stopped; {kept}", file=sys.stderr)
        return 128 + next((each for each in error.args if isinstance(each, int)), signal.SIGINT)


def _open_outputs() -> None:
    """Gives an output that is closed to nobody, and prints names that are not UTF-8 with escapes."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # the next file that is opened would take its number
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115
        elif isinstance(stream := getattr(sys, name), io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _leave_stdout() -> None:
    with suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def first_line(error: BaseException) -> str:
    """The first line of what an error says; its class's name where it says nothing."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
