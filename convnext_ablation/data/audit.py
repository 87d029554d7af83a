"""Audits an image data set: an HTML report, findings as CSV, and a list of test images to exclude."""

from __future__ import annotations

import functools
from collections import Counter
from dataclasses import astuple, dataclass, fields
from pathlib import Path

from convnext_ablation.console import counted
from convnext_ablation.data import measure, overlap
from convnext_ablation.data.folder import data_set_name, told
from convnext_ablation.data.measure import KINDS, Contents, Finding
from convnext_ablation.data.overlap import DISTANCE, MOST_PAIRS
from convnext_ablation.data.pictures import picture_uri
from convnext_ablation.errors import UserError
from convnext_ablation.files import resolved, write_csv, write_text
from convnext_ablation.page import render

SHOWN = 50  # pairs of each kind in the report
_CACHE = "cache"
_SIDE = 160  # maximum side of a thumbnail in pixels
_MANY = 0.05  # share of test images above which near duplicates are questioned
_SINGLE = {
    "broken": "broken images",
    "greyscale": "greyscale",
    "flat": "of one colour",
    "changed": "changed when they are read",
    "not_read": "files that training doesn't read",
}


@dataclass(frozen=True)
class Report:
    """The result of an audit."""

    contents: Contents
    findings: list[Finding]  # by kind, the most serious first

    @property
    def excluded(self) -> list[str]:
        """Ids of test images that are also in the training or pre-training set."""
        return sorted({finding.id for finding in self.findings if finding.leaks})


def data_report(
    folder: Path, *, against: Path | None = None, output: Path | None = None, distance: int = DISTANCE
) -> Report:
    """Audits an image data set and writes a report.

    Args:
        folder: Holds ``<split>/<class>/<image>``, with or without a manifest, or ``<class>/<image>``.
        against: Folder of a pre-training set, ``train/<wnid>/<wnid>_<number>.JPEG``.
        output: Folder to write to; by default ``<folder>/report``, or ``<folder>_report`` if `folder`
            holds classes directly.
        distance: Maximum Hamming distance of the 64-bit hashes of near duplicates.

    Raises:
        UserError: A folder holds no images, an argument is invalid, or the disk is full.
    """
    if distance < 0:
        raise UserError(f"distance is {distance}; give 0 or more")
    contents = measure.read_folder(folder)
    names = overlap.list_pretraining(against) if against else []
    if output is None:
        among = not contents.has_splits and contents.root == folder
        place = folder.resolve()
        output = place.with_name(f"{place.name}_report") if among else folder / "report"
    output = _output_folder(contents, output)
    images, cache = contents.images, output / _CACHE
    measured = measure.measure_images(contents.root, [each.id for each in images], cache / "measured.jsonl")
    findings = overlap.exact_duplicates(images, measured)
    findings += overlap.near_duplicates(contents, measured, distance)
    findings += measure.about_images(contents, measured)
    if against:
        kept = cache / "pretraining.jsonl"
        findings += overlap.pretraining_overlap(images, measured, against, names, kept, distance)
    # the sort is stable, so near duplicates stay sorted by distance
    findings.sort(key=lambda finding: (KINDS.index(finding.kind), not finding.leaks, not finding.crosses))
    report = Report(contents, findings)
    _write(report, output, distance, against)
    return report


def _output_folder(contents: Contents, output: Path) -> Path:
    """Creates the report's folder; a `UserError` if it would be among the images."""
    for split in contents.classes if contents.has_splits else [""]:
        if resolved(contents.root / split) in (resolved(output), *resolved(output).parents):
            where = split or contents.root
            raise UserError(f"{output} is among the images of {where}; choose another place with --output")
    (output / _CACHE).mkdir(parents=True, exist_ok=True)
    return output


def _write(report: Report, output: Path, distance: int, against: Path | None) -> None:
    root, counts = report.contents.root, report.contents.counts()
    summary = summary_lines(report, against)
    kinds = {kind: [each for each in report.findings if each.kind == kind] for kind in KINDS}
    names = sorted(set().union(*report.contents.classes.values()))
    html = render(
        "data_report.html",
        title=f"Data report: {data_set_name(root)}",
        summary=summary,
        classes={
            "caption": "Images of each class",
            "head": ("class", *counts),
            "rows": [(name, *(f"{counts[split][name]:,}" for split in counts)) for name in names],
        },
        kinds={kind: found for kind, found in kinds.items() if found},
        shown=SHOWN,
        picture=functools.cache(functools.partial(picture_uri, side=_SIDE)),
        root=root,
        against=against,
        distance=distance,
        most_pairs=MOST_PAIRS,
    )
    columns = [each.name.removesuffix("_name") for each in fields(Finding)]
    write_csv(output / "findings.csv", columns, map(astuple, report.findings))
    write_text(output / "exclude_test.txt", "".join(f"{id_}\n" for id_ in report.excluded))
    write_text(output / "index.html", html)
    print(f"{root}:", *summary, sep="\n  ")
    print(f"report: {output / 'index.html'}, findings.csv, exclude_test.txt")


def summary_lines(report: Report, against: Path | None) -> list[str]:
    """The summary of an audit, one line per fact."""
    totals = Counter(finding.kind for finding in report.findings)
    lines = [_split_line(report, split, counts) for split, counts in report.contents.counts().items()]
    lines.append(", ".join(f"{totals[kind]:,} {name}" for kind, name in _SINGLE.items()))
    notes = (finding.note for finding in report.findings if finding.kind == "changed")
    changed = Counter(kind for note in notes for kind in note.split(", "))
    lines += [f"{kind}: {count:,}" for kind, count in changed.most_common()]
    lines += [f"`prepare` {line}" for line in told(report.contents.root)]
    same = [finding for finding in report.findings if finding.kind == "same_pixels"]
    crossing, unlike = sum(each.crosses for each in same), sum(each.disagrees for each in same)
    where = f"{crossing:,} across splits, {unlike:,} with different classes"
    lines.append(f"{len(same):,} exact copies: {where}")
    near = Counter((each.other_split, each.split) for each in report.findings if each.kind == "near")
    where = "; ".join(f"{one} and {two}: {count:,}" for (one, two), count in near.items() if one != two)
    lines.append(f"{near.total():,} near duplicates, to be looked at" + (f" ({where})" if where else ""))
    if against:
        found = {each.id: each.split for each in report.findings if each.kind.startswith("pretraining")}
        seen = Counter(found.values())
        where = ", ".join(f"{split}: {seen[split]:,}" for split in report.contents.classes)
        by_hash = f"{counted(totals['pretraining_near'], 'pair')} by hash, to be looked at"
        lines.append(f"{counted(seen.total(), 'image')} in the pre-training set ({where}); {by_hash}")
    if MOST_PAIRS in (*near.values(), totals["pretraining_near"]):
        lines.append(f"of two sets only the {MOST_PAIRS:,} nearest pairs are listed: lower --distance")
    excluded = report.excluded
    lines.append(f"{len(excluded):,} test images in exclude_test.txt")
    certain = {each.id for each in report.findings if each.leaks and not each.kind.endswith("near")}
    tests = sum(measure.split_rank(record.split) == 2 for record in report.contents.images)
    if len(set(excluded) - certain) > _MANY * tests:
        alike = "so many near duplicates mean that pictures look alike, not that they are copies"
        lines.append(f"{alike}: lower --distance")
    return lines


def _split_line(report: Report, split: str, counts: Counter[str]) -> str:
    least, most = min(counts.values(), default=0), max(counts.values(), default=0)
    line = f"{split}: {counts.total():,} images, {len(counts):,} classes of {least:,} to {most:,} images "
    line += f"(ratio {most / max(least, 1):.2f})"
    found = (each for each in report.findings if each.kind == "missing_class" and each.split == split)
    missing = [each.class_name for each in found]
    return line + (f"; {len(missing):,} classes are missing, such as {missing[0]}" if missing else "")
