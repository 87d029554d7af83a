"""``convnext-ablation data-report``: a report on duplicates, leaks and broken images in a data set."""

from __future__ import annotations

import argparse

from convnext_ablation.data.audit import data_report


def run(args: argparse.Namespace) -> None:
    """Runs the command."""
    print(f"{args.folder}: reading ...", flush=True)
    data_report(args.folder, against=args.against, output=args.output, distance=args.distance)
