"""Rewrites one of our networks as fewer, larger steps with the same outputs in eval mode.

BatchNorms are folded into convs, and layer scales into the conv or norm before them. A bare conv is merged
into the following 1x1 conv if that saves multiplications. Models III and IV have such convs between stages:
they feed the shortcut's conv and, in Model III, the block's first conv. Activations and the addition of the
shortcut are fused into the conv before them.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence

import torch
from timm.layers import DropPath
from timm.utils.model import reparameterize_model
from torch import nn

from convnext_ablation.inference.convs import FusedConv, act_name
from convnext_ablation.models.blocks import Block, LayerScale
from convnext_ablation.models.network import ResNetToConvNeXt, Stage


class Residual(nn.Module):
    """A residual block whose last conv is fused with the addition of the shortcut.

    With an identity shortcut, the block's input is overwritten.
    """

    def __init__(self, branch: Sequence[nn.Module], shortcut: Sequence[nn.Module], act: nn.Module) -> None:
        super().__init__()
        steps = fused(branch)
        last = steps[-1]
        self.last: FusedConv | None = None
        if isinstance(last, FusedConv) and last.act == "none" and act_name(act):
            last.act = act_name(act)
            self.last = last
            steps.pop()
        self.branch = nn.Sequential(*steps)
        self.shortcut = nn.Sequential(*fused(shortcut))
        self.act = act

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """``(B, in, H, W) -> (B, out, H', W')``."""
        shortcut = self.shortcut(x)
        x = self.branch(x)
        if self.last is not None:
            return self.last.add_to(shortcut, x)
        out: torch.Tensor = self.act(x.add_(shortcut))
        return out


def fused(layers: Sequence[nn.Module]) -> list[nn.Module]:
    """The layers without no-ops, each conv fused with the activation after it."""
    steps: list[nn.Module] = []
    for layer in layers:
        if isinstance(layer, (nn.Identity, DropPath, nn.Dropout)):
            continue
        before = steps[-1] if steps else None
        if isinstance(layer, nn.Conv2d):
            steps.append(FusedConv(layer))
        elif isinstance(before, FusedConv) and before.act == "none" and act_name(layer):
            before.act = act_name(layer)
        else:
            steps.append(layer)
    return steps


@torch.no_grad()
def sections_of(model: ResNetToConvNeXt) -> list[nn.Sequential]:
    """The network as a sequence of sections: stem and first stage, ..., last stage and head."""
    model = reparameterize_model(copy.deepcopy(model).eval())
    ahead = [model.stem.conv, model.stem.norm, model.stem.act, model.stem.pool]
    sections: list[list[nn.Module]] = []
    for stage in model.stages:
        assert isinstance(stage, Stage)
        if sections:
            ahead = list(stage.downsample)
        sections.append(_stage_steps(stage, ahead))
    sections[-1].append(model.head)
    return [nn.Sequential(*steps) for steps in sections]


def _stage_steps(stage: Stage, layers: list[nn.Module]) -> list[nn.Module]:
    """A stage's blocks, after the given layers, which may be one bare conv."""
    ahead = fused(layers)
    bare = layers[0] if len(ahead) == 1 and isinstance(layers[0], nn.Conv2d) else None
    blocks = []
    for block in stage.blocks:
        assert isinstance(block, Block)
        branch, shortcut = _layers(block)
        if bare is not None and shortcut and isinstance(shortcut[0], nn.Conv2d):
            into_shortcut = composed(bare, shortcut[0])
            if into_shortcut is not None:
                into_branch = composed(bare, branch[0]) if isinstance(branch[0], nn.Conv2d) else None
                branch = [bare, *branch] if into_branch is None else [into_branch, *branch[1:]]
                shortcut = [into_shortcut, *shortcut[1:]]
                ahead = []
        blocks.append(Residual(branch, shortcut, block.act3))
        bare = None
    return [*ahead, *blocks]


def _layers(block: Block) -> tuple[list[nn.Module], list[nn.Module]]:
    """The layers of a block's branch, with layer scale folded in, and of its shortcut."""
    branch = [block.conv1, block.norm1, block.act1, block.conv2, block.norm2, block.act2, block.conv3]
    if isinstance(block.scale, LayerScale):
        scaled = block.conv3 if isinstance(block.norm3, nn.Identity) else block.norm3
        gamma = block.scale.gamma
        for parameter in (scaled.weight, scaled.bias):
            if isinstance(parameter, torch.Tensor):
                parameter.mul_(gamma.view(-1, *[1] * (parameter.ndim - 1)))
    branch.append(block.norm3)
    return branch, list(block.shortcut) if isinstance(block.shortcut, nn.Sequential) else []


def composed(first: nn.Conv2d, second: nn.Conv2d) -> nn.Conv2d | None:
    """Merges two convs into one; None if that isn't exact or saves nothing."""
    pointwise = second.kernel_size == (1, 1) and second.padding == (0, 0)
    inputs = first.in_channels * math.prod(first.kernel_size)
    if not pointwise or first.groups != 1 or second.groups != 1 or inputs >= first.out_channels:
        return None
    stride = tuple(a * b for a, b in zip(first.stride, second.stride, strict=True))
    out = nn.Conv2d(
        first.in_channels,
        second.out_channels,
        first.kernel_size,  # type: ignore[arg-type]
        stride=stride,  # type: ignore[arg-type]
        padding=first.padding,  # type: ignore[arg-type]
        dilation=first.dilation,  # type: ignore[arg-type]
        device=first.weight.device,
        dtype=first.weight.dtype,
    )
    outer = second.weight.flatten(1).double()
    out.weight.copy_(torch.einsum("om,mikl->oikl", outer, first.weight.double()))
    bias = torch.zeros(second.out_channels, dtype=torch.float64, device=outer.device)
    if first.bias is not None:
        bias += outer @ first.bias.double()
    if second.bias is not None:
        bias += second.bias.double()
    assert out.bias is not None
    out.bias.copy_(bias)
    return out
