"""Peak throughput of the machine, and the operations that a network needs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import timm
import torch

from convnext_ablation.errors import UserError, first_line, unknown_name
from convnext_ablation.models import zoo  # noqa: F401  registers the networks
from convnext_ablation.models.cost import count_gmacs, count_parameters
from convnext_ablation.timing import Times


@dataclass(frozen=True)
class Cost:
    """Parameters and operations of a network."""

    parameters: int
    gmacs: float  # billions of multiply-accumulates per image


def checked_cost(name: str, img_size: int) -> Cost:
    """Counts a network's parameters and operations, on ``meta`` where possible.

    Raises:
        UserError: There is no such network, or it doesn't take images of this size.
    """
    if not timm.is_model(name):
        raise unknown_name("model", name, timm.list_models())
    with suppress(Exception):  # a few networks can't be built on meta, and raise anything
        return _cost_of(name, img_size, "meta")
    try:
        return _cost_of(name, img_size, "cpu")
    except Exception as error:
        size = f"{img_size} x {img_size}"
        raise UserError(f"{name} doesn't run on images of {size} pixels: {first_line(error)}") from error


def _cost_of(name: str, img_size: int, device: str) -> Cost:
    with torch.device(device):
        model = timm.create_model(name)
    return Cost(count_parameters(model), count_gmacs(model, (3, img_size, img_size)))


def kernels(device: str, dtypes: Sequence[str]) -> dict[str, Callable[[], object]]:
    """Kernels timed for the machine's peak, by name; `peaks_of` parses the names."""
    on_gpu = torch.device(device).type != "cpu"
    found: dict[str, Callable[[], object]] = {}
    for dtype in dtypes:
        for side in (4096, 8192) if on_gpu else (1024, 2048):
            found[f"{dtype} {2 * side**3} product of matrices of {side}"] = _product(side, dtype, device)
        for channels, side in ((512, 28), (1024, 14)):
            batch = 256 if on_gpu else 16
            flop = 2 * batch * side**2 * channels**2
            name = f"{dtype} {flop} 1x1 convolution of {channels} channels"
            found[name] = _convolution(batch, channels, side, dtype, device)
    return found


def peaks_of(times: Mapping[str, Times]) -> dict[str, float]:
    """GFLOP/s of the fastest of `kernels`, by dtype."""
    peaks: dict[str, float] = {}
    for name, taken in times.items():
        dtype, flop, _ = name.split(" ", 2)
        peaks[dtype] = max(peaks.get(dtype, 0.0), float(flop) / taken.median / 1e9)
    return peaks


def _product(side: int, dtype: str, device: str) -> Callable[[], object]:
    left, right, out = torch.randn(3, side, side, dtype=getattr(torch, dtype), device=device)
    return lambda: torch.mm(left, right, out=out)


def _convolution(batch: int, channels: int, side: int, dtype: str, device: str) -> Callable[[], object]:
    options: dict[str, Any] = {"dtype": getattr(torch, dtype), "device": device}
    images = torch.randn(batch, channels, side, side, **options).to(memory_format=torch.channels_last)
    weight = torch.randn(channels, channels, 1, 1, **options).to(memory_format=torch.channels_last)
    return torch.no_grad()(lambda: torch.nn.functional.conv2d(images, weight))
