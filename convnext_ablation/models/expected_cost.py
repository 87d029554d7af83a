"""Parameters and multiply-accumulates computed from a network's components, without torch.

Tests compare them with the networks themselves, for random components and image sizes.
"""

from __future__ import annotations

from math import ceil
from typing import NamedTuple

from convnext_ablation.models.components import Components


class ExpectedCost(NamedTuple):
    """Cost of a network for one image."""

    parameters: int
    macs: int  # multiply-accumulates of convolutions and linear layers


def expected_cost(components: Components, width: int, side: int, classes: int = 1000) -> ExpectedCost:
    """Sums the cost of a network's layers.

    Args:
        components: Those of the network.
        width: Channels of the stem.
        side: Side of the square images in pixels, at least 32.
        classes: Number of classes.
    """
    s, cost = components, _Sum(components.layer_norm)
    stem = side // 4 if s.patchify_stem else ceil(side / 2)
    if s.patchify_stem:
        cost.conv(3, width, stem, kernel=4, bias=True)
    else:
        cost.conv(3, width, stem, kernel=7)
    cost.norm(width)

    channels, side = width, stem if s.patchify_stem else ceil(stem / 2)
    for stage, depth in enumerate((3, 3, 9, 3) if s.stage_ratio else (3, 4, 6, 3)):
        d, separate, pointwise = width * 2**stage, s.downsampling == "separate", s.downsampling == "pointwise"
        hidden, out = (4 * d, d) if s.inverted else (d, 4 * d)
        side_out = side if stage == 0 else side // 2 if separate else ceil(side / 2)
        if stage > 0 and separate:
            cost.norm(channels)
            cost.conv(channels, out, side_out, kernel=2, bias=True)
            channels, side = out, side_out
        if stage > 0 and pointwise:
            cost.conv(channels, out, side, bias=False)
            channels = out
        if side != side_out or channels != out or pointwise:
            cost.conv(channels, out, side_out)  # the first block's shortcut
            cost.norm(out)
        for _ in range(depth):
            _add_block(cost, s, channels, hidden, out, side, side_out)
            channels, side = out, side_out

    if s.downsampling == "separate":
        cost.norm(channels)
    return ExpectedCost(cost.parameters + channels * classes + classes, cost.macs + channels * classes)


class _Sum:
    def __init__(self, layer_norm: bool) -> None:
        self.layer_norm = layer_norm
        self.parameters = self.macs = 0

    def conv(
        self,
        inputs: int,
        outputs: int,
        side: int,
        kernel: int = 1,
        groups: int = 1,
        normed: bool = True,
        bias: bool | None = None,
    ) -> None:
        """A conv whose output is `side` pixels wide; with a bias unless a BatchNorm follows it directly."""
        weights = inputs * outputs * kernel**2 // groups
        bias = (self.layer_norm or not normed) if bias is None else bias
        self.parameters += weights + outputs * bias
        self.macs += weights * side**2

    def norm(self, channels: int) -> None:
        self.parameters += 2 * channels  # scale and shift


def _add_block(
    cost: _Sum, s: Components, channels: int, hidden: int, out: int, side: int, side_out: int
) -> None:
    """Adds a block from `side` to `side_out` pixels; only a 1x1 conv before the spatial one has `side`."""
    everywhere = not s.fewer_norms
    spatial = channels if s.moved_up else hidden
    groups = spatial if s.depthwise else 1
    cost.conv(spatial, spatial, side_out, kernel=s.kernel_size, groups=groups)
    cost.norm(spatial)
    cost.conv(channels, hidden, side_out if s.moved_up else side, normed=everywhere)
    cost.conv(hidden, out, side_out, normed=everywhere)
    if everywhere:
        cost.norm(hidden)
        cost.norm(out)
    if s.layer_scale:
        cost.parameters += out
