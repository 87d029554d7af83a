"""A conv with the activation and the addition behind it: by torch's public functions, or fused by oneDNN."""

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
    """What `FusedConv` calls an activation; ``""`` for one that it doesn't know."""
    if isinstance(module, nn.Identity):
        return "none"
    if isinstance(module, nn.ReLU):
        return "relu"
    return "gelu" if isinstance(module, nn.GELU) and module.approximate == "none" else ""


class FusedConv(nn.Module):
    """A conv, whose padding is zeros, and the activation behind it; its weights are no longer trained."""

    def __init__(self, conv: nn.Conv2d, act: str = "none") -> None:
        super().__init__()
        self.weight: torch.Tensor | None = conv.weight.detach()
        self.bias = None if conv.bias is None else conv.bias.detach()
        assert not isinstance(conv.padding, str)  # ours have numbers
        # in the order that all of oneDNN's operators take them
        self.geometry = (list(conv.padding), list(conv.stride), list(conv.dilation), conv.groups)
        self.act = act

    def convert(self, dtype: torch.dtype) -> None:
        """Brings the weights into a type, and into the memory format that convs on a CPU and a GPU like."""
        assert self.weight is not None
        self.weight = self.weight.to(dtype, memory_format=torch.channels_last)
        self.bias = None if self.bias is None else self.bias.to(dtype)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """``(B, in, H, W) -> (B, out, H', W')``."""
        return _ACTS[self.act](self._conv(x))

    def add_to(self, other: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        """The conv of `x` plus `other`, which may be overwritten, and the activation of the sum."""
        return _ACTS[self.act](self._conv(x).add_(other))

    def _conv(self, x: torch.Tensor) -> torch.Tensor:
        assert self.weight is not None
        padding, stride, dilation, groups = self.geometry
        return F.conv2d(x, self.weight, self.bias, stride, padding, dilation, groups)


class PackedConv(FusedConv):
    """The same in one pass, with weights that lie in memory as oneDNN wants them.

    torch repacks a conv's weights at every call, which costs as much as the conv itself where images are
    few or small. What packs them once, and fuses what follows, are the operators that torch.compile's CPU
    backend emits; they have no public name. They stand in this class alone: `packing_works` asks whether this
    torch has them, and `optimize_for_inference` compares the outputs.
    """

    packed: torch.Tensor | None = None  # for the size of the input that came first
    keep = True  # the weights as they were, see `prepare`

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
        """The conv of `x` plus `other`, which is overwritten, and the activation of the sum."""
        operands = (other, x, self._weight_for(x), self.bias, *self.geometry)
        fused = "relu" if self.act == "relu" else None
        out = torch.ops.mkldnn._convolution_pointwise_.binary(*operands, "add", 1.0, fused, [], None)
        return out if fused else _ACTS[self.act](out)


def prepare(section: nn.Module, keep: bool) -> None:
    """Has packed convs pack their weights for the size of the next input; others are right, but slower.

    To `keep` the weights as they were allows to pack them for another size afterwards.
    """
    for module in section.modules():
        if isinstance(module, PackedConv):
            module.packed, module.keep = None, keep


def packing_works(dtype: torch.dtype) -> bool:
    """Whether `PackedConv` works with this torch on this processor, in this type; tried, not guessed."""
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
