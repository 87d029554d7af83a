"""Exact and near duplicates within a data set, and overlap with a pre-training set.

Near duplicates are images whose two 64-bit perceptual hashes both differ in few bits. pHash uses the lowest
frequencies of the image's cosine transform. dHash compares the brightness of neighbouring pixels. Thresholds
were tested on 223 photographs. Recall at a distance of 6 bits (in brackets at 8) for copies that were

- rescaled to a half or a third, or squashed to 256x256 or 112x112: 99.6 % (99.6 to 100 %)
- recompressed as JPEG of quality 75, 50, 30: 99, 98, 90 % (99, 99.6, 96 %)
- halved and recompressed at quality 50: 89 % (95.5 %)
- cropped by 1, 2, 3, 5 % at each edge: 99, 67, 38, 2 % (99, 91, 71, 8 %)
- mirrored: none

False-positive rates: 12 % (49 %) for the tests' different images with the same large shapes. Among all pairs
of images: 0.003 % (0.018 %) in Fashion-MNIST, 0.002 % (0.006 %) for two letters in a typeface. Of 9e8 pairs
of crops of different photographs, 22 are near duplicates at 8 bits.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray

from convnext_ablation.console import Progress
from convnext_ablation.data.folder import Record
from convnext_ablation.data.measure import Contents, Finding, Measured, measure_images, paired
from convnext_ablation.data.pictures import is_called_picture
from convnext_ablation.data.walk import files_below
from convnext_ablation.errors import UserError

DISTANCE = 6  # bits
MOST_PAIRS = 200_000  # nearest pairs kept per comparison
# image index, hashes, and a group shared by images with equal pixels, which aren't near duplicates
HASHES = np.dtype([("number", np.int64), ("phash", np.uint64), ("dhash", np.uint64), ("group", np.int64)])
_AT_A_TIME = 256  # hashes per block of comparisons
_ID = re.compile(r"n\d{8}_\d+")


def hashes_of(measured: Sequence[Measured]) -> NDArray[np.void]:
    """The hashes of all images that have them, ``(N,)`` of dtype `HASHES`."""
    groups: dict[str, int] = {}
    rows = [
        (number, int(image.phash, 16), int(image.dhash, 16), groups.setdefault(image.pixels, len(groups)))
        for number, image in enumerate(measured)
        if image.phash
    ]
    return np.array(rows, HASHES)


def near_pairs(first: NDArray[np.void], second: NDArray[np.void] | None, distance: int) -> NDArray[np.int64]:
    """Finds near duplicates by exhaustive search with faiss, in blocks.

    Args:
        first: Hashes, ``(N,)`` of dtype `HASHES`.
        second: Hashes to compare with, ``(M,)``; None compares `first` with itself, each pair once.
        distance: Maximum Hamming distance of each 64-bit hash.

    Returns:
        ``(P, 3)``, at most `MOST_PAIRS` rows, nearest first: the indices of both images, and the larger of
        their two Hamming distances.
    """
    import faiss

    others = first if second is None else second
    index = faiss.IndexBinaryFlat(64)
    index.add(_codes(others))
    kept = np.empty((0, 3), np.int64)
    with Progress("comparing hashes", len(first)) as progress:
        for start in range(0, len(first), _AT_A_TIME):
            some = first[start : start + _AT_A_TIME]
            ends, phash, two = index.range_search(_codes(some), distance + 1)  # exclusive bound
            one, two = start + np.repeat(np.arange(len(some)), np.diff(ends.astype(int))), two.astype(int)
            dhash = np.bitwise_count(first["dhash"][one] ^ others["dhash"][two])
            bits = np.maximum(phash, dhash)
            near = (bits <= distance) & (first["group"][one] != others["group"][two])
            if second is None:
                near &= one < two
            rows = np.stack([first["number"][one], others["number"][two], bits], 1).astype(int)
            kept = np.concatenate([kept, rows[near]])
            if len(kept) > 2 * MOST_PAIRS:
                kept = _nearest(kept)
            progress.update(len(some))
    return _nearest(kept)


def _codes(hashes: NDArray[np.void]) -> NDArray[np.uint8]:
    return np.ascontiguousarray(hashes["phash"]).view(np.uint8).reshape(-1, 8)


def _nearest(rows: NDArray[np.int64]) -> NDArray[np.int64]:
    return rows[np.lexsort((rows[:, 1], rows[:, 0], rows[:, 2]))[:MOST_PAIRS]]


def exact_duplicates(images: Sequence[Record], measured: Sequence[Measured]) -> list[Finding]:
    """Finds images with equal pixels; pairs each with the first one, in split order."""
    first: dict[str, Record] = {}
    found = []
    for record, image in zip(images, measured, strict=True):
        if image.pixels and (other := first.setdefault(image.pixels, record)) is not record:
            found.append(paired("same_pixels", other, record))
    return sorted(found, key=lambda finding: finding.id)


def near_duplicates(contents: Contents, measured: Sequence[Measured], distance: int) -> list[Finding]:
    """Finds near duplicates that aren't exact ones, by pair of splits, nearest first."""
    images, every = contents.images, hashes_of(measured)
    of_split = np.array([images[number].split for number in every["number"]], dtype=np.str_)
    findings: list[Finding] = []
    for earlier, later in itertools.combinations_with_replacement(contents.classes, 2):
        second = None if earlier == later else every[of_split == earlier]
        found = near_pairs(every[of_split == later], second, distance)
        findings += [paired("near", images[one], images[two], bits) for one, two, bits in found.tolist()]
    return findings


def list_pretraining(folder: Path) -> list[str]:
    """Lists the images of ``train/<wnid>/<wnid>_<number>.JPEG`` and ``val/``; a `UserError` if none."""
    tops = (top for top in ("train", "val") if (folder / top).is_dir())
    names = [name for top in tops for name in files_below(folder, top) if is_called_picture(name)]
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
) -> list[Finding]:
    """Finds images that are also in a pre-training set, whose image paths are `names`.

    Images named by an ImageNet id are matched by id. The pre-training set is hashed only if there are other
    images; the file `cache` keeps the hashes.
    """
    ids = [imagenet_id(record.source) for record in images]
    wanted = set(ids) - {""}
    there = {stem: name for name in names if (stem := PurePosixPath(name).stem) in wanted}
    findings = [
        Finding("pretraining_id", record.id, there[id_], None, record.split, record.class_name)
        for record, id_ in zip(images, ids, strict=True)
        if id_ in there
    ]
    ours = hashes_of(measured)
    ours = ours[[not ids[number] for number in ours["number"]]]
    if len(ours):
        theirs = hashes_of(measure_images(against, names, cache))
        theirs["group"] = -1  # so that equal pixels match too
        for one, two, bits in near_pairs(ours, theirs, distance).tolist():
            place = images[one].split, images[one].class_name
            findings.append(Finding("pretraining_near", images[one].id, names[two], bits, *place))
    return findings


def imagenet_id(source: str) -> str:
    """The ImageNet id in a file name, such as ``n02085620_10074``; empty if there is none."""
    stem = PurePosixPath(source).stem
    return stem if _ID.fullmatch(stem) else ""
