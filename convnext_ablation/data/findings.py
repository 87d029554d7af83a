"""What a data set has: findings, as ``findings.csv`` and ``exclude_test.txt`` hold them, and counts."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from convnext_ablation.data.folder import Record
from convnext_ablation.data.measure import Contents, Measured, split_rank
from convnext_ablation.files import written_whole

_COLUMNS = (
    "kind", "id", "other", "phash_distance", "dhash_distance", "split", "class", "other_split", "other_class",
    "note",
)  # fmt: skip
# in the order in which they are reported; templates/data_report.html says what each means
KINDS = (
    "pretraining_id", "pretraining_near", "same_file", "same_pixels", "near", "missing_class", "broken",
    "flat", "greyscale", "differs", "unlisted", "missing", "not_read",
)  # fmt: skip
_PERCENTILES = (0, 5, 25, 50, 75, 95, 100)
_COMMON_SIZES = 8


@dataclass(frozen=True)
class Finding:
    """Something that was found of an image, or of two; the fields are the columns of ``findings.csv``.

    Of two images, `id` is the one to leave out: that of the split that less may be learned from, so of a test
    image that is in training, too, `id` is the test image.
    """

    kind: str
    id: str  # path below the folder; empty where it is about a class
    other: str = ""  # path below the folder, or below the pre-training set's
    phash: int | None = None  # bits in which both differ; None where hashes weren't compared
    dhash: int | None = None
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


def paired(
    kind: str, one: Record, two: Record, phash: int | None = None, dhash: int | None = None
) -> Finding:
    """A finding about two images of the data set."""
    other, image = sorted((one, two), key=lambda record: (split_rank(record.split), record.id))
    note = "the classes differ" if one.class_name != two.class_name else ""
    places = (image.split, image.class_name, other.split, other.class_name)
    return Finding(kind, image.id, other.id, phash, dhash, *places, note)


def about_images(contents: Contents, measured: Sequence[Measured]) -> list[Finding]:
    """What is wrong with single images and classes."""
    everywhere = set().union(*contents.classes.values())
    found = []
    for split in contents.classes:
        here = {record.class_name for record in contents.images if record.split == split}
        found += [
            Finding("missing_class", "", split=split, class_name=name) for name in sorted(everywhere - here)
        ]
    for record, image in zip(contents.images, measured, strict=True):
        differs = record.sha256 and image.sha256 and record.sha256 != image.sha256
        marks = {
            "broken": image.error,
            "flat": image.flat and f"{image.width}x{image.height}",
            "greyscale": image.grey and f"mode {image.mode}",
            "differs": differs and "SHA-256",
        }
        found += [
            Finding(kind, record.id, split=record.split, class_name=record.class_name, note=str(note))
            for kind, note in marks.items()
            if note
        ]
    for kind in ("unlisted", "missing", "not_read"):
        found += [Finding(kind, id_, split=id_.partition("/")[0]) for id_ in getattr(contents, kind)]
    return found


def write_findings(path: Path, findings: Iterable[Finding]) -> None:
    """Writes all findings as CSV; distances are empty where there are none."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(_COLUMNS)
    writer.writerows(map(astuple, findings))
    _write(path, text.getvalue())


def write_exclusions(path: Path, ids: Iterable[str]) -> None:
    """Writes the ids of test images that training or pre-training has seen, one a line."""
    _write(path, "".join(f"{id_}\n" for id_ in sorted(ids)))


def _write(path: Path, text: str) -> None:
    with written_whole(path) as temporary:
        # names of files need not be in UTF-8
        temporary.write_text(text, encoding="utf-8", errors="surrogateescape", newline="")


class Table(NamedTuple):
    """A table of the page; the first cell of a row is its heading."""

    caption: str
    head: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]


class Balance(NamedTuple):
    """How evenly the images of a split are spread over its classes."""

    images: int
    classes: int  # that have any images
    smallest: tuple[str, int]  # the class with the fewest images, and how many
    largest: tuple[str, int]
    missing: list[str]  # classes of other splits, or folders, without images here

    @property
    def ratio(self) -> float:
        """How many times as many images the largest class has as the smallest."""
        return self.largest[1] / self.smallest[1] if self.smallest[1] else 1.0


def balance(contents: Contents) -> dict[str, Balance]:
    """The balance of each split."""
    everywhere = set().union(*contents.classes.values())
    found = {}
    for split, counts in _counts(contents).items():
        ordered = sorted(counts.items(), key=lambda item: (item[1], item[0])) or [("", 0)]
        missing = sorted(everywhere - counts.keys())
        found[split] = Balance(counts.total(), len(counts), ordered[0], ordered[-1], missing)
    return found


def _counts(contents: Contents) -> Mapping[str, Counter[str]]:
    counts: dict[str, Counter[str]] = {split: Counter() for split in contents.classes}
    for record in contents.images:
        counts[record.split][record.class_name] += 1
    return counts


def split_table(contents: Contents, measured: Sequence[Measured]) -> Table:
    """A row for each split: images, classes, balance, and how many are greyscale or broken."""
    head = ("split", "images", "classes", "smallest class", "largest class", "ratio", "greyscale", "broken")
    rows = []
    for split, facts in balance(contents).items():
        own = [image for place, image in zip(contents.images, measured, strict=True) if place.split == split]
        rows.append((
            split,
            f"{facts.images:,}",
            f"{facts.classes:,}",
            f"{facts.smallest[1]:,} ({facts.smallest[0]})",
            f"{facts.largest[1]:,} ({facts.largest[0]})",
            f"{facts.ratio:.2f}",
            f"{sum(image.grey for image in own):,}",
            f"{sum(bool(image.error) for image in own):,}",
        ))  # fmt: skip
    return Table("Images of each split; ratio: largest class to smallest", head, rows)


def class_table(contents: Contents) -> Table:
    """A row for each class: its images in each split."""
    counts = _counts(contents)
    names = sorted(set().union(*contents.classes.values()))
    rows = [(name, *(f"{counts[split][name]:,}" for split in counts)) for name in names]
    return Table("Images of each class", ("class", *counts), rows)


def size_table(measured: Sequence[Measured]) -> Table:
    """How width, height, and width to height are distributed over the images that can be decoded."""
    sizes = np.array([(image.width, image.height) for image in measured if not image.error]).reshape(-1, 2)
    columns = {"width": sizes[:, 0], "height": sizes[:, 1], "width to height": sizes[:, 0] / sizes[:, 1]}
    rows = [
        (name, *map(_short, np.percentile(values, _PERCENTILES)))
        for name, values in columns.items()
        if len(values)
    ]
    head = ("", "smallest", *(f"{each} %" for each in _PERCENTILES[1:-1]), "largest")
    return Table("Sizes: so many percent of the images are at most as large", head, rows)


def _short(value: float) -> str:
    return f"{value:.0f}" if value >= 10 else f"{value:.2f}".rstrip("0").rstrip(".")


def format_table(measured: Sequence[Measured]) -> Table:
    """The file formats, modes and most common sizes, each with its images."""
    readable = [image for image in measured if not image.error]
    kinds = Counter(f"{image.format}, mode {image.mode}" for image in readable).most_common()
    sizes = Counter(f"{image.width}x{image.height}" for image in readable).most_common()
    rows = [(name, f"{count:,}") for name, count in [*kinds, *sizes[:_COMMON_SIZES]]]
    if rest := sizes[_COMMON_SIZES:]:
        rows.append((f"{len(rest):,} other sizes", f"{sum(count for _, count in rest):,}"))
    return Table("File formats, and the most common sizes", ("format or size", "images"), rows)
