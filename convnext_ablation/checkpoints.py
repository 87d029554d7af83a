"""Other projects' checkpoints: files read without running code, and state dicts turned into ours.

A `Format` is a table of rules, pattern of their parameter name -> our name. A state dict is of the first
format whose rules know all of its names.
"""

from __future__ import annotations

import re
from argparse import Namespace
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tarfile import is_tarfile
from typing import Any
from zipfile import BadZipFile, ZipFile

import torch
from safetensors import SafetensorError, safe_open
from timm.models import clean_state_dict
from torch import nn
from torch.serialization import add_safe_globals, clear_safe_globals, get_safe_globals

from convnext_ablation.errors import UserError

StateDict = dict[str, torch.Tensor]
Rules = tuple[tuple[str, str], ...]

CLASSIFIER = "head.fc"
FIRST_CONV = "stem.conv.weight"


@dataclass(frozen=True)
class Format:
    """How a project names its parameters.

    Attributes:
        name: The name people see.
        used_by: Whose names they are.
        rules: Pattern at the start of their name, and what stands there in ours. The first that fits counts.
    """

    name: str
    used_by: str
    rules: Rules

    def rename(self, key: str) -> str | None:
        """Returns our name for theirs, None if the format doesn't know it."""
        for pattern, replacement in self.rules:
            renamed, found = re.subn(rf"^{pattern}", replacement, key, count=1)
            if found:
                return renamed
        return None

    def known(self, keys: Mapping[str, Any]) -> int:
        """How many of the names the format knows."""
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


def format_of(state_dict: Mapping[str, Any]) -> Format | None:
    """Finds the format whose rules know every name, None if there is none.

    Args:
        state_dict: Parameters by name, without prefixes such as ``module.``.
    """
    fitting = (known for known in FORMATS if known.known(state_dict) == len(state_dict))
    return next(fitting, None) if state_dict else None


def checkpoint_filter_fn(state_dict: Mapping[str, Any], model: nn.Module) -> StateDict:
    """Turns a state dict of any known format into the model's.

    The classifier and the input channels may be of another size: timm drops or adapts those.

    Args:
        state_dict: Parameters by name, or a checkpoint that holds them.
        model: The network that the parameters are for.

    Raises:
        UserError: The format is unknown, or the parameters are another network's.
    """
    theirs = clean_state_dict(_weights_in(state_dict) or {})
    target = {key: value.shape for key, value in model.state_dict().items()}
    found = format_of(theirs)
    nearest = found or max(FORMATS, key=lambda known: known.known(theirs))
    names = {nearest.rename(key) or key: key for key in theirs}  # ours -> theirs
    model_name = (getattr(model, "pretrained_cfg", None) or {}).get("architecture") or "the model"
    mismatch = _first_differences(names, target)
    if found is None:
        unexpected = next((key for key in theirs if nearest.rename(key) is None), None)
        raise UserError(
            f"the checkpoint's layout is unknown; nearest: {nearest.name} ({nearest.used_by}); "
            f"{_differences(mismatch[0], unexpected, model_name)}"
        )
    if any(mismatch):
        raise UserError(
            f"the checkpoint ({found.name} names) is not one of {model_name}; "
            f"{_differences(*mismatch, model_name)}"
        )
    return {ours: _fitted(theirs[key], ours, key, target, model_name) for ours, key in names.items()}


def _first_differences(names: Mapping[str, str], target: Mapping[str, Any]) -> tuple[str | None, str | None]:
    """The first parameter of ours that nothing stands for, and the first of theirs that the model lacks."""
    missing = (
        key
        for key in target
        # a BatchNorm's counter is younger than many files, and has no effect
        if key not in names
        and not key.startswith(f"{CLASSIFIER}.")
        and not key.endswith("num_batches_tracked")
    )
    unexpected = (
        key for ours, key in names.items() if ours not in target and not ours.startswith(f"{CLASSIFIER}.")
    )
    return next(missing, None), next(unexpected, None)


def _differences(missing: str | None, unexpected: str | None, model_name: str) -> str:
    """Says which parameter is missing and which is not expected."""
    parts = []
    if missing:
        parts.append(f"first missing: what {model_name} calls {missing}")
    if unexpected:
        parts.append(f"first unexpected: {unexpected}")
    return "; ".join(parts)


def _fitted(
    value: torch.Tensor, ours: str, theirs: str, target: Mapping[str, torch.Size], model_name: str
) -> torch.Tensor:
    """The parameter in the model's shape: a linear layer's weight is that of a 1x1 conv.

    Raises:
        UserError: The shapes are those of different layers.
    """
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


@dataclass(frozen=True)
class Checkpoint:
    """What a checkpoint file holds.

    Attributes:
        state_dict: Parameters by name, without prefixes such as ``module.``.
        epoch: Epoch after which it was saved, None if the file doesn't say.
        metric: The metric it was picked by, None if the file doesn't say.
        arch: Name of the network, None if the file doesn't say.
        is_ema: Whether these are the averaged weights.
        has_ema: Whether the file holds averaged weights.
    """

    state_dict: StateDict = field(repr=False)
    epoch: int | None = None
    metric: float | None = None
    arch: str | None = None
    is_ema: bool = False
    has_ema: bool = False

    @property
    def format(self) -> Format | None:
        """How its parameters are named, None if that is unknown."""
        return format_of(self.state_dict)


def read_checkpoint(path: str | Path, ema: bool = False) -> Checkpoint:
    """Reads a ``.pth``, ``.pth.tar``, ``.pt`` or ``.safetensors`` file; nothing in it is executed.

    Args:
        path: The file.
        ema: Take the averaged weights.

    Raises:
        UserError: The file is missing, damaged or no checkpoint, could run code, or holds no such weights.
    """
    path = Path(path)
    try:
        content = _read_safetensors(path) if _is_safetensors(path) else _read_pickle(path)
    except OSError as error:
        raise UserError(f"{path}: {error.strerror or error}; give the path of a checkpoint file") from error
    averaged = _weights_in(content, ema=True)
    weights = averaged if ema else _weights_in(content)
    if weights is None:
        hint = (
            "averaged weights; leave out --ema" if ema else "weights; give a checkpoint with a 'state_dict'"
        )
        raise UserError(f"{path}: holds no {hint}")
    return Checkpoint(
        state_dict=clean_state_dict(weights),
        epoch=_number(content.get("epoch"), int),
        metric=_number(content.get("metric"), float),
        arch=_arch(content.get("arch") or content.get("model")),
        is_ema=ema,
        has_ema=averaged is not None,
    )


def _weights_in(content: Mapping[str, Any], ema: bool = False) -> StateDict | None:
    """The state dict in a checkpoint, where timm and the official ConvNeXt put it, or the content itself."""
    inside = ("state_dict_ema", "model_ema") if ema else ("state_dict", "model")
    candidates = [content.get(key) for key in inside] + ([] if ema else [content])
    return next((candidate for candidate in candidates if _is_state_dict(candidate)), None)


def _is_state_dict(value: Any) -> bool:
    return (
        isinstance(value, Mapping)
        and bool(value)
        and all(isinstance(key, str) and isinstance(tensor, torch.Tensor) for key, tensor in value.items())
    )


def _number(value: Any, kind: type) -> Any:
    """The value as a number, None if it isn't one."""
    try:
        return kind(value)
    except (TypeError, ValueError, RuntimeError):
        return None


def _arch(value: Any) -> str | None:
    """Name of the network; 11785-FGVC stores its whole model configuration in this place."""
    if isinstance(value, Mapping) and isinstance(value.get("backbone"), Mapping):
        value = value["backbone"].get("name")
    return value if isinstance(value, str) else None


def _is_safetensors(path: Path) -> bool:
    """Whether the content is safetensors: the length of a JSON header in 8 bytes, then the header.

    Raises:
        UserError: The file is something else that is often found in a checkpoint's place.
    """
    with open(path, "rb") as file:
        start = file.read(256)
    if not start:
        raise UserError(f"{path}: the file is empty; download or copy it again")
    if start.lstrip().lower().startswith((b"<!doctype", b"<html", b"<?xml")):
        raise UserError(f"{path}: this is a web page, not a checkpoint; download the file itself")
    if start.startswith(b"version https://git-lfs"):
        raise UserError(f"{path}: this is a Git LFS pointer, not the checkpoint; run `git lfs pull`")
    return path.suffix == ".safetensors" or start[8:9] == b"{"


def _read_safetensors(path: Path) -> dict[str, Any]:
    try:
        with safe_open(path, framework="pt") as file:
            names = file.keys()  # it is not iterable itself
            return {**(file.metadata() or {}), "state_dict": {name: file.get_tensor(name) for name in names}}
    except SafetensorError as error:
        raise UserError(f"{path}: damaged or cut short ({error}); download or copy it again") from error


def _read_pickle(path: Path) -> dict[str, Any]:
    """Reads what `torch.save` wrote, with nothing allowed but tensors, plain values and settings."""
    _check_archive(path)
    try:
        with _settings_allowed():
            content = torch.load(path, map_location="cpu", weights_only=True)
    except OSError:
        raise
    except Exception as error:  # a damaged pickle can make the unpickler fail in any way
        refused = re.search(r"GLOBAL `?([\w.]+)", str(error))
        if refused:
            raise UserError(
                f"{path}: refused, nothing was run: the file names {refused[1]}, which is neither weights "
                "nor settings; save the state_dict alone where it was made"
            ) from error
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise UserError(f"{path}: not a checkpoint, or a damaged one ({reason}); copy it again") from error
    if not isinstance(content, Mapping):
        raise UserError(f"{path}: holds a {type(content).__name__}; give a checkpoint with a 'state_dict'")
    return dict(content)


def _check_archive(path: Path) -> None:
    """Refuses archives that torch before 2.6 runs code from, and those whose bytes changed.

    `torch.load(weights_only=True)` of those versions unpickles the legacy tar format without restriction
    (CVE-2025-32434) and hands TorchScript archives to `torch.jit.load`; no version of it checks the CRCs.
    """
    with open(path, "rb") as file:
        is_zip = file.read(4) == b"PK\x03\x04"  # what torch goes by too
    if not is_zip and is_tarfile(path):
        raise UserError(f"{path}: refused: the tar format of torch before 0.4 can run code; save it again")
    if not is_zip:
        return
    try:
        with ZipFile(path) as archive:
            if any(name.rpartition("/")[2] == "constants.pkl" for name in archive.namelist()):
                raise UserError(
                    f"{path}: refused: a TorchScript program, not a checkpoint; save its state_dict"
                )
            damaged = archive.testzip()
    except (BadZipFile, EOFError, ValueError) as error:
        raise UserError(f"{path}: damaged or cut short ({error}); download or copy it again") from error
    if damaged:
        raise UserError(f"{path}: damaged: {damaged} fails its checksum; download or copy it again")


class _Dict:
    """Stands in for `addict.Dict`, 11785-FGVC's type of settings, which need not be installed.

    An instance is an `OrderedDict`: that one, unlike a subclass, torch's unpickler fills. The content that a
    pickled `addict.Dict` passes to `__new__` comes once more as items.
    """

    def __new__(cls, *_: Any) -> OrderedDict[str, Any]:  # type: ignore[misc]
        return OrderedDict()


_Dict.__module__, _Dict.__name__, _Dict.__qualname__ = "addict.addict", "Dict", "Dict"


@contextmanager
def _settings_allowed() -> Iterator[None]:
    """Lets `torch.load` make the types that settings are stored in: of 11785-FGVC, and of timm.

    Neither runs anything when made or filled. torch 2.4 has no `safe_globals` to undo this by itself.
    """
    before = list(get_safe_globals())
    add_safe_globals([_Dict, Namespace])
    try:
        yield
    finally:
        clear_safe_globals()
        add_safe_globals(before)
