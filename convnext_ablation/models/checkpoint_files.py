"""Reads checkpoint files of any project without executing anything in them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn

from convnext_ablation.errors import UserError
from convnext_ablation.files import check_name, refuse_stand_in, sha256_of, written_whole
from convnext_ablation.models.convert import load_weights
from convnext_ablation.models.layouts import Layout, StateDict, state_dict_in
from convnext_ablation.models.pickles import damaged, read_pickle

# key of a training checkpoint for what timm's script doesn't store
OURS = "convnext_ablation"
_INDEX = ".index.json"  # lists the files of a sharded checkpoint
_UNPACK, _SAVE = "unpack it", "save the state_dict with torch"
# first bytes of other file types, their names and remedies
_OTHERS = {
    b"GGUF": ("a GGUF file", _SAVE),
    b"\x89HDF": ("an HDF5 file, as of Keras", _SAVE),
    b"\x08": ("an ONNX file", _SAVE),
    b"\x93NUMPY": ("a NumPy file", _SAVE),
    b"\x1f\x8b": ("a gzip file", _UNPACK),
    b"BZh": ("a bzip2 file", _UNPACK),
    b"\xfd7zXZ": ("an xz file", _UNPACK),
    b"\x28\xb5\x2f\xfd": ("a Zstandard file", _UNPACK),
    b"7z\xbc\xaf": ("a 7-Zip archive", _UNPACK),
    b"tar": ("a tar archive", _UNPACK),
    b"Rar!": ("a RAR archive", _UNPACK),
}


@dataclass(frozen=True)
class Checkpoint:
    """The content of a checkpoint file."""

    path: Path
    content: Mapping[str, Any] = field(repr=False)  # the whole checkpoint
    plain: StateDict | None = field(repr=False)
    averaged: StateDict | None = field(repr=False)

    @property
    def kind(self) -> str:
        """The weights that training starts from: averaged ones if present, as in timm."""
        return "plain" if self.averaged is None else "averaged"

    def weights(self, kind: str = "") -> StateDict:
        """Returns the weights of a kind; by default those that training starts from.

        Raises:
            UserError: There are none.
        """
        found = self.averaged if (kind or self.kind) == "averaged" else self.plain
        if found is None:
            if self.plain or self.averaged:
                other = "plain" if self.plain else "averaged"
                raise UserError(f"{self.path}: holds no {kind} weights, only {other} ones; ask for those")
            inside = (value for value in self.content.values() if isinstance(value, Mapping))
            if any("_modules" in value for value in inside):
                raise _whole_network(self.path)
            raise UserError(f"{self.path}: holds no weights; give another checkpoint")
        return found

    def load(self, model: nn.Module, kind: str = "", assign: bool = False) -> str:
        """Loads weights into a network with the same classes; returns what was loaded, in one line.

        Args:
            model: The network, of this package or of timm.
            kind: ``plain`` or ``averaged``, as in `weights`.
            assign: Whether the tensors become the parameters instead of being copied.

        Raises:
            UserError: The weights don't fit the network, or there are none.
        """
        weights = self.weights(kind)
        with self.named():
            layout = load_weights(model, weights, assign)
        return self.told(layout, kind, model.num_classes)

    def told(self, layout: Layout | None, kind: str, classes: object) -> str:
        """What was loaded, in one line."""
        layout_told = layout or "names as they are"
        return f"{self.path}: {kind or self.kind} weights, {classes} classes, {layout_told}"

    @contextmanager
    def named(self) -> Iterator[None]:
        """Prefixes error messages with the path."""
        try:
            yield
        except UserError as error:
            raise UserError(f"{self.path}: {error}") from error

    @property
    def arguments(self) -> dict[str, Any]:
        """Arguments of the run that wrote the file; empty if not stored."""
        saved = self.content.get("args")
        return dict(saved) if isinstance(saved, Mapping) else {}

    @property
    def architecture(self) -> str | None:
        """Name of the network in timm, if stored."""
        found = self.content.get("arch")
        return found if isinstance(found, str) else None

    @property
    def classes(self) -> list[str]:
        """Class names in the order of their numbers, as stored by our training; empty if not stored."""
        return list((self.content.get(OURS) or {}).get("classes") or ())


def save_weights(path: Path, weights: StateDict, **metadata: str) -> None:
    """Writes weights as safetensors, atomically."""
    # cloned: safetensors refuses tensors that are views into a larger one
    whole = {name: value.clone(memory_format=torch.contiguous_format) for name, value in weights.items()}
    with written_whole(path) as temporary:
        save_file(whole, temporary, {"format": "pt", **metadata})  # marks PyTorch weights


def read_checkpoint(path: str | Path) -> Checkpoint:
    """Reads a torch or safetensors file, or a sharded checkpoint's index; executes nothing in it.

    Raises:
        UserError: The file is missing, damaged or not a checkpoint, or names Python functions.
    """
    path = Path(path)
    try:
        content = _read(path)
    except FileNotFoundError as error:
        raise UserError(f"{error.filename}: no such checkpoint") from error
    except OSError as error:
        raise UserError(f"{path}: {error.strerror or error}; give the path of a checkpoint file") from error
    try:
        return Checkpoint(path, content, state_dict_in(content), state_dict_in(content, averaged=True))
    except UserError as error:
        raise UserError(f"{path}: {error}") from error


def files_of(path: Path) -> list[Path]:
    """The files of a checkpoint: itself, or those listed in its index."""
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
    """SHA-256 of a checkpoint file; for a sharded checkpoint, of its files' hashes."""
    hashes = [sha256_of(each) for each in files_of(path)]
    return hashes[0] if len(hashes) == 1 else hashlib.sha256("".join(hashes).encode()).hexdigest()


def _read(path: Path) -> dict[str, Any]:
    if path.name.endswith(_INDEX):
        parts = [read_checkpoint(part) for part in files_of(path)]
        return {"state_dict": {name: value for part in parts for name, value in part.weights().items()}}
    if path.exists() and not path.is_file():  # opening a FIFO would wait for a writer
        raise UserError(
            f"{path}: is {'a folder' if path.is_dir() else 'no file'}; give the path of a checkpoint file"
        )
    refuse_stand_in(path)
    with open(path, "rb") as file:
        start = file.read(265)
    if not start:
        raise damaged(path, "it is empty")
    # safetensors files begin with 8 bytes for the length of a JSON header, then the header
    if start[8:9] == b"{":
        return _read_safetensors(path)
    if start[257:262] == b"ustar":
        start = b"tar"
    for known, (kind, remedy) in _OTHERS.items():
        if start.startswith(known):
            raise UserError(f"{path}: this is {kind}, not a checkpoint of torch or safetensors; {remedy}")
    content = read_pickle(path)
    if not isinstance(content, Mapping):
        raise UserError(f"{path}: holds a {type(content).__name__}; give a checkpoint with a 'state_dict'")
    if "_modules" in content:
        raise _whole_network(path)
    return dict(content)


def _whole_network(path: Path) -> UserError:
    return UserError(f"{path}: holds a whole network; save its state_dict where it was made")


def _read_safetensors(path: Path) -> dict[str, Any]:
    try:
        with safe_open(path, framework="pt") as file:
            names = file.keys()  # the file itself is not iterable
            said = dict(file.metadata() or {})
            weights = {name: file.get_tensor(name) for name in names}
    except SafetensorError as error:
        raise damaged(path, str(error)) from error
    return {"state_dict": weights, "arch": said.get("model"), "source_format": said.get("source_format")}
