"""Other projects' state dicts turned into ours; `checkpoint_files` reads the files that they come in.

A `Format` is a table of rules, pattern of their parameter name -> our name. A state dict is of the first
format whose rules match all of its names.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import timm
import torch
from timm.models import clean_state_dict
from torch import nn

from convnext_ablation.errors import UserError
from convnext_ablation.models.components import STAGES

StateDict = dict[str, torch.Tensor]
Rules = tuple[tuple[str, str], ...]

CLASSIFIER = "head.fc"
FIRST_CONV = "stem.conv.weight"
COUNTER = "num_batches_tracked"


@dataclass(frozen=True)
class Format:
    """How a project names its parameters."""

    name: str
    used_by: str
    rules: Rules  # pattern at the start of their name, and what it is in ours; the first that matches counts

    def rename(self, key: str) -> str | None:
        """Returns our name for theirs, None if no rule matches."""
        for pattern, replacement in self.rules:
            renamed, found = re.subn(rf"^{pattern}", replacement, key, count=1)
            if found:
                return renamed
        return None

    def known(self, keys: Mapping[str, Any]) -> int:
        """How many of the names match."""
        return sum(self.rename(key) is not None for key in keys)


def _resnet_stage(number: int) -> Rules:
    theirs, ours = rf"layer{number}\.(\d+)\.", rf"stages.{number - 1}.blocks.\1."
    return (
        (rf"{theirs}conv([123])\.", rf"{ours}conv\2."),
        (rf"{theirs}bn([123])\.", rf"{ours}norm\2."),
        (rf"{theirs}downsample\.0\.", rf"{ours}shortcut.conv."),
        (rf"{theirs}downsample\.1\.", rf"{ours}shortcut.norm."),
    )


_OURS = (
    (r"(stem\.(?:conv|norm)\.)", r"\1"),
    (r"(stages\.\d+\.downsample\.[01]\.)", r"\1"),
    (r"(stages\.\d+\.blocks\.\d+\.(?:conv[123]|norm[123]|scale|shortcut\.conv|shortcut\.norm)\.)", r"\1"),
    (r"(head\.(?:norm|fc)\.)", r"\1"),
)
_RESNET = (
    (r"conv1\.", "stem.conv."),
    (r"bn1\.", "stem.norm."),
    *(rule for number in (1, 2, 3, 4) for rule in _resnet_stage(number)),
    (r"fc\.", "head.fc."),
)
# Models III and IV of 11785-FGVC: ds1 stands between the first stage and the second
_FGVC = (*_RESNET, (r"ds([123])\.", r"stages.\1.downsample.0."))
_CONVNEXT = (
    (r"downsample_layers\.0\.0\.", "stem.conv."),
    (r"downsample_layers\.0\.1\.", "stem.norm."),
    (r"downsample_layers\.([123])\.([01])\.", r"stages.\1.downsample.\2."),
    (r"stages\.(\d+)\.(\d+)\.dwconv\.", r"stages.\1.blocks.\2.conv1."),
    (r"stages\.(\d+)\.(\d+)\.norm\.", r"stages.\1.blocks.\2.norm1."),
    (r"stages\.(\d+)\.(\d+)\.pwconv1\.", r"stages.\1.blocks.\2.conv2."),
    (r"stages\.(\d+)\.(\d+)\.pwconv2\.", r"stages.\1.blocks.\2.conv3."),
    (r"stages\.(\d+)\.(\d+)\.gamma$", r"stages.\1.blocks.\2.scale.gamma"),
    (r"norm\.", "head.norm."),
    (r"head\.(?=weight|bias)", "head.fc."),
)
_TIMM_CONVNEXT = (
    (r"stem\.0\.", "stem.conv."),
    (r"stem\.1\.", "stem.norm."),
    (r"(stages\.[123]\.downsample\.[01]\.)", r"\1"),
    (r"(stages\.\d+\.blocks\.\d+\.)conv_dw\.", r"\1conv1."),
    (r"(stages\.\d+\.blocks\.\d+\.)norm\.", r"\1norm1."),
    (r"(stages\.\d+\.blocks\.\d+\.)mlp\.fc1\.", r"\1conv2."),
    (r"(stages\.\d+\.blocks\.\d+\.)mlp\.fc2\.", r"\1conv3."),
    (r"(stages\.\d+\.blocks\.\d+\.)gamma$", r"\1scale.gamma"),
    (r"(head\.(?:norm|fc)\.)", r"\1"),
)

FORMATS = (
    Format("convnext_ablation", "this package", _OURS),
    Format("resnet", "torchvision, timm, and Models I and II of 11785-FGVC", _RESNET),
    Format("11785-fgvc", "Models III and IV of 11785-FGVC", _FGVC),
    Format("convnext", "the official ConvNeXt, and Model V of 11785-FGVC", _CONVNEXT),
    Format("timm-convnext", "timm's ConvNeXt", _TIMM_CONVNEXT),
)


def weights_in(content: Mapping[str, Any], ema: bool = False) -> StateDict | None:
    """Finds the (averaged) weights in a checkpoint, where timm and the official ConvNeXt put them."""
    inside = ("state_dict_ema", "model_ema") if ema else ("state_dict", "model")
    candidates = [content.get(key) for key in inside] + ([] if ema else [content])
    return next((candidate for candidate in candidates if _is_state_dict(candidate)), None)


def _is_state_dict(value: Any) -> bool:
    return (
        isinstance(value, Mapping)
        and bool(value)
        and all(isinstance(key, str) and isinstance(tensor, torch.Tensor) for key, tensor in value.items())
    )


def format_of(state_dict: Mapping[str, Any]) -> Format | None:
    """Finds the format of a state dict without prefixes such as ``module.``, None if it is unknown."""
    fitting = (known for known in FORMATS if known.known(state_dict) == len(state_dict))
    return next(fitting, None) if state_dict else None


def checkpoint_filter_fn(state_dict: Mapping[str, Any], model: nn.Module) -> StateDict:
    """Turns a state dict of any known format, or a checkpoint that holds one, into the model's.

    The classifier and the input channels may be of another size: timm drops or adapts those.
    """
    theirs = clean_state_dict(weights_in(state_dict) or {})
    target = {key: value.shape for key, value in model.state_dict().items()}
    found = format_of(theirs)
    nearest = found or max(FORMATS, key=lambda known: known.known(theirs))
    names = {nearest.rename(key) or key: key for key in theirs}  # ours -> theirs
    model_name = (getattr(model, "pretrained_cfg", None) or {}).get("architecture") or "the model"
    # a file may lack the classifier, and the counters of BatchNorms, which old ones do
    classifier = f"{CLASSIFIER}."
    needed = (key for key in target if not key.startswith(classifier) and not key.endswith(COUNTER))
    missing = next((key for key in needed if key not in names), None)
    strange = (ours for ours in names if ours not in target and not ours.startswith(classifier))
    unexpected = next(strange, None)
    if found is None or missing or unexpected:
        what = "is not one of" if found else "has an unknown layout and is not one of"
        parts = [f"the checkpoint (nearest: {nearest.name}, {nearest.used_by}) {what} {model_name}"]
        parts += [f"first missing: what {model_name} calls {missing}"] if missing else []
        parts += [f"first unexpected: {names[unexpected]}"] if unexpected else []
        raise UserError("; ".join(parts))
    return {ours: _fitted(theirs[key], ours, key, target, model_name) for ours, key in names.items()}


def _fitted(
    value: torch.Tensor, ours: str, theirs: str, target: Mapping[str, torch.Size], model_name: str
) -> torch.Tensor:
    """The parameter in the model's shape: a linear layer's weight is that of a 1x1 conv."""
    wanted = target.get(ours)
    if wanted is None or value.shape == wanted:
        return value
    if _without_1x1(value.shape) == _without_1x1(wanted):
        return value.reshape(wanted)
    other_classes = ours.startswith(f"{CLASSIFIER}.") and value.shape[0] != wanted[0]
    other_channels = ours == FIRST_CONV and (value.shape[0], *value.shape[2:]) == (wanted[0], *wanted[2:])
    if other_classes or other_channels:
        return value
    raise UserError(
        f"{theirs} is {_by(value.shape)} in the checkpoint and {_by(wanted)} in {model_name} ({ours}); "
        "name the model that the checkpoint was made with"
    )


def _without_1x1(shape: torch.Size) -> tuple[int, ...]:
    return tuple(shape[:2] if shape[2:] == (1, 1) else shape)


def _by(shape: torch.Size) -> str:
    return "x".join(map(str, shape)) or "a single number"


def loaded(model_name: str, state_dict: StateDict) -> nn.Module:
    """Builds a registered model with a checkpoint's weights, and as many classes and input channels.

    Raises:
        UserError: The checkpoint isn't the model's; the message names the stage that it fits, if it fits one.
    """
    try:
        return _load(model_name, state_dict)
    except UserError as error:
        fits = next((stage for stage in STAGES if _fits(stage, state_dict)), None)
        raise UserError(f"{error}; it fits --model {fits}" if fits else str(error)) from error


def _fits(model_name: str, state_dict: StateDict) -> bool:
    try:
        _load(model_name, state_dict)
    except UserError:
        return False
    return True


def _load(model_name: str, state_dict: StateDict) -> nn.Module:
    # a first pass finds our names, and with them the sizes that the second model must have
    weights = checkpoint_filter_fn(state_dict, timm.create_model(model_name, device="meta"))
    classifier = weights.get(f"{CLASSIFIER}.weight")
    model = timm.create_model(
        model_name,
        num_classes=0 if classifier is None else len(classifier),
        in_chans=weights[FIRST_CONV].shape[1],
        device="meta",
    )
    missing = [key for key in model.state_dict() if key.startswith(f"{CLASSIFIER}.") and key not in weights]
    if missing:
        raise UserError(f"half a classifier: {missing[0]} is missing")
    model.load_state_dict(checkpoint_filter_fn(state_dict, model), strict=True, assign=True)
    return model
