"""How far a study is: a bar with the time left on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from typing import Any

from tqdm import tqdm


class Progress:
    """Follows the epochs of the runs that a study still has to do.

    Args:
        costs: For each run, by name: what one epoch costs, in any unit.
        epochs: Epochs of a run.
        done: Runs that were finished before.
        quiet: Print nothing.
    """

    def __init__(self, costs: Mapping[str, float], epochs: int, done: int, quiet: bool = False) -> None:
        self.costs = costs
        self.done = done
        self.runs = done + len(costs)
        self.quiet = quiet
        self.start = time.monotonic()
        self.total = sum(costs.values()) * epochs
        self.bar = tqdm(
            total=self.total,
            disable=quiet or not sys.stderr.isatty(),
            bar_format="{percentage:3.0f}%|{bar}| {elapsed} gone, {remaining} left{postfix}",
            smoothing=0.0,
        )
        self.worked = 0.0
        self.bar.set_postfix_str(f"{done}/{self.runs} runs")

    def epoch(self, name: str, number: int) -> None:
        """Counts one epoch of a run."""
        self.worked += self.costs[name]
        self.bar.update(self.costs[name])

    def finished(self, name: str, result: Mapping[str, Any]) -> None:
        """Counts a finished run and prints what it reached."""
        self.done += 1
        self.bar.set_postfix_str(f"{self.done}/{self.runs} runs")
        self._line(
            f"[{self.done}/{self.runs}] {result['model']} seed {result['seed']}: "
            f"val {result['val_top1']:.2f} %, test {result['test_top1']:.2f} %, "
            f"{result['train_seconds']:.0f} s{self._time_left()}"
        )

    def failed(self, name: str, reason: str) -> None:
        """Prints that a run failed, and why."""
        self._line(f"{name} failed: {reason}")

    def close(self) -> None:
        """Leaves the terminal as it was."""
        self.bar.close()

    def _time_left(self) -> str:
        if not self.worked or self.done == self.runs:
            return ""
        seconds = (time.monotonic() - self.start) * (self.total / self.worked - 1)
        return f"; about {seconds / 60:.0f} min left" if seconds > 90 else f"; about {seconds:.0f} s left"

    def _line(self, text: str) -> None:
        if self.quiet:
            return
        if self.bar.disable:
            print(text, flush=True)
        else:
            self.bar.write(text)
