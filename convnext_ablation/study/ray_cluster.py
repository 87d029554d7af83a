"""A study's runs on a cluster of Ray: an actor a run, which outlives the driver and has a name."""

from __future__ import annotations

import socket
import subprocess
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from convnext_ablation.errors import UserError
from convnext_ablation.study.engine import command_of, how_it_ended, imported, name_of
from convnext_ablation.study.experiment import Study
from convnext_ablation.study.status import RunState

NAMESPACE = "convnext_ablation"
_SECONDS_TO_ANSWER = 10.0
_RETRIES = 3  # when a node is lost


class Attempt:
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
        self._actor = self._ray.remote(max_restarts=_RETRIES, max_task_retries=_RETRIES, **takes)(Attempt)
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
