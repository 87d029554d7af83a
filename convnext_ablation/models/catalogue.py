"""What networks there are, what they add, and how two differ: component by component, and layer by layer."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

import timm
from timm.layers import LayerNorm2d
from torch import nn

from convnext_ablation.errors import unknown_name
from convnext_ablation.models import zoo
from convnext_ablation.models.blocks import LayerScale
from convnext_ablation.models.components import (
    CONVNEXT_TINY,
    FAMILIES,
    RESNET_50,
    STAGES,
    WORDS,
    Components,
)
from convnext_ablation.models.cost import count_gmacs, count_parameters
from convnext_ablation.models.network import ResNetToConvNeXt

MEANING: Mapping[str, str] = {
    "stage_ratio": "blocks in each of the four stages",
    "patchify_stem": "how the image becomes the first stage's input",
    "depthwise": "whether the spatial convolution mixes channels",
    "wide": "channels d of the first stage; each later stage has twice as many",
    "inverted": "which is the wide side of a block: its ends (4d, d, 4d) or its middle (d, 4d, d)",
    "moved_up": "where in the block the spatial convolution stands",
    "kernel_size": "how far the spatial convolution sees",
    "gelu": "the activation",
    "fewer_acts": "activations in a block",
    "fewer_norms": "norms in a block",
    "layer_norm": "the norm",
    "downsampling": "how resolution changes between stages",
    "layer_scale": "a learned factor per channel on each residual branch",
}

# what has no weights and changes nothing, or the same in all networks
_SILENT = (nn.Identity, nn.Sequential, nn.Dropout, nn.Flatten, nn.AdaptiveAvgPool2d)


def build(name: str) -> ResNetToConvNeXt:
    """Builds a registered network without memory for its weights."""
    return timm.create_model(name, device="meta")


def adds(name: str) -> str:
    """What a registered network adds to its baseline, in a few words."""
    base = name.removesuffix("_atto")
    variants = {key: variant for family in FAMILIES.values() for key, variant in family.items()}
    for number, variant in enumerate(STAGES.values(), start=1):
        variants[f"resnet_to_convnext_stage{number}"] = variant
    if base not in variants:
        return "any combination, by keyword arguments"
    return variants[base].adds + (", a quarter of the width" if base != name else "")


def difference(old: str, new: str, size: int = 224) -> list[str]:
    """Says in lines how two registered networks differ; GMACs are for images of `size` pixels a side.

    Raises:
        UserError: A name is unknown.
    """
    for name in (old, new):
        if name not in zoo.model_names():
            raise unknown_name("model", name, zoo.model_names())
    models = build(old), build(new)
    parameters = " -> ".join(f"{count_parameters(model):,}" for model in models)
    gmacs = " -> ".join(f"{count_gmacs(model, (3, size, size)):.3f}" for model in models)
    return [
        f"{old} -> {new}",
        "",
        "components:",
        *(
            f"  {line}"
            for line in component_lines(*(model.components for model in models)) or ["none differs"]
        ),
        "cost:",
        f"  parameters: {parameters}",
        f"  GMACs at {size}: {gmacs}",
        "layers (d is a stage's width):",
        *(f"  {line}" for line in layer_lines(*models)),
    ]


def component_lines(old: Components, new: Components) -> list[str]:
    """Says which components differ, one a line: what they were, what they are, and what that means."""
    return [
        f"{name}: {_in_words(name, before)} -> {_in_words(name, after)} ({MEANING[name]})"
        for name, (before, after) in new.changed_from(old).items()
    ]


def _in_words(name: str, value: Any) -> str:
    if value == getattr(RESNET_50, name):
        return WORDS[name].resnet
    if value == getattr(CONVNEXT_TINY, name):
        return WORDS[name].convnext
    if name == "kernel_size":
        return f"kernel {value}"
    return "a 1x1 convolution widens, then the next block strides"  # `pointwise`


def layer_lines(old: ResNetToConvNeXt, new: ResNetToConvNeXt) -> list[str]:
    """Says which layers differ; the same change in many blocks is one line.

    Channels inside the stages are given in terms of d, the stage's width.
    """
    before, after = _layers(old), _layers(new)
    block_counts = list(zip(old.components.depths, new.components.depths, strict=True))
    depths = [min(counts) for counts in block_counts]
    places: dict[tuple[str, str | None, str | None], list[tuple[int, int]]] = {}
    for path in dict.fromkeys([*before, *after]):
        was, becomes = before.get(path), after.get(path)
        layer, place = _placed(path)
        in_both = not place or place[1] < depths[place[0]]  # whole blocks have lines of their own
        if was != becomes and in_both:
            places.setdefault((layer, was, becomes), []).extend([place] if place else [])
    blocks = [
        f"stages.{stage}.blocks.{_ranges(range(*sorted(n)))}: {'new' if n[0] < n[1] else 'gone'}"
        for stage, n in enumerate(block_counts)
        if n[0] != n[1]
    ]
    changes = [f"{_where(at, depths, layer)}: {_change(*change)}" for (layer, *change), at in places.items()]
    return [_width_line(old, new), *blocks, *changes]


def _placed(path: str) -> tuple[str, tuple[int, int] | None]:
    """A layer's path inside its block or stage, and the stage and the block; -1 stands for no block."""
    if found := re.fullmatch(r"stages\.(\d+)\.blocks\.(\d+)\.(.+)", path):
        return found[3], (int(found[1]), int(found[2]))
    if found := re.fullmatch(r"stages\.(\d+)\.(downsample\..+)", path):
        return found[2], (int(found[1]), -1)
    return path, None


def _change(was: str | None, becomes: str | None) -> str:
    if was is None:
        return f"new: {becomes}"
    return f"{was} is gone" if becomes is None else f"{was} becomes {becomes}"


def _widths(model: ResNetToConvNeXt) -> list[int]:
    expansion = 1 if model.components.inverted else 4
    return [info["num_chs"] // expansion for info in model.feature_info]


def _width_line(old: ResNetToConvNeXt, new: ResNetToConvNeXt) -> str:
    was, becomes = (", ".join(map(str, _widths(model))) for model in (old, new))
    return f"d: {was}" if was == becomes else f"d: {was} becomes {becomes}"


def _layers(model: ResNetToConvNeXt) -> dict[str, str]:
    """Every layer that does something, by path: what it is."""
    widths = _widths(model)
    described = {}
    for path, module in model.named_modules():
        if next(module.children(), None) is None and not isinstance(module, _SILENT):
            in_stage = re.match(r"stages\.(\d+)\.", path)
            described[path] = _described(module, widths[int(in_stage[1])] if in_stage else 0)
    return described


def _described(module: nn.Module, width: int) -> str:
    """The layer in a few words, e.g. ``7x7 depthwise d, stride 2``."""
    if isinstance(module, nn.Conv2d):
        inputs, outputs = (_times(chs, width) for chs in (module.in_channels, module.out_channels))
        what = f"depthwise {outputs}" if module.groups > 1 else f"{inputs}->{outputs}"
        stride = f", stride {module.stride[0]}" if module.stride[0] > 1 else ""
        bias = ", bias" if module.bias is not None else ""
        return f"{'x'.join(map(str, module.kernel_size))} {what}{stride}{bias}"
    if isinstance(module, nn.MaxPool2d):
        return f"{module.kernel_size}x{module.kernel_size} max pool, stride {module.stride}"
    if isinstance(module, nn.Linear):
        return f"linear {module.in_features}->{module.out_features}"
    if isinstance(module, nn.BatchNorm2d):
        return f"BatchNorm {_times(len(module.weight), width)}"
    if isinstance(module, LayerNorm2d):
        return f"LayerNorm {_times(len(module.weight), width)}"
    if isinstance(module, LayerScale):
        return f"layer scale {_times(len(module.gamma), width)}"
    return type(module).__name__


def _times(channels: int, width: int) -> str:
    """Channels as a multiple of the stage's width d; as they are outside the stages."""
    if width and channels % width == 0:
        factor = channels // width
        return "d" if factor == 1 else f"{factor}d"
    if width and width % channels == 0:
        return f"d/{width // channels}"
    return str(channels)


def _where(places: list[tuple[int, int]], depths: list[int], layer: str) -> str:
    """The layer's path in all these blocks, e.g. ``stages.1-3.blocks.0.conv1``."""
    if not places:
        return layer
    blocks: dict[int, list[int]] = {}
    for stage, block in places:
        blocks.setdefault(stage, []).append(block)
    stages: dict[str, list[int]] = {}
    for stage, numbers in blocks.items():
        stages.setdefault(_which_blocks(numbers, depths[stage]), []).append(stage)
    return ", ".join(
        f"stages.{'*' if len(numbers) == len(depths) else _ranges(numbers)}{which}.{layer}"
        for which, numbers in stages.items()
    )


def _which_blocks(numbers: list[int], depth: int) -> str:
    if numbers == [-1]:  # between the stages
        return ""
    if numbers == list(range(depth)):
        return ".blocks.*"
    if numbers == list(range(1, depth)):
        return ".blocks.1+"
    return f".blocks.{_ranges(numbers)}"


def _ranges(numbers: Iterable[int]) -> str:
    """Whole numbers in order, runs joined: ``0,2-4``."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return ",".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)
