"""Converts other projects' state dicts to ours; `checkpoint_files` reads their files."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import timm
import torch
from torch import nn

from convnext_ablation.errors import UserError
from convnext_ablation.models.components import STAGES
from convnext_ablation.models.layouts import (
    CLASSIFIER,
    FIRST_CONV,
    FORMATS,
    AsItIs,
    Layout,
    StateDict,
    layout_of,
    state_dict_in,
)

COUNTER = "num_batches_tracked"


def checkpoint_filter_fn(state_dict: Mapping[str, Any], model: nn.Module) -> StateDict:
    """Converts a state dict of any known layout, or a checkpoint with one, to the model's layout.

    The number of classes and of input channels may differ: timm drops or adapts those layers.
    """
    return fitted(state_dict, model)[0]


def fitted(state_dict: Mapping[str, Any], model: nn.Module) -> tuple[StateDict, Layout]:
    """Like `checkpoint_filter_fn`, with the source layout; the model may be one of timm's."""
    theirs = state_dict_in(state_dict) or state_dict_in(state_dict, averaged=True) or {}
    own = model.state_dict()
    cfg = getattr(model, "pretrained_cfg", None) or {}
    model_name = cfg.get("architecture") or "the model"
    mine = layout_of(own)
    if mine is None:
        as_it_is = AsItIs("timm", f"timm's {model_name}", next(iter(own), ""), (), frozenset(own))
        mine = Layout(as_it_is, "", {key: key for key in own}, ())
        classifier, first = f"{cfg.get('classifier')}.", f"{cfg.get('first_conv')}.weight"
    else:
        classifier, first = f"{CLASSIFIER}.", FIRST_CONV
    target = {ours: own[key].shape for ours, key in mine.names.items()}
    found = layout_of(theirs, mine.format)
    nearest = found.format if found else max((*FORMATS, mine.format), key=lambda known: known.known(theirs))
    names = found.names if found else {nearest.rename(key) or key: key for key in theirs}  # ours -> theirs
    if theirs and not found and 2 * nearest.known(theirs) < len(theirs):
        raise UserError(
            f"the checkpoint is of another architecture, whose first parameter is {next(iter(theirs))}; "
            f"give one of {model_name}, as {', '.join(known.name for known in FORMATS)} lays it out"
        )
    # the classifier may be missing, and so may BatchNorm's counters in old files
    needed = (key for key in target if not key.startswith(classifier) and not key.endswith(COUNTER))
    missing = next((key for key in needed if key not in names), None)
    strange = (ours for ours in names if ours not in target and not ours.startswith(classifier))
    unexpected = next(strange, None)
    if found is None or missing or unexpected:
        what = "is not one of" if found else "has an unknown layout and is not one of"
        parts = [f"the checkpoint (nearest: {nearest.name}, {nearest.used_by}) {what} {model_name}"]
        parts += [f"first missing: what {model_name} calls {mine.names[missing]}"] if missing else []
        parts += [f"first unexpected: {names[unexpected]}"] if unexpected else []
        raise UserError("; ".join(parts))
    weights = {}
    for ours, key in names.items():
        value = theirs[key]
        wanted = target.get(ours, value.shape)
        other_classes = ours.startswith(classifier) and value.shape[0] != wanted[0]
        other_channels = ours == first and (value.shape[0], *value.shape[2:]) == (wanted[0], *wanted[2:])
        fits = _in_shape(value, wanted)
        if fits is None and not (other_classes or other_channels):
            raise UserError(
                f"{key} is {_by(value.shape)} in the checkpoint and {_by(wanted)} in {model_name} ({ours}); "
                "name the model that the checkpoint was made with"
            )
        weights[mine.names.get(ours, ours)] = value if fits is None else fits
    return weights, found


def _in_shape(value: torch.Tensor, wanted: torch.Size) -> torch.Tensor | None:
    """The parameter in the model's shape, None if it doesn't fit; linear weights fit 1x1 convs."""
    if value.shape == wanted:
        return value
    return value.reshape(wanted) if _without_ones(value.shape) == _without_ones(wanted) else None


def _without_ones(shape: torch.Size) -> tuple[int, ...]:
    sides = list(shape)
    while sides[-1:] == [1]:
        sides.pop()
    return tuple(sides)


def _by(shape: torch.Size) -> str:
    return "x".join(map(str, shape)) or "a single number"


def load_weights(model: nn.Module, state_dict: Mapping[str, Any], assign: bool = False) -> Layout:
    """Loads weights of any known layout, including the classifier; returns the layout.

    Raises:
        UserError: The weights don't fit the model.
    """
    weights, layout = fitted(state_dict, model)
    for name, value in model.state_dict().items():
        if name not in weights and not name.endswith(COUNTER):
            raise UserError(f"the checkpoint has no whole classifier: {name} is missing")
        if name in weights and weights[name].shape != value.shape:
            raise UserError(
                f"{layout.names.get(name, name)} is {_by(weights[name].shape)} in the checkpoint and "
                f"{_by(value.shape)} in the model; it is of other classes or channels"
            )
    contiguous = {name: value.contiguous() for name, value in weights.items()}
    model.load_state_dict(contiguous, assign=assign)
    return layout


def loaded(model_name: str, state_dict: StateDict) -> tuple[nn.Module, Layout]:
    """Builds a registered model with a checkpoint's weights, classes and input channels.

    Raises:
        UserError: The checkpoint doesn't fit; the message names the stage that it fits, if any.
    """
    try:
        return _load(model_name, state_dict)
    except UserError as error:
        fits = next((stage for stage in STAGES if _fits(stage, state_dict)), None)
        raise UserError(f"{error}; it fits --model {fits}" if fits else str(error)) from error


def _fits(model_name: str, state_dict: StateDict) -> bool:
    try:
        return bool(layout_of(state_dict) and _load(model_name, state_dict, device="meta"))
    except UserError:
        return False


def _load(model_name: str, state_dict: StateDict, device: str | None = None) -> tuple[nn.Module, Layout]:
    layout, sizes = layout_of(state_dict), {}
    if layout:
        classifier = layout.names.get(f"{CLASSIFIER}.weight")
        sizes["num_classes"] = len(state_dict[classifier]) if classifier else 0
        sizes["in_chans"] = state_dict[layout.names[FIRST_CONV]].shape[1]
    model = timm.create_model(model_name, **sizes, device=device)
    return model, load_weights(model, state_dict, assign=True)
