"""How far a study is, by what its folder says: its runs may be done by anyone, on any machine."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from tqdm import tqdm

from convnext_ablation.study.claims import Holder, is_held, newest_claim
from convnext_ablation.study.experiment import Run, Study
from convnext_ablation.study.file_clock import FileClock
from convnext_ablation.study.run_files import (
    FAILURE,
    RESULT,
    SUMMARY,
    finished_epochs,
    load_result,
    reason_of,
)
from convnext_ablation.study.tuning import chosen_rates

Status = Literal["done", "running", "failed", "left"]


@dataclass(frozen=True)
class RunState:
    """Where a run is.

    Attributes:
        name: Its folder's name.
        network: Key of its network.
        seed: Its seed; of a tuning run, what it tries.
        epochs: Epochs that are finished.
        run: The run; None where its learning rate is not known yet.
        holder: Who is at work on it.
        last_epoch: When the last epoch was finished, seconds since 1970 by the file system's clock.
        reason: Why it failed, in a line.
        result: What it came to.
    """

    name: str
    network: str
    seed: str
    status: Status
    epochs: int = 0
    run: Run | None = None
    holder: Holder | None = None
    last_epoch: float = 0.0
    reason: str = ""
    result: Mapping[str, Any] = field(default_factory=dict)

    @property
    def title(self) -> str:
        """Its name for people."""
        return f"{self.network} {'tuning' if self.run and self.run.tuning else 'seed'} {self.seed}"


class Survey:
    """Looks at a study's folder; runs that were done are not looked at again.

    Args:
        folder: The study's folder.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.clock = FileClock(folder)
        self._done: dict[str, RunState] = {}
        self._planned: tuple[Study, dict[str, float], list[Run]] | None = None

    def look(self, study: Study) -> list[RunState]:
        """Returns the state of every run of a study, tuning first.

        Raises:
            UserError: A result can't be read.
        """
        rates = chosen_rates(study, self.folder)
        if self._planned is None or self._planned[0] is not study or self._planned[1] != rates:
            self._planned = (study, rates, study.tuning_runs() + study.runs(rates))
        known = [self._state(run) for run in self._planned[2]]
        unknown = [
            RunState("", point.key, _seed_text(seed, start), "left")
            for seed in study.seeds
            for start in study.starts
            for point in study.points
            if point.key not in rates
        ]
        return known + unknown

    def _state(self, run: Run) -> RunState:
        if run.name not in self._done:
            state = _look_at(run, run.folder(self.folder), self.clock)
            if state.status != "done":
                return state
            self._done[run.name] = state
        return self._done[run.name]


def _look_at(run: Run, folder: Path, clock: FileClock) -> RunState:
    seed = f"{run.arguments.lr:g}" if run.tuning else _seed_text(run.arguments.seed, run.pretraining_seed)
    names: list[str] = []
    with suppress(FileNotFoundError):
        names = os.listdir(folder)
    if RESULT in names:
        return RunState(run.name, run.point.key, seed, "done", run=run, result=load_result(folder / RESULT))
    epochs, last_epoch = finished_epochs(folder) if SUMMARY in names else (0, 0.0)
    status: Status = "left"
    reason, holder = "", None
    seen = newest_claim(folder, names)
    if seen is not None and is_held(seen, clock.now()):
        status, holder = "running", seen.holder
    elif FAILURE in names:
        status, reason = "failed", reason_of(folder)
    return RunState(run.name, run.point.key, seed, status, epochs, run, holder, last_epoch, reason)


def forget_failures(states: Iterable[RunState], folder: Path) -> int:
    """Has runs that failed be tried again; returns how many."""
    failed = [state.run for state in states if state.status == "failed" and state.run is not None]
    for run in failed:
        (run.folder(folder) / FAILURE).unlink(missing_ok=True)
    return len(failed)


def seconds_left(states: Sequence[RunState], study: Study, now: float) -> float | None:
    """How long the runs that are left will take those who are at work now; None if nothing tells yet.

    Args:
        states: All runs.
        study: The study.
        now: The file system's time.
    """
    speeds = [speed for state in states if (speed := _speed(state, study))]
    if not speeds:
        return None
    seconds, work = (sum(each) for each in zip(*speeds, strict=True))
    rate = seconds / work  # of an epoch of a network of 1 GMAC
    left = []
    for state in states:
        if state.status in ("left", "running"):
            epoch = rate * study.gmacs.get(state.network, 1.0)
            begun = now - max(state.last_epoch, state.holder.since) if state.holder else 0.0
            left.append(max(0.0, (study.epochs - state.epochs) * epoch - min(max(begun, 0.0), epoch)))
    workers = max(1, sum(state.status == "running" for state in states))
    return max(sum(left) / workers, max(left, default=0.0))


def _speed(state: RunState, study: Study) -> tuple[float, float] | None:
    """Seconds that were measured, and the epochs x GMACs that they were for."""
    gmacs = study.gmacs.get(state.network, 1.0)
    if state.result:
        seconds, epochs = state.result.get("elapsed_seconds"), state.result.get("elapsed_epochs")
    elif state.holder is not None:
        seconds, epochs = state.last_epoch - state.holder.since, state.epochs - state.holder.epochs
    else:
        return None
    return (float(seconds), epochs * gmacs) if seconds and epochs and epochs > 0 and seconds > 0 else None


def _seed_text(seed: int, start: int | None) -> str:
    return str(seed) if start is None else f"{start}/{seed}"


class Progress:
    """Prints what becomes of a study: a bar with the time left on a terminal, plain lines elsewhere.

    Args:
        study: The study.
        quiet: Print nothing.
    """

    def __init__(self, study: Study, quiet: bool = False) -> None:
        self.study = study
        self.quiet = quiet
        self.bar = tqdm(
            disable=quiet or not sys.stderr.isatty(),
            bar_format="{percentage:3.0f}%|{bar}| {elapsed} gone{postfix}",
        )
        self._told: dict[str, Status] | None = None

    def show(self, states: Sequence[RunState], now: float) -> None:
        """Prints what has changed; what was so at the first look is not news."""
        first, self._told = self._told is None, self._told or {}
        before = sum(status == "done" for status in self._told.values())
        left = self._time_left(states, now)
        for state in states:
            known = self._told.get(state.name)
            self._told[state.name] = state.status
            if first or known == state.status:
                continue
            if state.status == "done":
                before += 1
                self._line(f"[{before}/{len(states)}] {state.title}: {_result_text(state.result)}{left}")
            elif state.status == "failed":
                self._line(f"{state.title} failed: {state.reason}")
        self._move_bar(states, left)

    def close(self) -> None:
        """Leaves the terminal as it was."""
        self.bar.close()

    def line(self, text: str) -> None:
        """Prints a line, above the bar if there is one."""
        self._line(text)

    def _move_bar(self, states: Sequence[RunState], left: str) -> None:
        if self.bar.disable:
            return
        weights = [self.study.gmacs.get(state.network, 1.0) * self.study.epochs for state in states]
        shares = [1.0 if s.status == "done" else s.epochs / self.study.epochs for s in states]
        self.bar.total = sum(weights)
        self.bar.n = sum(weight * share for weight, share in zip(weights, shares, strict=True))
        done = sum(state.status == "done" for state in states)
        self.bar.set_postfix_str(f"{done}/{len(states)} runs{left}")

    def _time_left(self, states: Sequence[RunState], now: float) -> str:
        seconds = seconds_left(states, self.study, now)
        return f"; about {duration(seconds)} left" if seconds else ""

    def _line(self, text: str) -> None:
        if self.quiet:
            return
        if self.bar.disable:
            print(text, flush=True)
        else:
            self.bar.write(text)


def duration(seconds: float) -> str:
    """Writes a duration for people."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 90 * 60 else f"{seconds / 3600:.1f} h"


def _result_text(result: Mapping[str, Any]) -> str:
    parts = [
        f"{split} {result[name]:.2f} %"
        for split, name in (("val", "val_top1"), ("test", "test_top1"))
        if result.get(name) is not None
    ]
    seconds = f"{result['train_seconds']:.0f} s"
    return ", ".join([*(parts or ["diverged"]), seconds])


def total_by_status(states: Iterable[RunState]) -> dict[Status, int]:
    """How many runs are in which state."""
    totals: dict[Status, int] = {"done": 0, "running": 0, "failed": 0, "left": 0}
    for state in states:
        totals[state.status] += 1
    return totals
