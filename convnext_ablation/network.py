"""One network, built from `Components`: ResNet-50 at one end, ConvNeXt-T at the other, anything in between.

Papers: "Deep Residual Learning for Image Recognition" (He et al., 2015, arXiv:1512.03385) and "A ConvNet for
the 2020s" (Liu et al., 2022, arXiv:2201.03545). How switches that the papers never combined meet is written
where the code decides it: `Block`, `Stage` and `Stem`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from timm.layers import DropPath, LayerNorm2d, SelectAdaptivePool2d, trunc_normal_
from timm.models import checkpoint_seq
from torch import nn

from convnext_ablation.components import Components

Layer = Callable[..., nn.Module]


class LayerScale(nn.Module):
    """Multiplies each channel of a ``(B, C, H, W)`` tensor by a learned factor."""

    def __init__(self, channels: int, init_value: float, **factory: Any) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.full((channels,), init_value, **factory))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Scales ``(B, C, H, W)``."""
        return x * self.gamma.view(1, -1, 1, 1)


class Stem(nn.Module):
    """Image to the first stage's input, at a quarter of the resolution.

    ResNet's is conv, norm, activation and pool; the patchify stem is a conv with bias and a norm.
    """

    def __init__(
        self, in_chans: int, out_chs: int, components: Components, norm: Layer, act: Layer, **factory: Any
    ) -> None:
        super().__init__()
        if components.patchify_stem:
            self.conv = nn.Conv2d(in_chans, out_chs, kernel_size=4, stride=4, **factory)
        else:
            bias = components.layer_norm
            self.conv = nn.Conv2d(in_chans, out_chs, 7, stride=2, padding=3, bias=bias, **factory)
        self.norm = norm(out_chs)
        self.act = nn.Identity() if components.patchify_stem else act()
        self.pool = nn.Identity() if components.patchify_stem else nn.MaxPool2d(3, stride=2, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """``(B, in_chans, H, W) -> (B, C, H / 4, W / 4)``."""
        return self.pool(self.act(self.norm(self.conv(x))))


class Shortcut(nn.Module):
    """1x1 conv and norm for a block whose output has another shape than its input."""

    def __init__(
        self, in_chs: int, out_chs: int, stride: int, components: Components, norm: Layer, **factory: Any
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_chs, out_chs, 1, stride=stride, bias=components.layer_norm, **factory)
        self.norm = norm(out_chs)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """``(B, in_chs, H, W) -> (B, out_chs, H / stride, W / stride)``."""
        return self.norm(self.conv(x))


class Block(nn.Module):
    """Residual block of one spatial and two 1x1 convs.

    The spatial conv carries the stride. It stands first, on the block's input width, if `moved_up`, else in the
    middle, on the hidden width; it has one group per channel if `depthwise`. A conv has a bias unless a
    BatchNorm follows it directly, which would cancel the bias.
    """

    def __init__(
        self,
        in_chs: int,
        hidden_chs: int,
        out_chs: int,
        stride: int,
        components: Components,
        norm: Layer,
        act: Layer,
        shortcut: bool = False,
        drop_path: float = 0.0,
        layer_scale_init: float = 1e-6,
        **factory: Any,
    ) -> None:
        super().__init__()
        moved_up, kernel_size = components.moved_up, components.kernel_size
        # fewer norms: the one after the spatial conv; fewer activations: the one before the last 1x1 conv
        norm_at = (moved_up, not moved_up, False) if components.fewer_norms else (True, True, True)
        act_at = (False, True, False) if components.fewer_acts else (True, True, True)
        bias_at = [components.layer_norm or not has_norm for has_norm in norm_at]
        spatial_chs = in_chs if moved_up else hidden_chs
        spatial = partial(
            nn.Conv2d,
            spatial_chs,
            spatial_chs,
            kernel_size,
            stride=stride,
            padding=kernel_size // 2,
            groups=spatial_chs if components.depthwise else 1,
            **factory,
        )
        expand = partial(nn.Conv2d, in_chs, hidden_chs, 1, **factory)
        first, second = (spatial, expand) if moved_up else (expand, spatial)

        self.conv1 = first(bias=bias_at[0])
        self.norm1 = norm(self.conv1.out_channels) if norm_at[0] else nn.Identity()
        self.act1 = act() if act_at[0] else nn.Identity()
        self.conv2 = second(bias=bias_at[1])
        self.norm2 = norm(hidden_chs) if norm_at[1] else nn.Identity()
        self.act2 = act() if act_at[1] else nn.Identity()
        self.conv3 = nn.Conv2d(hidden_chs, out_chs, 1, bias=bias_at[2], **factory)
        self.norm3 = norm(out_chs) if norm_at[2] else nn.Identity()
        self.scale = (
            LayerScale(out_chs, layer_scale_init, **factory) if components.layer_scale else nn.Identity()
        )
        self.drop_path = DropPath(drop_path) if drop_path else nn.Identity()
        self.shortcut = (
            Shortcut(in_chs, out_chs, stride, components, norm, **factory) if shortcut else nn.Identity()
        )
        self.act3 = act() if act_at[2] else nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """``(B, in_chs, H, W) -> (B, out_chs, H / stride, W / stride)``."""
        shortcut = self.shortcut(x)
        x = self.act1(self.norm1(self.conv1(x)))
        x = self.act2(self.norm2(self.conv2(x)))
        x = self.norm3(self.conv3(x))
        x = self.drop_path(self.scale(x))
        return self.act3(x + shortcut)


class Stage(nn.Module):
    """Blocks of one width, after whatever stands between this stage and the one before.

    Args:
        in_chs: Channels of the stage's input.
        width: d of the blocks: hidden width of a bottleneck, output width of an inverted one.
        depth: Number of blocks.
        first: Whether this is the first stage, which keeps the stem's resolution.
        components: The switches.
        norm: Makes a norm layer for a number of channels.
        act: Makes an activation.
        drop_path: Probability of dropping each block's residual branch, one a block.
        layer_scale_init: First value of the layer scale.
        **factory: `device` and `dtype` of the parameters.
    """

    def __init__(
        self,
        in_chs: int,
        width: int,
        depth: int,
        first: bool,
        components: Components,
        norm: Layer,
        act: Layer,
        drop_path: list[float],
        layer_scale_init: float,
        **factory: Any,
    ) -> None:
        super().__init__()
        self.grad_checkpointing = False
        hidden_chs, out_chs = (4 * width, width) if components.inverted else (width, 4 * width)
        self.out_chs = out_chs
        stride = 1 if first else 2
        downsample: list[nn.Module] = []
        if components.downsampling == "pointwise" and not first:
            downsample = [nn.Conv2d(in_chs, out_chs, 1, bias=False, **factory)]
            in_chs = out_chs
        elif components.downsampling == "separate" and not first:
            downsample = [norm(in_chs), nn.Conv2d(in_chs, out_chs, 2, stride=2, **factory)]
            in_chs, stride = out_chs, 1
        self.downsample = nn.Sequential(*downsample)

        blocks = []
        for index in range(depth):
            changes_shape = stride != 1 or in_chs != out_chs
            blocks.append(
                Block(
                    in_chs,
                    hidden_chs,
                    out_chs,
                    stride,
                    components,
                    norm,
                    act,
                    shortcut=changes_shape or (index == 0 and components.downsampling == "pointwise"),
                    drop_path=drop_path[index],
                    layer_scale_init=layer_scale_init,
                    **factory,
                )
            )
            in_chs, stride = out_chs, 1
        self.blocks = nn.Sequential(*blocks)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """``(B, in_chs, H, W) -> (B, out_chs, H / 2, W / 2)``, and H x W in the first stage."""
        x = self.downsample(x)
        if self.grad_checkpointing and not torch.jit.is_scripting():
            return checkpoint_seq(self.blocks, x)
        return self.blocks(x)


class Head(nn.Module):
    """Global pool, norm (with separate downsampling), dropout, classifier."""

    def __init__(
        self,
        in_features: int,
        num_classes: int,
        pool_type: str,
        drop_rate: float,
        norm: nn.Module,
        **factory: Any,
    ) -> None:
        super().__init__()
        self.in_features = in_features
        self.norm = norm
        self.drop = nn.Dropout(drop_rate)
        self._set_pool(pool_type)
        self._set_classifier(num_classes, **factory)

    def _set_pool(self, pool_type: str) -> None:
        self.global_pool = SelectAdaptivePool2d(pool_type=pool_type)
        self.flatten = nn.Flatten(1) if pool_type else nn.Identity()

    def _set_classifier(self, num_classes: int, **factory: Any) -> None:
        in_features = self.in_features * self.global_pool.feat_mult()
        self.fc: nn.Module
        if num_classes == 0:
            self.fc = nn.Identity()
        elif self.global_pool.is_identity():
            self.fc = nn.Conv2d(in_features, num_classes, 1, **factory)  # logits at every position
        else:
            self.fc = nn.Linear(in_features, num_classes, **factory)

    def reset(self, num_classes: int, pool_type: str | None = None, **factory: Any) -> None:
        """Replaces the classifier, and the pooling if one is given."""
        if pool_type is not None:
            self._set_pool(pool_type)
        self._set_classifier(num_classes, **factory)
        self.train(self.training)

    def forward(self, x: torch.Tensor, pre_logits: bool = False) -> torch.Tensor:
        """``(B, C, H, W) -> (B, num_classes)``, or ``(B, C)`` before the classifier."""
        x = self.flatten(self.norm(self.global_pool(x)))
        x = self.drop(x)
        return x if pre_logits else self.fc(x)


class ResNetToConvNeXt(nn.Module):
    """The network that `components` describe.

    Args:
        components: The switches.
        in_chans: Channels of the images.
        num_classes: Outputs of the classifier; 0 for none.
        global_pool: Kind of the global pool, or ``""`` for none.
        width_factor: Factor on the width of every layer; a quarter gives the ``_atto`` networks.
        drop_rate: Dropout before the classifier.
        drop_path_rate: Stochastic depth of the last block; it grows linearly from 0 at the first.
        layer_scale_init: First value of the layer scale, where the components have one.
        zero_init_last: Start each residual branch that ends in BatchNorm at zero.
        device: Where the parameters are made.
        dtype: Type of the parameters.
    """

    def __init__(
        self,
        components: Components,
        in_chans: int = 3,
        num_classes: int = 1000,
        global_pool: str = "avg",
        width_factor: float = 1.0,
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        layer_scale_init: float = 1e-6,
        zero_init_last: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        factory: dict[str, Any] = {"device": device, "dtype": dtype}
        norm = partial(LayerNorm2d if components.layer_norm else nn.BatchNorm2d, **factory)
        act = nn.GELU if components.gelu else partial(nn.ReLU, inplace=True)
        self.components = components
        self.in_chans = in_chans
        self.num_classes = num_classes

        chs = width = round(components.width * width_factor)
        self.stem = Stem(in_chans, chs, components, norm, act, **factory)
        drop_path = _linear_drop_path(drop_path_rate, components.depths)
        stages = []
        self.feature_info = []
        for index, depth in enumerate(components.depths):
            stage = Stage(
                chs,
                width * 2**index,
                depth,
                index == 0,
                components,
                norm,
                act,
                drop_path=drop_path[index],
                layer_scale_init=layer_scale_init,
                **factory,
            )
            chs = stage.out_chs
            stages.append(stage)
            self.feature_info.append({"num_chs": chs, "reduction": 4 * 2**index, "module": f"stages.{index}"})
        self.stages = nn.Sequential(*stages)
        self.num_features = chs
        head_norm = norm(chs) if components.downsampling == "separate" else nn.Identity()
        self.head = Head(chs, num_classes, global_pool, drop_rate, head_norm, **factory)
        self.head_hidden_size = self.num_features
        self.init_weights(zero_init_last)

    @torch.jit.ignore
    def init_weights(self, zero_init_last: bool = True) -> None:
        """Draws new weights: as ResNet where norms are BatchNorm, as ConvNeXt where they are LayerNorm.

        Args:
            zero_init_last: Start each residual branch that ends in BatchNorm at zero.
        """
        for module in self.modules():
            if self.components.layer_norm and isinstance(module, (nn.Conv2d, nn.Linear)):
                trunc_normal_(module.weight, std=0.02)
            elif isinstance(module, nn.Conv2d):
                # He et al., 2015, fan-out of one group: a depthwise conv has kernel_size^2 outputs per input
                fan_out = math.prod(module.kernel_size) * module.out_channels // module.groups
                nn.init.normal_(module.weight, std=math.sqrt(2.0 / fan_out))
            if isinstance(module, nn.Conv2d) and module.bias is not None:
                nn.init.zeros_(module.bias)
            if isinstance(module, nn.Linear) and self.components.layer_norm:
                nn.init.zeros_(module.bias)
            if zero_init_last and isinstance(module, Block) and isinstance(module.norm3, nn.BatchNorm2d):
                nn.init.zeros_(module.norm3.weight)

    @torch.jit.ignore
    def no_weight_decay(self) -> set[str]:
        """Names of further parameters without weight decay: none."""
        return set()

    @torch.jit.ignore
    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Patterns that sort parameters into layers, for layer-wise learning rates."""
        blocks = r"^stages\.(\d+)"
        fine = [(r"^stages\.(\d+)\.downsample", (0,)), (r"^stages\.(\d+)\.blocks\.(\d+)", None)]
        return {"stem": r"^stem", "blocks": blocks if coarse else fine}

    @torch.jit.ignore
    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Turns on or off that blocks are computed again in the backward pass to save memory."""
        for stage in self.stages:
            stage.grad_checkpointing = enable

    @torch.jit.ignore
    def get_classifier(self) -> nn.Module:
        """The last layer."""
        return self.head.fc

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Puts a new classifier in place, with random weights.

        Args:
            num_classes: Outputs of the classifier; 0 for none.
            global_pool: Kind of the global pool, ``""`` for none, None to keep it.
        """
        self.num_classes = num_classes
        weight = self.stem.conv.weight
        self.head.reset(num_classes, global_pool, device=weight.device, dtype=weight.dtype)

    def forward_intermediates(
        self,
        x: torch.Tensor,
        indices: int | list[int] | None = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
    ) -> list[torch.Tensor] | tuple[torch.Tensor, list[torch.Tensor]]:
        """Runs the stages and returns what some of them put out.

        Args:
            x: ``(B, in_chans, H, W)``.
            indices: Which stages: the last n if an int, all if None.
            norm: Has no effect: no norm stands between the last stage and the pool.
            stop_early: Run no further than the last stage asked for.
            output_fmt: ``NCHW``, the only one there is.
            intermediates_only: Leave out the last feature map.

        Returns:
            The intermediates, ``(B, C_i, H_i, W_i)`` each, behind the last feature map unless left out.
        """
        if output_fmt != "NCHW":
            raise ValueError(f"output_fmt is {output_fmt!r}; only 'NCHW' is supported")
        taken = _stage_indices(indices, len(self.stages))
        stages = self.stages[: taken[-1] + 1] if stop_early else self.stages
        x = self.stem(x)
        intermediates = []
        for index, stage in enumerate(stages):
            x = stage(x)
            if index in taken:
                intermediates.append(x)
        return intermediates if intermediates_only else (x, intermediates)

    def prune_intermediate_layers(
        self, indices: int | list[int] = 1, prune_norm: bool = False, prune_head: bool = True
    ) -> list[int]:
        """Drops the stages that `forward_intermediates` with these indices doesn't need.

        Args:
            indices: Which stages are needed: the last n if an int.
            prune_norm: Has no effect: no norm stands between the last stage and the pool.
            prune_head: Drop the head too; it goes in any case if the last stage does.

        Returns:
            The indices of the stages that were asked for.
        """
        taken = _stage_indices(indices, len(self.stages))
        drops_last = taken[-1] < len(self.stages) - 1
        self.stages = self.stages[: taken[-1] + 1]
        self.num_features = self.head_hidden_size = self.feature_info[taken[-1]]["num_chs"]
        if prune_head or drops_last:
            self.head.norm = nn.Identity()
            self.head.in_features = self.num_features
            self.reset_classifier(0, "")
        return taken

    def forward_features(self, x: torch.Tensor) -> torch.Tensor:
        """``(B, in_chans, H, W) -> (B, num_features, H / 32, W / 32)``."""
        return self.stages(self.stem(x))

    def forward_head(self, x: torch.Tensor, pre_logits: bool = False) -> torch.Tensor:
        """``(B, num_features, H, W) -> (B, num_classes)``, or ``(B, num_features)`` if `pre_logits`."""
        return self.head(x, pre_logits=pre_logits)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """``(B, in_chans, H, W) -> (B, num_classes)``."""
        return self.forward_head(self.forward_features(x))


def _linear_drop_path(last: float, depths: tuple[int, ...]) -> list[list[float]]:
    """Rates of stochastic depth, one a block in each stage, growing linearly from 0 to `last`."""
    blocks = sum(depths)
    rates = [last * index / (blocks - 1) for index in range(blocks)]
    return [rates[sum(depths[:stage]) : sum(depths[: stage + 1])] for stage in range(len(depths))]


def _stage_indices(indices: int | list[int] | tuple[int, ...] | None, count: int) -> list[int]:
    """Resolves the last n (an int), all (None) or listed stages to sorted indices from 0."""
    if indices is None:
        return list(range(count))
    chosen = range(count - indices, count) if isinstance(indices, int) else indices
    resolved = sorted({index + count if index < 0 else index for index in chosen})
    if not resolved or resolved[0] < 0 or resolved[-1] >= count:
        raise ValueError(f"stage indices {indices!r} are out of range; there are {count} stages")
    return resolved
