"""What was found, as a program reads it: ``findings.csv`` and ``exclude_test.txt``."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from convnext_ablation.data.report.folder import Contents, Place, split_rank
from convnext_ablation.data.report.measure import Measured
from convnext_ablation.files import written_whole

__all__ = ["KINDS", "Finding", "Kind", "about_images", "paired", "write_exclusions", "write_findings"]


@dataclass(frozen=True)
class Kind:
    """What all findings of a kind have in common.

    Attributes:
        title: Heading for people.
        meaning: What it means, and what it doesn't.
    """

    title: str
    meaning: str


_CANDIDATES = (
    "For a person to look at: the hashes are close and small versions of the two pictures agree, which those "
    "of the same scene or with the same simple outline can do, too. Copies that were mirrored, turned or "
    "cropped by more than a few percent are not among them."
)
KINDS: dict[str, Kind] = {
    "pretraining_id": Kind(
        "In the pre-training set, by image id",
        "Their names are ids of images of the pre-training set. The pictures themselves were not compared.",
    ),
    "pretraining_near": Kind(
        "In the pre-training set, by perceptual hash",
        _CANDIDATES,
    ),
    "same_file": Kind("Copies: the same file", "Every byte is equal (SHA-256)."),
    "same_pixels": Kind(
        "Copies: the same pixels in another file", "Decoded to RGB, size and all pixels are equal (SHA-256)."
    ),
    "near": Kind(
        "Near duplicates",
        _CANDIDATES,
    ),
    "missing_class": Kind(
        "Classes without images in a split",
        "timm numbers the classes of each split by themselves: labels would be wrong.",
    ),
    "broken": Kind("Broken images", "They can't be decoded whole; training ends at the first one."),
    "flat": Kind(
        "Images of one colour", "All pixels are the same. They are not compared by perceptual hash."
    ),
    "greyscale": Kind(
        "Greyscale images",
        "All pixels have three equal channels. Grey that a JPEG file has tinted by rounding is not counted.",
    ),
    "differs": Kind(
        "Not the image that the manifest lists", "The file's SHA-256 is another than the manifest's."
    ),
    "unlisted": Kind(
        "Images that the manifest doesn't list", "They were added after the folder was prepared."
    ),
    "missing": Kind(
        "Images that only the manifest lists", "They were removed after the folder was prepared."
    ),
    "not_read": Kind(
        "Files that training doesn't read",
        "Their name doesn't end as an image's, or they are in no class folder.",
    ),
}


@dataclass(frozen=True)
class Finding:
    """Something that was found of an image, or of two.

    Of two images, `id` is the one to leave out: that of the split that less may be learned from, so of a test
    image that is in training, too, `id` is the test image.

    Attributes:
        kind: One of `KINDS`.
        id: The image's path below the folder; empty where it is about a class.
        other: The other image, below the folder or below the pre-training set's.
        phash: Bits in which the perceptual hashes of both differ; -1 where they weren't asked.
        dhash: The same of the other hash.
        agreement: How well the two pictures agree, 0 to 1; -1 where they weren't asked.
        split: Of the image.
        class_name: Of the image.
        other_split: Of the other.
        other_class: Of the other.
        note: What else there is to say.
    """

    kind: str
    id: str
    other: str = ""
    phash: int = -1
    dhash: int = -1
    agreement: float = -1
    split: str = ""
    class_name: str = ""
    other_split: str = ""
    other_class: str = ""
    note: str = ""

    @property
    def crosses(self) -> bool:
        """Whether it is about images of two splits."""
        return bool(self.other_split) and self.split != self.other_split

    @property
    def leaks(self) -> bool:
        """Whether a test image is a copy of one that is trained on, or that pre-training has seen."""
        if not self.split or split_rank(self.split) != 2 or not self.other:
            return False
        return self.kind.startswith("pretraining") or split_rank(self.other_split) == 0

    @property
    def disagrees(self) -> bool:
        """Whether both images are of the data set, and their classes are not the same."""
        return bool(self.other_class) and self.class_name != self.other_class


def paired(kind: str, one: Place, two: Place, phash: int = -1, dhash: int = -1) -> Finding:
    """A finding about two images of the data set."""
    other, image = sorted((one, two), key=lambda place: (split_rank(place.split), place.id))
    note = "the classes differ" if one.class_name != two.class_name else ""
    return Finding(
        kind,
        image.id,
        other.id,
        phash,
        dhash,
        split=image.split,
        class_name=image.class_name,
        other_split=other.split,
        other_class=other.class_name,
        note=note,
    )


def about_images(contents: Contents, measured: Sequence[Measured]) -> list[Finding]:
    """What is wrong with single images and classes."""
    everywhere = set().union(*contents.classes.values())
    found = []
    for split in contents.splits:
        here = {place.class_name for place in contents.images if place.split == split}
        found += [
            Finding("missing_class", "", split=split, class_name=name) for name in sorted(everywhere - here)
        ]
    for place, image in zip(contents.images, measured, strict=True):
        differs = bool(place.listed and image.sha256 and place.listed != image.sha256)
        marks = {
            "broken": image.error,
            "flat": image.flat and f"{image.width}x{image.height}",
            "greyscale": image.grey and f"mode {image.mode}",
            "differs": differs and "SHA-256",
        }
        found += [
            Finding(kind, place.id, split=place.split, class_name=place.class_name, note=str(note))
            for kind, note in marks.items()
            if note
        ]
    for kind in ("unlisted", "missing", "not_read"):
        found += [Finding(kind, id_, split=id_.partition("/")[0]) for id_ in getattr(contents, kind)]
    return found


def write_findings(path: Path, findings: Iterable[Finding]) -> None:
    """Writes all findings as CSV; distances and agreement are empty where there are none."""
    columns = [
        "kind", "id", "other", "phash_distance", "dhash_distance", "agreement", "split", "class",
        "other_split", "other_class", "note",
    ]  # fmt: skip
    with written_whole(path) as temporary, _open(temporary) as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(columns)
        for each in findings:
            distances = ["" if bits < 0 else bits for bits in (each.phash, each.dhash)]
            agreement = "" if each.agreement < 0 else f"{each.agreement:.3f}"
            writer.writerow([
                each.kind, each.id, each.other, *distances, agreement, each.split, each.class_name,
                each.other_split, each.other_class, each.note,
            ])  # fmt: skip


def write_exclusions(path: Path, ids: Iterable[str]) -> None:
    """Writes the ids of test images that training or pre-training has seen, one a line."""
    with written_whole(path) as temporary, _open(temporary) as file:
        file.writelines(f"{id_}\n" for id_ in sorted(ids))


def _open(path: Path) -> TextIO:
    # names of files need not be in UTF-8
    return open(path, "w", encoding="utf-8", errors="surrogateescape", newline="")
