"""``convnext-ablation prepare``: a sub-command for every data set, and ``--verify`` for a prepared folder."""

from __future__ import annotations

import argparse
from pathlib import Path

from convnext_ablation.data.prepare import DATASETS, prepare, verify
from convnext_ablation.dataclass_options import add_options, given_options, options_of
from convnext_ablation.errors import UserError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of ``convnext-ablation prepare``."""
    parser.add_argument(
        "--verify", metavar="OUT", type=Path, help="only compare a prepared folder with its manifest"
    )
    commands = parser.add_subparsers(dest="dataset", metavar="DATASET")
    for name, dataset in DATASETS.items():
        command = commands.add_parser(name, help=dataset.summary, description=dataset.summary)
        command.add_argument("out", metavar="OUT", help="folder to make")
        add_options(command, options_of(dataset))
        if dataset.published:
            command.add_argument(
                "--download",
                metavar="FOLDER",
                type=Path,
                nargs="?",
                const=Path("downloads"),
                help="fetch the archives from their home into this folder (./downloads if none is named), "
                "unless they are there",
            )
        command.add_argument("--workers", type=int, metavar="N", help="threads; one per core if not given")


def run(args: argparse.Namespace) -> None:
    """Does what the arguments of `add_arguments` say."""
    if args.verify is not None:
        if args.dataset:
            raise UserError("--verify looks at a folder that is there; leave the data set out")
        verify(args.verify)
        return
    if not args.dataset:
        raise UserError(f"name a data set ({', '.join(DATASETS)}) or --verify a folder")
    dataset = DATASETS[args.dataset]
    parameters = given_options(args, options_of(dataset))
    if getattr(args, "download", None) is not None:
        for which, published in dataset.needed(parameters).items():
            if not published.url:
                home = getattr(dataset, "home", "")
                raise UserError(
                    f"{args.dataset}: {published.file} can't be downloaded by a program; get it from {home}, "
                    "and name its folder with --archives"
                )
            if parameters["archives"] is None and parameters.get(which) is None:
                published.download(args.download)
        parameters["archives"] = parameters["archives"] or args.download
    prepare(args.dataset, args.out, workers=args.workers, **parameters)
