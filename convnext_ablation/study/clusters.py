"""Runs a study on a cluster, as Slurm jobs (through submitit) or Ray actors.

With Slurm, each run is one job in a job array, and depends on its tuning and pre-training runs. A job that
is preempted or reaches its time limit saves a checkpoint and is requeued. With Ray, each run is one actor.
Jobs and actors outlive the driver; the next driver finds them by name.
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

JOBS = "slurm"  # folder for submitit's files
_SECONDS_OF_SILENCE = 600.0  # without an answer from squeue before the driver gives up
_SECONDS_TO_SAVE = 60.0  # of the 90 between submitit's signal and the time limit
NAMESPACE = "convnext_ablation"  # of the Ray actors
_SECONDS_TO_ANSWER = 10.0
_RETRIES = 3  # when a node is lost


@dataclass
class Job:
    """The work of one job, pickled by value so that the job itself doesn't import torch."""

    task: str
    command: list[str]
    log: str
    process: subprocess.Popen[bytes] | None = None

    def __call__(self) -> None:
        """Executes the run and exits with its code, so that Slurm also sees a failure."""
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(self.command, stdin=subprocess.PIPE, stdout=log, stderr=log)
            while (code := self.process.poll()) is None:  # `wait` would block `checkpoint`
                time.sleep(0.2)
            if code < 0:
                log.write(b"killed by signal %d (out of memory?)\n" % -code)
        raise SystemExit(code if code >= 0 else 128 - code)

    def checkpoint(self) -> Any:
        """Makes the run save a checkpoint before the job is requeued."""
        from submitit.helpers import DelayedSubmission

        if self.process is not None:
            self.process.terminate()
            with suppress(subprocess.TimeoutExpired):
                self.process.wait(_SECONDS_TO_SAVE)
        return DelayedSubmission(Job(self.task, self.command, self.log))


class Slurm:
    """Engine that submits Slurm jobs, at most `jobs` at a time; sbatch options: ``KEY=VALUE`` or ``KEY``."""

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
        alive = _states(self.name)  # from an earlier driver
        if not alive:  # otherwise the quota may be used up
            held = _ask("sbatch", "--hold", "--parsable", *asked, "--wrap=true")  # tests the options
            _ask("scancel", held.partition(";")[0].strip())
        self._executor = self._submitit.SlurmExecutor(folder.resolve() / JOBS, max_num_timeout=10_000)
        self._executor.update_parameters(job_name=self.name, array_parallelism=jobs or 100_000)
        utils = self._submitit.core.utils
        self._ids: dict[str, str] = {}  # job id by task
        for job in alive:
            path = utils.JobPaths(self._executor.folder, job).submitted_pickle
            if path.is_file():
                self._ids[utils.DelayedSubmission.load(path).function.task] = job

    def submit(self, runs: Sequence[RunState]) -> Sequence[RunState]:
        """Submits one array per set of dependencies.

        Slurm limits concurrent jobs per array only. With a limit, each array therefore waits for the whole
        previous array, and nothing new is submitted until all jobs have ended.
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
        """Sleeps, then asks squeue which jobs have ended."""
        time.sleep(seconds)
        try:
            alive = _states(self.name)
            self._answered = time.monotonic()
        except UserError:  # the controller may be restarting; its jobs keep running
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
        """Does nothing; the Slurm jobs keep running."""

    def _submit(self, runs: Sequence[RunState]) -> None:
        if not runs:
            return
        before = [self._ids[task] for run in runs for task in run.after]
        jobs = dict.fromkeys(job.partition("_")[0] if self._jobs else job for job in before)
        options = self._options | ({"dependency": f"afterany:{':'.join(jobs)}"} if jobs else {})
        self._executor.update_parameters(additional_parameters=options)
        try:
            with redirect_stderr(StringIO()):  # submitit also prints its exceptions
                made = self._executor.submit_array([Job(r.task, command_of(r), str(r.log)) for r in runs])
        except self._submitit.core.utils.FailedJobError as error:
            if len(runs) == 1:
                raise _refused(str(error)) from error
            self._submit(runs[: len(runs) // 2])  # Slurm limits array sizes; the next call submits the rest
        else:
            self._ids |= {run.task: job.job_id for run, job in zip(runs, made, strict=True)}


def queue_of(folder: Path) -> str:
    """Counts a study's Slurm jobs by state: ``2 running, 3 pending``; empty if it never used Slurm."""
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
    """A Ray actor that executes one run, pickled by value so that it doesn't import torch."""

    def __init__(self, command: Sequence[str], log: str) -> None:
        with open(log, "ab") as output:
            self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=output, stderr=output)

    def wait(self) -> int:
        """Waits for the run to end; returns its exit code."""
        return self.process.wait()


class RayCluster:
    """Engine that starts Ray actors: at most `jobs` at a time, by default as many as the cluster can hold."""

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
        self._at_work: dict[Any, tuple[str, Any]] = {}  # task and actor by Ray object reference
        for name in self._ray.util.list_named_actors():  # from an earlier driver
            if name.startswith(self._prefix):
                actor = self._ray.get_actor(name)
                self._at_work[actor.wait.remote()] = name.removeprefix(self._prefix), actor

    def submit(self, runs: Sequence[RunState]) -> Sequence[RunState]:
        """Starts an actor for each run that fits."""
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
        """Waits for actors to end, and removes them."""
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
        """Disconnects; the actors keep running."""
        with suppress(Exception):  # the cluster may be gone
            self._ray.shutdown()


@contextmanager
def _answers() -> Iterator[None]:
    """Turns Ray's errors into a one-line `UserError`: the cluster no longer answers."""
    try:
        yield
    except Exception as error:  # Ray raises several types, as does gRPC
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise UserError(
            f"--engine ray: the cluster no longer answers ({reason}); when it does, the same command resumes"
        ) from error


def _connect(ray: Any, address: str) -> None:
    """Connects to a cluster with a short timeout; Ray itself would retry for minutes."""
    problems = [f"silent for {_SECONDS_TO_ANSWER:g} s"]

    def connect() -> None:
        host, _, port = address.rpartition("/")[2].rpartition(":")
        try:
            if port.isdigit():
                socket.create_connection((host, int(port)), _SECONDS_TO_ANSWER).close()
            ray.init(address, namespace=NAMESPACE, logging_level="ERROR", log_to_driver=False)
            problems.clear()
        except Exception as error:  # Ray raises several types, as does gRPC
            problems[:] = [" ".join(str(error).split())[:200]]

    thread = threading.Thread(target=connect, daemon=True)
    thread.start()
    thread.join(_SECONDS_TO_ANSWER)
    if problems:
        raise UserError(f"--ray-address {address}: no cluster of Ray answers there ({problems[0]})")
