"""What was found, in a few lines, and how it was measured."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from convnext_ablation.data.report.facts import balance
from convnext_ablation.data.report.findings import Finding
from convnext_ablation.data.report.folder import Contents, Place, split_rank
from convnext_ablation.data.report.measure import Measured
from convnext_ablation.data.report.near import MOST_PAIRS, Limits, Near
from convnext_ablation.data.report.pretraining import Overlap

__all__ = ["Report", "notes", "summary_lines"]


@dataclass(frozen=True)
class Report:
    """What was found.

    Attributes:
        contents: What the folder holds.
        measured: What was measured of each image.
        findings: All of them.
        near: Near duplicates.
        overlap: What it has in common with the pre-training set; None if there was none to compare with.
        excluded: Test images that training or pre-training has seen, by reason.
    """

    contents: Contents
    measured: list[Measured]
    findings: list[Finding]
    near: Near
    overlap: Overlap | None
    excluded: dict[str, set[str]]

    @property
    def certain(self) -> set[str]:
        """Test images to leave out that were not only found by perceptual hash."""
        sure = ("same_file", "same_pixels", "pretraining_id")
        return {finding.id for finding in self.findings if finding.leaks and finding.kind in sure}

    @property
    def totals(self) -> dict[str, int]:
        """How many findings there are of each kind."""
        return dict(Counter(finding.kind for finding in self.findings))


def summary_lines(report: Report) -> list[str]:
    """What there is to know at once, a line each."""
    counts, totals = balance(report.contents), report.totals
    lines = [
        f"{split}: {each.images:,} images, {each.classes:,} classes of {each.smallest[1]:,} to "
        f"{each.largest[1]:,} images (ratio {each.ratio:.2f})" + _missing(each.missing)
        for split, each in counts.items()
    ]
    lines.append(", ".join(f"{totals.get(kind, 0):,} {name}" for kind, name in _SINGLE.items()))
    wrong = [f"{totals[kind]:,} {name}" for kind, name in _MANIFEST.items() if kind in totals]
    lines += [f"unlike the manifest: {', '.join(wrong)}"] if wrong else []
    same = [finding for finding in report.findings if finding.kind.startswith("same")]
    lines.append(
        f"{len(same):,} exact copies: {sum(each.crosses for each in same):,} across splits, "
        f"{sum(each.disagrees for each in same):,} with different classes"
    )
    lines.append(_near_line(report.near))
    if report.overlap:
        lines.append(_overlap_line(report, report.overlap))
    reasons = ", ".join(f"{len(ids):,} {reason}" for reason, ids in report.excluded.items() if ids)
    excluded = set().union(*report.excluded.values())
    lines.append(f"{len(excluded):,} test images in exclude_test.txt" + (f" ({reasons})" if reasons else ""))
    if len(excluded - report.certain) > _MANY * sum(map(_is_test, report.contents.images)):
        lines.append(
            "so many near duplicates mean that pictures look alike, not that they are copies: "
            "raise --agreement, or lower --phash-distance and --dhash-distance"
        )
    return lines


def _is_test(place: Place) -> bool:
    return split_rank(place.split) == 2


_MANY = 0.05  # of the test images
_SINGLE = {
    "broken": "broken images",
    "greyscale": "greyscale",
    "flat": "of one colour",
    "not_read": "files that training doesn't read",
}
_MANIFEST = {"differs": "changed", "unlisted": "not listed", "missing": "missing"}


def _missing(names: Sequence[str]) -> str:
    return f"; {len(names):,} classes are missing, such as {names[0]}" if names else ""


def _near_line(near: Near) -> str:
    total = sum(near.totals.values())
    across = {splits: count for splits, count in near.totals.items() if splits[0] != splits[1] and count}
    where = "; ".join(f"{one} and {two}: {count:,}" for (one, two), count in across.items())
    line = f"{total:,} near duplicates, to be looked at" + (f" ({where})" if where else "")
    return line + _not_counted(near.dropped, near.beyond)


def _not_counted(dropped: int, beyond: int) -> str:
    """What became of pairs whose hashes are near, but that don't count."""
    line = f"; {dropped:,} more pairs have near hashes, but pictures that don't agree" if dropped else ""
    if beyond:
        line += (
            f"; {beyond:,} pairs, those with the least near hashes, were not looked at: "
            "lower --phash-distance and --dhash-distance"
        )
    return line


def _overlap_line(report: Report, common: Overlap) -> str:
    splits = Counter(id_.partition("/")[0] for id_ in common.seen)
    where = ", ".join(f"{split}: {splits[split]:,}" for split in report.contents.splits)
    how = [f"{common.with_id:,} looked up by id"] if common.with_id else []
    how += [f"{common.compared:,} compared by hash, to be looked at"] if common.compared else []
    return (
        f"{len(common.seen):,} images are in the pre-training set ({where}); {', '.join(how)}"
        + _not_counted(common.dropped, common.beyond)
    )


def notes(limits: Limits, common: Overlap | None, against: Path | None) -> list[str]:
    """How it was measured, and what that can't say.

    Args:
        limits: What makes two images near duplicates.
        common: What the data set has in common with the pre-training set.
        against: Folder of the pre-training set.
    """
    lines = [
        "Exact copies are found by SHA-256 of the file and of the pixels in RGB, without turning by Exif, as "
        "training reads them. Of several equal images each is paired with the first, a training image if "
        "there is one.",
        f"Near duplicates are pairs whose perceptual hashes differ in at most {limits.phash} (pHash) and "
        f"{limits.dhash} (dHash) of 64 bits, and whose decoded pictures agree to at least "
        f"{limits.agreement:g}: the correlation of small versions. Some may be different pictures, and "
        "copies that were mirrored, turned or cropped more are not found. The fewer details pictures have, "
        "the more of them look alike.",
        f"Of two splits at most {MOST_PAIRS:,} pairs with near hashes are looked at, the nearest.",
        "exclude_test.txt has all test images with an exact or near duplicate among the training images, or "
        "in the pre-training set. Take out lines of pairs that turn out to be different pictures. Duplicates "
        "of validation images are only listed here.",
        "Labels were not checked, other than that equal images have equal classes.",
    ]
    if common:
        lines.append(
            f"The pre-training set was {against}, {common.against:,} images. Images named after an ImageNet "
            "id were looked up by it; only the others were compared by hash, and those broken or of one "
            "colour not at all."
        )
    return lines
