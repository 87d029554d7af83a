"""A study's workers as jobs of Slurm, through submitit.

Each job works like `study work`: it does what is free, and what it leaves behind when its time is up goes on
wherever another job finds it.
"""

from __future__ import annotations

import ast
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from convnext_ablation.errors import UserError
from convnext_ablation.study.progress import Progress
from convnext_ablation.study.store import read_study
from convnext_ablation.study.workers import places_for, supervise

LOGS = "slurm"
# what submitit calls the same for every kind of cluster; all else is passed to Slurm's sbatch
_COMMON = ("name", "nodes", "timeout_min", "mem_gb", "tasks_per_node", "cpus_per_task", "gpus_per_node")
_CLUSTERS = ("slurm", "local", "debug")


def parse_slurm(texts: Sequence[str]) -> dict[str, Any]:
    """Reads ``KEY=VALUE`` pairs: numbers as numbers, all else as text.

    Raises:
        UserError: One is something else.
    """
    parameters: dict[str, Any] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not key.isidentifier() or not equals or not value:
            raise UserError(f"--slurm {text}: write KEY=VALUE, such as partition=gpu or timeout_min=240")
        try:
            parameters[key] = ast.literal_eval(value)
        except (SyntaxError, ValueError):
            parameters[key] = value
    cluster = parameters.get("cluster", "slurm")
    if cluster not in _CLUSTERS:
        raise UserError(f"--slurm cluster={cluster}: it is one of {', '.join(_CLUSTERS)}")
    return parameters


class Worker:
    """What a job does; submitit puts it into the queue again when Slurm takes its machine away.

    Args:
        study_folder: The study's folder, seen by all machines.
        jobs: Workers of the job; None for one a GPU, or one a core.
    """

    def __init__(self, study_folder: Path, jobs: int | None) -> None:
        self.study_folder = study_folder
        self.jobs = jobs

    def __call__(self) -> None:
        """Works until nothing is left to do."""
        study = read_study(self.study_folder)
        progress = Progress(study)
        try:
            supervise(self.study_folder, places_for(study.device, self.jobs, study.threads), progress)
        finally:
            progress.close()

    def checkpoint(self) -> Any:
        """What is put into the queue again: the same, for runs go on by themselves."""
        return _submitit().helpers.DelayedSubmission(self)


def submit(study_folder: Path, parameters: Mapping[str, Any], count: int, jobs: int | None) -> list[Any]:
    """Puts jobs into Slurm's queue that work on a study.

    Args:
        study_folder: The study's folder, seen by all machines.
        parameters: What `parse_slurm` returned.
        count: How many jobs.
        jobs: Workers of each.

    Raises:
        UserError: submitit is missing, there is no Slurm here, or it refuses.
    """
    submitit = _submitit()
    parameters = dict(parameters)
    cluster = parameters.pop("cluster", "slurm")
    settings = {key if key in _COMMON else f"slurm_{key}": value for key, value in parameters.items()}
    try:
        executor = submitit.AutoExecutor(folder=str(study_folder.resolve() / LOGS / "%j"), cluster=cluster)
        executor.update_parameters(name=f"study-{study_folder.name}", **settings)
        task = Worker(study_folder.resolve(), jobs)
        if cluster != "slurm":
            return [executor.submit(task) for _ in range(count)]
        with executor.batch():
            return [executor.submit(task) for _ in range(count)]
    except (
        OSError,
        RuntimeError,
        TypeError,
        ValueError,
        NameError,
        submitit.core.utils.FailedJobError,
    ) as error:
        raise UserError(f"--slurm: jobs can't be submitted: {' '.join(str(error).split())[:300]}") from error


def any_alive(jobs: Sequence[Any]) -> bool:
    """Whether some job waits or runs."""
    return not all(job.done() for job in jobs)


def wait_for_local(jobs: Sequence[Any], parameters: Mapping[str, Any]) -> None:
    """Waits for jobs that are processes of this one to end, as they do once nothing is left to do."""
    if parameters.get("cluster", "slurm") != "slurm":
        for job in jobs:
            job.wait()


def _submitit() -> Any:
    try:
        import submitit
    except ImportError as error:
        raise UserError("submitit is missing; pip install 'convnext_ablation[slurm]'") from error
    return submitit
