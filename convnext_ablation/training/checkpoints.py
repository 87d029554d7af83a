"""A training run's checkpoints: timm's layout, written whole or not at all, read without running code."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import torch

from convnext_ablation.errors import UserError
from convnext_ablation.files import written_whole


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Writes a checkpoint, whole or not at all."""
    with written_whole(path) as temporary, open(temporary, "wb") as file:
        torch.save(state, file)


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Reads a checkpoint of tensors and plain values; nothing in the file is executed.

    Raises:
        UserError: The file is missing, damaged, or holds anything else.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such checkpoint") from error
    except (RuntimeError, EOFError, OSError, pickle.UnpicklingError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"{path}: not a checkpoint that can be read safely ({reason})") from error
    if not isinstance(state, dict):
        raise UserError(f"{path}: not a checkpoint: it holds a {type(state).__name__}")
    return state
