"""`convnext-ablation publish`: a finished run, or a whole study, published on a hub or into a folder."""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from pathlib import Path

from huggingface_hub import HfApi

from convnext_ablation.errors import UserError
from convnext_ablation.hub.card import Sibling
from convnext_ablation.hub.draft import FILES, Draft, Target, drafted, target_of
from convnext_ablation.hub.finished_run import FinishedRun, read_run
from convnext_ablation.hub.publish import (
    RULE,
    client,
    into_folder,
    members_of,
    onto_hub,
    siblings_of,
    tie_in_folder,
    tie_on_hub,
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
    if args.study is not None:
        _publish_study(args)
        return
    target, finished = target_of(args.to), read_run(args.run_folder, args.weights, args.data)
    _publish(args, finished, target, _client(args, target))
    architecture = finished.arguments.model.partition(".")[0]
    if not target.name.startswith(f"{architecture}."):
        print(
            f"note: called {architecture}.TAG it would be found by pretrained=True; as it is, it is loaded "
            "by its full name only"
        )


def _client(args: argparse.Namespace, target: Target) -> HfApi | None:
    """The hub's client, None where nothing is sent."""
    return None if args.dry_run or target.folder is not None else client()


def _publish(
    args: argparse.Namespace,
    finished: FinishedRun,
    target: Target,
    api: HfApi | None,
    siblings: Sequence[Sibling] = (),
) -> None:
    if target.folder is not None and not args.dry_run:
        parent = target.folder.resolve().parent
        try:
            parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"{parent}: can't be made ({error.strerror}); name another") from error
    with drafted(finished, target, args.license, siblings) as draft:
        if args.dry_run:
            _show(draft)
        elif api is not None:
            print(onto_hub(draft, api, args.public))
        else:
            print(into_folder(draft))


def _show(draft: Draft) -> None:
    """Shows what would be published."""
    kind = "averaged (EMA)" if draft.run.ema else "plain"
    print(f"would publish {draft.target}: the {kind} weights of epoch {draft.run.best.epoch}")
    for name in FILES:
        print(f"  {name:<20}{(draft.folder / name).stat().st_size:>14,} bytes")
    print(f"  SHA-256 of the weights: {draft.config['weights']['sha256']}\n")
    print(draft.card)


def _publish_study(args: argparse.Namespace) -> None:
    study = args.study.resolve().name
    members = members_of(args.study, args.to, args.tag, args.weights, args.data)
    print(f"{study}: {len(members)} networks; {RULE}")
    api = _client(args, members[0].target)
    done = 0
    try:
        for member in members:
            _publish(args, member.run, member.target, api, siblings_of(member, members))
            done += 1
    except UserError as error:
        raise UserError(
            f"{error}; {done} of {len(members)} are published, the same command publishes the rest"
        ) from error
    if args.dry_run:
        return
    if api is not None:
        print(f"they are in the collection {tie_on_hub(study, members, api, args.public)}")
    else:
        print(f"wrote {tie_in_folder(study, members)}")
