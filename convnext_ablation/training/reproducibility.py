"""Equal inputs, equal bits: seeds and deterministic algorithms."""

from __future__ import annotations

import hashlib

import torch
from timm.utils import random_seed


def seed_stream(*identity: object) -> None:
    """Seeds every random stream (Python, NumPy, torch) from values that name what is about to happen.

    Each epoch starts from its own seed, so that a run that goes on after an interruption draws the same
    numbers as one that was never interrupted.

    Args:
        *identity: For example the run's seed, ``"epoch"`` and the number of the epoch.
    """
    digest = hashlib.sha256(repr(identity).encode()).digest()
    random_seed(int.from_bytes(digest[:4], "little"))


def make_deterministic(threads: int) -> None:
    """Has torch use deterministic algorithms only, on a fixed number of threads.

    Args:
        threads: Threads of one operation; sums come out differently for another number.
    """
    torch.use_deterministic_algorithms(True)
    torch.set_num_threads(threads)
