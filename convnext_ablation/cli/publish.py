"""`convnext-ablation publish`: a finished run, or a whole study, published on a hub or into a folder."""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from pathlib import Path

from huggingface_hub import HfApi

from convnext_ablation.errors import UserError, in_one_line
from convnext_ablation.hub.draft import FILES, Draft, drafted, target_of
from convnext_ablation.hub.finished_run import read_run
from convnext_ablation.hub.publish import (
    RULE,
    Member,
    client,
    into_folder,
    members_of,
    onto_hub,
    siblings_of,
    tie,
)

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
    parser.add_argument(
        "--weights",
        choices=("auto", "ema", "plain"),
        default="auto",
        help="averaged or plain weights; auto: those that the best epoch was picked by",
    )
    parser.add_argument("--license", default="", help="identifier of the weights' licence, such as cc-by-4.0")
    parser.add_argument("--data", type=Path, help="folder of the data, if it isn't where the run had it")
    parser.add_argument("--public", action="store_true", help="let everybody read it; private if not given")
    parser.add_argument("--dry-run", action="store_true", help="show all of it, and publish nothing")


def run(args: argparse.Namespace) -> None:
    """Runs the command.

    Raises:
        UserError: It can't be published as asked.
    """
    if (args.run_folder is None) == (args.study is None):
        raise UserError("name the folder of one run, or --study and that of a study")
    if args.tag and args.study is None:
        raise UserError("--tag is for --study; of one run, --to names the release")
    if args.license and not re.fullmatch(r"[a-z0-9][a-z0-9.-]*", args.license):
        raise UserError(f"--license {args.license}: give an identifier such as apache-2.0 or cc-by-nc-4.0")
    if args.public and not args.license:
        raise UserError("--public needs --license: without one, nobody may use the weights")
    if args.study is None:
        members = [Member(read_run(args.run_folder, args.weights, args.data), target_of(args.to))]
    else:
        members = members_of(args.study, args.to, args.tag, args.weights, args.data)
        print(f"{args.study.resolve().name}: {len(members)} networks; {RULE}")
    sent = not args.dry_run and members[0].target.folder is None
    api = client() if sent else None
    done = 0
    try:
        for member in members:
            _publish(member, members, api, args)
            done += 1
    except UserError as error:
        if args.study is None:
            raise
        rest = f"{done} of {len(members)} are published, the same command publishes the rest"
        raise UserError(f"{error}; {rest}") from error
    if args.study is not None and not args.dry_run:
        print(tie(args.study.resolve().name, members, api, args.public))
    elif args.study is None and not members[0].is_found:
        print(
            "note: called MODEL.TAG it would be found by pretrained=True; as it is, it is loaded by its full "
            "name only"
        )


def _publish(member: Member, members: Sequence[Member], api: HfApi | None, args: argparse.Namespace) -> None:
    if member.target.folder is not None and not args.dry_run:
        parent = member.target.folder.resolve().parent
        with in_one_line(f"{parent}: can't be made"):
            parent.mkdir(parents=True, exist_ok=True)
    with drafted(member.run, member.target, args.license, siblings_of(member, members)) as draft:
        if args.dry_run:
            _show(draft)
        else:
            print(into_folder(draft) if api is None else onto_hub(draft, api, args.public))


def _show(draft: Draft) -> None:
    """Shows what would be published."""
    kind = "averaged (EMA)" if draft.run.ema else "plain"
    print(f"would publish {draft.target}: the {kind} weights of epoch {draft.run.best.epoch}")
    for name in FILES:
        print(f"  {name:<20}{(draft.folder / name).stat().st_size:>14,} bytes")
    print(f"  SHA-256 of the weights: {draft.config['weights']['sha256']}\n")
    print(draft.card)
