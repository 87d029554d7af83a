"""`convnext-ablation timm-scripts`: where timm's own scripts are, and whether a checkout fits."""

from __future__ import annotations

import argparse
from pathlib import Path

import timm

from convnext_ablation.stock import check, command


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    parser.add_argument("checkout", nargs="?", type=Path, help="a checkout of timm's repository to look at")


def run(args: argparse.Namespace) -> None:
    """Runs the command.

    Raises:
        UserError: It is no checkout.
    """
    if args.checkout:
        print(check(args.checkout))
    else:
        print(f"timm {timm.__version__} is installed; its scripts are in its repository, not in its wheel:")
        print(command())
