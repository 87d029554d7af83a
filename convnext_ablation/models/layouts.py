"""How projects name the parameters of these networks, and where checkpoints store them.

A `Format` is a table of rules that map their parameter names to ours. A state dict has the first format whose
rules match all of its names, or all names below the prefix of a wrapper.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from timm.models import clean_state_dict

from convnext_ablation.errors import UserError

StateDict = dict[str, torch.Tensor]
Rules = tuple[tuple[str, str], ...]

CLASSIFIER = "head.fc"
FIRST_CONV = "stem.conv.weight"
_PLAIN = ("state_dict", "model", "module", "network", "model_state_dict")  # where projects keep weights
# where Lightning and mmengine keep plain weights if `state_dict` is averaged, and the key that shows it
_BESIDE_AVERAGE = {"current_model_state": "averaging_state", "ema_state_dict": "message_hub"}
# in names of averaged weights, or of averaged networks within larger ones
_AVERAGE = re.compile(r"(^|[._])(ema|swa|averaged?)([._]|$)")
# inserted into names by wrappers of parts of a network
_WRAPPED = re.compile(r"(_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")
# prefixes of a wrapped network and of the classifier outside it
_BESIDE = {"backbone.": "head.fc.", "convnext.": "classifier.", "resnet.": "classifier.1."}


@dataclass(frozen=True)
class Format:
    """A project's names for the parameters."""

    name: str
    used_by: str
    first: str  # their name of the first conv's weight
    rules: Rules  # pattern at the start of their name, and our replacement; the first match counts

    def rename(self, key: str) -> str | None:
        """Returns our name for theirs, None if no rule matches."""
        for pattern, replacement in self.rules:
            renamed, found = re.subn(rf"^{pattern}", replacement, key, count=1)
            if found:
                return renamed
        return None

    def known(self, keys: Iterable[str]) -> int:
        """Number of names that match."""
        return sum(self.rename(key) is not None for key in keys)


@dataclass(frozen=True)
class AsItIs(Format):
    """The unchanged names of a timm network without a known format."""

    names: frozenset[str]

    def rename(self, key: str) -> str | None:
        """Returns the name, None if the network has no such parameter."""
        return key if key in self.names else None


def _resnet_stage(stage: int) -> Rules:
    theirs, ours = rf"layer{stage + 1}\.(\d+)\.", rf"stages.{stage}.blocks.\1."
    return (
        (rf"{theirs}conv([123])\.", rf"{ours}conv\2."),
        (rf"{theirs}bn([123])\.", rf"{ours}norm\2."),
        (rf"{theirs}downsample\.0\.", rf"{ours}shortcut.conv."),
        (rf"{theirs}downsample\.1\.", rf"{ours}shortcut.norm."),
    )


def _convnext_block(theirs: str, ours: str, *parts: str) -> Rules:
    """The patterns of a block's depthwise conv, norm, two 1x1 convs and layer scale, in this order."""
    names = ("conv1.", "norm1.", "conv2.", "conv3.", "scale.gamma")
    return tuple((theirs + part, ours + name) for part, name in zip(parts, names, strict=True))


def _torchvision_stage(stage: int) -> Rules:
    theirs, ours = rf"features\.{2 * stage + 1}\.(\d+)\.", rf"stages.{stage}.blocks.\1."
    parts = r"block\.0\.", r"block\.2\.", r"block\.3\.", r"block\.5\.", "layer_scale$"
    downsample = (rf"features\.{2 * stage}\.([01])\.", rf"stages.{stage}.downsample.\1.")
    return (downsample, *_convnext_block(theirs, ours, *parts))


_BLOCK = r"stages.\1.blocks.\2."
_OURS = (
    (r"(stem\.(?:conv|norm)\.)", r"\1"),
    (r"(stages\.\d+\.downsample\.[01]\.)", r"\1"),
    (r"(stages\.\d+\.blocks\.\d+\.(?:conv[123]|norm[123]|scale|shortcut\.conv|shortcut\.norm)\.)", r"\1"),
    (r"(head\.(?:norm|fc)\.)", r"\1"),
)
_RESNET = (
    (r"conv1\.", "stem.conv."),
    (r"bn1\.", "stem.norm."),
    *(rule for stage in range(4) for rule in _resnet_stage(stage)),
    (r"(?:head\.)?fc\.", "head.fc."),
)
# Models III and IV of 11785-FGVC: ds1 is between the first and the second stage
_FGVC = (*_RESNET, (r"ds([123])\.", r"stages.\1.downsample.0."))
# mmpretrain writes the names in full
_OFFICIAL_PARTS = (
    r"(?:dwconv|depthwise_conv)\.", r"norm\.", r"(?:pwconv|pointwise_conv)1\.",
    r"(?:pwconv|pointwise_conv)2\.", "gamma$",
)  # fmt: skip
_CONVNEXT = (
    (r"downsample_layers\.0\.0\.", "stem.conv."),
    (r"downsample_layers\.0\.1\.", "stem.norm."),
    (r"downsample_layers\.([123])\.([01])\.", r"stages.\1.downsample.\2."),
    *_convnext_block(r"stages\.(\d+)\.(\d+)\.", _BLOCK, *_OFFICIAL_PARTS),
    (r"norm3?\.", "head.norm."),
    (r"head\.(?:fc\.)?(?=weight|bias)", "head.fc."),
)
_TIMM_PARTS = (r"conv_dw\.", r"norm\.", r"mlp\.fc1\.", r"mlp\.fc2\.", "gamma$")
_TIMM_CONVNEXT = (
    (r"stem\.0\.", "stem.conv."),
    (r"stem\.1\.", "stem.norm."),
    (r"(stages\.[123]\.downsample\.[01]\.)", r"\1"),
    *_convnext_block(r"stages\.(\d+)\.blocks\.(\d+)\.", _BLOCK, *_TIMM_PARTS),
    (r"(head\.(?:norm|fc)\.)", r"\1"),
)
_TORCHVISION_CONVNEXT = (
    (r"features\.0\.0\.", "stem.conv."),
    (r"features\.0\.1\.", "stem.norm."),
    *(rule for stage in range(4) for rule in _torchvision_stage(stage)),
    (r"classifier\.0\.", "head.norm."),
    (r"classifier\.2\.", "head.fc."),
)
_TRANSFORMERS_STAGE = r"encoder\.stages\.(\d+)\."
_TRANSFORMERS_BLOCK = rf"{_TRANSFORMERS_STAGE}layers\.(\d+)\."
_TRANSFORMERS_PARTS = (r"dwconv\.", r"layernorm\.", r"pwconv1\.", r"pwconv2\.", "layer_scale_parameter$")
_TRANSFORMERS_CONVNEXT = (
    (r"embeddings\.patch_embeddings\.", "stem.conv."),
    (r"embeddings\.layernorm\.", "stem.norm."),
    (rf"{_TRANSFORMERS_STAGE}downsampling_layer\.([01])\.", r"stages.\1.downsample.\2."),
    *_convnext_block(_TRANSFORMERS_BLOCK, _BLOCK, *_TRANSFORMERS_PARTS),
    (r"layernorm\.", "head.norm."),
    (r"classifier\.", "head.fc."),
)
_TRANSFORMERS_RESNET = (
    (r"embedder\.embedder\.convolution\.", "stem.conv."),
    (r"embedder\.embedder\.normalization\.", "stem.norm."),
    (rf"{_TRANSFORMERS_BLOCK}shortcut\.convolution\.", rf"{_BLOCK}shortcut.conv."),
    (rf"{_TRANSFORMERS_BLOCK}shortcut\.normalization\.", rf"{_BLOCK}shortcut.norm."),
    *(
        (rf"{_TRANSFORMERS_BLOCK}layer\.{number}\.{theirs}\.", rf"{_BLOCK}{ours}{number + 1}.")
        for number in range(3)
        for theirs, ours in (("convolution", "conv"), ("normalization", "norm"))
    ),
    (r"classifier\.1\.", "head.fc."),
)

_FIRST_OFFICIAL = "downsample_layers.0.0.weight"
FORMATS = (
    Format("convnext_ablation", "this package", FIRST_CONV, _OURS),
    Format("resnet", "torchvision, timm, and Models I and II of 11785-FGVC", "conv1.weight", _RESNET),
    Format("11785-fgvc", "Models III and IV of 11785-FGVC", "conv1.weight", _FGVC),
    Format("convnext", "the official ConvNeXt, and Model V of 11785-FGVC", _FIRST_OFFICIAL, _CONVNEXT),
    Format("timm-convnext", "timm's ConvNeXt", "stem.0.weight", _TIMM_CONVNEXT),
    Format("torchvision-convnext", "torchvision's ConvNeXt", "features.0.0.weight", _TORCHVISION_CONVNEXT),
    Format(
        "transformers-convnext",
        "transformers' ConvNeXt",
        "embeddings.patch_embeddings.weight",
        _TRANSFORMERS_CONVNEXT,
    ),
    Format(
        "transformers-resnet",
        "transformers' ResNet",
        "embedder.embedder.convolution.weight",
        _TRANSFORMERS_RESNET,
    ),
)


@dataclass(frozen=True)
class Layout:
    """Format, prefix and name mapping of a state dict."""

    format: Format
    prefix: str  # common prefix of all names
    names: Mapping[str, str] = field(repr=False)  # our name -> their full name
    left_out: tuple[str, ...] = field(repr=False)  # other tensors of the state dict

    def __str__(self) -> str:
        """The layout in words."""
        words = [f"{self.format.name} layout"]
        if self.prefix:
            words.append(f"prefix {self.prefix!r} cut")
        if self.left_out:
            more = f" and {len(self.left_out) - 1} more tensors" if self.left_out[1:] else ""
            words.append(f"left out: {self.left_out[0]}{more}")
        return ", ".join(words)


def state_dict_in(content: Mapping[str, Any], averaged: bool = False, depth: int = 3) -> StateDict | None:
    """Finds the plain or averaged weights in a checkpoint of any project; None if there are none.

    Args:
        content: Content of the checkpoint.
        averaged: Whether to find the averaged weights.
        depth: Levels of nested dictionaries to search.

    Raises:
        UserError: There are several networks.
    """
    named = {key: value for key, value in content.items() if isinstance(key, str)}
    inside = {key: value for key, value in named.items() if isinstance(value, Mapping) and depth}
    plain, of_average = [key for key in _PLAIN if key in inside], list(filter(_AVERAGE.search, inside))
    for key, sign in _BESIDE_AVERAGE.items():
        if key in inside and sign in content:
            plain, of_average = [key], ["state_dict"]
    places = [(key, wanted) for wanted in (False, True) for key in of_average] if averaged else []
    for key, wanted in (*places, *((key, averaged) for key in plain)):
        if key in inside and (found := state_dict_in(inside[key], wanted, depth - 1)):
            return found
    tensors = {key: value for key, value in named.items() if isinstance(value, torch.Tensor)}
    averages = tuple(prefix for prefix in _prefixes(tensors, FORMATS) if _AVERAGE.search(prefix))
    if averages or averaged:
        tensors = {key: value for key, value in tensors.items() if key.startswith(averages) == averaged}
    if any("." in key for key in tensors):
        return tensors
    others = {}
    for key in inside.keys() - {*plain, *of_average, "optimizer"}:
        found = state_dict_in(inside[key], averaged, depth - 1)
        if found and _prefixes(found, FORMATS):
            others[key] = found
    if len(others) > 1:
        raise UserError(f"holds {len(others)} networks, under {', '.join(sorted(others))}; save one alone")
    return next(iter(others.values()), None)


def layout_of(state_dict: Mapping[str, Any], further: Format | None = None) -> Layout | None:
    """Finds the layout of a state dict, None if it is unknown.

    Args:
        state_dict: The state dict.
        further: A format to try after the known ones.

    Raises:
        UserError: There are several networks.
    """
    formats = (*FORMATS, further) if further else FORMATS
    found = []
    for prefix in _prefixes(state_dict, formats):
        theirs = {_WRAPPED.sub("", key[len(prefix) :]): key for key in state_dict if key.startswith(prefix)}
        for known in formats:
            names = {known.rename(key): whole for key, whole in theirs.items()}
            beside = {known.rename(key): whole for key, whole in _beside(prefix, state_dict)}
            names |= {name: whole for name, whole in beside.items() if name}
            if None in names or known.rename(known.first) not in names:
                continue
            if known is further or any(str(name).startswith("stages.0.blocks.") for name in names):
                taken = set(names.values())
                others = tuple(key for key in state_dict if key not in taken)
                found.append(Layout(known, prefix, names, others))  # type: ignore[arg-type]
                break
    if len(found) > 1:
        where = ", ".join(repr(each.prefix) for each in found)
        raise UserError(f"the checkpoint holds {len(found)} networks, under {where}; save one alone")
    return found[0] if found else None


def unwrapped(state_dict: StateDict) -> StateDict:
    """The same weights without wrapper prefixes and unrelated tensors."""
    layout = layout_of(state_dict)
    if layout is None:
        return clean_state_dict(state_dict)
    above, _ = _apart(layout.prefix)
    short = {key.removeprefix(layout.prefix).removeprefix(above): key for key in layout.names.values()}
    return {_WRAPPED.sub("", name): state_dict[key] for name, key in short.items()}


def classes_of(state_dict: StateDict, classifier: str) -> int | None:
    """Returns the number of classes of weights, None if it is unknown.

    Args:
        state_dict: Weights of any layout.
        classifier: Name of the network's classifier, used if the layout is unknown.
    """
    layout = layout_of(state_dict)
    theirs, name = (layout.names, CLASSIFIER) if layout else (clean_state_dict(state_dict), classifier)
    if f"{name}.weight" not in theirs:
        return None
    return len(state_dict[theirs[f"{name}.weight"]] if layout else theirs[f"{name}.weight"])


def _prefixes(state_dict: Mapping[str, Any], formats: tuple[Format, ...]) -> list[str]:
    """Prefixes of the names of first convs."""
    between = rf"\.(?:{_WRAPPED.pattern})*"
    firsts = "|".join(between.join(map(re.escape, known.first.split("."))) for known in formats)
    found = [re.fullmatch(rf"(|.*\.)(?:{firsts})", key) for key in state_dict]
    return list(dict.fromkeys(each[1] for each in found if each))


def _beside(prefix: str, state_dict: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Parameters of a classifier outside the wrapped network: names within the wrapper, and full names."""
    above, network = _apart(prefix)
    if network in _BESIDE:
        for key in state_dict:
            if key.startswith(above + _BESIDE[network]):
                yield key.removeprefix(above), key


def _apart(prefix: str) -> tuple[str, str]:
    """Splits off the innermost wrapper's name: the prefix without it, and the name."""
    above = prefix[: prefix[:-1].rfind(".") + 1]
    return above, prefix.removeprefix(above)
