"""`convnext-ablation verify`: a release's figures computed again, and compared with those that it claims."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors.torch import load_file
from timm.data import resolve_data_config

from convnext_ablation.console import Progress
from convnext_ablation.data.folder import MANIFEST, manifest_hash
from convnext_ablation.errors import UserError
from convnext_ablation.machine import available_cores
from convnext_ablation.models import zoo
from convnext_ablation.training.arguments import TrainingArguments
from convnext_ablation.training.distributed import Processes, check_device, prepare_torch
from convnext_ablation.training.evaluation import evaluate
from convnext_ablation.training.images import Images, UnreadableImages
from convnext_ablation.training.predictions import Predictions
from convnext_ablation.training.splits import open_split
from convnext_ablation.weights import Place, Release, find_release, place_from_environment, read_release

__all__ = ["add_arguments", "run"]

ROUNDING = 0.005  # percent points; a card has two decimals


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    parser.add_argument("release", help="MODEL.TAG, hf-hub:NAMESPACE/NAME[@REVISION], or ./FOLDER")
    parser.add_argument("--data", type=Path, required=True, help="folder of the data that the figures are of")
    parser.add_argument(
        "--from",
        dest="place",
        help="where MODEL.TAG lies: hf-hub:NAMESPACE or local-dir:FOLDER; else CONVNEXT_ABLATION_HUB or "
        "CONVNEXT_ABLATION_WEIGHTS says",
    )
    parser.add_argument("--split", default="", help="which of the claimed figures; the first if not given")
    parser.add_argument("--tolerance", type=float, default=ROUNDING, help="percent points (%(default)s)")
    parser.add_argument(
        "--device", default="cuda" if torch.cuda.is_available() else "cpu", help="cuda or cpu"
    )
    parser.add_argument("--batch-size", type=int, default=256, help="images at a time (%(default)s)")
    parser.add_argument(
        "-j",
        "--workers",
        type=int,
        default=min(4, available_cores()),
        help="processes that load (%(default)s)",
    )


def run(args: argparse.Namespace) -> None:
    """Runs the command.

    Raises:
        UserError: The figures can't be computed.
        SystemExit: They aren't those that are claimed; the code is 1.
    """
    release = _release(args.release, args.place)
    claim = _claimed(release, args.split)
    weights = release.weights()
    print(f"{release.name}: weights as published, SHA-256 {release.sha256}")
    arguments = _arguments(release, claim, args)
    images = open_split(arguments, claim.split)
    if not isinstance(images, Images):
        raise UserError(f"{args.data}: its images can't be counted")
    differences = _other_data(release, claim, images, args.data)
    if not differences:
        predictions = _predictions(release, weights, arguments, images)
        differences = _other_figures(claim, predictions, args.tolerance)
    for difference in differences:
        print(f"differs: {difference}")
    if differences:
        raise SystemExit(1)
    if claim.manifest is None:
        print("note: the release doesn't say by a manifest which images its figures are of")
    print(
        f"verified: {claim.split}, {len(images)} images, top-1 {claim.top1:.2f} %, top-5 {claim.top5:.2f} %"
    )


@dataclass(frozen=True)
class _Claim:
    """The figures that a release claims for a split, in percent."""

    split: str
    images: int | None
    top1: float
    top5: float
    manifest: str | None


def _release(name: str, place: str | None) -> Release:
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


def _claimed(release: Release, split: str) -> _Claim:
    results: list[Mapping[str, Any]] = list(release.trained.get("results") or ())
    chosen = [result for result in results if not split or result["split"] == split]
    if not chosen:
        there = ", ".join(str(result["split"]) for result in results) or "none"
        raise UserError(
            f"{release.name}: claims no figures{f' on {split}' if split else ''}; there are: {there}"
        )
    if release.sha256 is None:
        raise UserError(f"{release.name}: has no SHA-256 of the weights; have it published again")
    try:
        first = chosen[0]
        return _Claim(
            str(first["split"]),
            first["images"],
            float(first["top1"]),
            float(first["top5"]),
            release.trained.get("manifest_sha256"),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{release.name}: its figures can't be read; have it published again") from error


def _arguments(release: Release, claim: _Claim, args: argparse.Namespace) -> TrainingArguments:
    return TrainingArguments(
        data_dir=str(args.data),
        val_split=claim.split,
        model=release.architecture,
        num_classes=release.num_classes,
        in_chans=release.model_args.get("in_chans", 3),
        device=args.device,
        batch_size=args.batch_size,
        workers=args.workers,
    )


def _other_data(release: Release, claim: _Claim, images: Images, folder: Path) -> list[str]:
    """What of the data isn't as claimed."""
    found = []
    if claim.images is not None and len(images) != claim.images:
        found.append(f"{claim.split} has {len(images)} images, claimed are figures on {claim.images}")
    if release.label_names is not None and tuple(images.classes) != release.label_names:
        odd = ", ".join(sorted(set(images.classes) ^ set(release.label_names))[:3])
        found.append(f"the classes are others, such as {odd}" if odd else "the classes are in another order")
    if claim.manifest is not None:
        if not (folder / MANIFEST).is_file():
            found.append(f"{folder} has no {MANIFEST}, so the images can't be told to be those of the claim")
        elif manifest_hash(folder) != claim.manifest:
            found.append(f"{folder / MANIFEST} is another: its SHA-256 isn't {claim.manifest[:12]}...")
    return found


def _other_figures(claim: _Claim, predictions: Predictions, tolerance: float) -> list[str]:
    """Which figures aren't as claimed."""
    pairs = (("top-1", claim.top1, predictions.top1), ("top-5", claim.top5, predictions.top5_accuracy))
    return [
        f"{name} is {found:.3f} %, claimed are {claimed:.3f} %, {abs(found - claimed):.3f} points off"
        for name, claimed, found in pairs
        if abs(found - claimed) > tolerance
    ]


def _predictions(
    release: Release, weights: Path, arguments: TrainingArguments, images: Images
) -> Predictions:
    check_device(arguments.device)
    processes = Processes(torch.device(arguments.device))
    prepare_torch(processes.device)
    model = timm.create_model(release.architecture, num_classes=release.num_classes, **release.model_args)
    model.load_state_dict(load_file(weights))
    with Progress("evaluating", lines=False) as progress:
        return evaluate(
            model.to(processes.device),
            images,
            arguments,
            resolve_data_config({}, pretrained_cfg=release.pretrained_cfg()),
            processes,
            UnreadableImages(0),
            on_progress=progress.move,
        )
