"""A run's checkpoints under timm's names: written whole or not at all, read without running code."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from convnext_ablation.errors import UserError
from convnext_ablation.files import written_whole
from convnext_ablation.models.checkpoint_files import read_checkpoint, read_pickle

LAST, BEST = "last.pth.tar", "model_best.pth.tar"
_EPOCH, _RECOVERY = "checkpoint-{}.pth.tar", "recovery-{}-{}.pth.tar"


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Writes a checkpoint, whole or not at all."""
    with written_whole(path) as temporary, open(temporary, "wb") as file:
        torch.save(state, file)


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Reads a checkpoint of ours or of timm's script; nothing in the file is executed.

    Raises:
        UserError: The file is missing, damaged, or holds anything else.
    """
    state = _read(path)
    if "state_dict" not in state:
        raise UserError(f"{path}: not a checkpoint of a training: it has no state_dict")
    return state


def check_weights(path: Path) -> None:
    """Checks that a file of weights can be read.

    Raises:
        UserError: It is missing or damaged, or holds anything else.
    """
    if path.suffix == ".safetensors":
        read_checkpoint(path)
    else:
        _read(path)


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise UserError(f"{path}: no such checkpoint")
    return read_pickle(path)


def copy_whole(source: Path, target: Path) -> None:
    """Puts a file under another name too: as a link where the file system has those, else as a copy."""
    with written_whole(target) as temporary:
        temporary.unlink(missing_ok=True)
        try:
            os.link(source, temporary)
        except OSError:
            shutil.copyfile(source, temporary)


def without_optimizer(path: Path) -> None:
    """Leaves a checkpoint with what is needed to use its weights, at a third of the size."""
    state = load_checkpoint(path)
    state.pop("optimizer", None)
    save_checkpoint(path, state)


def newest_checkpoint(folder: Path) -> Path | None:
    """The checkpoint that an interrupted run goes on from, None if there is none."""
    recoveries, last = _recoveries(folder), folder / LAST
    if not recoveries:
        return last if last.is_file() else None
    newest = max(recoveries)
    # within an epoch that the last whole one may be behind, if it was killed before the cleaning up
    if last.is_file() and load_checkpoint(last)["epoch"] >= newest[0]:
        return last
    return recoveries[newest]


def recovery_path(folder: Path, epoch: int, step: int) -> Path:
    """Where the state within an epoch is saved, under timm's name for it."""
    return folder / _RECOVERY.format(epoch, step)


def remove_recoveries(folder: Path, but: Path | None = None) -> None:
    """Removes the checkpoints within epochs, but one of them."""
    for path in _recoveries(folder).values():
        if path != but:
            path.unlink(missing_ok=True)


def _recoveries(folder: Path) -> dict[tuple[int, int], Path]:
    """The checkpoints within epochs, by epoch and batch."""
    return {
        (int(match[1]), int(match[2])): path
        for path in folder.glob(_RECOVERY.format("*", "*"))
        if (match := re.fullmatch(_RECOVERY.format(r"(\d+)", r"(\d+)"), path.name))
    }


def bring_along(path: Path, folder: Path, best: int | None) -> None:
    """Has a folder hold what a run that goes on there needs of the one that a checkpoint is of.

    Args:
        path: The checkpoint that it goes on from.
        folder: The folder that it goes on in.
        best: The best epoch so far, whose weights must be kept.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if path.name != LAST and not path.name.startswith(_RECOVERY.partition("-")[0]):
        copy_whole(path, folder / LAST)
    elif path.parent.resolve() != folder.resolve() and (path.parent / LAST).is_file():
        copy_whole(path.parent / LAST, folder / LAST)
    for held in (folder / BEST, path.parent / BEST, path.parent / _EPOCH.format(best), path):
        if held.is_file() and load_checkpoint(held)["epoch"] == best:
            if held != folder / BEST:
                copy_whole(held, folder / BEST)
            return


def keep_epochs(folder: Path, last_epoch: int, kept: Sequence[int]) -> None:
    """Keeps the last checkpoint under its epoch's name if it is among the best, and no other than those.

    Args:
        folder: The run's folder.
        last_epoch: The epoch that `last.pth.tar` is of.
        kept: Epochs to keep, the best.
    """
    if last_epoch in kept:
        copy_whole(folder / LAST, folder / _EPOCH.format(last_epoch))
    for path in folder.glob(_EPOCH.format("*")):
        match = re.fullmatch(_EPOCH.format(r"(\d+)"), path.name)
        if match and int(match[1]) <= last_epoch and int(match[1]) not in kept:
            path.unlink(missing_ok=True)
