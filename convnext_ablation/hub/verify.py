"""Recomputes a release's accuracy and compares it with the reported one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors.torch import load_file
from timm.data import resolve_data_config

from convnext_ablation.data.class_names import numbers_of
from convnext_ablation.data.folder import CLASSES, MANIFEST, manifest_hash
from convnext_ablation.errors import UserError, in_one_line
from convnext_ablation.files import check_name
from convnext_ablation.training.arguments import TrainingArguments
from convnext_ablation.training.distributed import Processes, check_device, prepare_torch
from convnext_ablation.training.evaluation import evaluate
from convnext_ablation.training.images import Images
from convnext_ablation.training.splits import leave_out_broken, number_as_trained, open_split
from convnext_ablation.weights.release import Release


def claim_of(release: Release, split: str = "") -> dict[str, Any]:
    """The reported accuracy on a split, by default the first, in percent; a `UserError` if there is none."""
    unreadable = f"{release.name}: its figures can't be read; have it published again"
    with in_one_line(unreadable):
        results = list(release.trained.get("results") or ())
        chosen = [result for result in results if split in ("", result["split"])]
    if not chosen:
        there = ", ".join(str(result["split"]) for result in results) or "none"
        raise UserError(f"{release.name}: claims no figures on {split or 'any split'}; there are: {there}")
    if release.sha256 is None:
        raise UserError(f"{release.name}: has no SHA-256 of the weights; have it published again")
    with in_one_line(unreadable):
        figures = {name: float(chosen[0][name]) for name in ("top1_percent", "top5_percent")}
    check_name(str(chosen[0]["split"]), f"{release.name}: split of its figures")
    return {"images": None, **chosen[0], **figures}


def differences(
    release: Release,
    claim: Mapping[str, Any],
    arguments: TrainingArguments,
    tolerance: float,
    on_progress: Callable[[int, int], None],
) -> tuple[Images, list[str]]:
    """Checks a release's weights and evaluates them on the data of a claim.

    Returns:
        The images, and what differs: the data, or else accuracies by more than `tolerance` percentage points.
    """
    weights = release.weights()
    check_device(arguments.device)
    processes = Processes(torch.device(arguments.device))
    images = open_split(arguments, claim["split"])
    leave_out_broken([images], arguments, processes)
    found = _other_data(release, claim, images, arguments)
    if found:
        return images, found
    prepare_torch(processes.device)
    model = timm.create_model(
        release.architecture, **{"num_classes": release.num_classes, **release.model_args}
    )
    model.load_state_dict(load_file(weights))
    predictions = evaluate(
        model.to(processes.device),
        images,
        arguments,
        resolve_data_config({}, pretrained_cfg=release.pretrained_cfg()),
        processes,
        on_progress=on_progress,
    )
    pairs = (
        ("top-1", claim["top1_percent"], predictions.top1),
        ("top-5", claim["top5_percent"], predictions.top5_accuracy),
    )
    return images, [
        f"{name} is {figure:.3f} %, claimed are {claimed:.3f} %, {abs(figure - claimed):.3f} points off"
        for name, claimed, figure in pairs
        if abs(figure - claimed) > tolerance
    ]


def _other_data(
    release: Release, claim: Mapping[str, Any], images: Images, arguments: TrainingArguments
) -> list[str]:
    """Lists differences between the data and those of the claim."""
    found, folder = [], Path(str(arguments.data_dir))
    if claim["images"] not in (None, len(images)):
        found.append(f"{claim['split']} has {len(images)} images, claimed are figures on {claim['images']}")
    names, numbered = list(numbers_of(release.label_names or ())), images.classes
    if numbered != list(images.found) and numbered != names and set(numbered) == set(names):
        found.append(f"{folder / CLASSES} has the classes in another order")
    else:
        try:
            number_as_trained(images, names, release.num_classes, arguments.class_map, release.name)
        except UserError as error:
            found.append(str(error))
    if manifest := release.trained.get("manifest_sha256"):
        if not (folder / MANIFEST).is_file():
            found.append(f"{folder} has no {MANIFEST}, by which the images of the claim are known")
        elif manifest_hash(folder) != manifest:
            found.append(f"{folder / MANIFEST} is another: its SHA-256 isn't {manifest[:12]}...")
    return found
