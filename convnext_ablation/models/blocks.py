"""Building blocks: stem, residual block, shortcut, and folding of BatchNorm into convs.

Comments in the code explain how switches interact where no paper combines them.
"""

# No `from __future__ import annotations`: torch.fx copies annotations, and TorchScript needs types there.
from collections import OrderedDict
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from timm.layers import DropPath, LayerNorm2d
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from convnext_ablation.models.components import Components


@dataclass(frozen=True)
class Layers:
    """Creates the layers that the components select."""

    components: Components
    device: torch.device | str | None = None
    dtype: torch.dtype | None = None

    def norm(self, channels: int) -> nn.Module:
        """LayerNorm over the channels of each pixel, or BatchNorm."""
        norm = LayerNorm2d if self.components.layer_norm else nn.BatchNorm2d
        return norm(channels, device=self.device, dtype=self.dtype)

    def act(self) -> nn.Module:
        """GELU or ReLU."""
        return nn.GELU() if self.components.gelu else nn.ReLU(inplace=True)

    def conv(
        self,
        in_chs: int,
        out_chs: int,
        kernel_size: int = 1,
        stride: int = 1,
        padding: int = 0,
        groups: int = 1,
        normed: bool = True,
    ) -> nn.Conv2d:
        """A conv; without bias if a BatchNorm follows directly (`normed`), which would cancel the bias."""
        strided_pointwise = kernel_size == 1 and stride > 1 and groups == 1
        kind = SubsampledConv if strided_pointwise and in_chs < SAFE_CHANNELS else nn.Conv2d
        return kind(
            in_chs,
            out_chs,
            kernel_size,
            stride=stride,
            padding=padding,
            groups=groups,
            bias=self.components.layer_norm or not normed,
            device=self.device,
            dtype=self.dtype,
        )


# On x86 CPUs, oneDNN's weight gradient of a strided 1x1 conv writes past a buffer in channels_last if there
# are fewer input channels than its block, 8 (AVX2) or 16 (AVX-512):
# https://github.com/uxlfoundation/oneDNN/issues/6035. With oneDNN 3.12 (torch 2.14), 2 to 15 channels crash,
# hang or give wrong gradients silently; 16 and more, stride 1, groups and 3x3 kernels are right.
SAFE_CHANNELS = 16


class SubsampledConv(nn.Conv2d):
    """A strided 1x1 conv, computed with stride 1 on the subsampled input; same output."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """``(B, in_chs, H, W) -> (B, out_chs, H / stride, W / stride)``."""
        return F.conv2d(x[:, :, :: self.stride[0], :: self.stride[1]], self.weight, self.bias)


class LayerScale(nn.Module):
    """Multiplies each channel of a ``(B, C, H, W)`` tensor by a learned factor."""

    def __init__(self, channels: int, init_value: float, layers: Layers) -> None:
        super().__init__()
        self.init_value = init_value
        self.gamma = nn.Parameter(torch.empty(channels, device=layers.device, dtype=layers.dtype))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Resets every factor to its initial value."""
        nn.init.constant_(self.gamma, self.init_value)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Scales ``(B, C, H, W)``."""
        return x * self.gamma.view(1, -1, 1, 1)


class Stem(nn.Module):
    """Maps the image to the first stage's input, at a quarter of the resolution.

    ResNet's stem is conv, norm, activation and pool; the patchify stem is a conv and a norm. The patchify
    conv has a bias even before a BatchNorm, as in Models II to IV.
    """

    def __init__(self, in_chans: int, out_chs: int, layers: Layers) -> None:
        super().__init__()
        patchify = layers.components.patchify_stem
        if patchify:
            self.conv = layers.conv(in_chans, out_chs, kernel_size=4, stride=4, normed=False)
        else:
            self.conv = layers.conv(in_chans, out_chs, kernel_size=7, stride=2, padding=3)
        self.norm = layers.norm(out_chs)
        self.act = nn.Identity() if patchify else layers.act()
        self.pool = nn.Identity() if patchify else nn.MaxPool2d(3, stride=2, padding=1)

    def reparameterize(self) -> None:
        """Folds a BatchNorm into the conv; outputs in eval mode stay the same."""
        self.conv, self.norm = fold_norm(self.conv, self.norm)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """``(B, in_chans, H, W) -> (B, C, H / 4, W / 4)``."""
        return self.pool(self.act(self.norm(self.conv(x))))


class Block(nn.Module):
    """Residual block of one spatial and two 1x1 convs.

    The spatial conv has the stride. If `moved_up`, it comes first, at the block's input width; else it is in
    the middle, at the hidden width. It has one group per channel if `depthwise`.

    Args:
        hidden_chs: Channels between the two 1x1 convs.
        stride: Stride of the spatial conv and of the shortcut's conv.
        shortcut: Whether the shortcut has a conv.
        drop_path: Probability of dropping the residual branch.
    """

    def __init__(
        self,
        in_chs: int,
        hidden_chs: int,
        out_chs: int,
        layers: Layers,
        stride: int = 1,
        shortcut: bool = False,
        drop_path: float = 0.0,
        layer_scale_init: float = 1e-6,
    ) -> None:
        super().__init__()
        components = layers.components
        moved_up, kernel_size = components.moved_up, components.kernel_size
        # fewer norms: only after the spatial conv; fewer activations: only before the last 1x1 conv
        norm_at = (moved_up, not moved_up, False) if components.fewer_norms else (True, True, True)
        act_at = (False, True, False) if components.fewer_acts else (True, True, True)
        chs = in_chs if moved_up else hidden_chs
        groups = chs if components.depthwise else 1
        spatial = partial(
            layers.conv, chs, chs, kernel_size, stride=stride, padding=kernel_size // 2, groups=groups
        )
        pointwise = partial(layers.conv, in_chs, hidden_chs)
        first, second = (spatial, pointwise) if moved_up else (pointwise, spatial)

        self.conv1 = first(normed=norm_at[0])
        self.norm1 = layers.norm(chs) if norm_at[0] else nn.Identity()
        self.act1 = layers.act() if act_at[0] else nn.Identity()
        self.conv2 = second(normed=norm_at[1])
        self.norm2 = layers.norm(hidden_chs) if norm_at[1] else nn.Identity()
        self.act2 = layers.act() if act_at[1] else nn.Identity()
        self.conv3 = layers.conv(hidden_chs, out_chs, normed=norm_at[2])
        self.norm3 = layers.norm(out_chs) if norm_at[2] else nn.Identity()
        scaled = components.layer_scale
        self.scale = LayerScale(out_chs, layer_scale_init, layers) if scaled else nn.Identity()
        self.drop_path = DropPath(drop_path) if drop_path else nn.Identity()
        self.shortcut: nn.Module = nn.Identity()
        if shortcut:
            conv, norm = layers.conv(in_chs, out_chs, stride=stride), layers.norm(out_chs)
            self.shortcut = nn.Sequential(OrderedDict(conv=conv, norm=norm))
        self.act3 = layers.act() if act_at[2] else nn.Identity()

    def zero_init_last(self) -> None:
        """Zero-initializes the branch's last norm, if it has one and no layer scale.

        With both near zero, neither would get a usable gradient.
        """
        if isinstance(self.norm3, (nn.BatchNorm2d, nn.LayerNorm)) and isinstance(self.scale, nn.Identity):
            nn.init.zeros_(self.norm3.weight)

    def reparameterize(self) -> None:
        """Folds each BatchNorm into the conv before it; outputs in eval mode stay the same."""
        self.conv1, self.norm1 = fold_norm(self.conv1, self.norm1)
        self.conv2, self.norm2 = fold_norm(self.conv2, self.norm2)
        self.conv3, self.norm3 = fold_norm(self.conv3, self.norm3)
        if isinstance(self.shortcut, nn.Sequential):
            conv, norm = self.shortcut
            assert isinstance(conv, nn.Conv2d)
            self.shortcut.conv, self.shortcut.norm = fold_norm(conv, norm)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """``(B, in_chs, H, W) -> (B, out_chs, H / stride, W / stride)``."""
        shortcut = self.shortcut(x)
        x = self.act1(self.norm1(self.conv1(x)))
        x = self.act2(self.norm2(self.conv2(x)))
        x = self.norm3(self.conv3(x))
        x = self.drop_path(self.scale(x))
        return self.act3(x + shortcut)


def fold_norm(conv: nn.Conv2d, norm: nn.Module) -> tuple[nn.Conv2d, nn.Module]:
    """Folds a norm into the conv before it if it is a BatchNorm, with its running statistics."""
    if not isinstance(norm, nn.BatchNorm2d):
        return conv, norm
    mode = conv.training  # timm's scripts fold before they call `eval`
    return fuse_conv_bn_eval(conv.eval(), norm.eval()).train(mode), nn.Identity()
