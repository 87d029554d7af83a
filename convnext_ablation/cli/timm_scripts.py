"""`convnext-ablation timm-scripts`: where timm's own scripts are, and whether a checkout fits."""

from __future__ import annotations

import argparse
from pathlib import Path

import timm

from convnext_ablation.stock import check, command, tag


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    parser.add_argument("checkout", nargs="?", type=Path, help="a checkout of timm's repository to look at")
    parser.add_argument("--version", action="store_true", help="print the git tag that fits, nothing else")


def run(args: argparse.Namespace) -> None:
    """Runs the command.

    Raises:
        UserError: The checkout lacks scripts, or they need another timm than the installed one.
    """
    if args.version:
        print(tag())
    elif args.checkout:
        print("\n".join(check(args.checkout)))
    else:
        print(f"timm {timm.__version__} is installed; its scripts are in its repository, not in its wheel:")
        print(command())
