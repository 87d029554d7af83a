"""``convnext-ablation data-report``: what is wrong with an image data set, in a folder of its own."""

from __future__ import annotations

import argparse

from convnext_ablation.data.audit import data_report


def run(args: argparse.Namespace) -> None:
    """Does what its arguments say."""
    print(f"{args.folder}: reading ...", flush=True)
    data_report(args.folder, against=args.against, output=args.output, distance=args.distance)
