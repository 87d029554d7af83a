"""The processes that measure: each configuration in one of its own, with the allocator set for it.

glibc gives large blocks back to the system as soon as they are free and takes them again page by page, which
on a CPU costs a network up to half of its time. Told to keep them ("tuned"), it doesn't. It reads the setting
when a process starts. A contestant whose process is killed fails alone: the others are measured without it.
"""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from functools import cache, partial
from typing import Any

import torch

from convnext_ablation.bench import roofline
from convnext_ablation.bench.configuration import TUNED, Configuration, Contestant
from convnext_ablation.bench.contestants import peak_memory, prepare, reference
from convnext_ablation.bench.timing import interleaved
from convnext_ablation.errors import first_line
from convnext_ablation.machine import KEEP_MEMORY, end_with_parent

__all__ = ["ProcessDiedError", "environment", "measure", "measured"]

_WORKER = "convnext_ablation.bench.processes"
_AT_LEAST = 0.1  # seconds that a measurement lasts
_Found = dict[str, Any]
_Turn = Callable[[str], object]


class ProcessDiedError(Exception):
    """A process ended before it answered; `turn` is whose turn it was, empty if nobody's."""

    def __init__(self, turn: str, message: str) -> None:
        super().__init__(message)
        self.turn = turn


def measured(configuration: Configuration, turn: _Turn) -> _Found:
    """Measures a configuration in processes of its own; `turn` is called with whoever's turn it is.

    Returns:
        As `measure`, with ``peak`` and ``idle`` memory in bytes where they are asked for.

    Raises:
        ProcessDiedError: A process ended at nobody's turn, so that it is nobody's fault.
    """
    failures: dict[str, _Found] = {}
    with tempfile.TemporaryDirectory(prefix="bench") as folder:
        while True:
            left = tuple(one for one in configuration.contestants if str(one) not in failures)
            try:
                found = _ask(replace(configuration, contestants=left), None, folder, turn)
                break
            except ProcessDiedError as error:
                if error.turn not in map(str, left):
                    raise
                failures[error.turn] = {"error": str(error)}
        contestants = {**found["contestants"], **failures}
        for contestant in configuration.contestants if configuration.memory else ():
            if "error" not in contestants[str(contestant)]:
                with suppress(ProcessDiedError):  # its times don't need it
                    contestants[str(contestant)].update(_ask(configuration, contestant, folder, turn))
    return {**found, "contestants": {str(one): contestants[str(one)] for one in configuration.contestants}}


def _ask(configuration: Configuration, memory_of: Contestant | None, folder: str, turn: _Turn) -> _Found:
    """What a process finds: of the configuration, or of the memory of one contestant."""
    variables = environment(configuration.allocator, configuration.threads)
    # a cache that is empty at first, so that the time to compile is that of the first time
    variables["TORCHINDUCTOR_CACHE_DIR"] = folder
    last = ""
    with tempfile.TemporaryFile("w+") as errors:
        with subprocess.Popen(
            [sys.executable, "-m", _WORKER],
            env=variables,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
        ) as process:
            assert process.stdin
            assert process.stdout
            try:
                with suppress(BrokenPipeError), process.stdin as order:
                    pickle.dump((configuration, memory_of), order)
                with suppress(EOFError, pickle.UnpicklingError):  # the process has ended
                    while True:
                        kind, value = pickle.load(process.stdout)
                        if kind == "found":
                            return dict(value)
                        last = value
                        turn(last)
                code = process.wait()
            finally:
                process.kill()
        errors.seek(0)
        raise ProcessDiedError(last, _reason(code, errors.read()))


def environment(allocator: str, threads: int) -> dict[str, str]:
    """The environment of a process that has an allocator and the threads of its libraries set."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("MALLOC_") and name != "GLIBC_TUNABLES"
    }
    return {**kept, "OMP_NUM_THREADS": str(threads), **(KEEP_MEMORY if allocator == TUNED else {})}


def _reason(code: int, errors: str) -> str:
    """Why a process ended, in a line."""
    if code == -signal.SIGKILL:
        return "its process was killed by the system, which most often means that memory ran out"
    if code < 0:
        return f"its process ended by {signal.Signals(-code).name}"
    lines = errors.strip().splitlines()
    return f"its process ended with exit code {code}" + (f": {lines[-1]}" if lines else "")


def _work() -> None:
    """What a process does: it says whose turn it is, and at last what it found."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # who started this process ends it
    end_with_parent()
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what libraries print must not get between the answers
    configuration, memory_of = pickle.load(sys.stdin.buffer)
    torch.set_num_threads(configuration.threads)

    def say(kind: str, value: Any) -> None:
        pickle.dump((kind, value), answers)
        answers.flush()

    if memory_of is None:
        say("found", measure(configuration, partial(say, "turn")))
    else:
        say("turn", str(memory_of))
        say("found", peak_memory(memory_of, configuration))


def measure(configuration: Configuration, turn: _Turn) -> _Found:
    """Times a configuration's contestants in turn, and between them what the machine does at best.

    Returns:
        Under ``contestants`` what was found of each, ``seconds`` by round and more, or an ``error``; and
        ``peaks`` and ``bandwidth`` as `roofline.best_of` returns them.
    """
    found: dict[str, _Found] = {}
    steps: dict[str, Callable[[], object]] = {}
    plain = cache(partial(reference, configuration=configuration))
    for contestant in configuration.contestants:
        name = str(contestant)
        turn(name)
        try:
            ready = prepare(contestant, configuration)
            found[name] = {"preparation": ready.seconds}
            if ready.output is not None:
                expected = plain(contestant.model)
                difference = (ready.output - expected).abs().max() / expected.abs().max()
                found[name]["difference"] = difference.item()
            steps[name] = ready.step
        except Exception as error:
            found[name] = _error(error)
    kernels = roofline.kernels(configuration.device, configuration.dtypes)
    times = interleaved(
        {**steps, **kernels},
        configuration.rounds,
        at_least=_AT_LEAST,
        failed=lambda name, error: found.update({name: _error(error)}),
        turn=turn,
    )
    for name in steps.keys() & times.keys():
        found[name]["seconds"] = times[name].seconds
    peaks, bandwidth = roofline.best_of({name: times[name] for name in kernels if name in times})
    return {"contestants": found, "peaks": peaks, "bandwidth": bandwidth}


def _error(error: Exception) -> _Found:
    name, line = type(error).__name__, first_line(error)
    return {"error": name if line == name else f"{name}: {line}"}


if __name__ == "__main__":
    _work()
