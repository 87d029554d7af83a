"""Which precision trains faster on this CPU, by a short measurement."""

from __future__ import annotations

import time
from collections.abc import Sequence
from statistics import median

import timm
import torch
from torch import nn

PRECISIONS = ("float32", "bfloat16")
_ROUNDS = 3
_BATCH = 32
# how much faster bfloat16 must be before its rounding is worth it; also keeps noise from deciding
_WORTHWHILE = 0.85


def faster_precision(models: Sequence[str], input_size: Sequence[int], threads: int) -> str:
    """Times training steps of each network in both precisions, interleaved, and names the faster one.

    Args:
        models: Names of the networks.
        input_size: Channels, height and width of the images.
        threads: Threads that a run gets.

    Returns:
        ``bfloat16`` if the steps of all networks together take at most 0.85 times as long, else ``float32``.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        seconds = dict.fromkeys(PRECISIONS, 0.0)
        for name in models:
            model = timm.create_model(name, in_chans=input_size[0], num_classes=10).train()
            model = model.to(memory_format=torch.channels_last)
            images = torch.rand(_BATCH, *input_size).contiguous(memory_format=torch.channels_last)
            rounds = [
                [_step_seconds(model, images, which) for which in PRECISIONS] for _ in range(_ROUNDS + 1)
            ]
            for index, precision in enumerate(PRECISIONS):
                seconds[precision] += median(times[index] for times in rounds[1:])  # the first warms up
    finally:
        torch.set_num_threads(before)
    return "bfloat16" if seconds["bfloat16"] < _WORTHWHILE * seconds["float32"] else "float32"


def _step_seconds(model: nn.Module, images: torch.Tensor, precision: str) -> float:
    start = time.perf_counter()
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bfloat16"):
        loss = model(images).square().mean()
    loss.backward()
    return time.perf_counter() - start
