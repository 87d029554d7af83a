"""A release's figures computed again, and compared with those that it claims."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import timm
import torch
from safetensors.torch import load_file
from timm.data import resolve_data_config

from convnext_ablation.data.folder import MANIFEST, manifest_hash
from convnext_ablation.errors import UserError, in_one_line
from convnext_ablation.models import zoo
from convnext_ablation.training.arguments import TrainingArguments
from convnext_ablation.training.distributed import Processes, check_device, prepare_torch
from convnext_ablation.training.evaluation import evaluate
from convnext_ablation.training.images import Images, UnreadableImages
from convnext_ablation.training.predictions import Predictions
from convnext_ablation.training.splits import open_split
from convnext_ablation.weights import Place, Release, find_release, place_from_environment, read_release

__all__ = ["ROUNDING", "Claim", "claim_of", "differences", "named_release"]

ROUNDING = 0.005  # percent points; a card has two decimals


@dataclass(frozen=True)
class Claim:
    """The figures that a release claims for a split, in percent; None for what it doesn't say."""

    split: str
    images: int | None
    top1: float
    top5: float
    manifest: str | None


def named_release(name: str, place: str | None) -> Release:
    """Finds a release: ``MODEL.TAG``, ``hf-hub:NAMESPACE/NAME[@REVISION]``, or a folder.

    Args:
        name: Its name.
        place: Where ``MODEL.TAG`` lies; None for the place that the environment names.

    Raises:
        UserError: There is none.
    """
    if name.startswith(("hf-hub:", "local-dir:")):
        return read_release(name)
    model, _, tag = name.partition(".")
    if "/" in name or name.startswith((".", "~")) or Path(name).is_dir():
        return read_release(Path(name))
    if model not in zoo.model_names() or not tag:
        raise UserError(f"{name}: write MODEL.TAG, hf-hub:NAMESPACE/NAME, or ./FOLDER")
    where = Place(place) if place else place_from_environment()
    if where is None:
        raise UserError(
            f"{name}: say where it is with --from hf-hub:NAMESPACE or local-dir:FOLDER, or set "
            "CONVNEXT_ABLATION_HUB or CONVNEXT_ABLATION_WEIGHTS"
        )
    return find_release([model], tag, where)


def claim_of(release: Release, split: str = "") -> Claim:
    """The figures that a release claims for a split, or for its first.

    Raises:
        UserError: It claims none.
    """
    results = list(release.trained.get("results") or ())
    chosen = [result for result in results if not split or result["split"] == split]
    if not chosen:
        there = ", ".join(str(result["split"]) for result in results) or "none"
        raise UserError(
            f"{release.name}: claims no figures{f' on {split}' if split else ''}; there are: {there}"
        )
    if release.sha256 is None:
        raise UserError(f"{release.name}: has no SHA-256 of the weights; have it published again")
    first, manifest = chosen[0], release.trained.get("manifest_sha256")
    with in_one_line(f"{release.name}: its figures can't be read; have it published again"):
        return Claim(first["split"], first["images"], float(first["top1"]), float(first["top5"]), manifest)


def differences(
    release: Release,
    claim: Claim,
    arguments: TrainingArguments,
    tolerance: float = ROUNDING,
    on_progress: Callable[[int, int], None] = lambda images, of: None,
) -> tuple[int, list[str]]:
    """Evaluates a release, whose weights are checked first, on the data of a claim.

    Args:
        release: The release.
        claim: What it claims.
        arguments: Where the data are, device, batch size and workers.
        tolerance: Percent points by which a figure may differ.
        on_progress: Called with the images done, and their number.

    Returns:
        The number of images, and what differs: the data, or else the figures.

    Raises:
        UserError: The figures can't be computed.
    """
    weights = release.weights()
    images = open_split(arguments, claim.split)
    if not isinstance(images, Images):
        raise UserError(f"{arguments.data_dir}: its images can't be counted")
    found = _other_data(release, claim, images, Path(str(arguments.data_dir)))
    if not found:
        predictions = _predictions(release, weights, arguments, images, on_progress)
        pairs = (("top-1", claim.top1, predictions.top1), ("top-5", claim.top5, predictions.top5_accuracy))
        found = [
            f"{name} is {figure:.3f} %, claimed are {claimed:.3f} %, {abs(figure - claimed):.3f} points off"
            for name, claimed, figure in pairs
            if abs(figure - claimed) > tolerance
        ]
    return len(images), found


def _other_data(release: Release, claim: Claim, images: Images, folder: Path) -> list[str]:
    """What of the data isn't as claimed."""
    found = []
    if claim.images is not None and len(images) != claim.images:
        found.append(f"{claim.split} has {len(images)} images, claimed are figures on {claim.images}")
    if release.label_names is not None and tuple(images.classes) != release.label_names:
        odd = ", ".join(sorted(set(images.classes) ^ set(release.label_names))[:3])
        found.append(f"the classes are others, such as {odd}" if odd else "the classes are in another order")
    if claim.manifest is not None:
        if not (folder / MANIFEST).is_file():
            found.append(f"{folder} has no {MANIFEST}, by which the images of the claim are known")
        elif manifest_hash(folder) != claim.manifest:
            found.append(f"{folder / MANIFEST} is another: its SHA-256 isn't {claim.manifest[:12]}...")
    return found


def _predictions(
    release: Release,
    weights: Path,
    arguments: TrainingArguments,
    images: Images,
    on_progress: Callable[[int, int], None],
) -> Predictions:
    check_device(arguments.device)
    processes = Processes(torch.device(arguments.device))
    prepare_torch(processes.device)
    model_args = {"num_classes": release.num_classes, **release.model_args}
    model = timm.create_model(release.architecture, **model_args)
    model.load_state_dict(load_file(weights))
    return evaluate(
        model.to(processes.device),
        images,
        arguments,
        resolve_data_config({}, pretrained_cfg=release.pretrained_cfg()),
        processes,
        UnreadableImages(0),
        on_progress=on_progress,
    )
