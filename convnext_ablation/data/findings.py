"""What is found of a data set's images, as ``findings.csv`` has it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from convnext_ablation.data.folder import Record
from convnext_ablation.data.measure import Contents, Measured, split_rank

COLUMNS = (
    "kind", "id", "other", "distance", "split", "class", "other_split", "other_class", "note",
)  # fmt: skip
# in the order in which they are reported; templates/data_report.html says what each means
KINDS = (
    "pretraining_id", "pretraining_near", "same_pixels", "near", "missing_class", "broken", "flat",
    "greyscale", "changed", "not_read",
)  # fmt: skip


@dataclass(frozen=True)
class Finding:
    """Something that was found of an image, or of two; the fields are the columns of ``findings.csv``.

    Of two images, `id` is the one to leave out: that of the split that less may be learned from, so of a test
    image that is in training, too, `id` is the test image.
    """

    kind: str
    id: str  # path below the folder; empty where it is about a class
    other: str = ""  # path below the folder, or below the pre-training set's
    distance: int | None = None  # bits in which hashes differ; None where they weren't compared
    split: str = ""
    class_name: str = ""
    other_split: str = ""
    other_class: str = ""
    note: str = ""  # why an image is broken or a file not read, or how pixels are changed

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


def paired(kind: str, one: Record, two: Record, distance: int | None = None) -> Finding:
    """A finding about two images of the data set."""
    other, image = sorted((one, two), key=lambda record: (split_rank(record.split), record.id))
    places = (image.split, image.class_name, other.split, other.class_name)
    return Finding(kind, image.id, other.id, distance, *places)


def about_images(contents: Contents, measured: Sequence[Measured]) -> list[Finding]:
    """What is wrong with single images and classes."""
    found = []
    everywhere = set().union(*contents.classes.values())
    for split, counts in contents.counts().items():
        missing = sorted(everywhere - counts.keys())
        found += [Finding("missing_class", "", split=split, class_name=name) for name in missing]
    for record, image in zip(contents.images, measured, strict=True):
        marks: dict[str, str | bool] = {"broken": image.error, "flat": image.flat, "greyscale": image.grey}
        marks["changed"] = image.changes
        for kind, mark in marks.items():
            note = mark if isinstance(mark, str) else ""
            if mark:
                found.append(
                    Finding(kind, record.id, split=record.split, class_name=record.class_name, note=note)
                )
    for id_, reason in contents.not_read.items():
        split = id_.partition("/")[0] if contents.has_splits else "train"
        found.append(Finding("not_read", id_, split=split, note=reason))
    return found
