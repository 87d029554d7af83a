"""Convs that train correctly and fast on CPUs; names, weights and outputs stay the same.

torch computes convolutions on CPUs with oneDNN. Observed with oneDNN 3.12 (torch 2.14):

- In bfloat16, weight gradients are uninitialized memory at kernel positions that see only padding. This
  affects maps of 1 px (kernel 3 with stride, kernels of 5 and more) and 2 px (kernel 7). With AVX-512, errors
  were 1 to 1e36 times the largest gradient, or NaN. Dense kernels of 5 or 7 have such maps in the last stage
  at 32 or 64 px.
- Depthwise convs have a slow backward pass in bf16, especially with stride. A bf16 step of Model III at a
  quarter of the width and 32 px is 2.4 times as fast with depthwise convs in float32.
- Depthwise kernels wider than three columns have a slow weight gradient: oneDNN has no depthwise version.
  It is computed three columns at a time here. benchmarks/depthwise_gradient.py measures both ways, and
  benchmarks/training_step.py whole steps.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn.functional import conv2d, pad
from torch.nn.grad import conv2d_weight

_PIECE = 3  # columns
# Smallest batch of feature maps, in elements, for which splitting was faster in every case measured, by AVX2,
# AVX-512 and AMX. On maps smaller than the kernel, oneDNN has no depthwise version of the pieces either.
_MIN_ELEMENTS = 65_536


def make_gradients_right(model: nn.Module) -> None:
    """Makes convs skip kernel positions that see only padding; names, weights and outputs stay."""
    for module in model.modules():
        if type(module) is nn.Conv2d and max(module.kernel_size) > 1:
            module.__class__ = SmallMapConv2d


class SmallMapConv2d(nn.Conv2d):
    """A conv that, in bfloat16, crops its kernel to the positions that see pixels; same output."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """``(B, C, H, W) -> (B, C', H', W')``."""
        kind, pads = x.device.type, [size // 2 for size in self.kernel_size]
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype
        top, left = (min(pad, side - 1) for pad, side in zip(pads, x.shape[2:], strict=True))
        keeps_size = list(self.padding) == pads and all(size % 2 for size in self.kernel_size)
        plain = self.padding_mode == "zeros" and self.dilation == (1, 1)
        if dtype.itemsize > 2 or [top, left] == pads or not (keeps_size and plain):
            return super().forward(x)
        rows, columns = (
            slice(pad - seen, pad + seen + 1) for pad, seen in zip(pads, (top, left), strict=True)
        )
        weight = self.weight[:, :, rows, columns]
        return conv2d(x, weight, self.bias, self.stride, (top, left), groups=self.groups)


def make_depthwise_fast(model: nn.Module) -> None:
    """Makes a network's depthwise convs train fast on a CPU; names, weights and outputs stay.

    They compute in the dtype of their weights, even under autocast, and split the weight gradient where
    that is faster. Gradients are the same sums in another order.
    """
    for module in model.modules():
        if type(module) is nn.Conv2d and module.groups == module.in_channels > 1:
            module.__class__ = DepthwiseConv2d


class DepthwiseConv2d(SmallMapConv2d):
    """A depthwise conv that trains fast on a CPU; `make_depthwise_fast` converts an `nn.Conv2d` in place."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """``(B, C, H, W) -> (B, C', H', W')``, in the dtype of the weights."""
        with torch.autocast(x.device.type, enabled=False):
            x = x.to(self.weight.dtype)
            if self._pieces_pay(x):
                y: torch.Tensor = _WithGradientInPieces.apply(x, self.weight, self.bias)
                return y
            return super().forward(x)

    def _pieces_pay(self, x: torch.Tensor) -> bool:
        height, width = self.kernel_size
        return (
            x.device.type == "cpu"
            and x.dtype == torch.float32
            and width > _PIECE
            and self.padding == (height // 2, width // 2)
            and self.padding_mode == "zeros"
            and height % 2 == width % 2 == 1
            and self.stride == self.dilation == (1, 1)
            and self.out_channels == self.in_channels
            and x.dim() == 4
            and x.shape[2] >= height
            and x.shape[3] >= width
            and x.numel() >= _MIN_ELEMENTS
        )


class _WithGradientInPieces(torch.autograd.Function):
    """A size-preserving depthwise conv with an odd kernel; its weight gradient is computed in pieces."""

    @staticmethod
    def forward(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        return _same_size(x, weight, bias)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
        ctx.save_for_backward(*inputs[:2])

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        of_x, of_weight, of_bias = ctx.needs_input_grad
        return (
            _same_size(gradient, weight.flip(2, 3)) if of_x else None,
            weight_gradient(x, gradient, weight) if of_weight else None,
            gradient.sum((0, 2, 3)) if of_bias else None,
        )


def weight_gradient(x: torch.Tensor, gradient: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Weight gradient of a depthwise conv, computed three kernel columns at a time.

    Args:
        x: Input, ``(B, C, H, W)``, at least as wide as the kernel.
        gradient: Output gradient, same shape as `x`: stride and dilation are 1, padding keeps the size.
        weight: ``(C, 1, height, width)``, both odd, width at least 3. Only its shape and strides matter.
    """
    channels, _, height, width = weight.shape
    of_weight = torch.empty_like(weight)
    for middle in _middles(width):
        # Shift x so that the piece's middle column is aligned with the pixels, with a column on either side.
        moved, at_the_sides = (pad(x, (1 - middle, 1 + middle)), 0) if middle else (x, 1)
        first = width // 2 + middle - 1
        of_weight[..., first : first + _PIECE] = conv2d_weight(
            moved,
            (channels, 1, height, _PIECE),
            gradient,
            padding=(height // 2, at_the_sides),
            groups=channels,
        )
    return of_weight


def _middles(width: int) -> list[int]:
    """Middle columns of the pieces, relative to the kernel's middle; pieces may overlap."""
    outermost = width // 2 - 1
    pieces = -(-width // _PIECE)
    return [round(2 * outermost * i / (pieces - 1)) - outermost for i in range(pieces)] if pieces > 1 else [0]


def _same_size(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    """Depthwise conv; with flipped weights it maps the output's gradient to the input's."""
    return conv2d(x, weight, bias, padding=(weight.shape[2] // 2, weight.shape[3] // 2), groups=len(weight))
