"""`convnext-ablation verify`: recomputes a release's accuracy, and compares it with the reported one."""

from __future__ import annotations

import argparse

from convnext_ablation.console import Progress
from convnext_ablation.errors import UserError
from convnext_ablation.hub.verify import claim_of, differences
from convnext_ablation.machine import default_device
from convnext_ablation.training.arguments import TrainingArguments
from convnext_ablation.weights import read_release


def run(args: argparse.Namespace) -> None:
    """Runs the command; exits with 1 if the recomputed accuracy differs from the reported one."""
    if not args.tolerance >= 0:
        raise UserError(f"--tolerance is {args.tolerance}; give 0 or more points")
    release = read_release(args.release)
    claim = claim_of(release, args.split)
    arguments = TrainingArguments(
        data_dir=str(args.data),
        val_split=claim["split"],
        model=release.architecture,
        num_classes=release.num_classes,
        in_chans=release.model_args.get("in_chans", 3),
        device=args.device or default_device(),
        batch_size=args.batch_size,
        workers=args.workers,
        skip_bad_images=args.skip_bad_images,
    )
    with Progress("evaluating") as progress:
        images, found = differences(release, claim, arguments, args.tolerance, progress.move)
    said = f"{release.kind} weights as published, {release.num_classes} classes, SHA-256 {release.sha256}"
    print(f"{release.name}: {said.strip()}")
    for line in images.skipped:
        print(f"{images.name}: skipped, {line}")
    for difference in found:
        print(f"differs: {difference}")
    if found:
        raise SystemExit(1)
    if not release.trained.get("manifest_sha256"):
        print("note: the release has no manifest of the images it was evaluated on")
    top1, top5 = claim["top1_percent"], claim["top5_percent"]
    print(f"verified: {claim['split']}, {len(images)} images, top-1 {top1:.2f} %, top-5 {top5:.2f} %")
