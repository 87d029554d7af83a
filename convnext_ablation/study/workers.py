"""Processes that do a study's runs: each claims a run that is free, does it, and goes on with the next.

They agree through the study's folder alone (see `convnext_ablation.study.claims`), so that any number of
them, started by any number of commands on any machines that see the folder, share the work.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from multiprocessing.context import SpawnProcess
from pathlib import Path
from types import FrameType

import torch

from convnext_ablation.errors import UserError
from convnext_ablation.machine import available_cores, end_with_parent, keep_memory
from convnext_ablation.study.claims import Claim, LostClaimError, take, this_machine
from convnext_ablation.study.experiment import Run, Study
from convnext_ablation.study.progress import Progress, RunState, Survey
from convnext_ablation.study.run import execute, remove_what_resumes
from convnext_ablation.study.run_files import RESULT, finished_epochs, write_failure
from convnext_ablation.study.store import STUDY_FILE, read_study
from convnext_ablation.training.distributed import StopRequest
from convnext_ablation.training.evaluation import EvaluationStoppedError
from convnext_ablation.training.loop import StoppedError

_ENVIRONMENT = {"CUBLAS_WORKSPACE_CONFIG": ":4096:8"}
VISIBLE = "CUDA_VISIBLE_DEVICES"
MOST_DEATHS = 3  # of processes, within one epoch of a run
_FOR_PARENT = [getattr(signal, name) for name in ("SIGINT", "SIGUSR2") if hasattr(signal, name)]
_AFRESH = 75  # exit code of a worker that asks for another in its place
_LOOK_SECONDS = 0.5
_SHARE = 10  # looking takes at most one in so many seconds
_SECONDS_TO_END = 60

Places = Sequence[Mapping[str, str]]


def places_for(device: str, jobs: int | None, threads: int) -> Places:
    """The environment of each worker: on GPUs one worker a GPU, on CPUs as many as cores allow.

    Args:
        device: What the study trains on.
        jobs: How many workers; None for as many as there are places.
        threads: Threads of a worker.
    """
    if device == "cuda":
        seen = os.environ.get(VISIBLE, "")
        gpus = seen.split(",") if seen else [str(number) for number in range(torch.cuda.device_count())]
        return [{VISIBLE: gpus[number % len(gpus)]} for number in range(jobs or len(gpus))]
    return [{}] * (jobs or (max(1, available_cores() // threads) if device == "cpu" else 1))


class StudyReader:
    """Reads a study again when its file has changed: seeds may be added while it runs.

    Args:
        folder: The study's folder.
        data_dir: Where its data are on this machine, if elsewhere.
    """

    def __init__(self, folder: Path, data_dir: str | None = None) -> None:
        self.folder = folder
        self.data_dir = data_dir
        self._stamp: tuple[int, int] | None = None
        self._study: Study | None = None

    def read(self) -> Study:
        """The study as it is now."""
        stat = (self.folder / STUDY_FILE).stat()
        stamp = (stat.st_mtime_ns, stat.st_ino)
        if self._study is None or stamp != self._stamp:
            study = read_study(self.folder)
            self._study = replace(study, data_dir=self.data_dir) if self.data_dir else study
            self._stamp = stamp
        return self._study


def work(folder: Path, data_dir: str | None = None, should_stop: Callable[[], bool] = lambda: False) -> int:
    """Does runs of a study until all are done or have failed, whoever does them.

    Args:
        folder: The study's folder.
        data_dir: Where its data are on this machine, if elsewhere.
        should_stop: Whether to stop, and leave the rest to others.

    Returns:
        0, or `_AFRESH` where a run failed in a way that may have left this process in a bad state.
    """
    reader, survey = StudyReader(folder, data_dir), Survey(folder)
    for state in survey.look(reader.read()):
        if state.status == "done" and state.run is not None:
            remove_what_resumes(
                state.run.folder(folder)
            )  # who did it may have been killed a moment too early
    while not should_stop():
        start = time.monotonic()
        states = survey.look(reader.read())
        claimed = _claim_one(states, survey)
        if claimed is not None:
            if not _do(*claimed, folder, should_stop):
                return _AFRESH
        elif is_over(states):
            return 0
        else:
            time.sleep(pause(time.monotonic() - start))
    return 0


def is_over(states: Sequence[RunState]) -> bool:
    """Whether nothing is left that could be done: what is left then waits for a learning rate that failed."""
    return not any(state.run for state in states if state.status in ("left", "running"))


def pause(look: float) -> float:
    """Seconds between two looks at a folder, of which one takes `look` seconds."""
    return max(_LOOK_SECONDS, min(30.0, _SHARE * look))


def _claim_one(states: Sequence[RunState], survey: Survey) -> tuple[Run, Claim] | None:
    for state in states:
        if state.run is None:
            continue
        folder = state.run.folder(survey.folder)
        if state.status != "left":
            continue
        claim = take(folder, survey.clock, unless=RESULT, epochs=finished_epochs(folder)[0])
        if claim is not None and claim.holder.deaths < MOST_DEATHS:
            return state.run, claim
        if claim is not None:
            write_failure(
                folder,
                f"{MOST_DEATHS} processes were killed at it within one epoch (out of memory?); "
                "run the same command again, with fewer --jobs",
            )
            claim.release()
    return None


def _do(run: Run, claim: Claim, folder: Path, should_stop: Callable[[], bool]) -> bool:
    """Does a run; returns whether this process is fit for another."""
    with claim:
        try:
            execute(run, folder, claim, should_stop)
        except (StoppedError, EvaluationStoppedError, LostClaimError):
            return True
        except Exception as error:
            if claim.is_lost:  # files were taken from under it
                return True
            write_failure(run.folder(folder), _reason(error), traceback.format_exc())
            return isinstance(error, UserError)
        claim.remove()
    return True


def _reason(error: Exception) -> str:
    return str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"


def _worker(folder: str, data_dir: str | None) -> None:
    """What a worker's process does."""
    end_with_parent()
    keep_memory()
    with StopRequest() as stop:
        # Ctrl-C and Slurm's warning reach all processes; the one that started this one has it end
        for number in _FOR_PARENT:
            signal.signal(number, signal.SIG_IGN)
        try:
            code = work(Path(folder), data_dir, stop)
        except UserError as error:
            print(error, file=sys.stderr)
            code = 2
        sys.exit(code)


class Workers:
    """The workers that this process has started.

    Args:
        folder: The study's folder.
        places: The environment of each.
        data_dir: Where the study's data are on this machine, if elsewhere.
        progress: Is told of workers that were killed.
    """

    def __init__(self, folder: Path, places: Places, data_dir: str | None, progress: Progress) -> None:
        self.folder = folder
        self.places = places
        self.data_dir = data_dir
        self.progress = progress
        self.processes = [self._start(place) for place in places]
        self._in_vain = 0

    def ended(self) -> list[int]:
        """Those that have ended, by number."""
        return [number for number, process in enumerate(self.processes) if process.exitcode is not None]

    def replace(self, ended: Sequence[int], states: Sequence[RunState]) -> None:
        """Starts others for workers that have ended, though something is left to do.

        Args:
            ended: Their numbers.
            states: The study's runs, as they were when those may have been alive.

        Raises:
            UserError: They end before they have begun.
        """
        for number in ended:
            if self.processes[number].exitcode not in (0, _AFRESH):
                self._note_killed(self.processes[number], states)
            self.processes[number] = self._start(self.places[number])

    def end(self) -> None:
        """Has all save what they are at and stop; kills those that don't in time, or if asked once more."""
        try:
            for process in self.processes:
                process.terminate()
            limit = time.monotonic() + _SECONDS_TO_END
            for process in self.processes:
                process.join(max(0.0, limit - time.monotonic()))
        finally:
            for process in self.processes:
                process.kill()
                process.join()

    def _start(self, place: Mapping[str, str]) -> SpawnProcess:
        process = multiprocessing.get_context("spawn").Process(
            target=_worker, args=(str(self.folder), self.data_dir)
        )
        with _environment(
            {**{name: os.environ.get(name, _ENVIRONMENT[name]) for name in _ENVIRONMENT}, **place}
        ):
            process.start()
        return process

    def _note_killed(self, process: SpawnProcess, states: Sequence[RunState]) -> None:
        mine = [
            state
            for state in states
            if state.holder and (state.holder.pid, state.holder.machine) == (process.pid, this_machine())
        ]
        self._in_vain = 0 if mine else self._in_vain + 1
        if self._in_vain > MOST_DEATHS * len(self.places):
            raise UserError(
                f"processes that should train end at once (exit code {process.exitcode}); what was finished "
                "stays valid: run the same command again, with fewer --jobs"
            )
        what = f", at {mine[0].title}; that goes on from its last epoch" if mine else ""
        self.progress.line(f"a process that trained was killed (exit code {process.exitcode}){what}")


def supervise(
    folder: Path,
    places: Places,
    progress: Progress,
    data_dir: str | None = None,
    others_alive: Callable[[], bool] = lambda: True,
) -> list[RunState]:
    """Starts workers, shows what becomes of the study, and returns when all its runs are done or have failed.

    Args:
        folder: The study's folder.
        places: The environment of each worker; none to watch only.
        progress: Is told of the runs.
        data_dir: Where the study's data are on this machine, if elsewhere.
        others_alive: Whether to go on watching, where none of the workers is of this process.

    Returns:
        The state of each run.
    """
    reader, survey = StudyReader(folder, data_dir), Survey(folder)
    states = survey.look(reader.read())
    progress.show(states, survey.clock.now())
    if is_over(states):
        return states
    left = sum(state.status in ("left", "running") for state in states)
    wait = _LOOK_SECONDS
    with _stopped_by_signal():
        workers = Workers(folder, places[:left], data_dir, progress)
        try:
            while not is_over(states) and others_alive():
                time.sleep(wait)
                start, ended, before = time.monotonic(), workers.ended(), states
                states = survey.look(reader.read())
                progress.show(states, survey.clock.now())
                if not is_over(states):
                    workers.replace(ended, before)
                wait = pause(time.monotonic() - start)
        finally:
            workers.end()
    return states


@contextmanager
def _environment(values: Mapping[str, str]) -> Iterator[None]:
    before = dict(os.environ)
    os.environ.update(values)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


@contextmanager
def _stopped_by_signal() -> Iterator[None]:
    """Has SIGTERM do what Ctrl-C does, so that workers save what they are at."""

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
