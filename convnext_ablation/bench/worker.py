"""The process that measures: it reads what to do as JSON, and writes what it does and found, a line each."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch

from convnext_ablation.bench import allocators, roofline
from convnext_ablation.bench.configuration import Configuration, Contestant
from convnext_ablation.bench.memory import peak_memory
from convnext_ablation.bench.networks import Prepared, prepare, reference, synchronize
from convnext_ablation.bench.timing import interleaved
from convnext_ablation.machine import end_with_parent

__all__ = ["main", "measure"]

_AT_LEAST = 0.1  # seconds that a measurement lasts


def main() -> None:
    """Measures what standard input asks for."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # who started this process ends it
    end_with_parent()
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print must not get between the answers
    order = json.load(sys.stdin)

    def tell(kind: str, value: Any) -> None:
        print(json.dumps({kind: value}), file=answers, flush=True)

    configuration = Configuration.from_json(order["configuration"])
    torch.set_num_threads(configuration.threads)
    if order["memory_of"]:
        contestant = Contestant(**order["memory_of"])
        tell("turn", str(contestant))
        tell("found", _told(partial(peak_memory, contestant, configuration)))
    else:
        tell("found", measure(configuration, lambda name: tell("turn", name)))


def measure(configuration: Configuration, turn: Callable[[str], object]) -> dict[str, Any]:
    """Times a configuration's contestants in turn, and between them what the machine does at best.

    Args:
        configuration: What to measure.
        turn: Is called with the name of whoever's turn it is.

    Returns:
        Under ``contestants`` what was found of each, ``seconds`` by round and more, or an ``error``; and
        what was found of the machine and of this process.
    """
    found: dict[str, dict[str, Any]] = {}
    ready: dict[str, Prepared] = {}
    references: dict[str, torch.Tensor] = {}
    for contestant in configuration.contestants:
        turn(str(contestant))
        found[str(contestant)] = _told(partial(_prepared, contestant, configuration, ready, references))
    kernels = roofline.kernels(configuration.device, configuration.dtypes)
    times = interleaved(
        {**{name: one.step for name, one in ready.items()}, **kernels},
        configuration.rounds,
        at_least=_AT_LEAST,
        finish=lambda: synchronize(configuration.device),
        failed=lambda name, error: found.update({name: _error(error)}),
        turn=turn,
    )
    for name in ready.keys() & times.keys():
        found[name]["seconds"] = times[name].seconds
    machine = roofline.machine_from({name: times[name] for name in kernels if name in times})
    return {
        "contestants": found,
        "peaks": machine.peaks,
        "bandwidth": machine.bandwidth,
        "allocator": allocators.setting(),
        "threads": torch.get_num_threads(),
    }


def _prepared(
    contestant: Contestant,
    configuration: Configuration,
    ready: dict[str, Prepared],
    references: dict[str, torch.Tensor],
) -> dict[str, Any]:
    one = prepare(contestant, configuration)
    found = {"preparation": one.seconds}
    if one.output is not None:
        if contestant.model not in references:
            references[contestant.model] = reference(contestant.model, configuration)
        expected = references[contestant.model]
        found["difference"] = ((one.output - expected).abs().max() / expected.abs().max()).item()
    ready[str(contestant)] = one
    return found


def _told(action: Callable[[], Mapping[str, Any]]) -> dict[str, Any]:
    """What an action found, or what it raised."""
    try:
        return dict(action())
    except Exception as error:
        return _error(error)


def _error(error: Exception) -> dict[str, Any]:
    lines = str(error).strip().splitlines() or [""]
    return {"error": f"{type(error).__name__}: {lines[0]}".rstrip(": ")}


if __name__ == "__main__":
    main()
