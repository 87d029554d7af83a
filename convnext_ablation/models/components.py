"""Everything that can change between ResNet-50 and ConvNeXt-T, and every named network; data only.

Switches and roadmap follow section 2 of "A ConvNet for the 2020s" (Liu et al., CVPR 2022, arXiv:2201.03545).
The five stages are those of the 11785-FGVC project. They differ from the paper's steps in how Models III and
IV downsample (see `Components.downsampling`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, NamedTuple

from convnext_ablation.errors import UserError, unknown_name

DOWNSAMPLINGS = ("block", "pointwise", "separate")


@dataclass(frozen=True)
class Components:
    """One switch per component, from ResNet-50 (all defaults) to ConvNeXt-T (`CONVNEXT_TINY`).

    Every combination of valid values builds and trains.

    Raises:
        UserError: A switch has an invalid value.
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
    # Downsampling between stages. `block`: as in the paper, by the stride of the next block, with a 1x1 conv
    # on the shortcut where the shape changes. `pointwise`: Models III and IV; a bare 1x1 conv widens at the
    # old resolution, then the next block strides; every stage's first shortcut has a 1x1 conv. `separate`:
    # norm and a 2x2 stride-2 conv between stages, and a norm after the global pool.
    downsampling: str = "block"
    layer_scale: bool = False  # a learned factor per channel, 1e-6 at the start, on each residual branch

    def __post_init__(self) -> None:
        """Checks that each switch has a valid value."""
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(field.default, bool) and not isinstance(value, bool):
                raise UserError(f"{field.name} is {value!r}; it takes True or False")
        size = self.kernel_size
        if isinstance(size, bool) or not isinstance(size, int) or size < 1 or size % 2 == 0:
            raise UserError(f"kernel_size is {size!r}; it takes an odd whole number such as 7")
        if self.downsampling not in DOWNSAMPLINGS:
            raise unknown_name("downsampling", str(self.downsampling), DOWNSAMPLINGS)

    @property
    def depths(self) -> tuple[int, int, int, int]:
        """Blocks in each of the four stages."""
        return (3, 3, 9, 3) if self.stage_ratio else (3, 4, 6, 3)

    @property
    def width(self) -> int:
        """Channels of the stem's output and d of the first stage; d doubles in each later stage."""
        return 96 if self.wide else 64

    def with_(self, **changes: Any) -> Components:
        """Returns a copy with some switches changed."""
        for name in changes:
            if name not in SWITCHES:
                raise unknown_name("component", name, SWITCHES)
        return replace(self, **changes)

    def changed_from(self, other: Components) -> dict[str, tuple[Any, Any]]:
        """Returns the switches that differ, as ``{name: (other's value, own value)}``."""
        here, there = asdict(self), asdict(other)
        return {name: (there[name], here[name]) for name in SWITCHES if there[name] != here[name]}

    def determining(self) -> dict[str, Any]:
        """Returns the switches that identify a run: those of `WAY`, and others if not at their default.

        So a component that is added later doesn't change the identities of networks without it.
        """
        return {
            field.name: getattr(self, field.name)
            for field in fields(self)
            if field.name in WAY or getattr(self, field.name) != field.default
        }


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
# the switches that differ between the two; components that ConvNeXt-T lacks are in `SWITCHES` only
WAY = tuple(CONVNEXT_TINY.changed_from(RESNET_50))
# every component switched on
ALL_ON = CONVNEXT_TINY.with_(**{field.name: True for field in fields(Components) if field.default is False})


class Words(NamedTuple):
    """A short name of a component when off (as in ResNet-50) and on (as in ConvNeXt-T if it has it)."""

    resnet: str
    convnext: str


WORDS: Mapping[str, Words] = {
    "stage_ratio": Words("stage ratio 3-4-6-3", "stage ratio 3-3-9-3"),
    "patchify_stem": Words("7x7 stem with max pool", "patchify stem"),
    "depthwise": Words("dense convolution", "depthwise convolution"),
    "wide": Words("width 64", "width 96"),
    "inverted": Words("bottleneck", "inverted bottleneck"),
    "moved_up": Words("spatial convolution in the middle", "spatial convolution moved up"),
    "kernel_size": Words("kernel 3", "kernel 7"),
    "gelu": Words("ReLU", "GELU"),
    "fewer_acts": Words("three activations a block", "fewer activations"),
    "fewer_norms": Words("three norms a block", "fewer norms"),
    "layer_norm": Words("BatchNorm", "LayerNorm"),
    "downsampling": Words("downsampling in the block", "separate downsampling"),
    "layer_scale": Words("no layer scale", "layer scale"),
}


@dataclass(frozen=True)
class Variant:
    """A named network."""

    label: str  # display name, e.g. `Model III`
    adds: str  # what it adds to its baseline, in short
    components: Components
    baseline: str = ""  # name of the network to compare with; empty for the first of a series


_MODEL_II = RESNET_50.with_(stage_ratio=True, patchify_stem=True, depthwise=True, wide=True)
_MODEL_III = _MODEL_II.with_(inverted=True, downsampling="pointwise")
_MODEL_IV = _MODEL_III.with_(moved_up=True, kernel_size=7)
_MODEL_V_ADDS = "GELU, LayerNorm, fewer acts and norms, separate downsampling, layer scale (= ConvNeXt-T)"

STAGES: Mapping[str, Variant] = {
    "model_i": Variant("Model I", "ResNet-50", RESNET_50),
    "model_ii": Variant(
        "Model II", "stage ratio, patchify stem, depthwise, width", _MODEL_II, baseline="model_i"
    ),
    "model_iii": Variant("Model III", "inverted bottleneck", _MODEL_III, baseline="model_ii"),
    "model_iv": Variant("Model IV", "depthwise moved up, kernel 7", _MODEL_IV, baseline="model_iii"),
    "model_v": Variant("Model V", _MODEL_V_ADDS, CONVNEXT_TINY, baseline="model_iv"),
}


# the rows of the paper's table 10: name, change, and switches
_STEPS: tuple[tuple[str, str, dict[str, Any]], ...] = (
    ("resnet50", "ResNet-50", {}),
    ("stage_ratio", "stage ratio 3-4-6-3 -> 3-3-9-3", {"stage_ratio": True}),
    ("patchify_stem", "patchify stem 4x4 stride 4", {"patchify_stem": True}),
    ("depthwise", "depthwise convolution", {"depthwise": True}),
    ("wide", "width 64 -> 96", {"wide": True}),
    ("inverted", "inverted bottleneck", {"inverted": True}),
    ("moved_up", "depthwise convolution moved up", {"moved_up": True}),
    ("kernel_5", "kernel 5", {"kernel_size": 5}),
    ("kernel_7", "kernel 7", {"kernel_size": 7}),
    ("kernel_9", "kernel 9", {"kernel_size": 9}),
    ("kernel_11", "kernel 11", {"kernel_size": 11}),
    ("gelu", "ReLU -> GELU", {"gelu": True}),
    ("fewer_acts", "fewer activations", {"fewer_acts": True}),
    ("fewer_norms", "fewer norms", {"fewer_norms": True}),
    ("layer_norm", "BatchNorm -> LayerNorm", {"layer_norm": True}),
    # the paper doesn't say where layer scale enters; here, so that the last step is ConvNeXt-T exactly
    (
        "separate_downsampling",
        "separate downsampling, layer scale (= ConvNeXt-T)",
        {"downsampling": "separate", "layer_scale": True},
    ),
)


def _roadmap() -> dict[str, Variant]:
    """The paper's sixteen steps. Each builds on the last step that was kept: kernels 9 and 11 were not."""
    variants = {}
    baseline, components = "", RESNET_50
    for number, (step, adds, switches) in enumerate(_STEPS):
        name = f"roadmap_{number:02d}_{step}"
        variants[name] = Variant(f"Step {number}", adds, components.with_(**switches), baseline)
        if step not in ("kernel_9", "kernel_11"):
            baseline, components = name, variants[name].components
    return variants


ROADMAP: Mapping[str, Variant] = _roadmap()

LEAVE_ONE_OUT: Mapping[str, Variant] = {
    f"convnext_tiny_without_{name}": Variant(
        f"ConvNeXt-T without {WORDS[name].convnext}",
        WORDS[name].resnet,
        CONVNEXT_TINY.with_(**{name: getattr(RESNET_50, name)}),
        baseline="model_v",
    )
    for name in WAY
}

ADD_ONE_IN: Mapping[str, Variant] = {
    f"resnet50_with_{name}": Variant(
        f"ResNet-50 with {WORDS[name].convnext}",
        WORDS[name].convnext,
        RESNET_50.with_(**{name: getattr(CONVNEXT_TINY, name)}),
        baseline="model_i",
    )
    for name in WAY
}

FAMILIES: Mapping[str, Mapping[str, Variant]] = {
    "stages": STAGES,
    "roadmap": ROADMAP,
    "leave-one-out": LEAVE_ONE_OUT,
    "add-one-in": ADD_ONE_IN,
}

FREE = "resnet_to_convnext"  # its switches are model kwargs
# timm's names for the networks that it has and publishes weights of
TIMM_NAMES = {RESNET_50: "resnet50", CONVNEXT_TINY: "convnext_tiny"}

_NAMED = {
    FREE: RESNET_50,
    **{f"{FREE}_stage{number}": stage.components for number, stage in enumerate(STAGES.values(), start=1)},
    **{name: variant.components for family in FAMILIES.values() for name, variant in family.items()},
}
# the components and the width factor of every registered network
NETWORKS: Mapping[str, tuple[Components, float]] = {
    f"{name}{suffix}": (components, width_factor)
    for suffix, width_factor in (("", 1.0), ("_atto", 0.25))
    for name, components in _NAMED.items()
}
