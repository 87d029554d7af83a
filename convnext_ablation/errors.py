"""Errors that a user can mend: one line that says what is wrong, where, and what to do."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


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
