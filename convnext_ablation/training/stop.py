"""Signals that ask a run to stop, which it does where it can go on from."""

from __future__ import annotations

import signal
from types import FrameType
from typing import Any


class StopRequest:
    """Takes Ctrl-C and SIGTERM as wishes for as long as it is entered; a second Ctrl-C stops at once.

    Attributes:
        signal: The signal that came, 0 for none.
    """

    def __init__(self) -> None:
        self.signal = 0
        self._before: dict[int, Any] = {}

    def __enter__(self) -> StopRequest:
        """Begins to take the signals."""
        for number in (signal.SIGINT, signal.SIGTERM):
            self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        """Has the signals do what they did before."""
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def __call__(self) -> bool:
        """Whether to stop."""
        return self.signal != 0

    def _note(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and self.signal == signal.SIGINT:
            raise KeyboardInterrupt
        self.signal = number
