"""Reads checkpoint files, and runs nothing that is in them."""

from __future__ import annotations

import re
from argparse import Namespace
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import torch
from safetensors import SafetensorError, safe_open
from timm.models import clean_state_dict
from torch.serialization import add_safe_globals

from convnext_ablation.errors import UserError, first_line
from convnext_ablation.models.convert import StateDict, weights_in

# where a checkpoint of a training keeps what timm's script has no place for
OURS = "convnext_ablation"
# A crafted file can run code in older versions, `weights_only=True` or not: before 2.6 as a tar archive
# (CVE-2025-32434) or a TorchScript program, before 2.10 by writing outside a tensor (CVE-2026-24747).
SAFE_TORCH = "2.10"  # torch.__version__ compares as a version


@dataclass(frozen=True)
class Checkpoint:
    """What a checkpoint file holds."""

    state_dict: StateDict = field(repr=False)  # without prefixes such as `module.`
    has_ema: bool  # whether the file has averaged weights too


def read_checkpoint(path: str | Path, ema: bool = False) -> Checkpoint:
    """Reads the weights, or the averaged ones, in a file of torch or safetensors; runs nothing in it.

    Raises:
        UserError: The file is missing, damaged or no checkpoint, could run code, or holds no such weights.
    """
    path = Path(path)
    try:
        content = _read_safetensors(path) if _is_safetensors(path) else _read_foreign_pickle(path)
    except OSError as error:
        raise UserError(f"{path}: {error.strerror or error}; give the path of a checkpoint file") from error
    averaged = weights_in(content, ema=True)
    weights = averaged if ema else weights_in(content)
    if weights is None:
        raise UserError(f"{path}: holds no {'averaged weights; leave out --ema' if ema else 'weights'}")
    return Checkpoint(clean_state_dict(weights), has_ema=averaged is not None)


def _is_safetensors(path: Path) -> bool:
    """Whether the content is safetensors: the length of a JSON header in 8 bytes, then the header.

    Raises:
        UserError: A web page or a pointer is in the checkpoint's place.
    """
    with open(path, "rb") as file:
        start = file.read(64)
    if start.lstrip().lower().startswith((b"<!doctype", b"<html", b"<?xml")):
        raise UserError(f"{path}: this is a web page, not a checkpoint; download the file itself")
    if start.startswith(b"version https://git-lfs"):
        raise UserError(f"{path}: this is a Git LFS pointer, not the checkpoint; run `git lfs pull`")
    return path.suffix == ".safetensors" or start[8:9] == b"{"


def _damaged(path: Path, reason: object) -> UserError:
    return UserError(f"{path}: not a checkpoint, or a damaged one ({reason}); download or copy it again")


def _read_safetensors(path: Path) -> dict[str, Any]:
    try:
        with safe_open(path, framework="pt") as file:
            names = file.keys()  # it is not iterable itself
            return {"state_dict": {name: file.get_tensor(name) for name in names}}
    except SafetensorError as error:
        raise _damaged(path, error) from error


def _read_foreign_pickle(path: Path) -> dict[str, Any]:
    if torch.__version__ < SAFE_TORCH:
        raise UserError(
            f"{path}: refused: a crafted file could run code in torch {torch.__version__} "
            f"(CVE-2026-24747); convert it to safetensors with torch {SAFE_TORCH} or later"
        )
    return read_pickle(path)


def read_pickle(path: Path) -> dict[str, Any]:
    """Reads what `torch.save` wrote, if it holds nothing but tensors, plain values and settings.

    With a torch older than `SAFE_TORCH` only for files that were made here.
    """
    try:
        _check_archive(path)
        # what 11785-FGVC and timm store settings in; neither runs anything when made or filled. Each time,
        # since timm takes the latter back when it has read a file
        add_safe_globals([_Dict, Namespace])
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, UserError):
        raise
    except Exception as error:  # a damaged file can make zipfile and the unpickler fail in any way
        refused = re.search(r"GLOBAL `?([\w.]+)", str(error))
        if refused:
            raise UserError(
                f"{path}: refused, nothing was run: the file names {refused[1]}, which is neither weights "
                "nor settings; save the state_dict alone where it was made"
            ) from error
        raise _damaged(path, first_line(error)) from error
    if not isinstance(content, Mapping):
        raise UserError(f"{path}: holds a {type(content).__name__}; give a checkpoint with a 'state_dict'")
    return dict(content)


def classes_in(content: Mapping[str, Any]) -> list[str]:
    """Names of the classes in the order of their numbers, as a training saved them; empty if it didn't."""
    return list((content.get(OURS) or {}).get("classes") or ())


def _check_archive(path: Path) -> None:
    """Refuses archives whose checksums don't hold, which torch doesn't look at, and programs."""
    with open(path, "rb") as file:
        if file.read(4) != b"PK\x03\x04":  # what torch goes by too
            return
    with ZipFile(path) as archive:
        if any(name.endswith("/constants.pkl") for name in archive.namelist()):
            raise UserError(f"{path}: refused: a TorchScript program, not a checkpoint; save its state_dict")
        if damaged := archive.testzip():
            raise _damaged(path, f"{damaged} fails its checksum")


class _Dict:
    """Stands in for `addict.Dict`, 11785-FGVC's type of settings, which need not be installed.

    An instance is an `OrderedDict`: that one, unlike a subclass, torch's unpickler fills. The content that a
    pickled `addict.Dict` passes to `__new__` comes once more as items.
    """

    def __new__(cls, *_: Any) -> OrderedDict[str, Any]:  # type: ignore[misc]
        return OrderedDict()


_Dict.__module__, _Dict.__name__, _Dict.__qualname__ = "addict.addict", "Dict", "Dict"
