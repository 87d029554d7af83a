"""Engines that execute a study's runs (local processes, Slurm, Ray), and the driver that schedules the runs.

An engine starts `python -m convnext_ablation.study.run FOLDER` and reports when it ends. Local workers
execute several runs in turn, because importing torch takes seconds. The outcome of a run is read from its
folder.
"""

from __future__ import annotations

import hashlib
import importlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from multiprocessing import Pipe
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any, Protocol

from convnext_ablation import machine
from convnext_ablation.errors import UserError
from convnext_ablation.study.experiment import Study
from convnext_ablation.study.status import RunState, StudyProgress, Survey, look_at
from convnext_ablation.study.store import LOGS, folder_of, note_failure, remove_what_resumes

RUN = "convnext_ablation.study.run"
_LOOK_SECONDS, _POLL_SECONDS, _SECONDS_TO_END = 2.0, 0.005, 60.0
_SECONDS_UNHEARD = 0.1  # a killed worker's children may keep its line open


class Engine(Protocol):
    """Places runs on machines."""

    leave: str  # message for Ctrl-C while runs continue; empty if they end with the driver

    def submit(self, runs: Sequence[RunState]) -> Sequence[RunState]:
        """Starts as many runs as fit; returns all that it now has, including those of an earlier driver."""

    def wait(self, seconds: float) -> list[tuple[str, str]]:
        """Waits up to `seconds` for a run to end; returns tasks and failure texts (empty on success)."""

    def cancel(self) -> None:
        """Stops the runs that end with the driver; they save a checkpoint."""


class Local:
    """Engine of local workers, one per environment in `places`; they end with the driver."""

    leave = ""

    def __init__(self, places: Sequence[Mapping[str, str]]) -> None:
        self._slots = [_Slot(place) for place in places]

    def submit(self, runs: Sequence[RunState]) -> Sequence[RunState]:
        """Starts a run in each free slot."""
        free = [slot for slot in self._slots if not slot.task]
        begun = [run for run in runs if not run.after][: len(free)]
        for slot, run in zip(free, begun, strict=False):
            slot.begin(run)
        return begun

    def wait(self, seconds: float) -> list[tuple[str, str]]:
        """Waits until a run ends or `seconds` have passed; polling would take 1 to 2 % of a core."""
        limit = time.monotonic() + seconds
        while not (ended := list(filter(None, map(_Slot.ended, self._slots)))) and time.monotonic() < limit:
            if wait([slot.line for slot in self._slots if slot.task], _SECONDS_UNHEARD):
                time.sleep(_POLL_SECONDS)  # a worker that has closed its line takes a moment to end
        return ended

    def cancel(self) -> None:
        """Terminates all workers, which save a checkpoint first; kills those still alive after 60 s."""
        processes = [slot.process for slot in self._slots if slot.process]
        for process in processes:
            process.terminate()
        limit = time.monotonic() + _SECONDS_TO_END
        while any(process.poll() is None for process in processes) and time.monotonic() < limit:
            time.sleep(_POLL_SECONDS)
        for process in processes:
            process.kill()


class _Slot:
    """A slot for one run at a time; its worker is reused for the next run where possible."""

    def __init__(self, place: Mapping[str, str]) -> None:
        self.task = ""  # of the current run; empty if the slot is free
        self.process: subprocess.Popen[bytes] | None = None
        self._place = place
        self.line, _ = Pipe()

    def begin(self, run: RunState) -> None:
        """Sends a run to the slot's worker, or starts a new worker."""
        self.task = run.task
        if self.process and self.process.poll() is None:
            with suppress(OSError):  # the worker was just killed
                self.line.send((str(run.folder), str(run.log)))
                return
        self.line.close()
        self.line, theirs = Pipe()
        with theirs, open(run.log, "ab") as log:
            self.process = subprocess.Popen(
                [*command_of(run), str(theirs.fileno())],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                env={**os.environ, **self._place},
                pass_fds=[theirs.fileno()],
                start_new_session=True,  # only the driver handles Ctrl-C
            )

    def ended(self) -> tuple[str, str] | None:
        """Returns the task and failure text of a run that has ended; None while it is running."""
        if not self.task or self.process is None:
            return None
        code = self.process.poll()
        with suppress(EOFError, OSError):
            if self.line.poll():
                code = self.line.recv()
        if code is None:
            return None
        if self.process.poll() is not None:
            self.process.communicate()
        task, self.task = self.task, ""
        return task, how_it_ended(code)


def command_of(run: RunState) -> list[str]:
    """The command that executes a run."""
    return [sys.executable, machine.__file__, RUN, str(run.folder)]


def how_it_ended(code: int) -> str:
    """Describes an exit code; empty for 0."""
    if code < 0:
        name = next((each.name for each in signal.Signals if each == -code), f"signal {-code}")
        return f"its process was killed ({name}; out of memory?)"
    return f"its process ended with code {code}" if code else ""


def imported(name: str, extra: str, pickler: str, module: str) -> Any:
    """Imports an engine's package and pickles our `module` by value; raises `UserError` if it is missing."""
    try:
        package = importlib.import_module(name)
        importlib.import_module(pickler).register_pickle_by_value(sys.modules[module])
    except ImportError as error:
        raise UserError(f"{name} is missing; pip install 'convnext_ablation[{extra}]'") from error
    return package


def name_of(folder: Path) -> str:
    """The study's name on a cluster, unique to its folder."""
    folder = folder.resolve()
    return f"study-{folder.name}-{hashlib.sha256(str(folder).encode()).hexdigest()[:8]}"


def drive(phases: Sequence[Study], folder: Path, engine: Engine, progress: StudyProgress) -> list[RunState]:
    """Executes all remaining runs of an experiment, and returns the state of every run.

    A failed run is retried until its failure is final; other runs continue. Signals that stop training act
    like Ctrl-C.
    """
    folder = folder.absolute()  # engines may use another working directory
    for phase in phases:
        (folder_of(phase, folder) / LOGS).mkdir(parents=True, exist_ok=True)
    survey = Survey(phases, folder)
    states = survey.look()
    for state in states:
        if state.status == "done":  # its process may have been killed before it cleaned up
            remove_what_resumes(state.folder)
    submitted: dict[str, RunState] = {}
    before = {each: signal.signal(each, _interrupt) for each in machine.STOPPING if each != signal.SIGINT}
    try:
        while True:
            progress.show(states)
            new = [state for state in states if state.can_begin and state.task not in submitted]
            new.sort(key=lambda state: state.failure is not None)  # retries come last
            submitted |= {state.task: state for state in engine.submit(new)}
            if not submitted:
                return states
            for task, ending in engine.wait(_LOOK_SECONDS):
                if task in submitted:
                    _note_end(submitted.pop(task), ending)
            states = survey.look()
    finally:
        engine.cancel()
        for number, handler in before.items():
            signal.signal(number, handler)


def _interrupt(number: int, _: object) -> None:
    raise KeyboardInterrupt(number)


def _note_end(before: RunState, ending: str) -> None:
    """Records a failure that the run could not record itself."""
    if not before.is_known:
        return
    after = look_at(before.run, before.folder)
    if after.is_open and after.failure == before.failure:
        lines = before.log.read_text(errors="replace").splitlines() if before.log.is_file() else []
        last = next((line for line in reversed(lines) if line.strip()), "")
        killed = "killed" in ending or not last
        reason = (ending or "its process ended without a result") + ("" if killed else f": {last}")
        note_failure(before.folder, reason, "\n".join(lines[-20:]), killed)
