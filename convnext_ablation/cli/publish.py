"""`convnext-ablation publish`: a finished run, or a whole study, published on a hub or into a folder."""

from __future__ import annotations

import argparse
import re
from pathlib import Path

from convnext_ablation.errors import UserError
from convnext_ablation.hub.draft import CARD, FILES, Target, drafted, target_of
from convnext_ablation.hub.finished_run import FinishedRun, read_run
from convnext_ablation.hub.publish import client, into_folder, members_of, onto_hub, siblings_of

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    parser.add_argument(
        "run_folder", metavar="RUN", type=Path, nargs="?", help="output folder of a run of train.py"
    )
    parser.add_argument("--study", type=Path, help="publish the networks of this study instead")
    parser.add_argument(
        "--to",
        required=True,
        metavar="WHERE",
        help="NAMESPACE/NAME on the hub, or ./FOLDER; of a study NAMESPACE, or ./FOLDER",
    )
    parser.add_argument(
        "--tag", default="", help="with --study: names are MODEL.TAG; by default data set and image size"
    )
    parser.add_argument("--license", default="", help="identifier of the weights' licence, such as cc-by-4.0")
    parser.add_argument("--data", type=Path, help="folder of the data, if it isn't where the run had it")
    parser.add_argument("--public", action="store_true", help="let everybody read it; private if not given")
    parser.add_argument("--dry-run", action="store_true", help="show all of it, and publish nothing")


def run(args: argparse.Namespace) -> None:
    """Runs the command."""
    if (args.run_folder is None) == (args.study is None):
        raise UserError("name the folder of one run, or --study and that of a study")
    if args.tag and args.study is None:
        raise UserError("--tag is for --study; of one run, --to names the release")
    if args.license and not re.fullmatch(r"[a-z0-9][a-z0-9.-]*", args.license):
        raise UserError(f"--license {args.license}: give an identifier such as apache-2.0 or cc-by-nc-4.0")
    if args.public and not args.license:
        raise UserError("--public needs --license: without one, nobody may use the weights")
    if args.study is None:
        members = {target_of(args.to): read_run(args.run_folder, args.data)}
    else:
        members = members_of(args.study, args.to, args.tag, args.data)
    done = 0
    try:
        for target, run in members.items():
            with drafted(run, target, args.license, siblings_of(target, members)) as release:
                print(_published(release, run, target, args))
            done += 1
    except UserError as error:
        if args.study is None:
            raise
        rest = f"{done} of {len(members)} are published, the same command publishes the rest"
        raise UserError(f"{error}; {rest}") from error


def _published(release: Path, run: FinishedRun, target: Target, args: argparse.Namespace) -> str:
    """Publishes a release, or doesn't if it is a dry run; returns what to say."""
    if args.dry_run:
        weights = f"the {'averaged (EMA)' if run.ema else 'plain'} weights of epoch {run.best.epoch}"
        sizes = [f"  {name:<20}{(release / name).stat().st_size:>14,} bytes" for name in FILES]
        card = (release / CARD).read_text(encoding="utf-8")
        return "\n".join([f"would publish {target}: {weights}", *sizes, card])
    if isinstance(target, Path):
        return into_folder(release, target)
    return onto_hub(release, target, client(), args.public)
