"""What is known to be wrong with a data set, for whatever reports figures on it."""

from __future__ import annotations

import json
from pathlib import Path

__all__ = ["KNOWN_FAULTS", "data_set_name"]

# by the name in ``dataset.json``
KNOWN_FAULTS = {
    "cub200": "CUB-200-2011: 22 or 23 of its test images also stand in ImageNet, so weights that began from "
    "ImageNet's have seen them; by expert judgement at least 4 % of its labels are wrong.",
    "stanford-dogs": "Stanford Dogs is made from ImageNet: weights that began from ImageNet's have seen test "
    "images, with their labels. `convnext-ablation data-report --against` counts them.",
}


def data_set_name(root: Path) -> str:
    """Gives a data set's name as its ``dataset.json`` has it, or else its folder's."""
    try:
        return str(json.loads((root / "dataset.json").read_text(encoding="utf-8"))["name"])
    except (OSError, ValueError, KeyError, TypeError):
        return root.resolve().name
