"""Exact duplicates: images with the same file or the same pixels."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from convnext_ablation.data.report.findings import Finding, paired
from convnext_ablation.data.report.folder import Place
from convnext_ablation.data.report.measure import Measured

__all__ = ["exact_duplicates", "pixel_groups"]


def exact_duplicates(places: Sequence[Place], measured: Sequence[Measured]) -> list[Finding]:
    """Finds images that are equal.

    Of more than two equal images, each is paired with the first in the order of splits: with a training
    image where there is one.

    Args:
        places: The images, by split from training to test.
        measured: What was measured of each.

    Returns:
        Pairs of the same file (broken ones, too), then of other files with the same pixels.
    """
    groups: dict[str, list[int]] = defaultdict(list)
    for index, image in enumerate(measured):
        if image.pixels or image.sha256:
            groups[image.pixels or image.sha256].append(index)
    pairs = [(group[0], other) for group in groups.values() for other in group[1:]]
    found = [
        paired(
            "same_file" if measured[one].sha256 == measured[two].sha256 else "same_pixels",
            places[one],
            places[two],
        )
        for one, two in pairs
    ]
    return sorted(found, key=lambda finding: (finding.kind, finding.id))


def pixel_groups(measured: Sequence[Measured]) -> NDArray[np.int64]:
    """A number for each image, ``(N,)``, the same for images with the same pixels."""
    numbers: dict[str, int] = {}
    return np.array([numbers.setdefault(image.pixels, len(numbers)) for image in measured], dtype=np.int64)
