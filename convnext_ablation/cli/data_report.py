"""``convnext-ablation data-report``: what is wrong with an image data set, in a folder of its own."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from convnext_ablation.data.folder import data_set_name
from convnext_ablation.data.report import facts
from convnext_ablation.data.report.agreement import AGREEMENT
from convnext_ablation.data.report.exact import exact_duplicates
from convnext_ablation.data.report.findings import (
    KINDS,
    about_images,
    write_exclusions,
    write_findings,
)
from convnext_ablation.data.report.folder import Contents, read_folder, split_rank
from convnext_ablation.data.report.measure import Measured, measure_images
from convnext_ablation.data.report.near import DISTANCE, Limits, Near, near_duplicates
from convnext_ablation.data.report.page import Page, html
from convnext_ablation.data.report.pretraining import Overlap, list_pretraining, overlap
from convnext_ablation.data.report.summary import Report, notes, summary_lines
from convnext_ablation.errors import UserError
from convnext_ablation.files import written_whole
from convnext_ablation.machine import available_cores

__all__ = ["SHOWN", "add_arguments", "data_report", "run"]

SHOWN = 50  # pairs of a kind on the page
_CACHE = "cache"


def data_report(
    folder: str | os.PathLike[str],
    *,
    against: str | os.PathLike[str] | None = None,
    output: str | os.PathLike[str] | None = None,
    limits: Limits | None = None,
    shown: int = SHOWN,
    workers: int | None = None,
) -> Report:
    """Looks for what is wrong with an image data set, and writes a report of it.

    Args:
        folder: Holds ``<split>/<class>/<image>``, with or without a manifest.
        against: Folder of a pre-training set, ``train/<wnid>/<wnid>_<number>.JPEG``.
        output: Folder to write to, by default ``report`` in `folder`.
        limits: What makes two images near duplicates.
        shown: How many pairs of a kind the page shows.
        workers: Number of threads, by default one a core.

    Raises:
        UserError: A folder isn't one of images, an argument is wrong, or the disk is full.
    """
    limits, workers = limits or Limits(), available_cores() if workers is None else workers
    _check(limits, shown, workers)
    contents = read_folder(Path(folder))
    names = list_pretraining(Path(against)) if against is not None else []
    output = _output_folder(contents, Path(output) if output is not None else contents.root / "report")
    root, images, cache = contents.root, contents.images, output / _CACHE
    measured = measure_images(root, [place.id for place in images], cache / "images.csv", workers)
    near = near_duplicates(
        root, images, measured, contents.splits, cache / "images-pairs.csv", limits, workers
    )
    common = None
    if against is not None:
        common = overlap(root, images, measured, Path(against), names, cache, limits, workers)
    report = _collect(contents, measured, near, common)
    _write(report, output, limits, shown, Path(against) if against is not None else None)
    return report


def _check(limits: Limits, shown: int, workers: int) -> None:
    for name, bits in (("phash", limits.phash), ("dhash", limits.dhash)):
        if not 0 <= bits <= 64:
            raise UserError(f"{name}-distance is {bits}; give 0 to 64 bits")
    if not 0 <= limits.agreement <= 1:
        raise UserError(f"agreement is {limits.agreement:g}; give 0 (all whose hashes are near) to 1")
    if shown < 0:
        raise UserError(f"pairs is {shown}; give 0 or more")
    if workers < 1:
        raise UserError(f"workers is {workers}; give 1 or more")


def _output_folder(contents: Contents, output: Path) -> Path:
    """Makes the folder of the report, where no one takes it for images."""
    for split in contents.splits:
        if (contents.root / split).resolve() in (output.resolve(), *output.resolve().parents):
            raise UserError(f"{output} is among the images of {split}; choose another place with --output")
    try:
        (output / _CACHE).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"cannot write {output} ({error.strerror}); choose another place with --output"
        ) from error
    if not os.access(output, os.W_OK):
        raise UserError(f"cannot write {output}; choose another place with --output")
    return output


def _collect(contents: Contents, measured: list[Measured], near: Near, common: Overlap | None) -> Report:
    findings = [*exact_duplicates(contents.images, measured), *near.findings]
    findings += [*(common.findings if common else []), *about_images(contents, measured)]
    kinds = list(KINDS)
    # stable: within these, near duplicates stay in the order of their distance
    findings.sort(key=lambda finding: (kinds.index(finding.kind), not finding.leaks, not finding.crosses))
    tests = {place.id for place in contents.images if split_rank(place.split) == 2}
    copies = {finding.id for finding in findings if finding.leaks and finding.kind.startswith("same")}
    excluded = {
        "copies of training images": copies,
        "near duplicates of training images": near.leaking,
        "in the pre-training set": tests & common.seen if common else set(),
    }
    return Report(contents, measured, findings, near, common, excluded)


def _write(report: Report, output: Path, limits: Limits, shown: int, against: Path | None) -> None:
    contents = report.contents
    summary = summary_lines(report)
    page = Page(
        name=data_set_name(contents.root),
        root=contents.root,
        summary=summary,
        notes=notes(limits, report.overlap, against),
        tables=[
            facts.split_table(contents, report.measured),
            facts.size_table(report.measured),
            facts.format_table(report.measured),
        ],
        long_tables=[facts.class_table(contents)],
        findings=report.findings,
        shown=shown,
        against=against,
    )
    write_findings(output / "findings.csv", report.findings)
    write_exclusions(output / "exclude_test.txt", set().union(*report.excluded.values()))
    with written_whole(output / "index.html") as temporary:
        # names of files need not be in UTF-8, but the page is
        temporary.write_text(html(page), encoding="utf-8", errors="replace")
    print(f"{contents.root}:", *summary, sep="\n  ")
    print(f"report: {output / 'index.html'}, findings.csv, exclude_test.txt")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of ``convnext-ablation data-report``."""
    parser.add_argument("folder", metavar="OUT", help="prepared or own folder, <split>/<class>/<image>")
    parser.add_argument(
        "--against", metavar="IMAGENET", help="folder of the pre-training set, train/<wnid>/<image>"
    )
    parser.add_argument("--output", metavar="FOLDER", help="folder to write to (default: OUT/report)")
    parser.add_argument(
        "--phash-distance", type=int, default=DISTANCE, metavar="BITS",
        help="bits of 64 in which near duplicates may differ in shape (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--dhash-distance", type=int, default=DISTANCE, metavar="BITS",
        help="the same in differences of neighbouring pixels (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--agreement", type=float, default=AGREEMENT, metavar="R",
        help="how well the decoded pictures of near duplicates must agree, 0 (all count) to 1: correlation "
        "of small versions (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--pairs", type=int, default=SHOWN, metavar="N", help="pairs of a kind to show (default: %(default)s)"
    )
    parser.add_argument("--workers", type=int, metavar="N", help="threads; one per core if not given")


def run(args: argparse.Namespace) -> None:
    """Does what the arguments of `add_arguments` say."""
    data_report(
        args.folder,
        against=args.against,
        output=args.output,
        limits=Limits(args.phash_distance, args.dhash_distance, args.agreement),
        shown=args.pairs,
        workers=args.workers,
    )
