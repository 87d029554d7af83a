"""How far a study is, read from its folder: its runs may be done by any engine, on any machine."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any, Literal

from convnext_ablation.console import Progress, duration
from convnext_ablation.study.experiment import Run, Study
from convnext_ablation.study.store import (
    FAILURE,
    LOCK,
    LOGS,
    RESULT,
    SUMMARY,
    Failure,
    Holder,
    finished_epochs,
    holder_of,
    load_result,
    read_failure,
)
from convnext_ablation.study.tuning import chosen_rates

Status = Literal["done", "running", "failed", "waiting"]


@dataclass(frozen=True)
class RunState:
    """Where a run is.

    Attributes:
        task: What tells it from the study's other runs.
        seed: Its seed; of a tuning run, the learning rate.
        folder: Its folder; where its learning rate is not known yet, the name lacks the identity.
        after: Tasks that are left of those that its learning rate is chosen by.
        epochs: Epochs that are finished.
        run: The run; None where its learning rate is not known yet.
        holder: The process that does it.
        last_epoch: When the last epoch was finished, seconds since 1970 by the file system's clock.
    """

    task: str
    network: str
    seed: str
    status: Status
    folder: Path
    after: tuple[str, ...] = ()
    epochs: int = 0
    run: Run | None = None
    holder: Holder | None = None
    last_epoch: float = 0.0
    failure: Failure | None = None
    result: Mapping[str, Any] = field(default_factory=dict)

    @property
    def title(self) -> str:
        """Its name for people."""
        return f"{self.network} {'tuning' if self.run and self.run.tuning else 'seed'} {self.seed}"

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
        return self.is_open and (self.run is not None or bool(self.after))


class Survey:
    """Looks at a study's folder; not again at runs that were done, or have no folder yet."""

    def __init__(self, study: Study, folder: Path) -> None:
        self.study, self.folder = study, folder
        self._known: dict[str, RunState] = {}
        self._planned: tuple[dict[str, float], list[Run]] | None = None

    def look(self) -> list[RunState]:
        """Returns the state of every run, tuning first."""
        rates = chosen_rates(self.study, self.folder)
        if self._planned is None or self._planned[0] != rates:
            self._planned = rates, self.study.all_runs(rates)
        begun: set[str] = set()
        for part in ("tuning", "runs"):
            with suppress(FileNotFoundError):
                begun.update(os.listdir(self.folder / part))
        states = [self._state(run, run.name in begun) for run in self._planned[1]]
        open_tuning = [state for state in states if state.is_open and state.run and state.run.tuning]
        unchosen = {point.key: self.study.tuning[0] for point in self.study.points if point.key not in rates}
        for run in self.study.runs(unchosen):
            after = tuple(each.task for each in open_tuning if each.network == run.point.key)
            folder = self.folder / "runs" / run.task
            states.append(RunState(run.task, run.point.key, _seed_text(run), "waiting", folder, after))
        return states

    def _state(self, run: Run, begun: bool) -> RunState:
        state = self._known.get(run.name)
        if state is None or (begun and state.status != "done"):
            state = look_at(run, run.folder(self.folder))
            if state.status == "done" or not begun:
                self._known[run.name] = state
        return state


def look_at(run: Run, folder: Path) -> RunState:
    """The state of one run by what its folder holds."""
    seed = _seed_text(run)
    names: list[str] = []
    with suppress(FileNotFoundError):
        names = os.listdir(folder)
    if RESULT in names:
        result = load_result(folder / RESULT)
        return RunState(run.task, run.point.key, seed, "done", folder, run=run, result=result)
    epochs, last_epoch = finished_epochs(folder) if SUMMARY in names else (0, 0.0)
    holder = holder_of(folder) if LOCK in names else None
    failure = read_failure(folder) if FAILURE in names else None
    status: Status = "running" if holder else "failed" if failure and failure.final else "waiting"
    return RunState(
        run.task, run.point.key, seed, status, folder, (), epochs, run, holder, last_epoch, failure
    )


def _seed_text(run: Run) -> str:
    if run.tuning:
        return f"{run.arguments.lr:g}"
    start = run.pretraining_seed
    return str(run.arguments.seed) if start is None else f"{start}/{run.arguments.seed}"


def totals(states: Iterable[RunState]) -> dict[Status, int]:
    """How many runs are in which state."""
    counts: dict[Status, int] = {"done": 0, "running": 0, "failed": 0, "waiting": 0}
    for state in states:
        counts[state.status] += 1
    return counts


def seconds_left(states: Sequence[RunState], study: Study) -> float | None:
    """How long the processes that are at work now will take for what is left; None if nothing tells yet."""
    taken: dict[str, list[float]] = {}  # by an epoch of a network
    for state in states:
        if seconds := _epoch_seconds(state):
            taken.setdefault(state.network, []).append(seconds)
    if not taken:
        return None
    known = {network: fmean(each) for network, each in taken.items()}
    average = fmean(known.values())
    left = [
        (study.epochs - state.epochs) * known.get(state.network, average) for state in states if state.is_open
    ]
    workers = max(1, sum(state.status == "running" for state in states))
    return max(sum(left) / workers, max(left, default=0.0))


def _epoch_seconds(state: RunState) -> float:
    """What an epoch of a run took, validation included; 0 where nothing tells."""
    seconds, epochs = 0.0, 0
    if state.result:
        seconds = state.result.get("elapsed_seconds") or 0.0
        epochs = state.result.get("elapsed_epochs") or 0
    elif state.holder is not None:
        seconds, epochs = state.last_epoch - state.holder.since, state.epochs - state.holder.epochs
    return max(seconds, 0.0) / epochs if epochs > 0 else 0.0


class StudyProgress:
    """Prints what becomes of a study: a bar with the time left on a terminal, plain lines elsewhere."""

    def __init__(self, study: Study, quiet: bool = False) -> None:
        self.study = study
        self.bar = Progress("training", 100, "%", quiet=quiet, lines=False)
        self._told: dict[str, RunState] | None = None

    def show(self, states: Sequence[RunState]) -> None:
        """Prints what has changed; what was so at the first look is not news."""
        told = self._told
        self._told = {state.task: state for state in states}
        seconds = seconds_left(states, self.study)
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
            shares = [1.0 if s.status == "done" else s.epochs / self.study.epochs for s in states]
            self.bar.move(round(100 * fmean(shares)))
            self.bar.note(f"{totals(states)['done']}/{len(states)} runs{left}")


def _result_text(result: Mapping[str, Any]) -> str:
    parts = [
        f"{split} {result[name]:.2f} %"
        for split, name in (("val", "val_top1_percent"), ("test", "test_top1_percent"))
        if result.get(name) is not None
    ]
    return ", ".join([*(parts or ["diverged"]), f"{result['train_seconds']:.0f} s"])
