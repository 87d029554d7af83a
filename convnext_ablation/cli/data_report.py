"""``convnext-ablation data-report``: what is wrong with an image data set, in a folder of its own."""

from __future__ import annotations

import argparse
from pathlib import Path

from convnext_ablation.data.audit import data_report
from convnext_ablation.data.overlap import DISTANCE


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of ``convnext-ablation data-report``."""
    parser.add_argument(
        "folder",
        metavar="OUT",
        type=Path,
        help="prepared or own folder, <split>/<class>/<image> or <class>/<image>",
    )
    parser.add_argument(
        "--against", metavar="IMAGENET", type=Path,
        help="folder of the pre-training set, train/<wnid>/<image>",
    )  # fmt: skip
    parser.add_argument(
        "--output",
        metavar="FOLDER",
        type=Path,
        help="folder to write to (default: OUT/report, or OUT_report if classes lie in OUT)",
    )
    parser.add_argument(
        "--distance", type=int, default=DISTANCE, metavar="BITS",
        help="bits of 64 in which each hash of near duplicates may differ (default: %(default)s)",
    )  # fmt: skip


def run(args: argparse.Namespace) -> None:
    """Does what the arguments of `add_arguments` say."""
    data_report(args.folder, against=args.against, output=args.output, distance=args.distance)
