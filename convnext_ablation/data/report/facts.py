"""How many images of what kind a data set has: the tables at the head of the report."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from convnext_ablation.data.report.folder import Contents
from convnext_ablation.data.report.measure import Measured
from convnext_ablation.webpage import Table

__all__ = ["Balance", "balance", "class_table", "format_table", "size_table", "split_table"]

_PERCENTILES = (0, 5, 25, 50, 75, 95, 100)
_COMMON_SIZES = 8


@dataclass(frozen=True)
class Balance:
    """Images of the classes of a split, classes without any not counted.

    Attributes:
        images: In all.
        classes: Number of classes.
        smallest: The class with the fewest images, and how many.
        largest: The class with the most.
        missing: Classes of other splits, or folders, without images here.
    """

    images: int
    classes: int
    smallest: tuple[str, int]
    largest: tuple[str, int]
    missing: list[str]

    @property
    def ratio(self) -> float:
        """How many times as many images the largest class has as the smallest."""
        return self.largest[1] / self.smallest[1] if self.smallest[1] else 1.0


def balance(contents: Contents) -> dict[str, Balance]:
    """How evenly the images of each split are spread over its classes."""
    everywhere = set().union(*contents.classes.values())
    found = {}
    for split, counts in _counts(contents).items():
        ordered = sorted(counts.items(), key=lambda item: (item[1], item[0])) or [("", 0)]
        missing = sorted(everywhere - counts.keys())
        found[split] = Balance(counts.total(), len(counts), ordered[0], ordered[-1], missing)
    return found


def _counts(contents: Contents) -> dict[str, Counter[str]]:
    return {
        split: Counter(place.class_name for place in contents.images if place.split == split)
        for split in contents.splits
    }


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
    rows = [(name, *(f"{counts[split][name]:,}" for split in contents.splits)) for name in names]
    return Table("Images of each class", ("class", *contents.splits), rows)


def size_table(measured: Sequence[Measured]) -> Table:
    """How width, height, and width to height are distributed over the images that can be decoded."""
    sizes = np.array([(image.width, image.height) for image in measured if not image.error]).reshape(-1, 2)
    head = ("", "smallest", *(f"{each} %" for each in _PERCENTILES[1:-1]), "largest")
    caption = "Sizes: so many percent of the images are at most as large"
    if not len(sizes):
        return Table(caption, head, [])
    columns = {"width": sizes[:, 0], "height": sizes[:, 1], "width to height": sizes[:, 0] / sizes[:, 1]}
    rows = [(name, *map(_short, np.percentile(values, _PERCENTILES))) for name, values in columns.items()]
    return Table(caption, head, rows)


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
