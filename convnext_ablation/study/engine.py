"""Who does a study's runs: processes of this machine, Slurm or Ray; and the driver, which hands the runs out.

An engine starts `python -m convnext_ablation.study.run FOLDER` somewhere and says when that has ended. What
became of the run is in its folder.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from types import FrameType
from typing import Protocol

from convnext_ablation import machine
from convnext_ablation.errors import UserError
from convnext_ablation.study.experiment import Study
from convnext_ablation.study.status import RunState, StudyProgress, Survey, look_at
from convnext_ablation.study.store import LOG, note_failure, remove_what_resumes

ENGINES = ("local", "slurm", "ray")
VISIBLE = "CUDA_VISIBLE_DEVICES"
# what does a run; ended by the end of whoever started it
RUN = (sys.executable, machine.__file__, "convnext_ablation.study.run")
_LOOK_SECONDS = 1.0
_SECONDS_TO_END = 60.0
_LOG_LINES = 20


@dataclass(frozen=True)
class Task:
    """A run as an engine knows it.

    Attributes:
        folder: The run's folder; its name lacks the identity where that is not known yet.
        after: Names of the tasks that must have ended before.
    """

    name: str
    folder: Path
    after: tuple[str, ...] = ()


class Engine(Protocol):
    """Places runs on machines.

    Attributes:
        takes_dependencies: Whether tasks may be submitted whose `after` has not ended.
        leave: What to say when the driver leaves while runs go on; empty if they end with it.
    """

    takes_dependencies: bool
    leave: str

    def submit(self, tasks: Sequence[Task]) -> None:
        """Has tasks be done; those that it has already, from an earlier driver, are not submitted again."""

    def wait(self, seconds: float) -> list[tuple[str, str]]:
        """Waits until a task has ended, so long at most; the names of those that have, and how each ended."""

    def cancel(self) -> None:
        """Ends what ends with the driver; the runs save where they are."""


class Local:
    """Processes of this machine, one for each slot's environment; they end with the driver."""

    takes_dependencies, leave = False, ""

    def __init__(self, places: Sequence[Mapping[str, str]]) -> None:
        self._pool = ThreadPoolExecutor(len(places))
        self._free: SimpleQueue[Mapping[str, str]] = SimpleQueue()
        for place in places:
            self._free.put(place)
        self._tasks: dict[Future[str], str] = {}
        self._processes: set[subprocess.Popen[bytes]] = set()
        self._cancelled = False

    def submit(self, tasks: Sequence[Task]) -> None:
        """Queues tasks; a slot that is free takes the next."""
        for task in tasks:
            self._tasks[self._pool.submit(self._do, task)] = task.name

    def wait(self, seconds: float) -> list[tuple[str, str]]:
        """Waits for processes."""
        done = wait(self._tasks, seconds, FIRST_COMPLETED)[0]
        return [(self._tasks.pop(future), future.result()) for future in done]

    def cancel(self) -> None:
        """Has all processes save and end; kills those that don't in time."""
        self._cancelled = True
        self._pool.shutdown(wait=False, cancel_futures=True)
        try:
            for process in list(self._processes):
                process.terminate()
            limit = time.monotonic() + _SECONDS_TO_END
            for process in list(self._processes):
                with suppress(subprocess.TimeoutExpired):
                    process.wait(max(0.0, limit - time.monotonic()))
        finally:
            for process in list(self._processes):
                process.kill()
        self._pool.shutdown()

    def _do(self, task: Task) -> str:
        place = self._free.get()
        try:
            task.folder.mkdir(parents=True, exist_ok=True)
            with open(task.folder / LOG, "ab") as log:
                process = subprocess.Popen(
                    [*RUN, str(task.folder)],
                    stdin=subprocess.PIPE,
                    stdout=log,
                    stderr=log,
                    env={**os.environ, **place},
                    start_new_session=True,  # Ctrl-C is for the driver
                )
            self._processes.add(process)
            if self._cancelled:
                process.terminate()
            process.wait()
            if process.stdin:
                process.stdin.close()
            self._processes.remove(process)
            return how_it_ended(process.returncode)
        finally:
            self._free.put(place)


def how_it_ended(code: int) -> str:
    """What a process's exit code means."""
    if code < 0:
        return f"its process was killed ({signal.Signals(-code).name}; out of memory?)"
    return f"its process ended with code {code}" if code else ""


def local_places(device: str, jobs: int | None, threads: int) -> list[dict[str, str]]:
    """The environment of each slot of this machine: a GPU each, or as many as cores allow."""
    if device != "cuda":
        return [{}] * (jobs or (max(1, machine.available_cores() // threads) if device == "cpu" else 1))
    gpus = _gpus()
    if jobs and jobs > len(gpus):
        raise UserError(f"--jobs {jobs}: a run takes a GPU, and {len(gpus)} can be used here; give fewer")
    return [{VISIBLE: gpu} for gpu in gpus[:jobs]]


def _gpus() -> list[str]:
    """What each GPU, or each part of one that is divided by MIG, is called in CUDA_VISIBLE_DEVICES."""
    if os.environ.get(VISIBLE):
        return os.environ[VISIBLE].split(",")
    try:
        listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        listed = ""
    gpus: list[str] = []
    for line in listed.splitlines():
        for name in re.findall(r"UUID: ((?:GPU|MIG)-[\w/-]+)", line):
            if name.startswith("MIG") and gpus and gpus[-1].startswith("GPU"):
                gpus.pop()  # the whole of which this is a part
            gpus.append(name)
    if gpus:
        return gpus
    import torch  # takes a second, and the driver does without otherwise

    return [str(number) for number in range(torch.cuda.device_count())]


def engine_of(
    name: str, study: Study, folder: Path, jobs: int | None, options: Sequence[str], address: str
) -> Engine:
    """Makes an engine for so many jobs at a time, with Slurm's options or the address of Ray's cluster."""
    if name == "slurm":
        from convnext_ablation.study.slurm import Slurm  # needs the extra `slurm`

        return Slurm(study, folder, jobs, options)
    if name == "ray":
        from convnext_ablation.study.ray_cluster import RayCluster  # needs the extra `ray`

        return RayCluster(study, folder, jobs, address)
    return Local(local_places(study.device, jobs, study.threads))


def drive(study: Study, folder: Path, engine: Engine, progress: StudyProgress) -> list[RunState]:
    """Has an engine do all runs of a study that are left, and returns the state of each.

    A run that fails is tried again until its failure is final; others are done meanwhile.
    """
    folder = folder.absolute()  # engines may work in another
    survey = Survey(study, folder)
    states = survey.look()
    for state in states:
        if state.status == "done" and state.run:  # its process may have been killed a moment too early
            remove_what_resumes(state.run.folder(folder))
    submitted: dict[str, RunState] = {}
    with _stopped_by_signal():
        try:
            while True:
                progress.show(states)
                new = [state for state in states if state.is_open and state.task not in submitted]
                tasks = _tasks(new, states, folder, engine.takes_dependencies)
                known = {state.task: state for state in new}
                submitted |= {task.name: known[task.name] for task in tasks}
                engine.submit(tasks)
                if not submitted:
                    return states
                for name, ending in engine.wait(_LOOK_SECONDS):
                    before = submitted.pop(name, None)
                    _note_end(before, ending, folder)
                states = survey.look()
        finally:
            engine.cancel()


def _tasks(
    new: Sequence[RunState], states: Sequence[RunState], folder: Path, dependencies: bool
) -> list[Task]:
    """What can be submitted: where an engine takes dependencies, also runs that wait for learning rates."""
    tasks = []
    for state in new:
        if state.run is not None:
            tasks.append(Task(state.task, state.run.folder(folder)))
            continue
        tuning = tuple(s.task for s in states if s.run and s.run.tuning and s.network == state.network)
        still = {s.task for s in states if s.is_open} & set(tuning)
        if dependencies and still:
            tasks.append(Task(state.task, folder / "runs" / state.task, tuning))
    return tasks


def _note_end(before: RunState | None, ending: str, folder: Path) -> None:
    """Notes a failure that the run could not note itself."""
    if before is None or before.run is None:
        return
    state = look_at(before.run, before.run.folder(folder))
    if state.is_open and state.failure == before.failure:
        log = before.run.folder(folder) / LOG
        lines = log.read_text(errors="replace").splitlines()[-_LOG_LINES:] if log.is_file() else []
        last = next((line for line in reversed(lines) if line.strip()), "")
        killed = "killed" in ending or not last
        reason = ending or "its process ended without a result"
        note_failure(log.parent, reason if killed else f"{reason}: {last}", "\n".join(lines), killed)


@contextmanager
def _stopped_by_signal() -> Iterator[None]:
    """Has SIGTERM do what Ctrl-C does."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
