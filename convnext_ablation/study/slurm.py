"""A study's runs as jobs of Slurm, through submitit: a job a run, in arrays.

Slurm has the tuning runs done before the others. A job that is pre-empted or reaches its time limit saves its
state and is queued again. Jobs outlive the driver; the next one finds them by their name.
"""

from __future__ import annotations

import hashlib
import io
import subprocess
import time
from collections.abc import Sequence
from contextlib import redirect_stderr
from pathlib import Path
from typing import Any

from convnext_ablation.errors import UserError
from convnext_ablation.study.engine import RUN, Task
from convnext_ablation.study.experiment import Study

JOBS = "slurm"  # folder of submitit's files and of the jobs' output
_DEFAULT_TIME = "4:00:00"
_MOST_REQUEUES = 10_000
_SECONDS_TO_SAVE = 60
_SECONDS_BETWEEN_LOOKS = 2.0


class Attempt:
    """What a job does."""

    def __init__(self, task: Task) -> None:
        self.task = task
        self.process: subprocess.Popen[bytes] | None = None

    def __call__(self) -> int:
        """Does the run; the exit code."""
        self.process = subprocess.Popen([*RUN, str(self.task.folder)], stdin=subprocess.PIPE)
        while self.process.poll() is None:  # `wait` would keep `checkpoint`, in a signal handler, from it
            time.sleep(0.2)
        return self.process.returncode

    def checkpoint(self) -> Any:
        """Has the run save where it is, before the job is queued again."""
        if self.process is not None:
            self.process.terminate()
            limit = time.monotonic() + _SECONDS_TO_SAVE
            while self.process.poll() is None and time.monotonic() < limit:
                time.sleep(0.2)
        return _submitit().helpers.DelayedSubmission(Attempt(self.task))


class Slurm:
    """Jobs of Slurm, so many at a time, with more options of sbatch as ``KEY=VALUE``."""

    takes_dependencies = True

    def __init__(self, study: Study, folder: Path, jobs: int | None, options: Sequence[str]) -> None:
        folder = folder.resolve()
        self.folder = folder / JOBS
        self.name = f"study-{folder.name}-{hashlib.sha256(str(folder).encode()).hexdigest()[:8]}"
        self.leave = (
            f"the jobs of Slurm stay: `convnext-ablation study status {folder}` says how far they are, the "
            f"same command follows them, `scancel --name {self.name}` ends them"
        )
        given = _parse(options)
        asked: dict[str, Any] = {"time": _DEFAULT_TIME, "cpus-per-task": study.threads}
        if study.device == "cuda" and not any(key.startswith(("gres", "gpus")) for key in given):
            asked["gpus"] = 1
        self._options = asked | given
        self._jobs = jobs
        self._executor = self._make_executor()
        self._looked = 0.0
        self._ids = self._find()  # job's id by task

    def submit(self, tasks: Sequence[Task]) -> None:
        """Submits an array of the tasks that can begin, and one of those that wait for these."""
        new = [task for task in tasks if task.name not in self._ids]
        self._submit([task for task in new if not task.after], "")
        waiting = [task for task in new if task.after]
        before = {self._ids[name].partition("_")[0] for t in waiting for name in t.after if name in self._ids}
        self._submit(waiting, f"afterany:{':'.join(sorted(before))}" if before else "")

    def wait(self, seconds: float) -> list[tuple[str, str]]:
        """Asks Slurm which jobs it still has."""
        time.sleep(max(0.0, min(seconds, self._looked + _SECONDS_BETWEEN_LOOKS - time.monotonic())))
        if time.monotonic() < self._looked + _SECONDS_BETWEEN_LOOKS:
            return []
        alive = self._alive()
        ended = [(task, self._log(job)) for task, job in self._ids.items() if job not in alive]
        for task, _ in ended:
            del self._ids[task]
        return ended

    def cancel(self) -> None:
        """Leaves the jobs to Slurm."""

    def _submit(self, tasks: Sequence[Task], dependency: str) -> None:
        if not tasks:
            return
        options = self._options | ({"dependency": dependency} if dependency else {})
        self._executor.update_parameters(additional_parameters=options)
        try:
            with redirect_stderr(io.StringIO()):  # what sbatch prints is in the error
                jobs = self._executor.submit_array([Attempt(task) for task in tasks])
        except _submitit().core.utils.FailedJobError as error:
            words = str(error).partition("stderr:")[2] or str(error)
            raise UserError(f"--engine slurm: {' '.join(words.split())[:500]}") from error
        self._ids |= {task.name: job.job_id for task, job in zip(tasks, jobs, strict=True)}

    def _make_executor(self) -> Any:
        try:
            executor = _submitit().SlurmExecutor(self.folder, max_num_timeout=_MOST_REQUEUES)
        except RuntimeError as error:
            raise UserError(f"--engine slurm: there is no Slurm here ({error})") from error
        executor.update_parameters(
            job_name=self.name,
            array_parallelism=self._jobs or 100_000,
            signal_delay_s=_SECONDS_TO_SAVE + 30,
            stderr_to_stdout=True,
        )
        return executor

    def _find(self) -> dict[str, str]:
        """The jobs that an earlier driver submitted, by task; ends those without a task."""
        found = {}
        for job in self._alive():
            path = _submitit().core.utils.JobPaths(self.folder, job).submitted_pickle
            if path.is_file():
                found[_submitit().core.utils.DelayedSubmission.load(path).function.task.name] = job
            else:
                _ask("scancel", job)
        return found

    def _alive(self) -> set[str]:
        self._looked = time.monotonic()
        return set(_ask("squeue", "--me", "-h", "-r", "-o", "%i", "--name", self.name).split())

    def _log(self, job: str) -> str:
        """The last words of a job whose run did not get so far as to write a log."""
        path = _submitit().core.utils.JobPaths(self.folder, job).stdout
        return f"its job {job} ended without a result ({path})"


def _parse(options: Sequence[str]) -> dict[str, str]:
    found = {}
    for text in options:
        key, equals, value = text.lstrip("-").partition("=")
        if not equals or not value or not key.replace("-", "").replace("_", "").isalnum():
            raise UserError(f"--sbatch {text}: write KEY=VALUE, such as partition=gpu or time=4:00:00")
        found[key.replace("_", "-")] = value
    return found


def _ask(*command: str) -> str:
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout
    except FileNotFoundError as error:
        raise UserError(
            f"--engine slurm: {command[0]} is not here; run this where jobs are submitted"
        ) from error
    except subprocess.CalledProcessError as error:
        raise UserError(f"--engine slurm: {' '.join(error.stderr.split())[:500]}") from error


def _submitit() -> Any:
    try:
        import submitit
    except ImportError as error:
        raise UserError("submitit is missing; pip install 'convnext_ablation[slurm]'") from error
    return submitit
