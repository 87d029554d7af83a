"""`convnext-ablation publish`: publishes a finished run to the Hugging Face Hub or a folder."""

from __future__ import annotations

import argparse
import re
from pathlib import Path

from convnext_ablation.errors import UserError
from convnext_ablation.hub.finished_run import read_run
from convnext_ablation.hub.publish import CARD, FILES, client, drafted, into_folder, onto_hub, target_of


def run(args: argparse.Namespace) -> None:
    """Runs the command."""
    if args.license and not re.fullmatch(r"[a-z0-9][a-z0-9.-]*", args.license):
        raise UserError(f"--license {args.license}: give an identifier such as apache-2.0 or cc-by-nc-4.0")
    if args.public and not args.license:
        raise UserError("--public needs --license: without one, nobody may use the weights")
    target, run = target_of(args.to), read_run(args.run_folder, args.data)
    with drafted(run, target, args.license, print) as release:
        if args.dry_run:
            print(f"would publish {target}: the weights of epoch {run.best.epoch}")
            for name in FILES:
                print(f"  {name:<20}{(release / name).stat().st_size:>14,} bytes")
            print((release / CARD).read_text(encoding="utf-8"))
        elif isinstance(target, Path):
            print(into_folder(release, target))
        else:
            print(onto_hub(release, target, client(), args.public))
