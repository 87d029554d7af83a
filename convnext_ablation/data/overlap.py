"""Images that are in a data set twice, or that pre-training has seen: equal ones, and those that look alike.

Alike are pictures whose two 64-bit perceptual hashes both differ in few bits: pHash sees the shape of the
whole picture (the lowest frequencies of its cosine transform), dHash which of two neighbours is brighter.
Thresholds were tried on 223 photographs. Found at 6 bits (and at 8) were of copies

- rescaled to a half or a third, or squashed to 256x256 or 112x112: 99.6 % (99.6 to 100 %)
- recompressed as JPEG of quality 75, 50, 30: 99, 98, 90 % (99, 99.6, 96 %)
- halved and recompressed at quality 50: 89 % (95.5 %)
- cropped by 1, 2, 3, 5 % at each edge: 99, 67, 38, 2 % (99, 91, 71, 8 %)
- mirrored: none

and of other pictures with the same large shapes, drawn for the tests, 12 % (49 %); of all pairs of
Fashion-MNIST 0.003 % (0.018 %), and of two letters in a typeface 0.002 % (0.006 %). Of 9e8 pairs of parts of
different photographs 22 are near at 8 bits.
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
MOST_PAIRS = 200_000  # that are kept of a comparison: the nearest
# an image's number, its hashes, and a number for all of the same pixels, which are no near duplicates
HASHES = np.dtype([("number", np.int64), ("phash", np.uint64), ("dhash", np.uint64), ("group", np.int64)])
_AT_A_TIME = 256  # hashes that are compared with all others before progress is shown
_ID = re.compile(r"n\d{8}_\d+")


def hashes_of(measured: Sequence[Measured]) -> NDArray[np.void]:
    """The hashes of all images that have any, ``(N,)`` of `HASHES`."""
    groups: dict[str, int] = {}
    rows = [
        (number, int(image.phash, 16), int(image.dhash, 16), groups.setdefault(image.pixels, len(groups)))
        for number, image in enumerate(measured)
        if image.phash
    ]
    return np.array(rows, HASHES)


def near_pairs(first: NDArray[np.void], second: NDArray[np.void] | None, distance: int) -> NDArray[np.int64]:
    """Finds near duplicates by faiss, comparing all with all, a block at a time.

    Args:
        first: Hashes, ``(N,)`` of `HASHES`.
        second: Hashes that those are compared with; without them, `first` with itself, each pair once.
        distance: Bits of 64 in which each hash may differ.

    Returns:
        ``(P, 3)``, the nearest first and at most `MOST_PAIRS`: the numbers of both images, and the bits in
        which the hash differs that differs more.
    """
    import faiss

    others = first if second is None else second
    index = faiss.IndexBinaryFlat(64)
    index.add(_codes(others))
    kept = np.empty((0, 3), np.int64)
    with Progress("comparing hashes", len(first)) as progress:
        for start in range(0, len(first), _AT_A_TIME):
            some = first[start : start + _AT_A_TIME]
            ends, phash, two = index.range_search(_codes(some), distance + 1)  # nearer than this
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
    """Finds images with the same pixels; pairs each with the first in the order of splits."""
    first: dict[str, Record] = {}
    found = []
    for record, image in zip(images, measured, strict=True):
        if image.pixels and (other := first.setdefault(image.pixels, record)) is not record:
            found.append(paired("same_pixels", other, record))
    return sorted(found, key=lambda finding: finding.id)


def near_duplicates(contents: Contents, measured: Sequence[Measured], distance: int) -> list[Finding]:
    """Finds pairs that are near but not equal, the nearest of two splits first."""
    images, every = contents.images, hashes_of(measured)
    of_split = np.array([images[number].split for number in every["number"]], dtype=np.str_)
    findings: list[Finding] = []
    for earlier, later in itertools.combinations_with_replacement(contents.classes, 2):
        second = None if earlier == later else every[of_split == earlier]
        found = near_pairs(every[of_split == later], second, distance)
        findings += [paired("near", images[one], images[two], bits) for one, two, bits in found.tolist()]
    return findings


def list_pretraining(folder: Path) -> list[str]:
    """Lists the images of ``train/<wnid>/<wnid>_<number>.JPEG``, and of ``val/`` if there is one."""
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
    """Finds images in a pre-training set, of which `names` are the images.

    Only where there are images that aren't named after an ImageNet id is the pre-training set hashed, which
    the file `cache` keeps for the next time.
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
        theirs["group"] = -1  # equal pixels are to be found, too
        for one, two, bits in near_pairs(ours, theirs, distance).tolist():
            place = images[one].split, images[one].class_name
            findings.append(Finding("pretraining_near", images[one].id, names[two], bits, *place))
    return findings


def imagenet_id(source: str) -> str:
    """The ImageNet id that a file is named after, such as ``n02085620_10074``; empty if it isn't."""
    stem = PurePosixPath(source).stem
    return stem if _ID.fullmatch(stem) else ""
