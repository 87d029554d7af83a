"""Errors that a user can fix: one line with the problem, its place and the fix."""

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

# exceptions that libraries raise for bad input
_REFUSALS = (
    ArithmeticError, AssertionError, AttributeError, EOFError, ImportError, LookupError, MemoryError, OSError,
    RuntimeError, TypeError, ValueError,
)  # fmt: skip
NOTHING_KEPT = "nothing was kept"
KEPT = "finished work is kept: run the same command again to resume"
_MOST = 360  # maximum characters of a message, without the command's name before it
_MOST_NAMES = 50  # a message lists up to this many names in full
_values = reprlib.Repr()
_values.maxstring = _values.maxother = _values.maxlong = 80


class UserError(Exception):
    """The user's input or setup is wrong; the message is one line, truncated in the middle if long.

    The command line prints the message without a traceback and exits with code 2.
    """

    def __str__(self) -> str:
        """The message on one line."""
        words = " ".join(super().__str__().split())
        line = "".join(each if each.isprintable() else "?" for each in words)
        return line if len(line) <= _MOST else f"{line[: _MOST - 123]} ... {line[-118:]}"


def shown(value: object) -> str:
    """Formats a user's value for a message: on one line, abbreviated if long."""
    return _values.repr(value)


def unknown_name(kind: str, name: str, known: Iterable[str]) -> UserError:
    """Builds the error for an unknown name, with the nearest known one.

    Args:
        kind: What is named, e.g. ``"design"``.
        name: The unknown name.
        known: All valid names.
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
    """The most similar known name, ignoring case; None if all are less similar than `cutoff` (0 to 1)."""
    names = {each.lower(): each for each in known}
    found = difflib.get_close_matches(name[:100].lower(), names, 1, cutoff)
    return names[found[0]] if found else None


@contextmanager
def in_one_line(what: str) -> Iterator[None]:
    """Converts exceptions that libraries raise for bad input to a `UserError`: `what`, then their reason.

    Args:
        what: The failure, e.g. ``"last.pth.tar: can't be loaded"``.
    """
    try:
        yield
    except _REFUSALS as error:
        raise UserError(f"{what}: {str(error).strip() or type(error).__name__}") from error


# advice for errors of the operating system
_REMEDIES = {
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT), "make room and run the same command again"),
    errno.EFBIG: "raise the limit, `ulimit -f`, and run the same command again",
    errno.EMFILE: "raise the limit, `ulimit -n`, and run the same command again",
    **dict.fromkeys((errno.EROFS, errno.EACCES, errno.EPERM), "choose another place, or change permissions"),
    errno.ELOOP: "remove the link",
}


def system_error(error: OSError, path: object = None) -> UserError:
    """Describes an error of the operating system in one line, such as a full disk or a read-only folder.

    Args:
        error: The system's error.
        path: The file concerned, if the error doesn't name it.

    Raises:
        OSError: The error itself, if it gives no reason.
    """
    if not error.strerror:
        raise error
    remedy = f"; {_REMEDIES[error.errno]}" if error.errno in _REMEDIES else ""
    return UserError(f"{error.filename or path or 'disk or output'}: {error.strerror}{remedy}")


def exit_code_of(program: str, work: Callable[[], int | None]) -> int:
    """Runs a program; an error that the user can fix is printed as one line.

    Args:
        program: Its name, which begins the line.
        work: Returns the exit code; None means 0.

    Returns:
        The exit code: that of `work`, 2 after a user's error, 128 + n after signal n, 141 for a broken pipe.
        The arguments of a `KeyboardInterrupt` may give the signal and a text about what is kept.
    """
    _open_outputs()
    try:
        try:
            return work() or 0
        finally:
            sys.stdout.flush()  # else Python flushes at exit, and prints a warning if that fails
    except BrokenPipeError:  # the reader of the output, such as ``head``, has closed it
        _leave_stdout()
        return 141
    except (UserError, OSError) as error:
        if isinstance(error, OSError):
            if not error.filename:
                _leave_stdout()  # stdout itself may be on the full disk, and Python flushes it at exit
            error = system_error(error)
        print(f"{program}: error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt as error:
        kept = next((each for each in error.args if isinstance(each, str)), NOTHING_KEPT)
        line_end = "\n" if sys.stderr.isatty() else ""  # after the terminal's ^C
        print(f"{line_end}{program}: stopped; {kept}", file=sys.stderr)
        return 128 + next((each for each in error.args if isinstance(each, int)), signal.SIGINT)


def _open_outputs() -> None:
    """Redirects closed outputs to the null device, and escapes characters that can't be encoded."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # the next file opened would get its descriptor
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115
        elif isinstance(stream := getattr(sys, name), io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _leave_stdout() -> None:
    with suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def first_line(error: BaseException) -> str:
    """The first line of an error's message; its class name if the message is empty."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
