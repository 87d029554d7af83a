"""A study's progress, read from its folder alone, whatever engine or machine executes the runs."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any, Literal, get_args

from convnext_ablation.console import Progress, counted, duration
from convnext_ablation.study import store
from convnext_ablation.study.experiment import Run, Study
from convnext_ablation.study.tuning import as_known
from convnext_ablation.training.history import SUMMARY

_MOST_NAMED = 8  # running runs named in one line
Status = Literal["done", "running", "failed", "waiting"]


@dataclass(frozen=True)
class RunState:
    """The state of one run."""

    run: Run
    folder: Path  # its name lacks the identity until the run is known
    status: Status = "waiting"
    is_known: bool = True  # whether learning rate and initial weights are known
    after: tuple[str, ...] = ()  # unfinished tasks that determine learning rate or weights
    epochs: int = 0  # finished
    holder: store.Holder | None = None  # the process that executes it
    last_epoch: float = 0.0  # end of the last epoch, Unix time by the file system's clock
    failure: store.Failure | None = None
    result: Mapping[str, Any] = field(default_factory=dict)

    @property
    def task(self) -> str:
        """A unique name in the experiment."""
        return self.run.task

    @property
    def seed(self) -> str:
        """The seed, or ``PRETRAINING_SEED/SEED``; for a tuning run, the learning rate."""
        if self.run.tuning:
            return f"{self.run.arguments.lr:g}"
        start, seed = self.run.pretraining_seed, self.run.arguments.seed
        return str(seed) if start is None else f"{start}/{seed}"

    @property
    def due(self) -> int:
        """Number of epochs in total."""
        return self.run.arguments.epochs_in_all

    @property
    def title(self) -> str:
        """Display name."""
        of = f"{self.run.phase}: " if self.run.phase else ""
        return f"{of}{self.run.point.key} {'tuning' if self.run.tuning else 'seed'} {self.seed}"

    @property
    def log(self) -> Path:
        """Path of the log with the process's output."""
        return self.folder.parents[1] / store.LOGS / f"{self.task}.log"

    @property
    def is_open(self) -> bool:
        """Whether the run is waiting or running."""
        return self.status in ("waiting", "running")

    @property
    def can_begin(self) -> bool:
        """Whether the run can start now, or after others."""
        return self.is_open and (self.is_known or bool(self.after))


class Survey:
    """Reads run states from an experiment's folder; caches runs that are done or have no folder yet."""

    def __init__(self, phases: Sequence[Study], folder: Path) -> None:
        self._phases = [(phase, store.folder_of(phase, folder)) for phase in phases]
        self._runs: dict[int, list[Run]] = {}  # by the phase's index
        self._known: dict[Path, RunState] = {}

    def look(self) -> list[RunState]:
        """Returns the state of every run, by phase; tuning runs come first."""
        states: dict[str, RunState] = {}
        for place, (before, folder) in enumerate(self._phases):
            study = as_known(before, folder)
            if study != before or place not in self._runs:
                self._phases[place], self._runs[place] = (study, folder), study.all_runs()
            begun = {*_listed(folder / "tuning"), *_listed(folder / "runs")}
            for run in self._runs[place]:
                if study.is_known(run):
                    states[run.task] = self._state(run, run.folder(folder), run.name in begun)
                else:
                    states[run.task] = _waiting(run, folder, states)
        return list(states.values())

    def _state(self, run: Run, folder: Path, begun: bool) -> RunState:
        state = self._known.get(folder)
        if state is None or (begun and state.status != "done"):
            state = look_at(run, folder)
            if state.status == "done" or not begun:
                self._known[folder] = state
        return state


def _waiting(run: Run, folder: Path, states: Mapping[str, RunState]) -> RunState:
    """The state of a run that still depends on tuning or pre-training runs."""
    of, before = (run.phase, run.point.key), states.get(run.after)
    tuning = [] if run.tuning else [state for state in states.values() if state.run.tuning and state.is_open]
    after = [state.task for state in tuning if (state.run.phase, state.run.point.key) == of]
    if run.after:  # a failed run provides no weights
        after = [*after, run.after] if before is None or before.can_begin else []
    return RunState(run, run.folder(folder).with_name(run.task), is_known=False, after=tuple(after))


def _listed(folder: Path) -> list[str]:
    with suppress(FileNotFoundError):
        return os.listdir(folder)
    return []


def look_at(run: Run, folder: Path) -> RunState:
    """Reads the state of one run from its folder."""
    names = _listed(folder)
    if store.RESULT in names:
        return RunState(run, folder, "done", result=store.load_result(folder / store.RESULT))
    epochs, last_epoch = store.finished_epochs(folder) if SUMMARY in names else (0, 0.0)
    holder = store.holder_of(folder) if store.LOCK in names else None
    failure = store.read_failure(folder) if store.FAILURE in names else None
    status: Status = "running" if holder else "failed" if failure and failure.final else "waiting"
    return RunState(
        *(run, folder, status), epochs=epochs, holder=holder, last_epoch=last_epoch, failure=failure
    )


def totals(states: Iterable[RunState]) -> dict[Status, int]:
    """Counts the runs in each state."""
    counts = Counter(state.status for state in states)
    return {status: counts[status] for status in get_args(Status)}


def seconds_left(states: Sequence[RunState]) -> float | None:
    """Estimates the seconds left with the current number of running runs; None while unknown.

    A network without a finished epoch in its phase is assigned the average epoch time of the others.
    """
    taken: dict[tuple[str, str], list[float]] = {}  # seconds per epoch, by phase and network
    for state in states:
        if seconds := _epoch_seconds(state):
            taken.setdefault((state.run.phase, state.run.point.key), []).append(seconds)
    if not taken:
        return None
    known = {place: fmean(each) for place, each in taken.items()}
    average = fmean(known.values())
    left = [
        (state.due - state.epochs) * known.get((state.run.phase, state.run.point.key), average)
        for state in states
        if state.is_open
    ]
    workers = max(1, sum(state.status == "running" for state in states))
    return max(sum(left) / workers, max(left, default=0.0))


def _epoch_seconds(state: RunState) -> float:
    """Mean seconds per epoch of a run, including validation; 0 if unknown."""
    seconds, epochs = 0.0, 0
    if state.result:
        seconds = state.result.get("elapsed_seconds") or 0.0
        epochs = state.result.get("elapsed_epochs") or 0
    elif state.holder is not None:
        seconds, epochs = state.last_epoch - state.holder.since, state.epochs - state.holder.epochs
    return max(seconds, 0.0) / epochs if epochs > 0 else 0.0


class StudyProgress:
    """Prints a study's progress: a bar with the time left on a terminal, plain lines elsewhere.

    Each finished or failed run prints a line. Off a terminal, running runs are listed every half minute.
    """

    def __init__(self, quiet: bool = False) -> None:
        self.bar = Progress("training", 100, "%", quiet=quiet)
        self._told: Sequence[RunState] = ()

    def show(self, states: Sequence[RunState]) -> None:
        """Prints what has changed since the last call; the first call sets the baseline."""
        told, self._told = self._told or states, states
        seconds, done = seconds_left(states), totals(told)["done"]
        left = f"; about {duration(seconds)} left" if seconds else ""
        for before, state in zip(told, states, strict=True):
            if state.status == "done" != before.status:
                done += 1
                self.bar.line(f"[{done}/{len(states)}] {state.title}: {_result_text(state.result)}{left}")
            elif state.failure and before.failure != state.failure:
                again = "" if state.failure.final else "; it is tried again"
                self.bar.line(f"{state.title} failed: {state.failure.reason}{again}")
        if self.bar.on_terminal:
            shares = [1.0 if s.status == "done" else s.epochs / s.due for s in states]
            self.bar.move(round(100 * fmean(shares)))
            self.bar.note(f"{totals(states)['done']}/{len(states)} runs{left}")
        elif self.bar.is_due:
            self.bar.line(
                f"{totals(states)['done']} of {counted(len(states), 'run')} done; {_at_work(states)}{left}"
            )


def _at_work(states: Sequence[RunState]) -> str:
    """Lists the running runs and their epochs."""
    running = [f"{s.title} {s.epochs}/{s.due} epochs" for s in states if s.status == "running"]
    more = f" and {len(running) - _MOST_NAMED} more" if len(running) > _MOST_NAMED else ""
    return f"running: {', '.join(running[:_MOST_NAMED])}{more}" if running else "none is running"


def _result_text(result: Mapping[str, Any]) -> str:
    parts = [
        f"{split} {result[name]:.2f} %"
        for split, name in (("val", "val_top1_percent"), ("test", "test_top1_percent"))
        if result.get(name) is not None
    ]
    return ", ".join([*(parts or ["diverged"]), f"{result['train_seconds']:.0f} s"])
