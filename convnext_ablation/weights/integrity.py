"""Whether a file of weights is the one that was published, and whether it is safe to open."""

from __future__ import annotations

import hashlib
import json
import os
import re
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from huggingface_hub import constants
from safetensors import SafetensorError, safe_open

from convnext_ablation.errors import UserError
from convnext_ablation.files import sha256_of, write_text

__all__ = ["check_content", "classes_in", "content_sha256", "is_hash", "linked_hash", "refuse_pickle"]

_PICKLES = (b"PK\x03\x04", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")
_CLASSIFIERS = ("head.fc.weight", "head.weight", "fc.weight")  # ours and timm's, ConvNeXt's, torchvision's
_YOUNG = 0.05  # seconds; a file that changes within the clock's tick of being read looks unchanged


def check_content(path: Path, expected: str, name: str) -> None:
    """Checks a file against a hash.

    Args:
        path: The file.
        expected: SHA-256 in hex, or 40 digits: git's or a plain SHA-1, by which hubs name small files.
        name: How the message calls it.

    Raises:
        UserError: It is another file.
    """
    if len(expected) == 64:
        found = [content_sha256(path)]
    else:
        content = path.read_bytes()
        git = hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False)
        found = [git.hexdigest(), hashlib.sha1(content, usedforsecurity=False).hexdigest()]
    if expected not in found:
        raise UserError(
            f"{name}: refused: its hash is {found[0][:12]}..., published is {expected[:12]}...; the file is "
            "damaged or not the one that was published"
        )


def content_sha256(path: Path) -> str:
    """Returns the SHA-256 of a file; of one that hasn't changed since the last time, without reading it.

    Remembered by path, size, inode, and times of modification and of change, which no program can set.

    Raises:
        OSError: It can't be read.
    """
    path = path.resolve()
    state = _state(path)
    record = _record(path)
    with suppress(OSError, ValueError):
        remembered = json.loads(record.read_text(encoding="utf-8"))
        if remembered["state"] == state and re.fullmatch("[0-9a-f]{64}", remembered["sha256"]):
            return remembered["sha256"]
    sha256 = sha256_of(path)
    if _state(path) == state and time.time() - max(os.stat(path)[8:10]) > _YOUNG:
        with suppress(OSError):  # a home that can't be written to; then it is read again next time
            record.parent.mkdir(parents=True, exist_ok=True)
            write_text(record, json.dumps({"path": str(path), "state": state, "sha256": sha256}))
    return sha256


def _state(path: Path) -> dict[str, int]:
    stat = os.stat(path)
    return {
        "size": stat.st_size,
        "inode": stat.st_ino,
        "mtime_ns": stat.st_mtime_ns,
        "ctime_ns": stat.st_ctime_ns,
    }


def _record(path: Path) -> Path:
    name = hashlib.sha256(os.fsencode(path)).hexdigest()[:32]
    return Path(constants.HF_HOME) / "convnext_ablation" / "verified" / f"{name}.json"


def linked_hash(path: Path) -> str | None:
    """The hash by which the hub's cache names the file that a path in it links to, None if it has none."""
    name = os.path.basename(os.readlink(path)) if path.is_symlink() else ""
    return name if is_hash(name) else None


def is_hash(text: str) -> bool:
    """Whether a text is a SHA-256 or a SHA-1 in hex."""
    return bool(re.fullmatch("[0-9a-f]{64}|[0-9a-f]{40}", text))


def refuse_pickle(path: Path, name: str) -> None:
    """Refuses what begins as a pickle does, alone or in an archive as torch writes it.

    Args:
        path: The file; no more than its first bytes are read.
        name: How the message calls it.

    Raises:
        UserError: It is one.
    """
    with open(path, "rb") as file:
        start = file.read(4)
    if start.startswith(_PICKLES):
        raise UserError(
            f"{name}: refused, unread: a pickle, which could run code when opened; only safetensors is taken"
        )


def classes_in(path: Path, name: str) -> int:
    """Opens a safetensors file, and counts the classes that the weights in it tell apart; 0 for none.

    Args:
        path: The file; its header and size are checked.
        name: How the message calls it.

    Raises:
        UserError: It is damaged, or something else.
    """
    try:
        with safe_open(path, framework="pt") as file:
            keys: Any = file.keys()
            classifier = next((key for key in _CLASSIFIERS if key in keys), None)
            return file.get_slice(classifier).get_shape()[0] if classifier else 0
    except SafetensorError as error:
        reason = " ".join(str(error).split())
        raise UserError(
            f"{name}: no safetensors, or a damaged one ({reason}); have it published again"
        ) from error
