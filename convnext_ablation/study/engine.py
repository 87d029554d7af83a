"""Who does a study's runs: processes of this machine, Slurm or Ray; and the driver, which hands the runs out.

An engine starts `python -m convnext_ablation.study.run FOLDER` somewhere and says when that has ended; on
this machine, such a process is handed further runs, as it takes seconds to import torch. What became of a run
is in its folder.
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
from pathlib import Path
from typing import Any, Protocol

from convnext_ablation import machine
from convnext_ablation.errors import UserError
from convnext_ablation.study.experiment import Study
from convnext_ablation.study.status import RunState, StudyProgress, Survey, look_at
from convnext_ablation.study.store import LOGS, folder_of, note_failure, remove_what_resumes

RUN = "convnext_ablation.study.run"
_LOOK_SECONDS, _POLL_SECONDS, _SECONDS_TO_END = 2.0, 0.005, 60.0


class Engine(Protocol):
    """Places runs on machines."""

    leave: str  # what to say when the driver leaves while runs go on; empty if they end with it

    def submit(self, runs: Sequence[RunState]) -> Sequence[RunState]:
        """Has as many runs be done as there is room for; those that it has, from an earlier driver too."""

    def wait(self, seconds: float) -> list[tuple[str, str]]:
        """Waits until a run has ended, so long at most; the tasks of those that have, and how each ended."""

    def cancel(self) -> None:
        """Ends what ends with the driver; the runs save where they are."""


class Local:
    """Processes of this machine, one for each slot's environment; they end with the driver."""

    leave = ""

    def __init__(self, places: Sequence[Mapping[str, str]]) -> None:
        self._slots = [_Slot(place) for place in places]

    def submit(self, runs: Sequence[RunState]) -> Sequence[RunState]:
        """Begins a run in each slot that is free."""
        free = [slot for slot in self._slots if not slot.task]
        begun = [run for run in runs if not run.after][: len(free)]
        for slot, run in zip(free, begun, strict=False):
            slot.begin(run)
        return begun

    def wait(self, seconds: float) -> list[tuple[str, str]]:
        """Waits for runs."""
        limit = time.monotonic() + seconds
        while not (ended := list(filter(None, map(_Slot.ended, self._slots)))) and time.monotonic() < limit:
            time.sleep(_POLL_SECONDS)
        return ended

    def cancel(self) -> None:
        """Has all processes save and end; kills those that don't in time."""
        processes = [slot.process for slot in self._slots if slot.process]
        for process in processes:
            process.terminate()
        limit = time.monotonic() + _SECONDS_TO_END
        while any(process.poll() is None for process in processes) and time.monotonic() < limit:
            time.sleep(_POLL_SECONDS)
        for process in processes:
            process.kill()


class _Slot:
    """Where one run at a time is done, by a process that takes the next run when it can."""

    def __init__(self, place: Mapping[str, str]) -> None:
        self.task = ""  # the run that is done
        self.process: subprocess.Popen[bytes] | None = None
        self._place = place
        self._line, _ = Pipe()

    def begin(self, run: RunState) -> None:
        """Hands a run to the process that has done the one before, or to a new one."""
        self.task = run.task
        if self.process and self.process.poll() is None:
            with suppress(OSError):  # it has just been killed
                self._line.send((str(run.folder), str(run.log)))
                return
        self._line.close()
        self._line, theirs = Pipe()
        with theirs, open(run.log, "ab") as log:
            self.process = subprocess.Popen(
                [*command_of(run), str(theirs.fileno())],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                env={**os.environ, **self._place},
                pass_fds=[theirs.fileno()],
                start_new_session=True,  # Ctrl-C is for the driver
            )

    def ended(self) -> tuple[str, str] | None:
        """The task of the run and how it has ended, its process or just the run; None while it is done."""
        if not self.task or self.process is None:
            return None
        code = self.process.poll()
        with suppress(EOFError, OSError):
            if self._line.poll():
                code = self._line.recv()
        if code is None:
            return None
        if self.process.poll() is not None:
            self.process.communicate()
        task, self.task = self.task, ""
        return task, how_it_ended(code)


def command_of(run: RunState) -> list[str]:
    """What does a run."""
    return [sys.executable, machine.__file__, RUN, str(run.folder)]


def how_it_ended(code: int) -> str:
    """What a process's exit code means."""
    if code < 0:
        name = next((each.name for each in signal.Signals if each == -code), f"signal {-code}")
        return f"its process was killed ({name}; out of memory?)"
    return f"its process ended with code {code}" if code else ""


def imported(name: str, extra: str, pickler: str, module: str) -> Any:
    """Imports what an engine needs, and has what a module of ours defines be pickled with its code."""
    try:
        package = importlib.import_module(name)
        importlib.import_module(pickler).register_pickle_by_value(sys.modules[module])
    except ImportError as error:
        raise UserError(f"{name} is missing; pip install 'convnext_ablation[{extra}]'") from error
    return package


def name_of(folder: Path) -> str:
    """What a study is called on a cluster: no other folder has that name."""
    folder = folder.resolve()
    return f"study-{folder.name}-{hashlib.sha256(str(folder).encode()).hexdigest()[:8]}"


def drive(phases: Sequence[Study], folder: Path, engine: Engine, progress: StudyProgress) -> list[RunState]:
    """Has an engine do all runs of an experiment that are left, and returns the state of each.

    A run that fails is tried again until its failure is final; others are done meanwhile. The signals that
    stop a training do what Ctrl-C does.
    """
    folder = folder.absolute()  # engines may work in another
    for phase in phases:
        (folder_of(phase, folder) / LOGS).mkdir(parents=True, exist_ok=True)
    survey = Survey(phases, folder)
    states = survey.look()
    for state in states:
        if state.status == "done":  # its process may have been killed a moment too early
            remove_what_resumes(state.folder)
    submitted: dict[str, RunState] = {}
    before = {each: signal.signal(each, _interrupt) for each in machine.STOPPING if each != signal.SIGINT}
    try:
        while True:
            progress.show(states)
            new = [state for state in states if state.can_begin and state.task not in submitted]
            new.sort(key=lambda state: state.failure is not None)  # what failed is tried again last
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
    """Notes a failure that the run could not note itself."""
    if not before.is_known:
        return
    after = look_at(before.run, before.folder)
    if after.is_open and after.failure == before.failure:
        lines = before.log.read_text(errors="replace").splitlines() if before.log.is_file() else []
        last = next((line for line in reversed(lines) if line.strip()), "")
        killed = "killed" in ending or not last
        reason = (ending or "its process ended without a result") + ("" if killed else f": {last}")
        note_failure(before.folder, reason, "\n".join(lines[-20:]), killed)
