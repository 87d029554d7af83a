"""Convs that a CPU trains right and fast, with the names, weights and outputs that they had.

oneDNN computes torch's convolutions on a CPU. Seen with oneDNN 3.12 (torch 2.14):

- In bfloat16 it leaves the weight gradient of kernel positions that see nothing but padding as the memory
  was: on maps of 1 px (kernels of 3 with a stride, and of 5 and more) and 2 px (7). Measured with AVX-512:
  errors of 1 to 1e36 times the largest gradient, or NaN. Dense kernels of 5 or 7 have such maps in the last
  stage at images of 32 px, or of 64.
- Depthwise convs are slow backward in bf16, most of all with a stride: a bf16 step of Model III is 2.4 times
  as fast at a quarter of the width and 32 px with depthwise convs in float32. benchmarks/training_step.py
  measures whole steps.
- So is the weight gradient of a depthwise kernel wider than three columns, for which it has no depthwise
  form. It is computed three columns at a time here; benchmarks/depthwise_gradient.py measures both.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn.functional import conv2d, pad
from torch.nn.grad import conv2d_weight

_PIECE = 3  # columns
# Elements of an image's feature map from which on pieces gain in every case measured. On a map smaller than
# the kernel oneDNN has no depthwise form for them either.
_MIN_ELEMENTS = 6144


def make_gradients_right(model: nn.Module) -> None:
    """Has a network's convs leave out what sees padding only; names, weights and outputs stay."""
    for module in model.modules():
        if type(module) is nn.Conv2d and max(module.kernel_size) > 1:
            module.__class__ = SmallMapConv2d


class SmallMapConv2d(nn.Conv2d):
    """A conv that computes in bfloat16 with the part of its kernel that sees pixels: the same output."""

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
    """Has a network's depthwise convs train fast on a CPU; names, weights and outputs stay.

    They compute in the dtype of their weights, under autocast too, and their weight gradient in pieces where
    that pays. Gradients are the same sums in another order.
    """
    for module in model.modules():
        if type(module) is nn.Conv2d and module.groups == module.in_channels > 1:
            module.__class__ = DepthwiseConv2d


class DepthwiseConv2d(SmallMapConv2d):
    """A depthwise conv that trains fast on a CPU. An `nn.Conv2d` becomes one by `make_depthwise_fast`."""

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
            and x.shape[1:].numel() >= _MIN_ELEMENTS
        )


class _WithGradientInPieces(torch.autograd.Function):
    """A depthwise conv of an odd kernel that keeps the size, with its weight gradient in pieces."""

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
    """The weight gradient of a depthwise conv, three columns of the kernel at a time, strided like `weight`.

    Args:
        x: The input, ``(B, C, H, W)``, at least as wide as the kernel.
        gradient: The output's, of the same shape: stride and dilation are 1, the padding keeps the size.
        weight: ``(C, 1, height, width)``, both odd, at least 3 columns. Its values don't matter.
    """
    channels, _, height, width = weight.shape
    of_weight = torch.empty_like(weight)
    for middle in _middles(width):
        # Moves x so that the piece's middle column lies over the pixels, with a column to either side.
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
    """Where the pieces' middle columns lie, from the kernel's middle; pieces overlap where they must."""
    outermost = width // 2 - 1
    pieces = -(-width // _PIECE)
    return [round(2 * outermost * i / (pieces - 1)) - outermost for i in range(pieces)] if pieces > 1 else [0]


def _same_size(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    """Convolves each channel by itself; flipped weights turn an output's gradient into the input's."""
    return conv2d(x, weight, bias, padding=(weight.shape[2] // 2, weight.shape[3] // 2), groups=len(weight))
