"""Reads checkpoint files of any project, and runs nothing that is in them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import nn

from convnext_ablation.errors import UserError
from convnext_ablation.files import check_name, sha256_of
from convnext_ablation.models.convert import load_weights
from convnext_ablation.models.layouts import Layout, StateDict, state_dict_in
from convnext_ablation.models.pickles import damaged, read_pickle

# where a checkpoint of a training keeps what timm's script has no place for
OURS = "convnext_ablation"
_INDEX = ".index.json"  # names the files that a large checkpoint is split into


@dataclass(frozen=True)
class Checkpoint:
    """What a checkpoint file holds."""

    path: Path
    content: Mapping[str, Any] = field(repr=False)  # all of it, by name
    plain: StateDict | None = field(repr=False)
    averaged: StateDict | None = field(repr=False)

    @property
    def kind(self) -> str:
        """Which weights a training starts from: the averaged ones, if there are some, as with timm."""
        return "plain" if self.averaged is None else "averaged"

    def weights(self, kind: str = "") -> StateDict:
        """Returns the weights of a kind, or those that a training starts from.

        Raises:
            UserError: There are none.
        """
        found = self.averaged if (kind or self.kind) == "averaged" else self.plain
        if found is None:
            there = self.plain or self.averaged
            raise UserError(f"{self.path}: holds no {kind if there else ''} weights; give another checkpoint")
        return found

    def load(self, model: nn.Module, kind: str = "", assign: bool = False) -> str:
        """Loads weights into a network of as many classes; returns what was loaded, in a line.

        Args:
            model: The network, of this package or of timm.
            kind: Of the weights, as `weights` takes it.
            assign: Whether they become its parameters, and aren't copied into them.

        Raises:
            UserError: They aren't the network's, or there are none.
        """
        weights = self.weights(kind)
        with self.named():
            layout = load_weights(model, weights, assign)
        return self.told(layout, kind, model.num_classes)

    def told(self, layout: Layout | None, kind: str, classes: object) -> str:
        """What was loaded, in a line."""
        layout_told = layout or "names as they are"
        return f"{self.path}: {kind or self.kind} weights, {classes} classes, {layout_told}"

    @contextmanager
    def named(self) -> Iterator[None]:
        """Begins the message of an error with the path."""
        try:
            yield
        except UserError as error:
            raise UserError(f"{self.path}: {error}") from error

    @property
    def arguments(self) -> dict[str, Any]:
        """Those of the run that wrote it; empty if they aren't there."""
        saved = self.content.get("args")
        return dict(saved) if isinstance(saved, Mapping) else {}

    @property
    def architecture(self) -> str | None:
        """The network by timm's name, if it says so."""
        found = self.content.get("arch")
        return found if isinstance(found, str) else None

    @property
    def classes(self) -> list[str]:
        """Names of the classes in the order of their numbers, as a training saved them; or none."""
        return list((self.content.get(OURS) or {}).get("classes") or ())


def read_checkpoint(path: str | Path) -> Checkpoint:
    """Reads a file of torch or safetensors, or several that an index names; runs nothing in it.

    Raises:
        UserError: The file is missing, damaged or no checkpoint, or names functions.
    """
    path = Path(path)
    try:
        content = _read(path)
    except FileNotFoundError as error:
        raise UserError(f"{error.filename}: no such checkpoint") from error
    except OSError as error:
        raise UserError(f"{path}: {error.strerror or error}; give the path of a checkpoint file") from error
    return Checkpoint(path, content, state_dict_in(content), state_dict_in(content, averaged=True))


def files_of(path: Path) -> list[Path]:
    """The files of a checkpoint: itself, or those that its index names."""
    if not path.name.endswith(_INDEX):
        return [path]
    try:
        names = sorted(set(json.loads(path.read_text(encoding="utf-8"))["weight_map"].values()))
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise damaged(path, "no index of a checkpoint in parts") from error
    parts = [path.parent / check_name(str(name), str(path)) for name in names]
    if any(part.name.endswith(_INDEX) for part in parts):
        raise damaged(path, "an index of indices")
    return parts


def checkpoint_hash(path: Path) -> str:
    """SHA-256 of a checkpoint's file; of the hashes of its files, if an index names several."""
    hashes = [sha256_of(each) for each in files_of(path)]
    return hashes[0] if len(hashes) == 1 else hashlib.sha256("".join(hashes).encode()).hexdigest()


def _read(path: Path) -> dict[str, Any]:
    if path.name.endswith(_INDEX):
        parts = [read_checkpoint(part) for part in files_of(path)]
        return {"state_dict": {name: value for part in parts for name, value in part.weights().items()}}
    with open(path, "rb") as file:
        start = file.read(64)
    if start.lstrip().lower().startswith((b"<!doctype", b"<html", b"<?xml")):
        raise UserError(f"{path}: this is a web page, not a checkpoint; download the file itself")
    if start.startswith(b"version https://git-lfs"):
        raise UserError(f"{path}: this is a Git LFS pointer, not the checkpoint; run `git lfs pull`")
    # safetensors begin with the length of a JSON header in 8 bytes, then the header
    if path.suffix == ".safetensors" or start[8:9] == b"{":
        return _read_safetensors(path)
    content = read_pickle(path)
    if not isinstance(content, Mapping):
        raise UserError(f"{path}: holds a {type(content).__name__}; give a checkpoint with a 'state_dict'")
    if "_modules" in content:
        raise UserError(f"{path}: holds a whole network; save its state_dict where it was made")
    return dict(content)


def _read_safetensors(path: Path) -> dict[str, Any]:
    try:
        with safe_open(path, framework="pt") as file:
            names = file.keys()  # it is not iterable itself
            said = dict(file.metadata() or {})
            weights = {name: file.get_tensor(name) for name in names}
    except SafetensorError as error:
        raise damaged(path, str(error)) from error
    return {"state_dict": weights, "arch": said.get("model"), "source_format": said.get("source_format")}
