"""Depthwise convs that train faster on a CPU, with the names, weights and outputs that they had.

oneDNN, which computes torch's convolutions on a CPU, is slow here (seen with oneDNN 3.12):

- Backward in bf16, most of all with a stride: a bf16 step of Model III is 2.4 times as fast at a quarter of
  the width and 32 px with depthwise convs in float32. benchmarks/training_step.py measures whole steps.
- The weight gradient of a kernel wider than three columns, for which it has no depthwise form. It is computed
  three columns at a time here; benchmarks/depthwise_gradient.py measures both.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn.functional import conv2d, pad
from torch.nn.grad import conv2d_weight

from convnext_ablation.training.small_maps import SmallMapConv2d

_PIECE = 3  # columns
# Elements of an image's feature map from which on pieces gain in every case measured. On a map smaller than
# the kernel oneDNN has no depthwise form for them either.
_MIN_ELEMENTS = 6144


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
