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
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import Any

import torch

from convnext_ablation.bench import roofline
from convnext_ablation.bench.configuration import DEFAULT, TUNED, Configuration, Contestant
from convnext_ablation.bench.contestants import Prepared, peak_memory, prepare, reference
from convnext_ablation.bench.timing import interleaved
from convnext_ablation.errors import first_line
from convnext_ablation.machine import KEEP_MEMORY, end_with_parent

__all__ = ["ProcessDiedError", "allocator_setting", "environment", "measure", "measured"]

OTHER = "other"  # neither setting, e.g. an allocator that is loaded in the place of glibc's
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
        for contestant in left if configuration.memory else ():
            one = found["contestants"][str(contestant)]
            if "error" not in one:
                try:
                    memory = _ask(configuration, contestant, folder, turn)
                except ProcessDiedError:
                    memory = {}  # its times don't need it
                one.update({name: memory[name] for name in ("peak", "idle") if name in memory})
    contestants = {**found["contestants"], **failures}
    found["contestants"] = {str(one): contestants[str(one)] for one in configuration.contestants}
    return found


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


def allocator_setting(variables: Mapping[str, str]) -> str:
    """How a process has its allocator set, by its environment."""
    malloc = {name: value for name, value in variables.items() if name.startswith("MALLOC_")}
    replaced = "malloc" in variables.get("LD_PRELOAD", "") or "GLIBC_TUNABLES" in variables
    if replaced or (malloc and malloc != dict(KEEP_MEMORY)):
        return OTHER
    return TUNED if malloc else DEFAULT


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
        say("found", _or_error(partial(peak_memory, memory_of, configuration)))


def measure(configuration: Configuration, turn: _Turn) -> _Found:
    """Times a configuration's contestants in turn, and between them what the machine does at best.

    Returns:
        Under ``contestants`` what was found of each, ``seconds`` by round and more, or an ``error``; and
        what was found of the machine and of this process.
    """
    found: dict[str, _Found] = {}
    ready: dict[str, Prepared] = {}
    references: dict[str, torch.Tensor] = {}
    for contestant in configuration.contestants:
        turn(str(contestant))
        found[str(contestant)] = _or_error(partial(_prepared, contestant, configuration, ready, references))
    kernels = roofline.kernels(configuration.device, configuration.dtypes)
    times = interleaved(
        {**{name: one.step for name, one in ready.items()}, **kernels},
        configuration.rounds,
        at_least=_AT_LEAST,
        failed=lambda name, error: found.update({name: _error(error)}),
        turn=turn,
    )
    for name in ready.keys() & times.keys():
        found[name]["seconds"] = times[name].seconds
    peaks, bandwidth = roofline.best_of({name: times[name] for name in kernels if name in times})
    return {
        "contestants": found,
        "peaks": peaks,
        "bandwidth": bandwidth,
        "allocator": allocator_setting(os.environ),
        "threads": torch.get_num_threads(),
    }


def _prepared(
    contestant: Contestant,
    configuration: Configuration,
    ready: dict[str, Prepared],
    references: dict[str, torch.Tensor],
) -> _Found:
    one = prepare(contestant, configuration)
    found = {"preparation": one.seconds}
    if one.output is not None:
        if contestant.model not in references:
            references[contestant.model] = reference(contestant.model, configuration)
        expected = references[contestant.model]
        found["difference"] = ((one.output - expected).abs().max() / expected.abs().max()).item()
    ready[str(contestant)] = one
    return found


def _or_error(action: Callable[[], Mapping[str, Any]]) -> _Found:
    """What an action found, or what it raised."""
    try:
        return dict(action())
    except Exception as error:
        return _error(error)


def _error(error: Exception) -> _Found:
    name, line = type(error).__name__, first_line(error)
    return {"error": name if line == name else f"{name}: {line}"}


if __name__ == "__main__":
    _work()
