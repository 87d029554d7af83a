"""The most memory that a contestant holds, in a process that runs nothing else."""

from __future__ import annotations

import sys
from pathlib import Path

import torch

from convnext_ablation.bench.configuration import Configuration, Contestant
from convnext_ablation.bench.networks import prepare

__all__ = ["peak_memory"]

_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
_STEPS = 2


def peak_memory(contestant: Contestant, configuration: Configuration) -> dict[str, float]:
    """Runs a contestant a few times.

    What it held while it was compiled or optimized counts only where the system can't be told to forget it.

    Returns:
        Under ``peak`` the most bytes it held, under ``idle`` those that the process held before there was a
        network; on a GPU those of the GPU, as torch counts them.
    """
    on_gpu = torch.device(configuration.device).type == "cuda"
    _forget(configuration.device)
    idle = 0.0 if on_gpu else _held()
    prepared = prepare(contestant, configuration)
    _forget(configuration.device)
    for _ in range(_STEPS):
        prepared.step()
    peak = float(torch.cuda.max_memory_allocated(configuration.device)) if on_gpu else _held()
    return {"peak": peak, "idle": idle}


def _forget(device: str) -> None:
    """Lets the most memory held so far be what is held now."""
    if torch.device(device).type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    elif _CLEAR.exists():
        _CLEAR.write_text("5")


def _held() -> float:
    """The most bytes of memory that this process has held."""
    if _STATUS.exists():
        found = [line for line in _STATUS.read_text().splitlines() if line.startswith("VmHWM:")]
        if found:
            return 1024 * float(found[0].split()[1])
    try:
        import resource
    except ImportError:  # Windows
        return float("nan")
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return float(most if sys.platform == "darwin" else 1024 * most)
