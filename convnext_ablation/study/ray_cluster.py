"""A study's runs on a cluster of Ray: an actor a run, which outlives the driver and has a name."""

from __future__ import annotations

import hashlib
import socket
import subprocess
import threading
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from convnext_ablation.errors import UserError
from convnext_ablation.study.engine import RUN, Task, how_it_ended
from convnext_ablation.study.experiment import Study

NAMESPACE = "convnext_ablation"
_SECONDS_TO_ANSWER = 10.0
_RETRIES = 3  # when a node is lost


class Attempt:
    """What an actor does."""

    def __init__(self) -> None:
        self._works = threading.Lock()
        self._code: int | None = None

    def is_at_work(self) -> bool:
        """Whether the run is being done."""
        return self._works.locked()

    def do(self, folder: str) -> int:
        """Does a run, or waits until it is done where an earlier driver began it; the exit code."""
        with self._works:
            if self._code is None:
                process = subprocess.Popen([*RUN, folder], stdin=subprocess.PIPE)
                self._code = process.wait()
            return self._code


class RayCluster:
    """Actors of Ray, so many at a time, or as many as the cluster has room for."""

    takes_dependencies = False

    def __init__(self, study: Study, folder: Path, jobs: int | None, address: str) -> None:
        self._ray = _ray()
        _connect(self._ray, address)
        folder = folder.resolve()
        self.leave = (
            f"Ray goes on with what it has begun: `convnext-ablation study status {folder}` says how far it "
            "is, and the same command follows it"
        )
        self._prefix = f"{folder.name}-{hashlib.sha256(str(folder).encode()).hexdigest()[:8]}-"
        kind, each = ("GPU", 1) if study.device == "cuda" else ("CPU", study.threads)
        there = int(self._ray.cluster_resources().get(kind, 0)) // each
        if there < 1 or (kind == "GPU" and jobs and jobs > there):
            self._ray.shutdown()
            raise UserError(
                f"--engine ray: the cluster has room for {there} runs of {each} {kind} each; "
                f"{'give fewer --jobs' if there else 'add a node'}"
            )
        self._jobs = min(jobs or there, there)
        self._actor = self._ray.remote(Attempt)
        self._options = {
            "namespace": NAMESPACE,
            "lifetime": "detached",
            "get_if_exists": True,
            "max_concurrency": 2,
            "max_restarts": _RETRIES,
            "max_task_retries": _RETRIES,
            "num_cpus": study.threads,
            "num_gpus": 1 if kind == "GPU" else 0,
        }
        self._queue: deque[Task] = deque()
        self._at_work: dict[Any, tuple[str, Any]] = {}  # task and actor by Ray's reference
        self._remove_ended()

    def submit(self, tasks: Sequence[Task]) -> None:
        """Queues tasks; Ray has as many at a time as there is room for."""
        self._queue.extend(tasks)
        while self._queue and len(self._at_work) < self._jobs:
            task = self._queue.popleft()
            actor = self._actor.options(name=self._prefix + task.name, **self._options).remote()
            self._at_work[actor.do.remote(str(task.folder.absolute()))] = task.name, actor

    def wait(self, seconds: float) -> list[tuple[str, str]]:
        """Waits for actors."""
        ended = []
        for reference in self._ray.wait(list(self._at_work), timeout=seconds)[0]:
            name, actor = self._at_work.pop(reference)
            try:
                ended.append((name, how_it_ended(self._ray.get(reference))))
            except self._ray.exceptions.RayError as error:
                ended.append((name, f"Ray lost it: {str(error).partition(chr(10))[0]}"))
            self._ray.kill(actor)
        return ended

    def cancel(self) -> None:
        """Leaves the actors to Ray."""
        self._ray.shutdown()

    def _remove_ended(self) -> None:
        """Removes actors whose run ended when no driver was there."""
        for each in self._ray.util.list_named_actors(all_namespaces=True):
            if each["namespace"] == NAMESPACE and each["name"].startswith(self._prefix):
                actor = self._ray.get_actor(each["name"], NAMESPACE)
                answer = actor.is_at_work.remote()
                if self._ray.wait([answer], timeout=_SECONDS_TO_ANSWER)[0] and not self._ray.get(answer):
                    self._ray.kill(actor)


def _ray() -> Any:
    try:
        import ray
    except ImportError as error:
        raise UserError("ray is missing; pip install 'convnext_ablation[ray]'") from error
    return ray


def _connect(ray: Any, address: str) -> None:
    """Connects to a cluster, which Ray itself tries for minutes."""
    problems: list[Exception] = []

    def connect() -> None:
        host, _, port = address.rpartition(":")
        try:
            if host and port.isdigit() and "/" not in host:
                socket.create_connection((host, int(port)), _SECONDS_TO_ANSWER).close()
            ray.init(address, namespace=NAMESPACE, logging_level="ERROR", log_to_driver=False)
        except Exception as error:  # of several kinds, also of gRPC
            problems.append(error)

    thread = threading.Thread(target=connect, daemon=True)
    thread.start()
    thread.join(_SECONDS_TO_ANSWER)
    if problems or thread.is_alive():
        why = " ".join(str(problems[0]).split())[:200] if problems else f"silent for {_SECONDS_TO_ANSWER:g} s"
        raise UserError(f"--ray-address {address}: no cluster of Ray answers there ({why})")
