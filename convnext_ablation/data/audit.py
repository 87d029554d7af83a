"""What is wrong with an image data set, measured: a page for people and files for programs."""

from __future__ import annotations

import functools
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from convnext_ablation.data.findings import (
    KINDS,
    Finding,
    about_images,
    balance,
    class_table,
    format_table,
    size_table,
    split_table,
    write_exclusions,
    write_findings,
)
from convnext_ablation.data.folder import data_set_name
from convnext_ablation.data.measure import Contents, Measured, measure_images, read_folder, split_rank
from convnext_ablation.data.overlap import (
    MOST_PAIRS,
    Limits,
    Overlap,
    exact_duplicates,
    list_pretraining,
    near_duplicates,
    pretraining_overlap,
)
from convnext_ablation.errors import UserError
from convnext_ablation.files import written_whole
from convnext_ablation.machine import available_cores
from convnext_ablation.page import picture_uri, render

SHOWN = 50  # pairs of a kind on the page
_CACHE = "cache"
_SIDE = 160  # pixels of a picture on the page
_MANY = 0.05  # of the test images
_SINGLE = {
    "broken": "broken images",
    "greyscale": "greyscale",
    "flat": "of one colour",
    "not_read": "files that training doesn't read",
}
_MANIFEST = {"differs": "changed", "unlisted": "not listed", "missing": "missing"}


@dataclass(frozen=True)
class Report:
    """What was found."""

    contents: Contents
    measured: list[Measured]  # of each image
    findings: list[Finding]  # those to look at first standing first in each kind
    near_left_out: int  # near duplicates that are not among them, being more than are kept
    overlap: Overlap | None
    excluded: dict[str, set[str]]  # test images that training or pre-training has seen, by reason


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
    for name, bits in (("phash", limits.phash), ("dhash", limits.dhash)):
        if not 0 <= bits <= 64:
            raise UserError(f"{name}-distance is {bits}; give 0 to 64 bits")
    if shown < 0:
        raise UserError(f"pairs is {shown}; give 0 or more")
    if workers < 1:
        raise UserError(f"workers is {workers}; give 1 or more")
    contents = read_folder(Path(folder))
    other = Path(against) if against is not None else None
    names = list_pretraining(other) if other else []
    output = _output_folder(contents, Path(output) if output is not None else contents.root / "report")
    images, cache = contents.images, output / _CACHE
    measured = measure_images(contents.root, [record.id for record in images], cache / "images.csv", workers)
    near, left_out = near_duplicates(contents, measured, limits, workers)
    common = None
    if other:
        common = pretraining_overlap(images, measured, other, names, cache, limits, workers)
    findings = [*exact_duplicates(images, measured), *near, *(common.findings if common else [])]
    findings += about_images(contents, measured)
    # stable: within these, near duplicates stay in the order of their distance
    findings.sort(key=lambda finding: (KINDS.index(finding.kind), not finding.leaks, not finding.crosses))
    report = Report(contents, measured, findings, left_out, common, _excluded(findings))
    _write(report, output, limits, shown, other)
    return report


def _output_folder(contents: Contents, output: Path) -> Path:
    """Makes the folder of the report, where no one takes it for images."""
    for split in contents.classes:
        if (contents.root / split).resolve() in (output.resolve(), *output.resolve().parents):
            raise UserError(f"{output} is among the images of {split}; choose another place with --output")
    reason = ""
    try:
        (output / _CACHE).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        reason = f" ({error.strerror})"
    if reason or not os.access(output, os.W_OK):
        raise UserError(f"cannot write {output}{reason}; choose another place with --output")
    return output


def _excluded(findings: Sequence[Finding]) -> dict[str, set[str]]:
    """Test images that training or pre-training has seen, by reason."""
    leaks = [finding for finding in findings if finding.leaks]
    return {
        "copies of training images": {each.id for each in leaks if each.kind.startswith("same")},
        "near duplicates of training images": {each.id for each in leaks if each.kind == "near"},
        "in the pre-training set": {each.id for each in leaks if each.kind.startswith("pretraining")},
    }


def _write(report: Report, output: Path, limits: Limits, shown: int, against: Path | None) -> None:
    contents, measured = report.contents, report.measured
    summary = summary_lines(report)
    kinds = {kind: [each for each in report.findings if each.kind == kind] for kind in KINDS}
    html = render(
        "data_report.html",
        title=f"Data report: {data_set_name(contents.root)}",
        summary=summary,
        tables=[split_table(contents, measured), size_table(measured), format_table(measured)],
        long_tables=[class_table(contents)],
        kinds={kind: found for kind, found in kinds.items() if found},
        shown=shown,
        picture=functools.cache(functools.partial(picture_uri, side=_SIDE)),
        root=contents.root,
        against=against or contents.root,
        limits=limits,
        most_pairs=MOST_PAIRS,
        common=report.overlap,
    )
    write_findings(output / "findings.csv", report.findings)
    write_exclusions(output / "exclude_test.txt", set().union(*report.excluded.values()))
    with written_whole(output / "index.html") as temporary:
        # names of files need not be in UTF-8, but the page is
        temporary.write_text(html, encoding="utf-8", errors="replace")
    print(f"{contents.root}:", *summary, sep="\n  ")
    print(f"report: {output / 'index.html'}, findings.csv, exclude_test.txt")


def summary_lines(report: Report) -> list[str]:
    """What there is to know at once, a line each."""
    lines = []
    for split, each in balance(report.contents).items():
        line = (
            f"{split}: {each.images:,} images, {each.classes:,} classes of {each.smallest[1]:,} to "
            f"{each.largest[1]:,} images (ratio {each.ratio:.2f})"
        )
        if each.missing:
            line += f"; {len(each.missing):,} classes are missing, such as {each.missing[0]}"
        lines.append(line)
    totals = Counter(finding.kind for finding in report.findings)
    lines.append(", ".join(f"{totals[kind]:,} {name}" for kind, name in _SINGLE.items()))
    wrong = [f"{totals[kind]:,} {name}" for kind, name in _MANIFEST.items() if totals[kind]]
    lines += [f"unlike the manifest: {', '.join(wrong)}"] if wrong else []
    same = [finding for finding in report.findings if finding.kind.startswith("same")]
    lines.append(
        f"{len(same):,} exact copies: {sum(each.crosses for each in same):,} across splits, "
        f"{sum(each.disagrees for each in same):,} with different classes"
    )
    near = Counter((each.other_split, each.split) for each in report.findings if each.kind == "near")
    where = "; ".join(f"{one} and {two}: {count:,}" for (one, two), count in near.items() if one != two)
    line = f"{near.total():,} near duplicates, to be looked at" + (f" ({where})" if where else "")
    lines.append(line + _left_out(report.near_left_out))
    if report.overlap:
        lines.append(_overlap_line(report, report.overlap))
    reasons = ", ".join(f"{len(ids):,} {reason}" for reason, ids in report.excluded.items() if ids)
    excluded = set().union(*report.excluded.values())
    lines.append(f"{len(excluded):,} test images in exclude_test.txt" + (f" ({reasons})" if reasons else ""))
    certain = {each.id for each in report.findings if each.leaks and not each.kind.endswith("near")}
    tests = sum(split_rank(record.split) == 2 for record in report.contents.images)
    if len(excluded - certain) > _MANY * tests:
        lines.append(
            "so many near duplicates mean that pictures look alike, not that they are copies: "
            "lower --phash-distance and --dhash-distance"
        )
    return lines


def _left_out(beyond: int) -> str:
    hint = "those with the least near hashes, are left out: lower --phash-distance and --dhash-distance"
    return f"; {beyond:,} pairs, {hint}" if beyond else ""


def _overlap_line(report: Report, common: Overlap) -> str:
    seen = {finding.id for finding in common.findings}
    splits = Counter(id_.partition("/")[0] for id_ in seen)
    where = ", ".join(f"{split}: {splits[split]:,}" for split in report.contents.classes)
    how = [f"{common.with_id:,} looked up by id"] if common.with_id else []
    how += [f"{common.compared:,} compared by hash, to be looked at"] if common.compared else []
    line = f"{len(seen):,} images are in the pre-training set ({where}); {', '.join(how)}"
    return line + _left_out(common.beyond)
