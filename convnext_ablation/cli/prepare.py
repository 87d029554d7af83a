"""``convnext-ablation prepare``: a subcommand per data set, and ``--verify`` for a prepared folder."""

from __future__ import annotations

import argparse

from convnext_ablation.data.prepare import DATASETS, prepare, verify
from convnext_ablation.dataclass_options import given_options, options_of
from convnext_ablation.errors import UserError


def run(args: argparse.Namespace) -> None:
    """Runs the command."""
    if args.verify is not None:
        if args.dataset:
            raise UserError("--verify looks at a folder that is there; leave the data set out")
        print(f"{args.verify}: comparing with its manifest ...", flush=True)
        verify(args.verify)
        return
    if not args.dataset:
        raise UserError(f"name a data set ({', '.join(DATASETS)}) or --verify a folder")
    dataset = DATASETS[args.dataset]
    print(f"{args.out}: preparing {args.dataset} ...", flush=True)
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
