"""What can change between ResNet-50 and ConvNeXt-T, and every named point of the way: data only.

The switches follow section 2 of "A ConvNet for the 2020s" (Liu et al., CVPR 2022, arXiv:2201.03545). The
five stages are those of the 11785-FGVC project, which differ from the paper's steps in how Models III and IV
change resolution (see `Components.downsampling`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from types import MappingProxyType
from typing import Any

from convnext_ablation.errors import UserError, unknown_name

DOWNSAMPLINGS = ("block", "pointwise", "separate")


@dataclass(frozen=True)
class Components:
    """One switch per component of the way from ResNet-50 (all defaults) to ConvNeXt-T (`CONVNEXT_TINY`).

    Every combination of valid values is a network that builds and trains.

    Raises:
        UserError: A value is not one that its switch can take.
    """

    stage_ratio: bool = False  # blocks per stage: 3-4-6-3, or 3-3-9-3 as in Swin-T
    patchify_stem: bool = False  # 7x7 stride-2 conv + 3x3 max pool, or one 4x4 stride-4 conv
    depthwise: bool = False  # the spatial conv: dense, or one group per channel
    wide: bool = False  # width of the first stage: 64, or 96
    inverted: bool = False  # block: 4d -> d -> 4d (bottleneck), or d -> 4d -> d
    moved_up: bool = False  # the spatial conv: between the two 1x1 convs, or in front of them
    kernel_size: int = 3  # side of the spatial conv's kernel, odd
    gelu: bool = False  # activation: ReLU, or GELU
    fewer_acts: bool = False  # activations in a block: three, or one before the last 1x1 conv
    fewer_norms: bool = False  # norms in a block: three, or one after the spatial conv
    layer_norm: bool = False  # norm: BatchNorm, or LayerNorm over channels
    # How resolution changes between stages. `block`: the paper's way, by the stride of the next block, with a
    # 1x1 conv on the shortcut where the shape changes. `pointwise`: Models III and IV, a bare 1x1 conv widens at
    # the old resolution and the next block strides; every stage's first shortcut has a 1x1 conv. `separate`: norm
    # and a 2x2 stride-2 conv between the stages, and a norm after the global pool.
    downsampling: str = "block"
    layer_scale: bool = False  # a learned factor per channel, 1e-6 at the start, on each residual branch

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(field.default, bool) and not isinstance(value, bool):
                raise UserError(f"{field.name} is {value!r}; it takes True or False")
        if isinstance(self.kernel_size, bool) or not isinstance(self.kernel_size, int):
            raise UserError(f"kernel_size is {self.kernel_size!r}; it takes an odd whole number such as 7")
        if self.kernel_size < 1 or self.kernel_size % 2 == 0:
            raise UserError(f"kernel_size is {self.kernel_size}; it takes an odd whole number such as 7")
        if self.downsampling not in DOWNSAMPLINGS:
            raise unknown_name("downsampling", str(self.downsampling), DOWNSAMPLINGS)

    @property
    def depths(self) -> tuple[int, int, int, int]:
        """Blocks in each of the four stages."""
        return (3, 3, 9, 3) if self.stage_ratio else (3, 4, 6, 3)

    @property
    def width(self) -> int:
        """Channels of the stem's output, and d of the first stage; each later stage has twice as many."""
        return 96 if self.wide else 64

    def with_(self, **changes: Any) -> Components:
        """Returns these components with some switches set otherwise.

        Raises:
            UserError: A switch doesn't exist, or can't take that value.
        """
        for name in changes:
            if name not in SWITCHES:
                raise unknown_name("component", name, SWITCHES)
        return replace(self, **changes)

    def changed_from(self, other: Components) -> dict[str, tuple[Any, Any]]:
        """Returns the switches that differ, as ``{name: (value there, value here)}``."""
        here, there = asdict(self), asdict(other)
        return {name: (there[name], here[name]) for name in SWITCHES if there[name] != here[name]}


SWITCHES = tuple(field.name for field in fields(Components))

RESNET_50 = Components()
CONVNEXT_TINY = Components(
    stage_ratio=True,
    patchify_stem=True,
    depthwise=True,
    wide=True,
    inverted=True,
    moved_up=True,
    kernel_size=7,
    gelu=True,
    fewer_acts=True,
    fewer_norms=True,
    layer_norm=True,
    downsampling="separate",
    layer_scale=True,
)


@dataclass(frozen=True)
class Stage:
    """One of the five networks of the 11785-FGVC project.

    Attributes:
        label: The name people use for it, e.g. ``Model III``.
        adds: What it adds to the stage before, in a few words.
        components: The network.
    """

    label: str
    adds: str
    components: Components


_MODEL_II = RESNET_50.with_(stage_ratio=True, patchify_stem=True, depthwise=True, wide=True)
_MODEL_III = _MODEL_II.with_(inverted=True, downsampling="pointwise")
_MODEL_IV = _MODEL_III.with_(moved_up=True, kernel_size=7)

STAGES: Mapping[str, Stage] = MappingProxyType(
    {
        "model_i": Stage("Model I", "ResNet-50", RESNET_50),
        "model_ii": Stage("Model II", "stage ratio, patchify stem, depthwise, width", _MODEL_II),
        "model_iii": Stage("Model III", "inverted bottleneck", _MODEL_III),
        "model_iv": Stage("Model IV", "depthwise moved up, kernel 7", _MODEL_IV),
        "model_v": Stage(
            "Model V",
            "GELU, LayerNorm, fewer acts and norms, separate downsampling",
            CONVNEXT_TINY,
        ),
    }
)
