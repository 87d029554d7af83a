"""Convs whose kernel is wider than what it sees, with right gradients in bfloat16 on a CPU.

oneDNN, which computes torch's convolutions on a CPU, leaves the weight gradient of kernel positions that see
nothing but padding as the memory was: in bfloat16, on maps of 1 px (kernels of 3 with a stride, and of 5 and
more) and 2 px (7). Measured with oneDNN 3.12 (torch 2.14, AVX-512): errors of 1 to 1e36 times the largest
gradient, or NaN. Dense kernels of 5 or 7 have such maps in the last stage at images of 32 px, or of 64.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.functional import conv2d


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


def make_gradients_right(model: nn.Module) -> None:
    """Has a network's convs leave out what sees padding only; names, weights and outputs stay."""
    for module in model.modules():
        if type(module) is nn.Conv2d and max(module.kernel_size) > 1:
            module.__class__ = SmallMapConv2d
