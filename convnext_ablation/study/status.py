"""How far a study is, read from its folder: its runs may be done by any engine, on any machine."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any, Literal

from convnext_ablation.console import Progress, counted, duration
from convnext_ablation.study.experiment import Run, Study
from convnext_ablation.study.store import (
    FAILURE,
    LOCK,
    LOGS,
    RESULT,
    Failure,
    Holder,
    finished_epochs,
    folder_of,
    holder_of,
    load_result,
    read_failure,
)
from convnext_ablation.study.tuning import with_chosen_rates, with_weights
from convnext_ablation.training.history import SUMMARY

_MOST_NAMED = 8  # running runs that a line names
Status = Literal["done", "running", "failed", "waiting"]


@dataclass(frozen=True)
class RunState:
    """Where a run is.

    Attributes:
        folder: Its folder; while its learning rate or weights are not known, its name lacks the identity.
        is_known: Whether these are known.
        after: Tasks that are left of those that its learning rate is chosen by, or that make its weights.
        epochs: Epochs that are finished.
        holder: The process that does it.
        last_epoch: When the last epoch was finished, seconds since 1970 by the file system's clock.
    """

    run: Run
    folder: Path
    status: Status = "waiting"
    is_known: bool = True
    after: tuple[str, ...] = ()
    epochs: int = 0
    holder: Holder | None = None
    last_epoch: float = 0.0
    failure: Failure | None = None
    result: Mapping[str, Any] = field(default_factory=dict)

    @property
    def task(self) -> str:
        """What tells it from the experiment's other runs."""
        return self.run.task

    @property
    def seed(self) -> str:
        """Its seed, behind that of its pre-training if it has one; of a tuning run, the learning rate."""
        if self.run.tuning:
            return f"{self.run.arguments.lr:g}"
        start, seed = self.run.pretraining_seed, self.run.arguments.seed
        return str(seed) if start is None else f"{start}/{seed}"

    @property
    def due(self) -> int:
        """Epochs that it has in all."""
        return self.run.arguments.epochs_in_all

    @property
    def title(self) -> str:
        """Its display name."""
        of = f"{self.run.phase}: " if self.run.phase else ""
        return f"{of}{self.run.point.key} {'tuning' if self.run.tuning else 'seed'} {self.seed}"

    @property
    def log(self) -> Path:
        """What its process has printed."""
        return self.folder.parents[1] / LOGS / f"{self.task}.log"

    @property
    def is_open(self) -> bool:
        """Whether it is yet to be done."""
        return self.status in ("waiting", "running")

    @property
    def can_begin(self) -> bool:
        """Whether it can be done now, or after others."""
        return self.is_open and (self.is_known or bool(self.after))


class Survey:
    """Looks at an experiment's folder; not again at runs that were done, or have no folder yet."""

    def __init__(self, phases: Sequence[Study], folder: Path) -> None:
        self._phases = [_Phase(phase, folder_of(phase, folder)) for phase in phases]

    def look(self) -> list[RunState]:
        """Returns the state of every run, phase by phase, of each the tuning first."""
        states: dict[str, RunState] = {}
        for phase in self._phases:
            states |= {state.task: state for state in phase.look(states)}
        return list(states.values())


class _Phase:
    """Looks at a phase's folder."""

    def __init__(self, study: Study, folder: Path) -> None:
        self.study, self.folder = study, folder
        self._known: dict[str, RunState] = {}
        self._runs: list[Run] = []

    def look(self, earlier: Mapping[str, RunState]) -> list[RunState]:
        """Returns the state of every run; `earlier` are those of the phases before, by task."""
        study = self.study
        if study.start is not None:
            before = [state for state in earlier.values() if state.run.phase == study.start.phase]
            done = [each.run for each in before if each.status == "done" and not each.run.tuning]
            study = with_weights(study, done, self.folder.parent / study.start.phase)
        study = with_chosen_rates(study, self.folder)
        if study != self.study or not self._runs:
            self.study, self._runs = study, study.all_runs()
        begun: set[str] = set()
        for part in ("tuning", "runs"):
            with suppress(FileNotFoundError):
                begun.update(os.listdir(self.folder / part))
        states: list[RunState] = []
        for run in self._runs:
            if study.is_known(run):
                states.append(self._state(run, run.name in begun))
            else:
                tuning = [] if run.tuning else [each for each in states if each.is_open and each.run.tuning]
                states.append(self._waiting(run, tuning, earlier))
        return states

    def _waiting(self, run: Run, tuning: Sequence[RunState], earlier: Mapping[str, RunState]) -> RunState:
        after = [state.task for state in tuning if state.run.point.key == run.point.key]
        if run.after and earlier[run.after].can_begin:
            after.append(run.after)
        elif run.after:  # that has failed
            after = []
        folder = self.folder / ("tuning" if run.tuning else "runs") / run.task
        return RunState(run, folder, is_known=False, after=tuple(after))

    def _state(self, run: Run, begun: bool) -> RunState:
        state = self._known.get(run.name)
        if state is None or (begun and state.status != "done"):
            state = look_at(run, run.folder(self.folder))
            if state.status == "done" or not begun:
                self._known[run.name] = state
        return state


def look_at(run: Run, folder: Path) -> RunState:
    """The state of one run, by what its folder holds."""
    names: list[str] = []
    with suppress(FileNotFoundError):
        names = os.listdir(folder)
    if RESULT in names:
        return RunState(run, folder, "done", result=load_result(folder / RESULT))
    epochs, last_epoch = finished_epochs(folder) if SUMMARY in names else (0, 0.0)
    holder = holder_of(folder) if LOCK in names else None
    failure = read_failure(folder) if FAILURE in names else None
    status: Status = "running" if holder else "failed" if failure and failure.final else "waiting"
    return RunState(
        *(run, folder, status), epochs=epochs, holder=holder, last_epoch=last_epoch, failure=failure
    )


def totals(states: Iterable[RunState]) -> dict[Status, int]:
    """How many runs are in which state."""
    counts: dict[Status, int] = {"done": 0, "running": 0, "failed": 0, "waiting": 0}
    for state in states:
        counts[state.status] += 1
    return counts


def seconds_left(states: Sequence[RunState]) -> float | None:
    """How long the processes that are at work now will take for what is left; None while that is unknown.

    Epochs of a network in a phase of which none is finished are taken to last as long as those of others.
    """
    taken: dict[tuple[str, str], list[float]] = {}  # by an epoch of a network in a phase
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
    """What an epoch of a run took, validation included; 0 if unknown."""
    seconds, epochs = 0.0, 0
    if state.result:
        seconds = state.result.get("elapsed_seconds") or 0.0
        epochs = state.result.get("elapsed_epochs") or 0
    elif state.holder is not None:
        seconds, epochs = state.last_epoch - state.holder.since, state.epochs - state.holder.epochs
    return max(seconds, 0.0) / epochs if epochs > 0 else 0.0


class StudyProgress:
    """Prints what becomes of a study: a bar with the time left on a terminal, plain lines elsewhere.

    Each end of a run is a line. Elsewhere another says every half minute without one which runs are at work.
    """

    def __init__(self, quiet: bool = False) -> None:
        self.bar = Progress("training", 100, "%", quiet=quiet)
        self._told: dict[str, RunState] | None = None

    def show(self, states: Sequence[RunState]) -> None:
        """Prints what has changed; what was so at the first look is not news."""
        told = self._told
        self._told = {state.task: state for state in states}
        seconds = seconds_left(states)
        left = f"; about {duration(seconds)} left" if seconds else ""
        if told is not None:
            done = sum(state.status == "done" for state in told.values())
            for state in states:
                before = told.get(state.task)
                if state.status == "done" and (before is None or before.status != "done"):
                    done += 1
                    self.bar.line(f"[{done}/{len(states)}] {state.title}: {_result_text(state.result)}{left}")
                elif state.failure and (before is None or before.failure != state.failure):
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
    """Which runs are at which epoch."""
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
