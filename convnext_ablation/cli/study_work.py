"""`convnext-ablation study work`: more processes for a study that was begun elsewhere."""

from __future__ import annotations

import argparse
from pathlib import Path

from convnext_ablation.data.folder import check_folder
from convnext_ablation.errors import UserError
from convnext_ablation.study.experiment import Study
from convnext_ablation.study.external import check_script
from convnext_ablation.study.progress import Progress, total_by_status
from convnext_ablation.study.store import read_study
from convnext_ablation.study.wording import counted
from convnext_ablation.study.workers import places_for, supervise
from convnext_ablation.training.distributed import check_device


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    parser.add_argument("study", type=Path, metavar="STUDY", help="the study's folder")
    parser.add_argument(
        "--jobs", type=int, help="runs at the same time; by default one a GPU, or as many as cores allow"
    )
    parser.add_argument(
        "--data", type=Path, metavar="FOLDER", help="where its data are on this machine, if elsewhere"
    )


def run(args: argparse.Namespace) -> None:
    """Does runs of the study until all are done or have failed.

    Raises:
        UserError: There is no such study, or it can't be worked on here, or runs of it failed.
    """
    if args.jobs is not None and args.jobs < 1:
        raise UserError(f"--jobs is {args.jobs}; it must be at least 1")
    study = read_study(args.study)
    check_device(study.device)
    data_dir = str(args.data.resolve()) if args.data else None
    check_data(study, data_dir)
    if study.script:
        check_script(study.script)
    places = places_for(study.device, args.jobs, study.threads)
    progress = Progress(study)
    try:
        states = supervise(args.study, places, progress, data_dir)
    finally:
        progress.close()
    totals = total_by_status(states)
    of = counted(len(states), "run")
    print(f"{totals['done']} of {of} done")
    if totals["failed"]:
        raise UserError(f"{totals['failed']} of {of} failed; `study status` says why")


def check_data(study: Study, data_dir: str | None = None) -> None:
    """Makes sure that a study's data are those that it was begun with.

    Args:
        study: The study.
        data_dir: Where they are, if elsewhere.

    Raises:
        UserError: They are missing or have changed.
    """
    folder = data_dir or study.data_dir
    found = check_folder(Path(folder)).fingerprint
    if found != study.data_fingerprint:
        raise UserError(
            f"{folder}: the data have changed since the study began: their fingerprint is {found[:12]}, "
            f"not {study.data_fingerprint[:12]}; restore them, or begin another study"
        )
