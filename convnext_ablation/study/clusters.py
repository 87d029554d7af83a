"""A study's runs on a cluster: as jobs of Slurm, through submitit, or as actors of Ray.

Slurm has a job a run, in arrays, and the tuning runs done before the others. A job that is pre-empted or
reaches its time limit saves its state and is queued again. Ray has an actor a run. Both outlive the driver;
the next one finds them by their name.
"""

from __future__ import annotations

import socket
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, suppress
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any

from convnext_ablation.errors import UserError
from convnext_ablation.study.engine import command_of, how_it_ended, imported, name_of
from convnext_ablation.study.experiment import Study
from convnext_ablation.study.status import RunState

JOBS = "slurm"  # folder of submitit's files
_SECONDS_OF_SILENCE = 600.0  # of squeue, after which the driver gives up
_SECONDS_TO_SAVE = 60.0  # of the 90 that submitit is told before the time limit
NAMESPACE = "convnext_ablation"  # of Ray's actors
_SECONDS_TO_ANSWER = 10.0
_RETRIES = 3  # when a node is lost


@dataclass
class Job:
    """What a job does. It is pickled with its code, so that the job need not import torch a second time."""

    task: str
    command: list[str]
    log: str
    process: subprocess.Popen[bytes] | None = None

    def __call__(self) -> None:
        """Does the run, and ends with its exit code, so that Slurm knows of a failure, too."""
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(self.command, stdin=subprocess.PIPE, stdout=log, stderr=log)
            while (code := self.process.poll()) is None:  # `wait` would keep `checkpoint` from it
                time.sleep(0.2)
            if code < 0:
                log.write(b"killed by signal %d (out of memory?)\n" % -code)
        raise SystemExit(code if code >= 0 else 128 - code)

    def checkpoint(self) -> Any:
        """Has the run save where it is, before the job is queued again."""
        from submitit.helpers import DelayedSubmission

        if self.process is not None:
            self.process.terminate()
            with suppress(subprocess.TimeoutExpired):
                self.process.wait(_SECONDS_TO_SAVE)
        return DelayedSubmission(Job(self.task, self.command, self.log))


class Slurm:
    """Jobs of Slurm, so many at a time, with more options of sbatch as ``KEY=VALUE`` or ``KEY``."""

    def __init__(self, study: Study, folder: Path, jobs: int | None, options: Sequence[str]) -> None:
        self._submitit = imported("submitit", "slurm", "cloudpickle", __name__)
        self.name, self._jobs, self._answered = name_of(folder), jobs, time.monotonic()
        self.leave = f"the jobs of Slurm go on, and `scancel --name {self.name}` ends them"
        self._options: dict[str, Any] = {"time": "4:00:00", "cpus-per-task": study.threads * study.processes}
        if study.device == "cuda" and not any(option.startswith(("gres", "gpus")) for option in options):
            self._options["gpus"] = study.processes
        for option in options:
            key, equals, value = option.partition("=")
            self._options[key.replace("_", "-")] = value if equals else True
        asked = [f"--{key}" if value is True else f"--{key}={value}" for key, value in self._options.items()]
        alive = _states(self.name)  # of an earlier driver
        if not alive:  # there may be no room for more
            held = _ask("sbatch", "--hold", "--parsable", *asked, "--wrap=true")  # refused here, if at all
            _ask("scancel", held.partition(";")[0].strip())
        self._executor = self._submitit.SlurmExecutor(folder.resolve() / JOBS, max_num_timeout=10_000)
        self._executor.update_parameters(job_name=self.name, array_parallelism=jobs or 100_000)
        utils = self._submitit.core.utils
        self._ids: dict[str, str] = {}  # job by task
        for job in alive:
            path = utils.JobPaths(self._executor.folder, job).submitted_pickle
            if path.is_file():
                self._ids[utils.DelayedSubmission.load(path).function.task] = job

    def submit(self, runs: Sequence[RunState]) -> Sequence[RunState]:
        """Submits arrays of the runs that can begin, and of those that wait for the same runs.

        A limit of jobs at a time is each array's own. So with one, each array waits for all of the last, and
        the next ones come when all have ended.
        """
        new = [] if self._jobs and self._ids else [run for run in runs if run.task not in self._ids]
        levels: dict[str, int] = {}
        arrays: dict[object, list[RunState]] = {}
        for run in new:
            levels[run.task] = max((levels.get(task, -1) + 1 for task in run.after), default=0)
            arrays.setdefault(levels[run.task] if self._jobs else run.after, []).append(run)
        for array in arrays.values():
            self._submit([run for run in array if self._ids.keys() >= set(run.after)])
        return [run for run in runs if run.task in self._ids]

    def wait(self, seconds: float) -> list[tuple[str, str]]:
        """Waits, and asks Slurm which jobs it still has."""
        time.sleep(seconds)
        try:
            alive = _states(self.name)
            self._answered = time.monotonic()
        except UserError:  # a controller that restarts answers again; its jobs go on
            if time.monotonic() - self._answered > _SECONDS_OF_SILENCE:
                raise
            return []
        ended = {self._ids.pop(task): task for task, job in [*self._ids.items()] if job not in alive}
        how = {}
        with suppress(UserError):
            how = _states(self.name, "-t", "all") if ended else {}
        text = "its job {} of Slurm ended without a result ({})"
        return [(task, text.format(job, how.get(job, "unknown"))) for job, task in ended.items()]

    def cancel(self) -> None:
        """Leaves the jobs to Slurm."""

    def _submit(self, runs: Sequence[RunState]) -> None:
        if not runs:
            return
        before = [self._ids[task] for run in runs for task in run.after]
        jobs = dict.fromkeys(job.partition("_")[0] if self._jobs else job for job in before)
        options = self._options | ({"dependency": f"afterany:{':'.join(jobs)}"} if jobs else {})
        self._executor.update_parameters(additional_parameters=options)
        try:
            with redirect_stderr(StringIO()):  # submitit prints what it raises
                made = self._executor.submit_array([Job(r.task, command_of(r), str(r.log)) for r in runs])
        except self._submitit.core.utils.FailedJobError as error:
            if len(runs) == 1:
                raise _refused(str(error)) from error
            self._submit(runs[: len(runs) // 2])  # Slurm limits arrays; the rest is for the next call
        else:
            self._ids |= {run.task: job.job_id for run, job in zip(runs, made, strict=True)}


def queue_of(folder: Path) -> str:
    """What Slurm says of a study's jobs, such as ``2 running, 3 pending``; empty if it was never asked."""
    if not (folder / JOBS).is_dir():
        return ""
    try:
        states = Counter(_states(name_of(folder), seconds=0.5).values())
    except UserError:
        return "no answer"
    return ", ".join(f"{count} {state.lower()}" for state, count in states.items()) or "no jobs"


def _states(name: str, *options: str, seconds: float | None = None) -> dict[str, str]:
    asked = ("squeue", "--me", "-h", "-r", "-o", "%i %T", "--name", name, *options)
    text = _ask(*asked, seconds=seconds)
    lines = [line.split() for line in text.splitlines()]
    if any(len(words) != 2 for words in lines):
        raise _refused(f"squeue printed {text!r}, and not jobs and their states")
    return {words[0]: words[1] for words in lines}


def _ask(*command: str, seconds: float | None = None) -> str:
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, errors="replace", check=True, timeout=seconds
        )
        return done.stdout
    except (OSError, subprocess.SubprocessError) as error:
        raise _refused(getattr(error, "stderr", None) or str(error)) from error


def _refused(words: str) -> UserError:
    return UserError(f"--engine slurm: {' '.join(words.split())[:500]}")


class Actor:
    """What an actor does. It is pickled with its code, so that the actor need not import torch."""

    def __init__(self, command: Sequence[str], log: str) -> None:
        with open(log, "ab") as output:
            self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=output, stderr=output)

    def wait(self) -> int:
        """Waits until the run has ended; the exit code."""
        return self.process.wait()


class RayCluster:
    """Actors of Ray, so many at a time, or as many as the cluster has room for."""

    leave = "Ray goes on with what it has begun"

    def __init__(self, study: Study, folder: Path, jobs: int | None, address: str) -> None:
        self._ray = imported("ray", "ray", "ray.cloudpickle", __name__)
        _connect(self._ray, address)
        self._prefix = f"{name_of(folder)}-"
        cores = study.threads * study.processes
        kind, each = ("GPU", study.processes) if study.device == "cuda" else ("CPU", cores)
        room = sum(int(node["Resources"].get(kind, 0)) // each for node in self._ray.nodes())
        self._jobs = jobs or room
        if room < max(1, self._jobs):
            self._ray.shutdown()
            do = "give fewer --jobs" if room else "add a node"
            raise UserError(f"--engine ray: the cluster has room for {room} runs of {each} {kind} each; {do}")
        takes = {"num_cpus": cores, "num_gpus": each if kind == "GPU" else 0}
        self._actor = self._ray.remote(max_restarts=_RETRIES, max_task_retries=_RETRIES, **takes)(Actor)
        self._at_work: dict[Any, tuple[str, Any]] = {}  # task and actor by Ray's reference
        for name in self._ray.util.list_named_actors():  # of an earlier driver
            if name.startswith(self._prefix):
                actor = self._ray.get_actor(name)
                self._at_work[actor.wait.remote()] = name.removeprefix(self._prefix), actor

    def submit(self, runs: Sequence[RunState]) -> Sequence[RunState]:
        """Makes an actor for as many runs as there is room for."""
        known = {task for task, _ in self._at_work.values()}
        for run in runs:
            if not run.after and run.task not in known and len(known) < self._jobs:
                known.add(run.task)
                make = self._actor.options(name=self._prefix + run.task, lifetime="detached")
                with _answers():
                    actor = make.remote(command_of(run), str(run.log))
                    self._at_work[actor.wait.remote()] = run.task, actor
        return [run for run in runs if run.task in known]

    def wait(self, seconds: float) -> list[tuple[str, str]]:
        """Waits for actors."""
        ended = []
        with _answers():
            ready = self._ray.wait(list(self._at_work), timeout=seconds)[0]
        for reference in ready:
            task, actor = self._at_work.pop(reference)
            try:
                ended.append((task, how_it_ended(self._ray.get(reference))))
            except self._ray.exceptions.RayError as error:
                ended.append((task, f"Ray lost it: {str(error).partition(chr(10))[0]}"))
            with _answers():
                self._ray.kill(actor)
        return ended

    def cancel(self) -> None:
        """Leaves the actors to Ray."""
        with suppress(Exception):  # of a cluster that is gone
            self._ray.shutdown()


@contextmanager
def _answers() -> Iterator[None]:
    """Says in one line that a cluster which answered once no longer does."""
    try:
        yield
    except Exception as error:  # of several kinds, also of gRPC
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise UserError(
            f"--engine ray: the cluster no longer answers ({reason}); when it does, the same command resumes"
        ) from error


def _connect(ray: Any, address: str) -> None:
    """Connects to a cluster, which Ray itself tries for minutes."""
    problems = [f"silent for {_SECONDS_TO_ANSWER:g} s"]

    def connect() -> None:
        host, _, port = address.rpartition("/")[2].rpartition(":")
        try:
            if port.isdigit():
                socket.create_connection((host, int(port)), _SECONDS_TO_ANSWER).close()
            ray.init(address, namespace=NAMESPACE, logging_level="ERROR", log_to_driver=False)
            problems.clear()
        except Exception as error:  # of several kinds, also of gRPC
            problems[:] = [" ".join(str(error).split())[:200]]

    thread = threading.Thread(target=connect, daemon=True)
    thread.start()
    thread.join(_SECONDS_TO_ANSWER)
    if problems:
        raise UserError(f"--ray-address {address}: no cluster of Ray answers there ({problems[0]})")
