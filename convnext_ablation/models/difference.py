"""What differs between two networks, in words: component by component, and layer by layer."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from timm.layers import LayerNorm2d
from torch import nn

from convnext_ablation.models.blocks import LayerScale
from convnext_ablation.models.components import CONVNEXT_TINY, RESNET_50, WORDS, Components
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

Place = tuple[int, int]  # stage and block
# what has no weights and changes nothing, or the same in all networks
_SILENT = (nn.Identity, nn.Sequential, nn.Dropout, nn.Flatten, nn.AdaptiveAvgPool2d)


def component_lines(old: Components, new: Components) -> list[str]:
    """Says which components differ, one a line: what they were, what they are, and what that means."""
    return [
        f"{name}: {_in_words(name, before)} -> {_in_words(name, after)} ({MEANING[name]})"
        for name, (before, after) in new.changed_from(old).items()
    ]


def layer_lines(old: ResNetToConvNeXt, new: ResNetToConvNeXt) -> list[str]:
    """Says which layers differ; the same change in many blocks is one line.

    Channels inside the stages are given in terms of d, the stage's width.
    """
    depths = [min(pair) for pair in zip(old.components.depths, new.components.depths, strict=True)]
    before, after = layers(old), layers(new)
    places: dict[tuple[str, str | None, str | None], list[Place]] = {}
    for path in dict.fromkeys([*before, *after]):
        was, becomes = before.get(path), after.get(path)
        layer, place = _placed(path)
        in_both = not place or place[1] < depths[place[0]]  # whole blocks are in `_depth_lines`
        if was != becomes and in_both:
            places.setdefault((layer, was, becomes), []).extend([place] if place else [])
    changes = [f"{_where(at, depths, layer)}: {_change(*change)}" for (layer, *change), at in places.items()]
    return [*_width_lines(old, new), *_depth_lines(old, new), *changes]


def _placed(path: str) -> tuple[str, Place | None]:
    """A layer's path inside its block or stage, and which that is; -1 stands for no block."""
    if found := re.fullmatch(r"stages\.(\d+)\.blocks\.(\d+)\.(.+)", path):
        return found[3], (int(found[1]), int(found[2]))
    if found := re.fullmatch(r"stages\.(\d+)\.(downsample\..+)", path):
        return found[2], (int(found[1]), -1)
    return path, None


def _in_words(name: str, value: Any) -> str:
    if value == getattr(RESNET_50, name):
        return WORDS[name].resnet
    if value == getattr(CONVNEXT_TINY, name):
        return WORDS[name].convnext
    if name == "kernel_size":
        return f"kernel {value}"
    return "a 1x1 convolution widens, then the next block strides"  # `pointwise`


def _change(was: str | None, becomes: str | None) -> str:
    if was is None:
        return f"new: {becomes}"
    return f"{was} is gone" if becomes is None else f"{was} becomes {becomes}"


def widths(model: ResNetToConvNeXt) -> list[int]:
    """The width d of each stage."""
    expansion = 1 if model.components.inverted else 4
    return [info["num_chs"] // expansion for info in model.feature_info]


def _width_lines(old: ResNetToConvNeXt, new: ResNetToConvNeXt) -> list[str]:
    was, becomes = (", ".join(map(str, widths(model))) for model in (old, new))
    return [f"d: {was}" if was == becomes else f"d: {was} becomes {becomes}"]


def _depth_lines(old: ResNetToConvNeXt, new: ResNetToConvNeXt) -> Iterator[str]:
    for number, depths in enumerate(zip(old.components.depths, new.components.depths, strict=True)):
        if depths[0] != depths[1]:
            blocks = _ranges(range(min(depths), max(depths)))
            yield f"stages.{number}.blocks.{blocks}: {'new' if depths[1] > depths[0] else 'gone'}"


def layers(model: ResNetToConvNeXt) -> dict[str, str]:
    """Every layer that does something, by path: what it is."""
    stage_widths = widths(model)
    described = {}
    for path, module in model.named_modules():
        if next(module.children(), None) is None and not isinstance(module, _SILENT):
            in_stage = re.match(r"stages\.(\d+)\.", path)
            described[path] = _described(module, stage_widths[int(in_stage[1])] if in_stage else 0)
    return described


def _described(module: nn.Module, width: int) -> str:
    """The layer in a few words, e.g. ``7x7 depthwise d, stride 2``."""
    if isinstance(module, nn.Conv2d):
        depthwise = " depthwise" if module.groups == module.in_channels > 1 else ""
        text = f"{_by(module.kernel_size)}{depthwise} {_channels(module, width)}"
        text += f", stride {module.stride[0]}" if module.stride[0] > 1 else ""
        return text + (", bias" if module.bias is not None else "")
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


def _by(sides: tuple[int, ...]) -> str:
    return "x".join(map(str, sides))


def _channels(conv: nn.Conv2d, width: int) -> str:
    if conv.groups > 1:
        return _times(conv.out_channels, width)
    return f"{_times(conv.in_channels, width)}->{_times(conv.out_channels, width)}"


def _times(channels: int, width: int) -> str:
    """Channels as a multiple of the stage's width d; as they are outside the stages."""
    if width and channels % width == 0:
        factor = channels // width
        return "d" if factor == 1 else f"{factor}d"
    if width and width % channels == 0:
        return f"d/{width // channels}"
    return str(channels)


def _where(places: list[Place], depths: list[int], layer: str) -> str:
    """The layer's path in all these blocks, e.g. ``stages.1-3.blocks.0.conv1``."""
    if not places:
        return layer
    blocks: dict[int, list[int]] = {}
    for stage, block in places:
        blocks.setdefault(stage, []).append(block)
    stages: dict[str, list[int]] = {}
    for stage, numbers in blocks.items():
        stages.setdefault(_which_blocks(numbers, depths[stage]), []).append(stage)
    paths = []
    for which, numbers in stages.items():
        stage_text = "*" if len(numbers) == len(depths) else _ranges(numbers)
        paths.append(f"stages.{stage_text}{which}.{layer}")
    return ", ".join(paths)


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
