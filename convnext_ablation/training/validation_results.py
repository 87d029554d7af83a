"""What `validate.py` writes of a network: the result as timm's script has it, and its images and classes."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from convnext_ablation.files import write_csv, write_text
from convnext_ablation.training.evaluation import Predictions

__all__ = ["network_result", "write_classes", "write_predictions", "write_results"]


def network_result(
    name: str,
    model: torch.nn.Module,
    data_config: Mapping[str, Any],
    predictions: Predictions,
    kept: Predictions | None = None,
) -> dict[str, Any]:
    """What timm's script says of a network, under the same names.

    Args:
        name: Of the network.
        model: The network.
        data_config: How images were prepared.
        predictions: Of all images.
        kept: Those without the excluded images, if any are to be.
    """
    top1, top5 = predictions.top1, predictions.top5_accuracy
    result = {
        "model": name,
        "top1": round(top1, 4),
        "top1_err": round(100 - top1, 4),
        "top5": round(top5, 4),
        "top5_err": round(100 - top5, 4),
        "param_count": round(sum(parameter.numel() for parameter in model.parameters()) / 1e6, 2),
        "img_size": data_config["input_size"][-1],
        "crop_pct": data_config["crop_pct"],
        "interpolation": data_config["interpolation"],
    }
    if kept is not None:
        result["top1_without_excluded"] = round(kept.top1, 4)
        result["top5_without_excluded"] = round(kept.top5_accuracy, 4)
        result["excluded"] = len(predictions.ids) - len(kept.ids)
    return result


def write_results(path: Path, results: Sequence[Mapping[str, Any]], form: str) -> None:
    """Writes the results of all networks as ``csv`` or ``json``."""
    if form == "json":
        write_text(path, json.dumps(results if len(results) > 1 else results[0], indent=4))
    else:
        write_csv(path, list(results[0]), [list(result.values()) for result in results])


def write_classes(path: Path, predictions: Predictions, classes: int, names: Sequence[str]) -> None:
    """Writes a CSV file with a line for each class: its number, name, images and top-1.

    Args:
        path: The file.
        predictions: Of the images.
        classes: How many there are.
        names: Their names as far as they are known.
    """
    images, top1 = predictions.class_top1(classes)
    rows = [
        [index, names[index] if index < len(names) else "", images[index], f"{top1[index]:.4f}"]
        for index in range(classes)
    ]
    write_csv(path, ["index", "class", "images", "top1"], rows)


def write_predictions(path: Path, predictions: Predictions) -> None:
    """Writes a line for each image as CSV, or arrays if `path` ends in ``.npz``."""
    if path.suffix == ".npz":
        predictions.save(path)
        return
    columns = [f"top{rank + 1}" for rank in range(predictions.top5.shape[1])]
    rows = [
        [name, target, *top5, f"{probability:.6g}"]
        for name, target, top5, probability in zip(
            predictions.ids, predictions.targets, predictions.top5, predictions.probability, strict=True
        )
    ]
    write_csv(path, ["id", "target", *columns, "probability"], rows)
