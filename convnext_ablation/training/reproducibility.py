"""Equal inputs, equal bits: seeds and deterministic algorithms."""

from __future__ import annotations

import hashlib
import random

import numpy as np
import torch
import torch.utils.deterministic


def seed_stream(*identity: object) -> None:
    """Seeds every random stream (Python, NumPy, torch) from values that name what is about to happen.

    Each image and each step starts from its own seed, so that a run that goes on after an interruption draws
    the same numbers as one that was never interrupted.

    Args:
        *identity: For example the run's seed, ``"image"``, the number of the epoch and that of the image.
    """
    digest = hashlib.sha256(repr(identity).encode()).digest()
    seed = int.from_bytes(digest[:4], "little")
    random.seed(seed)
    np.random.seed(seed)
    # `torch.manual_seed` looks for every kind of device, which takes ten times as long as all else here
    torch.default_generator.manual_seed(seed)
    if torch.cuda.is_initialized():  # not so in a worker that loads data
        torch.cuda.manual_seed_all(seed)


def make_deterministic(threads: int) -> None:
    """Has torch use deterministic algorithms only, on a fixed number of threads.

    Args:
        threads: Threads of one operation; sums come out differently for another number.
    """
    torch.use_deterministic_algorithms(True)
    # it would help to find reads of memory that nothing has written, and costs a pass over every new tensor
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    torch.set_num_threads(threads)
