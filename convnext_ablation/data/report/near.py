"""Near duplicates: images whose perceptual hashes differ in few bits.

Two 64-bit hashes that look at different things must both be near: pHash at the shape of the whole picture
(the lowest frequencies of its cosine transform), dHash at which of two neighbours is brighter.

Both thresholds are 8 bits. They were tried on 223 photographs and 160 px tiles of photographs, and copies of
them. Found were of copies

- rescaled to a half or a third, or squashed to 256x256 or 112x112: 99.6 to 100 % (6 bits: 99.6 %, 12: 100 %)
- recompressed as JPEG of quality 75, 50, 30: 99, 99.6, 96 % (6 bits: 99, 98, 90 %)
- halved and recompressed at quality 50: 95.5 % (6 bits: 89 %)
- cropped by 1, 2, 3, 5 % at each edge: 99, 91, 71, 8 % (6 bits: 99, 67, 38, 2 %; 10: 99.6, 99, 90, 25 %)
- mirrored: none

Of 4,190,747 pairs of tiles (96 to 240 px) of different photographs none was near, at 10 bits 3, at 12 bits 6,
at 16 bits 37. That bounds the share of unrelated pairs taken for near by 7e-7, which leaves room for 10,000
among the 1.6e10 pairs of 12,000 images and ImageNet: the nearest stand first, and lower thresholds leave less
to look at. Simple pictures look alike to the hashes: of Fashion-MNIST's (28x28, clothes on black), 0.018 % of
all pairs are near, 0.003 % at 6 bits, 0.07 % at 10 bits.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from convnext_ablation.data.report.agreement import AGREEMENT, agreements
from convnext_ablation.data.report.exact import pixel_groups
from convnext_ablation.data.report.findings import Finding, paired
from convnext_ablation.data.report.folder import Place
from convnext_ablation.data.report.measure import Measured
from convnext_ablation.data.report.remember import progress

__all__ = [
    "DISTANCE",
    "MOST_PAIRS",
    "Hashes",
    "Limits",
    "Pairs",
    "agreeing",
    "hashes_of",
    "near_duplicates",
    "near_pairs",
]

DISTANCE = 8  # bits
MOST_PAIRS = 200_000  # that are kept of a comparison: the nearest
_ROWS, _COLUMNS = 64, 4096  # hashes compared at a time; what that takes stays in a core's cache


class Limits(NamedTuple):
    """What makes two images near duplicates.

    Attributes:
        phash: How many bits may differ in this hash.
        dhash: The same of the other.
        agreement: How well the two pictures must agree, 0 to 1; 0 takes all whose hashes are near.
    """

    phash: int = DISTANCE
    dhash: int = DISTANCE
    agreement: float = AGREEMENT


@dataclass(frozen=True)
class Hashes:
    """Perceptual hashes of images.

    Attributes:
        numbers: Which images they are of, ``(N,)``.
        phash: As unsigned 64-bit integers, ``(N,)``.
        dhash: The same.
        groups: Equal for images with the same pixels, which are no near duplicates, ``(N,)``.
    """

    numbers: NDArray[np.int64]
    phash: NDArray[np.uint64]
    dhash: NDArray[np.uint64]
    groups: NDArray[np.int64]

    def of(self, chosen: NDArray[np.bool_]) -> Hashes:
        """The hashes of some images."""
        return Hashes(self.numbers[chosen], self.phash[chosen], self.dhash[chosen], self.groups[chosen])


@dataclass(frozen=True)
class Pairs:
    """Images whose hashes are near: positions in the hashes that were compared, and distances, each ``(P,)``.

    Attributes:
        one: Position among the first.
        two: Position among the second.
        phash: Bits that differ.
        dhash: The same.
    """

    one: NDArray[np.int64]
    two: NDArray[np.int64]
    phash: NDArray[np.uint8]
    dhash: NDArray[np.uint8]

    def __len__(self) -> int:
        """How many."""
        return len(self.one)

    def nearest(self, most: int) -> Pairs:
        """The so many nearest."""
        order = np.argsort(self.phash.astype(int) + self.dhash, kind="stable")[:most]
        return Pairs(self.one[order], self.two[order], self.phash[order], self.dhash[order])

    @staticmethod
    def joined(parts: Sequence[Pairs]) -> Pairs:
        """All of some, in their order."""
        none = Pairs(*(np.empty(0, np.int64),) * 2, *(np.empty(0, np.uint8),) * 2)
        names = [field.name for field in fields(Pairs)]
        return Pairs(*(np.concatenate([getattr(part, name) for part in (none, *parts)]) for name in names))


class Comparison(NamedTuple):
    """What a comparison of all with all found.

    Attributes:
        pairs: The nearest, at most as many as were asked for, nearest first.
        total: How many there are in all.
    """

    pairs: Pairs
    total: int


def hashes_of(measured: Sequence[Measured]) -> Hashes:
    """The hashes of all images that have any."""
    every = Hashes(
        np.arange(len(measured)),
        np.array([image.phash for image in measured], np.uint64),
        np.array([image.dhash for image in measured], np.uint64),
        pixel_groups(measured),
    )
    return every.of(np.array([image.comparable for image in measured], bool))


def near_pairs(
    first: Hashes, second: Hashes | None, limits: Limits, workers: int, most: int = MOST_PAIRS
) -> Comparison:
    """Compares all with all; what it needs of memory doesn't grow with the number of pairs.

    Args:
        first: Hashes.
        second: Hashes that they are compared with; None compares `first` with itself, each pair once.
        limits: How many bits may differ.
        workers: Number of threads.
        most: How many pairs to keep, the nearest.
    """
    starts = range(0, len(first.numbers), _ROWS)
    kept, total = Pairs.joined([]), 0

    def compare(start: int) -> tuple[int, Pairs]:
        return _compare_rows(first, second, start, limits, most)

    pool = ThreadPoolExecutor(workers)
    try:
        for [(count, pairs)] in progress(
            ([found] for found in pool.map(compare, starts)), len(starts), "comparing hashes"
        ):
            total += count
            kept = Pairs.joined([kept, pairs])
            if len(kept) > 2 * most:
                kept = kept.nearest(most)
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
    return Comparison(kept.nearest(most), total)


def _compare_rows(
    first: Hashes, second: Hashes | None, start: int, limits: Limits, most: int
) -> tuple[int, Pairs]:
    """Compares some of the first with all others: how many are near, and the nearest."""
    parts: list[Pairs] = []
    total = 0
    for pairs in _near_blocks(first, second, start, limits):
        total += len(pairs)
        parts.append(pairs)
        if sum(map(len, parts)) > 2 * most:
            parts = [Pairs.joined(parts).nearest(most)]
    return total, Pairs.joined(parts).nearest(most)


def _near_blocks(first: Hashes, second: Hashes | None, start: int, limits: Limits) -> Iterator[Pairs]:
    other = second or first
    phash = first.phash[start : start + _ROWS, None]
    buffer = np.empty((len(phash), _COLUMNS), np.uint64)
    bits = np.empty((len(phash), _COLUMNS), np.uint8)
    for begin in range(0 if second else start, len(other.numbers), _COLUMNS):
        columns = other.phash[begin : begin + _COLUMNS]
        differ, count = buffer[:, : len(columns)], bits[:, : len(columns)]
        np.bitwise_count(np.bitwise_xor(phash, columns, out=differ), out=count)
        near = count <= limits.phash
        if not near.any():
            continue
        row, column = np.nonzero(near)
        one, two = row + start, column + begin
        dhash = np.bitwise_count(first.dhash[one] ^ other.dhash[two])
        keep = (dhash <= limits.dhash) & (first.groups[one] != other.groups[two])
        if second is None:
            keep &= one < two
        if keep.any():
            yield Pairs(one[keep], two[keep], count[row, column][keep], dhash[keep])


class Near(NamedTuple):
    """Near duplicates of a data set.

    Attributes:
        findings: The pairs, those of two splits first, the nearest first.
        totals: How many pairs there are of each two splits.
        leaking: Ids of test images that have one among the training images.
        dropped: How many pairs had near hashes, but pictures that don't agree.
        beyond: How many had near hashes and were not looked at, being more than are kept.
    """

    findings: list[Finding]
    totals: dict[tuple[str, str], int]
    leaking: set[str]
    dropped: int
    beyond: int


def near_duplicates(
    root: Path,
    places: Sequence[Place],
    measured: Sequence[Measured],
    splits: Sequence[str],
    cache: Path,
    limits: Limits,
    workers: int,
) -> Near:
    """Compares all images of a data set with each other, and finds those that are near but not equal.

    Args:
        root: The data set's folder.
        places: The images.
        measured: What was measured of each.
        splits: The splits, from training to test.
        cache: File that keeps how well pictures agree.
        limits: What makes them near duplicates.
        workers: Number of threads.
    """
    every = hashes_of(measured)
    of_split = np.array([places[number].split for number in every.numbers], dtype=np.str_)
    candidates: list[Finding] = []
    beyond = 0
    for earlier, later in _combinations(splits):
        first = every.of(of_split == later)
        second = None if earlier == later else every.of(of_split == earlier)
        pairs, total = near_pairs(first, second, limits, workers)
        beyond += total - len(pairs)
        candidates += [
            paired("near", places[first.numbers[one]], places[(second or first).numbers[two]], int(p), int(d))
            for one, two, p, d in zip(pairs.one, pairs.two, pairs.phash, pairs.dhash, strict=True)
        ]
    found = agreeing(candidates, (root, root), cache, limits, workers)
    totals = Counter((finding.other_split, finding.split) for finding in found)
    leaking = {finding.id for finding in found if finding.leaks}
    return Near(found, dict(totals), leaking, len(candidates) - len(found), beyond)


def agreeing(
    candidates: Sequence[Finding], roots: tuple[Path, Path], cache: Path, limits: Limits, workers: int
) -> list[Finding]:
    """The pairs whose pictures agree, with how well they do.

    Args:
        candidates: Pairs whose hashes are near.
        roots: Folders of each pair's first and second image.
        cache: File that keeps how well pictures agree.
        limits: How well they must.
        workers: Number of threads.
    """
    values = agreements(roots, [(each.id, each.other) for each in candidates], cache, workers)
    return [
        replace(each, agreement=float(value))
        for each, value in zip(candidates, values, strict=True)
        if value >= limits.agreement
    ]


def _combinations(splits: Sequence[str]) -> list[tuple[str, str]]:
    """All two splits: training and test first, each with itself last."""
    across = sorted(
        itertools.combinations(splits, 2), key=lambda two: (splits.index(two[0]), -splits.index(two[1]))
    )
    return [*across, *((split, split) for split in splits)]
