"""A conv fused with the following activation and addition, by torch's public functions or by oneDNN."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import nn

_ACTS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "none": lambda x: x,
    "relu": F.relu_,
    "gelu": F.gelu,
}


def act_name(module: nn.Module) -> str:
    """`FusedConv`'s name of an activation; ``""`` if unsupported."""
    if isinstance(module, nn.Identity):
        return "none"
    if isinstance(module, nn.ReLU):
        return "relu"
    return "gelu" if isinstance(module, nn.GELU) and module.approximate == "none" else ""


class FusedConv(nn.Module):
    """A zero-padded conv with its activation, for inference only."""

    def __init__(self, conv: nn.Conv2d, act: str = "none") -> None:
        super().__init__()
        self.weight: torch.Tensor | None = conv.weight.detach()
        self.bias = None if conv.bias is None else conv.bias.detach()
        assert not isinstance(conv.padding, str)  # our convs have numeric padding
        # in the order of oneDNN's operators
        self.geometry = (list(conv.padding), list(conv.stride), list(conv.dilation), conv.groups)
        self.act = act

    def convert(self, dtype: torch.dtype) -> None:
        """Converts the weights to a dtype, and to the channels_last format that convs run fastest in."""
        assert self.weight is not None
        self.weight = self.weight.to(dtype, memory_format=torch.channels_last)
        self.bias = None if self.bias is None else self.bias.to(dtype)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """``(B, in, H, W) -> (B, out, H', W')``."""
        return _ACTS[self.act](self._conv(x))

    def add_to(self, other: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        """Activation of the conv of `x` plus `other`, which may be overwritten."""
        return _ACTS[self.act](self._conv(x).add_(other))

    def _conv(self, x: torch.Tensor) -> torch.Tensor:
        assert self.weight is not None
        padding, stride, dilation, groups = self.geometry
        return F.conv2d(x, self.weight, self.bias, stride, padding, dilation, groups)


class PackedConv(FusedConv):
    """The same in one operator, with weights packed in oneDNN's layout.

    torch repacks a conv's weights at every call, which costs as much as the conv itself for few or small
    images. The operators that pack once and fuse are those of torch.compile's CPU backend, which have no
    public name. Only this class uses them: `packing_works` checks that this torch has them, and
    `optimize_for_inference` compares outputs.
    """

    packed: torch.Tensor | None = None  # for the size of the first input
    keep = True  # keep the unpacked weights, see `prepare`

    def _weight_for(self, x: torch.Tensor) -> torch.Tensor:
        if self.packed is None:
            assert self.weight is not None
            self.packed = torch.ops.mkldnn._reorder_convolution_weight(
                self.weight, *self.geometry, list(x.shape)
            )
            if not self.keep:
                self.weight = None
        return self.packed

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """``(B, in, H, W) -> (B, out, H', W')``."""
        approximation = "none" if self.act == "gelu" else ""
        return torch.ops.mkldnn._convolution_pointwise(
            x, self._weight_for(x), self.bias, *self.geometry, self.act, [], approximation
        )

    def add_to(self, other: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        """Activation of the conv of `x` plus `other`, which is overwritten."""
        operands = (other, x, self._weight_for(x), self.bias, *self.geometry)
        fused = "relu" if self.act == "relu" else None
        out = torch.ops.mkldnn._convolution_pointwise_.binary(*operands, "add", 1.0, fused, [], None)
        return out if fused else _ACTS[self.act](out)


def prepare(section: nn.Module, keep: bool) -> None:
    """Makes packed convs repack for the size of the next input; other sizes still work, but slower.

    With `keep`, the unpacked weights are kept, so that they can be packed for another size later.
    """
    for module in section.modules():
        if isinstance(module, PackedConv):
            module.packed, module.keep = None, keep


def packing_works(dtype: torch.dtype) -> bool:
    """Whether `PackedConv` works with this torch, processor and dtype; found out by running it."""
    if not torch.backends.mkldnn.is_available() or not torch.backends.mkldnn.enabled:
        return False
    conv = nn.Conv2d(16, 16, 1)
    x = torch.randn(2, 16, 4, 4).to(dtype, memory_format=torch.channels_last)
    plain, packed = FusedConv(conv, "gelu"), PackedConv(conv, "gelu")
    plain.convert(dtype)
    packed.convert(dtype)
    try:
        with torch.no_grad():
            return torch.allclose(plain(x), packed(x), atol=0.05) and torch.allclose(
                plain.add_to(x.clone(), x), packed.add_to(x.clone(), x), atol=0.05
            )
    except (AttributeError, RuntimeError, NotImplementedError):
        return False
