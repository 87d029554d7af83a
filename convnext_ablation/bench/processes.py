"""Starts the processes that measure, each with its allocator set, and hears what they find."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, replace
from typing import IO, Any

from convnext_ablation.bench import allocators
from convnext_ablation.bench.configuration import Configuration, Contestant

__all__ = ["ProcessDiedError", "measured"]

_WORKER = "convnext_ablation.bench.worker"


class ProcessDiedError(Exception):
    """A process ended before it told what it found.

    Attributes:
        turn: Whose turn it was; empty if nobody's.
    """

    def __init__(self, turn: str, message: str) -> None:
        super().__init__(message)
        self.turn = turn


def measured(configuration: Configuration, turn: Callable[[str], object]) -> dict[str, Any]:
    """Measures a configuration in processes of its own; who ends a process fails, and the others go on.

    Args:
        configuration: What to measure.
        turn: Is called with the name of whoever's turn it is.

    Returns:
        As `worker.measure`, with ``peak`` and ``idle`` memory in bytes where they are asked for.

    Raises:
        ProcessDiedError: A process ended at nobody's turn, so that it is nobody's fault.
    """
    failures: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory(prefix="bench") as cache:
        while True:
            left = tuple(one for one in configuration.contestants if str(one) not in failures)
            try:
                found = _ask(replace(configuration, contestants=left), None, cache, turn)
                break
            except ProcessDiedError as error:
                if error.turn not in map(str, left):
                    raise
                failures[error.turn] = {"error": str(error)}
        if configuration.memory:
            for contestant in left:
                one = found["contestants"][str(contestant)]
                if "error" not in one:
                    one.update(_memory(configuration, contestant, cache, turn))
    contestants = {**found["contestants"], **failures}
    found["contestants"] = {str(one): contestants[str(one)] for one in configuration.contestants}
    return found


def _memory(
    configuration: Configuration, contestant: Contestant, cache: str, turn: Callable[[str], object]
) -> dict[str, Any]:
    """A contestant's memory; nothing if it can't be measured, which its times don't need."""
    try:
        found = _ask(configuration, contestant, cache, turn)
    except ProcessDiedError:
        return {}
    return {name: found[name] for name in ("peak", "idle") if name in found}


def _ask(
    configuration: Configuration, memory_of: Contestant | None, cache: str, turn: Callable[[str], object]
) -> dict[str, Any]:
    order = {
        "configuration": configuration.to_json(),
        "memory_of": asdict(memory_of) if memory_of else None,
    }
    variables = allocators.environment(configuration.allocator, configuration.threads)
    # a cache that is empty at first, so that the time to compile is that of the first time
    variables["TORCHINDUCTOR_CACHE_DIR"] = cache
    last = ""
    with tempfile.TemporaryFile("w+") as errors:
        with _started(variables, errors) as process:
            assert process.stdin
            assert process.stdout
            with suppress(BrokenPipeError):  # a process that has ended is told of below
                process.stdin.write(json.dumps(order))
                process.stdin.close()
            for line in process.stdout:
                answer = json.loads(line)
                if "found" in answer:
                    return dict(answer["found"])
                last = answer["turn"]
                turn(last)
            code = process.wait()
        errors.seek(0)
        raise ProcessDiedError(last, _reason(code, errors.read()))


@contextmanager
def _started(variables: dict[str, str], errors: IO[str]) -> Iterator[subprocess.Popen[str]]:
    """A process that measures, and that is over afterwards."""
    with subprocess.Popen(
        [sys.executable, "-m", _WORKER],
        env=variables,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=errors,
        text=True,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def _reason(code: int, errors: str) -> str:
    """Why a process ended, in a line."""
    if code == -signal.SIGKILL:
        return "its process was killed by the system, which most often means that memory ran out"
    if code < 0:
        return f"its process ended by {signal.Signals(-code).name}"
    lines = errors.strip().splitlines()
    return f"its process ended with exit code {code}" + (f": {lines[-1]}" if lines else "")
