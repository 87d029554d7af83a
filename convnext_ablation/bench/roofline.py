"""What the machine could do at best, and what a network asks of it.

At best, a network multiplies as fast as the fastest of a few kernels here, and moves its weights once a batch
and what goes into and comes out of each convolution and matrix product once an image as fast as a large copy.
A training step is taken to be three times of either. `docs/speed.md` says more.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import timm
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from convnext_ablation.bench.configuration import TRAINING
from convnext_ablation.bench.timing import Times
from convnext_ablation.errors import UserError, first_line, unknown_name
from convnext_ablation.models import zoo  # noqa: F401  registers the networks
from convnext_ablation.models.cost import count_gmacs, count_parameters

__all__ = ["Cost", "best_of", "checked_cost", "cost_of", "kernels"]

COPY = "copy"
_STEP = 3  # of training, in forward passes
_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
_COPIED = 1 << 28  # bytes, more than caches hold
_PRODUCTS = ("convolution", "mm", "addmm", "bmm", "baddbmm", "_scaled_dot_product")


@dataclass(frozen=True)
class Cost:
    """What a network asks for."""

    parameters: int
    gmacs: float  # billions of multiply-accumulates for an image
    macts: float  # millions of values that its convolutions and matrix products put out for an image
    moved: float  # values that go into and come out of these for an image, weights not counted

    def gflop(self, mode: str, batch_size: int) -> float:
        """Billions of floating-point operations of a step."""
        return 2 * self.gmacs * batch_size * (_STEP if mode == TRAINING else 1)

    def gigabytes(self, mode: str, batch_size: int, dtype: str) -> float:
        """What a step moves between memory and processor."""
        values = self.parameters + self.moved * batch_size
        return values * _BYTES[dtype] * (_STEP if mode == TRAINING else 1) / 1e9


class _Traffic(TorchDispatchMode):
    """Counts what goes into and comes out of convolutions and matrix products, but for weights."""

    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()
        self.put_out = self.taken_in = 0
        self.weights = {_storage(parameter) for parameter in model.parameters()}

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: tuple = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if func.overloadpacket.__name__.startswith(_PRODUCTS):
            first = result[0] if isinstance(result, tuple) else result
            tensors = [arg for arg in args if isinstance(arg, torch.Tensor)]
            self.put_out += first.numel()
            self.taken_in += sum(t.numel() for t in tensors if _storage(t) not in self.weights)
        return result


def _storage(tensor: torch.Tensor) -> int:
    """What a tensor shares with its views; on meta there is no public address."""
    return tensor.untyped_storage()._cdata


def checked_cost(name: str, img_size: int) -> Cost:
    """As `cost_of`.

    Raises:
        UserError: There is no such network, or it doesn't take images of that size.
    """
    if not timm.is_model(name):
        raise unknown_name("model", name, difflib.get_close_matches(name, timm.list_models(), 5, 0.0))
    with suppress(Exception):  # few networks can't be built on meta, and what they raise is anything
        return cost_of(name, img_size)
    try:
        return cost_of(name, img_size, "cpu")
    except Exception as error:
        size = f"{img_size} x {img_size}"
        raise UserError(f"{name} doesn't run on images of {size} pixels: {first_line(error)}") from error


def cost_of(name: str, img_size: int, device: str = "meta") -> Cost:
    """Counts what a network asks for; on ``meta`` that takes no memory."""
    with torch.device(device):
        model = timm.create_model(name).eval()
        images = torch.empty(1, 3, img_size, img_size)
    with _Traffic(model) as traffic, torch.no_grad():
        model(images)
    gmacs = count_gmacs(model, (3, img_size, img_size))
    moved = traffic.put_out + traffic.taken_in
    return Cost(count_parameters(model), gmacs, traffic.put_out / 1e6, moved)


def kernels(device: str, dtypes: Sequence[str]) -> dict[str, Callable[[], object]]:
    """What is timed for the machine's best, by name; `best_of` reads the names."""
    on_gpu = torch.device(device).type != "cpu"
    copied = torch.zeros(_COPIED // 4, device=device)
    target = torch.zeros_like(copied)
    found: dict[str, Callable[[], object]] = {COPY: lambda: target.copy_(copied)}
    for dtype in dtypes:
        for side in (4096, 8192) if on_gpu else (1024, 2048):
            found[f"{dtype} {2 * side**3} product of matrices of {side}"] = _product(side, dtype, device)
        for channels, side in ((512, 28), (1024, 14)):
            batch = 256 if on_gpu else 16
            flop = 2 * batch * side**2 * channels**2
            name = f"{dtype} {flop} 1x1 convolution of {channels} channels"
            found[name] = _convolution(batch, channels, side, dtype, device)
    return found


def best_of(times: Mapping[str, Times]) -> tuple[dict[str, float], float]:
    """By the times of `kernels`, GFLOP/s by dtype, and GB/s that a copy reads and writes."""
    peaks: dict[str, float] = {}
    for name, taken in times.items():
        if name != COPY:
            dtype, flop, _ = name.split(" ", 2)
            peaks[dtype] = max(peaks.get(dtype, 0.0), float(flop) / taken.median / 1e9)
    return peaks, 2 * _COPIED / times[COPY].median / 1e9 if COPY in times else 0.0


def _product(side: int, dtype: str, device: str) -> Callable[[], object]:
    left, right, out = torch.randn(3, side, side, dtype=getattr(torch, dtype), device=device)
    return lambda: torch.mm(left, right, out=out)


def _convolution(batch: int, channels: int, side: int, dtype: str, device: str) -> Callable[[], object]:
    options: dict[str, Any] = {"dtype": getattr(torch, dtype), "device": device}
    images = torch.randn(batch, channels, side, side, **options).to(memory_format=torch.channels_last)
    weight = torch.randn(channels, channels, 1, 1, **options).to(memory_format=torch.channels_last)
    return torch.no_grad()(lambda: torch.nn.functional.conv2d(images, weight))
