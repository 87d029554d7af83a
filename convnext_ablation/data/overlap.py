"""Images that are in a data set twice, or that pre-training has seen: equal ones, and those that look alike.

Alike are pictures whose two 64-bit perceptual hashes both differ in few bits: pHash sees the shape of the
whole picture (the lowest frequencies of its cosine transform), dHash which of two neighbours is brighter.
Those are candidates for a person to look at.

Both thresholds are 6 bits. They were tried on 223 photographs. Found were of copies

- rescaled to a half or a third, or squashed to 256x256 or 112x112: 99.6 % (8 bits: 99.6 to 100 %)
- recompressed as JPEG of quality 75, 50, 30: 99, 98, 90 % (8 bits: 99, 99.6, 96 %)
- halved and recompressed at quality 50: 89 % (8 bits: 95.5 %)
- cropped by 1, 2, 3, 5 % at each edge: 99, 67, 38, 2 % (8 bits: 99, 91, 71, 8 %)
- mirrored: none

More bits find more copies, and many more that are none: of other pictures with the same large shapes, drawn
for the tests, 12 % are near at 6 bits and 49 % at 8. Of 9e8 pairs of parts of different photographs 22 are
near at 8 bits. Simple pictures look alike to the hashes: of all pairs of Fashion-MNIST's (28x28, clothes on
black) 0.003 % are near at 6 bits, 0.018 % at 8; of all pairs of two letters in a typeface, 0.002 and 0.006 %.
"""

from __future__ import annotations

import hashlib
import itertools
import re
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from convnext_ablation.console import Progress
from convnext_ablation.data.findings import Finding, paired
from convnext_ablation.data.folder import Record, is_image, walk
from convnext_ablation.data.measure import Contents, Measured, hash_image, remembered
from convnext_ablation.errors import UserError

DISTANCE = 6  # bits
MOST_PAIRS = 200_000  # that are kept of a comparison: the nearest
# an image's number, its hashes, and a number for all of the same pixels, which are no near duplicates
HASHES = np.dtype([("number", np.int64), ("phash", np.uint64), ("dhash", np.uint64), ("group", np.int64)])
_AT_A_TIME = 256  # hashes that are compared with all others before progress is shown
_ID = re.compile(r"n\d{8}_\d+")


class Pairs(NamedTuple):
    """Near duplicates, the nearest first."""

    rows: NDArray[np.int64]  # (P, 4): numbers of both images, bits that differ in pHash and in dHash
    beyond: int  # how many more were found than are kept


def hashes_of(measured: Sequence[Measured]) -> NDArray[np.void]:
    """The hashes of all images that have any, ``(N,)`` of `HASHES`."""
    groups: dict[str, int] = {}
    rows = [
        (number, image.phash, image.dhash, groups.setdefault(image.pixels, len(groups)))
        for number, image in enumerate(measured)
        if image.comparable
    ]
    return np.array(rows, HASHES)


def near_pairs(
    first: NDArray[np.void], second: NDArray[np.void] | None, distance: int, workers: int
) -> Pairs:
    """Compares all with all by faiss, a block at a time, and keeps the nearest.

    Without `second`, `first` is compared with itself, each pair once.
    """
    import faiss

    others = first if second is None else second
    faiss.omp_set_num_threads(workers)
    index = faiss.IndexBinaryFlat(64)
    index.add(_codes(others))
    kept, total = np.empty((0, 4), np.int64), 0
    with Progress("comparing hashes", len(first)) as progress:
        for start in range(0, len(first), _AT_A_TIME):
            some = first[start : start + _AT_A_TIME]
            ends, phash, two = index.range_search(_codes(some), distance + 1)  # nearer than this
            one, two = start + np.repeat(np.arange(len(some)), np.diff(ends.astype(int))), two.astype(int)
            dhash = np.bitwise_count(first["dhash"][one] ^ others["dhash"][two])
            near = (dhash <= distance) & (first["group"][one] != others["group"][two])
            if second is None:
                near &= one < two
            rows = np.stack([first["number"][one], others["number"][two], phash, dhash], 1).astype(int)[near]
            total += len(rows)
            kept = np.concatenate([kept, rows])
            if len(kept) > 2 * MOST_PAIRS:
                kept = _nearest(kept)
            progress.update(len(some))
    kept = _nearest(kept)
    return Pairs(kept, total - len(kept))


def _codes(hashes: NDArray[np.void]) -> NDArray[np.uint8]:
    return np.ascontiguousarray(hashes["phash"]).view(np.uint8).reshape(-1, 8)


def _nearest(rows: NDArray[np.int64]) -> NDArray[np.int64]:
    return rows[np.lexsort((rows[:, 1], rows[:, 0], rows[:, 2] + rows[:, 3]))[:MOST_PAIRS]]


def exact_duplicates(images: Sequence[Record], measured: Sequence[Measured]) -> list[Finding]:
    """Finds images with the same file or pixels; pairs each with the first in the order of splits."""
    groups: dict[str, list[int]] = defaultdict(list)
    for index, image in enumerate(measured):
        if image.pixels or image.sha256:
            groups[image.pixels or image.sha256].append(index)
    found = []
    for one, *others in groups.values():
        for two in others:
            same = measured[one].sha256 == measured[two].sha256
            found.append(paired("same_file" if same else "same_pixels", images[one], images[two]))
    return sorted(found, key=lambda finding: (finding.kind, finding.id))


def near_duplicates(
    contents: Contents, measured: Sequence[Measured], distance: int, workers: int
) -> tuple[list[Finding], int]:
    """Finds pairs that are near but not equal, and says how many more are left out."""
    images, every = contents.images, hashes_of(measured)
    of_split = np.array([images[number].split for number in every["number"]], dtype=np.str_)
    splits = list(contents.classes)
    # training and test first, each split with itself last
    across = sorted(
        itertools.combinations(splits, 2), key=lambda two: (splits.index(two[0]), -splits.index(two[1]))
    )
    findings: list[Finding] = []
    beyond = 0
    for earlier, later in [*across, *((split, split) for split in splits)]:
        second = None if earlier == later else every[of_split == earlier]
        found = near_pairs(every[of_split == later], second, distance, workers)
        beyond += found.beyond
        findings += [
            paired("near", images[one], images[two], phash, dhash)
            for one, two, phash, dhash in found.rows.tolist()
        ]
    return findings, beyond


class Overlap(NamedTuple):
    """What a data set has in common with a pre-training set."""

    findings: list[Finding]
    with_id: int  # images that have an ImageNet id, and were looked up by it
    compared: int  # images that have none, and were compared by hash
    beyond: int  # near pairs that are left out
    against: int  # images of the pre-training set


def list_pretraining(folder: Path) -> list[str]:
    """Lists the images of ``train/<wnid>/<wnid>_<number>.JPEG``, and of ``val/`` if there is one."""
    parts = itertools.chain(walk(folder, "train"), walk(folder, "val"))
    names = [f"{below}/{name}" for below, _, files in parts for name in files if is_image(name)]
    if not names:
        raise UserError(f"{folder}: holds no image; --against takes ImageNet as train/<wnid>/<image>")
    return names


def pretraining_overlap(
    images: Sequence[Record],
    measured: Sequence[Measured],
    against: Path,
    names: Sequence[str],
    cache: Path,
    distance: int,
    workers: int,
) -> Overlap:
    """Finds images in a pre-training set, of which `names` are the images.

    Only where there are images that aren't named after an ImageNet id is the pre-training set hashed, which
    the folder `cache` keeps for the next time.
    """
    ids = [imagenet_id(record.source) for record in images]
    wanted = set(ids) - {""}
    there = {stem: name for name in names if (stem := PurePosixPath(name).stem) in wanted}
    findings = [
        Finding("pretraining_id", record.id, there[id_], None, None, record.split, record.class_name)
        for record, id_ in zip(images, ids, strict=True)
        if id_ in there
    ]
    ours, beyond = hashes_of(measured), 0
    ours = ours[[not ids[number] for number in ours["number"]]]
    if len(ours):
        found = near_pairs(ours, _pretraining_hashes(against, names, cache, workers), distance, workers)
        beyond = found.beyond
        for one, two, phash, dhash in found.rows.tolist():
            record, name = images[one], names[two]
            findings.append(
                Finding("pretraining_near", record.id, name, phash, dhash, record.split, record.class_name)
            )
    return Overlap(findings, sum(map(bool, ids)), len(ours), beyond, len(names))


def imagenet_id(source: str) -> str:
    """The ImageNet id that a file is named after, such as ``n02085620_10074``; empty if it isn't."""
    stem = PurePosixPath(source).stem
    return stem if _ID.fullmatch(stem) else ""


def _pretraining_hashes(against: Path, names: Sequence[str], cache: Path, workers: int) -> NDArray[np.void]:
    """The hashes of a pre-training set, from the file that keeps them as far as it has them."""
    key = hashlib.sha256(str(against.resolve()).encode(errors="surrogateescape")).hexdigest()[:8]
    found = remembered(against, names, hash_image, cache / f"{key}.jsonl", workers)
    rows = ((number, int(row[0], 16), int(row[1], 16), -1) for number, row in found if row[0])
    return np.sort(np.fromiter(rows, HASHES), order="number")
