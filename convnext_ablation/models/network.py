"""One network, built from `Components`: from ResNet-50 to ConvNeXt-T and anything in between.

Papers: "Deep Residual Learning for Image Recognition" (He et al., 2015, arXiv:1512.03385) and "A ConvNet for
the 2020s" (Liu et al., 2022, arXiv:2201.03545).
"""

# No `from __future__ import annotations`: torch.fx copies annotations, and TorchScript needs types there.
import math
from typing import Any

import torch
from timm.layers import SelectAdaptivePool2d, trunc_normal_
from timm.models import checkpoint_seq
from torch import nn

from convnext_ablation.errors import UserError
from convnext_ablation.models.blocks import Block, Layers, LayerScale, Stem
from convnext_ablation.models.components import Components


class Stage(nn.Module):
    """Blocks of one width, after the downsampling between this stage and the previous one.

    Args:
        width: d of the blocks: hidden width of a bottleneck, output width of an inverted bottleneck.
        first: Whether this is the first stage, which keeps the stem's resolution.
        drop_path: Probability of dropping the residual branch, per block.
    """

    def __init__(
        self,
        in_chs: int,
        width: int,
        first: bool,
        layers: Layers,
        drop_path: list[float],
        layer_scale_init: float,
    ) -> None:
        super().__init__()
        self.grad_checkpointing = False
        components = layers.components
        hidden_chs, out_chs = (4 * width, width) if components.inverted else (width, 4 * width)
        self.out_chs = out_chs
        self.downsample = nn.Sequential() if first else _downsample(in_chs, out_chs, layers)
        if len(self.downsample) > 0:
            in_chs = out_chs
        stride = 1 if first or components.downsampling == "separate" else 2
        # Models III and IV have a conv on the shortcut of the first stage, too
        shortcut = stride != 1 or in_chs != out_chs or components.downsampling == "pointwise"
        self.blocks = nn.Sequential()
        for rate in drop_path:
            block = Block(in_chs, hidden_chs, out_chs, layers, stride, shortcut, rate, layer_scale_init)
            self.blocks.append(block)
            in_chs, stride, shortcut = out_chs, 1, False

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """``(B, in_chs, H, W) -> (B, out_chs, H / 2, W / 2)``; the first stage keeps H x W."""
        x = self.downsample(x)
        # TorchScript supports only this name of the function
        if self.grad_checkpointing and not torch.jit.is_scripting():  # type: ignore[attr-defined]
            return checkpoint_seq(self.blocks, x)
        return self.blocks(x)


def _downsample(in_chs: int, out_chs: int, layers: Layers) -> nn.Sequential:
    """The downsampling between two stages; empty if the next block strides."""
    if layers.components.downsampling == "pointwise":
        conv = nn.Conv2d(in_chs, out_chs, 1, bias=False, device=layers.device, dtype=layers.dtype)
        return nn.Sequential(conv)
    if layers.components.downsampling == "separate":
        conv = layers.conv(in_chs, out_chs, kernel_size=2, stride=2, normed=False)
        return nn.Sequential(layers.norm(in_chs), conv)
    return nn.Sequential()


class Head(nn.Module):
    """Global pool, norm (with separate downsampling), dropout, classifier.

    Raises:
        UserError: The pool changes the number of channels before a norm.
    """

    def __init__(
        self, in_features: int, num_classes: int, pool_type: str, drop_rate: float, layers: Layers
    ) -> None:
        super().__init__()
        self.in_features = in_features
        has_norm = layers.components.downsampling == "separate"
        self.norm = layers.norm(in_features) if has_norm else nn.Identity()
        self.drop = nn.Dropout(drop_rate)
        self._set_pool(pool_type)
        self.hidden_size = in_features * self.global_pool.feat_mult()
        self.fc = self._classifier(num_classes, layers.device, layers.dtype)

    def _set_pool(self, pool_type: str) -> None:
        pool = SelectAdaptivePool2d(pool_type=pool_type)
        if pool.feat_mult() != 1 and not isinstance(self.norm, nn.Identity):
            raise UserError(
                f"global_pool is {pool_type!r}, which doubles the channels that the norm behind it takes; "
                "use 'avg', 'max' or 'avgmax'"
            )
        self.global_pool = pool
        self.flatten = nn.Flatten(1) if pool_type else nn.Identity()

    def _classifier(
        self, num_classes: int, device: torch.device | str | None, dtype: torch.dtype | None
    ) -> nn.Module:
        if num_classes == 0:
            return nn.Identity()
        if self.global_pool.is_identity():  # logits at every position
            return nn.Conv2d(self.hidden_size, num_classes, 1, device=device, dtype=dtype)
        return nn.Linear(self.hidden_size, num_classes, device=device, dtype=dtype)

    def reset(
        self, num_classes: int, pool_type: str | None, device: torch.device, dtype: torch.dtype
    ) -> None:
        """Replaces the classifier, and the pooling if one is given."""
        if pool_type is not None:
            self._set_pool(pool_type)
        self.hidden_size = self.in_features * self.global_pool.feat_mult()
        self.fc = self._classifier(num_classes, device, dtype)
        self.train(self.training)

    def forward(self, x: torch.Tensor, pre_logits: bool = False) -> torch.Tensor:
        """``(B, C, H, W) -> (B, num_classes)``, or ``(B, C)`` before the classifier."""
        x = self.flatten(self.norm(self.global_pool(x)))
        x = self.drop(x)
        return x if pre_logits else self.fc(x)


class ResNetToConvNeXt(nn.Module):
    """The network that `components` describes.

    Args:
        num_classes: Outputs of the classifier; 0 for none.
        global_pool: Kind of the global pool, or ``""`` for none.
        width_factor: Factor on the width of every layer; 0.25 in the ``_atto`` networks.
        drop_rate: Dropout before the classifier.
        drop_path_rate: Stochastic depth rate of the last block, growing linearly from 0 at the first.
        uniform_drop_path: Use this rate in every block, as 11785-FGVC does for Model V.
        layer_scale_init: Initial value of the layer scale, if any.
        zero_init_last: Zero-initialize the last norm of each residual branch that ends in one.
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
        uniform_drop_path: bool = False,
        layer_scale_init: float = 1e-6,
        zero_init_last: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        layers = Layers(components, device, dtype)
        self.components = components
        self.in_chans = in_chans
        self.num_classes = num_classes

        chs = width = round(components.width * width_factor)
        self.stem = Stem(in_chans, chs, layers)
        self.stages = nn.Sequential()
        feature_info: list[dict[str, Any]] = []
        drop_path = _drop_path_rates(drop_path_rate, components.depths, uniform_drop_path)
        for index, rates in enumerate(drop_path):
            stage = Stage(chs, width * 2**index, index == 0, layers, rates, layer_scale_init)
            chs = stage.out_chs
            self.stages.append(stage)
            info = {"num_chs": chs, "reduction": 4 * 2**index, "module": f"stages.{index}"}
            feature_info.append(info)
        self.feature_info = feature_info
        self.num_features = chs
        self.head = Head(chs, num_classes, global_pool, drop_rate, layers)
        self.head_hidden_size = self.head.hidden_size
        self.init_weights(zero_init_last)

    @torch.jit.ignore  # type: ignore[untyped-decorator]
    def init_weights(self, zero_init_last: bool = True) -> None:
        """Reinitializes all weights: as in ResNet with BatchNorm, as in ConvNeXt with LayerNorm."""
        init = _init_like_convnext if self.components.layer_norm else _init_like_resnet
        self.apply(init)
        if zero_init_last:
            for module in self.modules():
                if isinstance(module, Block):
                    module.zero_init_last()

    @torch.jit.ignore  # type: ignore[untyped-decorator]
    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Patterns that sort parameters into layers, for layer-wise learning rates."""
        blocks = r"^stages\.(\d+)"
        fine = [(r"^stages\.(\d+)\.downsample", (0,)), (r"^stages\.(\d+)\.blocks\.(\d+)", None)]
        return {"stem": r"^stem", "blocks": blocks if coarse else fine}

    @torch.jit.ignore  # type: ignore[untyped-decorator]
    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Turns gradient checkpointing of the blocks on or off."""
        for module in self.modules():
            if isinstance(module, Stage):
                module.grad_checkpointing = enable

    @torch.jit.ignore  # type: ignore[untyped-decorator]
    def get_classifier(self) -> nn.Module:
        """The classifier."""
        return self.head.fc

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Replaces the classifier with a newly initialized one, and the pool unless `global_pool` is None."""
        self.num_classes = num_classes
        weight = self.stem.conv.weight
        self.head.reset(num_classes, global_pool, weight.device, weight.dtype)
        self.head_hidden_size = self.head.hidden_size

    def forward_intermediates(
        self,
        x: torch.Tensor,
        indices: int | list[int] | None = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
    ) -> list[torch.Tensor] | tuple[torch.Tensor, list[torch.Tensor]]:
        """Returns the outputs of some stages: the last n if `indices` is an int, all if None.

        `norm` has no effect: there is no norm between the last stage and the pool.

        Returns:
            The intermediates, ``(B, C_i, H_i, W_i)`` each. Unless `intermediates_only`, a tuple of the last
            feature map and these.
        """
        if output_fmt != "NCHW":
            raise ValueError(f"output_fmt is '{output_fmt}'; only 'NCHW' is supported")
        taken = _stage_indices(indices, len(self.stages))
        x = self.stem(x)
        intermediates = []
        for index, stage in enumerate(self.stages):
            if index <= taken[-1] or not stop_early:  # TorchScript can't break out of this loop
                x = stage(x)
            if index in taken:
                intermediates.append(x)
        if intermediates_only:
            return intermediates
        return x, intermediates

    def prune_intermediate_layers(
        self, indices: int | list[int] = 1, prune_norm: bool = False, prune_head: bool = True
    ) -> list[int]:
        """Drops the stages that `forward_intermediates` doesn't need for these indices; returns the indices.

        The head is dropped if `prune_head` or if the last stage is. `prune_norm` has no effect.
        """
        taken = _stage_indices(indices, len(self.stages))
        drops_last = taken[-1] < len(self.stages) - 1
        self.stages = self.stages[: taken[-1] + 1]
        self.num_features = self.feature_info[taken[-1]]["num_chs"]
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


def _init_like_resnet(module: nn.Module) -> None:
    """He normal init with fan-out for convs (He et al., 2015); torch's default for linear layers."""
    if isinstance(module, nn.Conv2d):
        # with groups, an input reaches the outputs of its own group only
        fan_out = math.prod(module.kernel_size) * module.out_channels // module.groups
        nn.init.normal_(module.weight, std=math.sqrt(2.0 / fan_out))
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, (nn.BatchNorm2d, nn.Linear, LayerScale)):
        module.reset_parameters()


def _init_like_convnext(module: nn.Module) -> None:
    """Truncated normal with standard deviation 0.02, zero bias (Liu et al., 2022, appendix A)."""
    if isinstance(module, (nn.Conv2d, nn.Linear)):
        trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, (nn.LayerNorm, LayerScale)):
        module.reset_parameters()


def _drop_path_rates(last: float, depths: tuple[int, ...], uniform: bool) -> list[list[float]]:
    """Stochastic depth rates of the blocks by stage: growing linearly from 0 to `last`, or all `last`."""
    blocks = sum(depths)
    rates = [last if uniform else last * index / (blocks - 1) for index in range(blocks)]
    return [rates[sum(depths[:stage]) : sum(depths[: stage + 1])] for stage in range(len(depths))]


def _stage_indices(indices: int | list[int] | None, count: int) -> list[int]:
    """Sorted stage indices from 0, for the last n (int), all (None) or listed stages; scriptable."""
    if indices is None:
        indices = count
    if isinstance(indices, int):
        chosen = [count - indices + index for index in range(indices)]
    else:
        chosen = [index + count if index < 0 else index for index in indices]
    chosen = sorted(chosen)
    if len(chosen) == 0 or chosen[0] < 0 or chosen[-1] >= count:
        raise ValueError(f"stage indices {indices} are out of range; there are {count} stages")
    return chosen
