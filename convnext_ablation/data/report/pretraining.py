"""Images of a data set that pre-training has seen: by their ImageNet id, or else by perceptual hash."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np

from convnext_ablation.data.folder import IMAGE_EXTENSIONS
from convnext_ablation.data.report.findings import Finding
from convnext_ablation.data.report.folder import Place
from convnext_ablation.data.report.measure import HASH_COLUMNS, Measured, hash_image
from convnext_ablation.data.report.near import Hashes, Limits, agreeing, hashes_of, near_pairs
from convnext_ablation.data.report.remember import remembered
from convnext_ablation.errors import UserError

__all__ = ["Overlap", "imagenet_id", "list_pretraining", "overlap"]

_ID = re.compile(r"n\d{8}_\d+")
_SPLITS = ("train", "val")


class Overlap(NamedTuple):
    """What a data set has in common with a pre-training set.

    Attributes:
        findings: Images of both.
        seen: Ids of all images that pre-training has seen, of all splits.
        with_id: How many images have an ImageNet id, and were looked up by it.
        compared: How many have none, and were compared by hash.
        dropped: How many pairs had near hashes, but pictures that don't agree.
        beyond: How many had near hashes and were not looked at, being more than are kept.
        against: Images of the pre-training set.
    """

    findings: list[Finding]
    seen: set[str]
    with_id: int
    compared: int
    dropped: int
    beyond: int
    against: int


def imagenet_id(source: str) -> str:
    """The ImageNet id that a file is named after, such as ``n02085620_10074``; empty if it isn't."""
    stem = PurePosixPath(source).stem
    return stem if _ID.fullmatch(stem) else ""


def list_pretraining(folder: Path) -> list[str]:
    """Lists the images of ``train/<wnid>/<wnid>_<number>.JPEG``, and of ``val/`` if there is one.

    Returns:
        Their paths below the folder.

    Raises:
        UserError: There is no such folder, or no image in it.
    """
    if not (folder / "train").is_dir():
        raise UserError(f"{folder}: holds no folder train; --against takes ImageNet as train/<wnid>/<image>")
    names = []
    for split in _SPLITS:
        for parent, folders, files in os.walk(folder / split, followlinks=True):
            folders.sort()
            below = PurePosixPath(Path(parent).relative_to(folder).as_posix())
            names += [str(below / name) for name in sorted(files) if name.lower().endswith(IMAGE_EXTENSIONS)]
    if not names:
        raise UserError(f"{folder}: holds no image; --against takes ImageNet as train/<wnid>/<image>")
    return names


def overlap(
    root: Path,
    places: Sequence[Place],
    measured: Sequence[Measured],
    against: Path,
    names: Sequence[str],
    cache: Path,
    limits: Limits,
    workers: int,
) -> Overlap:
    """Finds images of a data set in a pre-training set.

    Images that are named after an ImageNet id are looked up by it, which needs no image to be read. Only if
    there are others is the pre-training set hashed, which is kept for the next time.

    Args:
        root: The data set's folder.
        places: The images.
        measured: What was measured of each.
        against: Folder of the pre-training set.
        names: Its images, as `list_pretraining` lists them.
        cache: Folder that keeps the hashes, and how well pictures agree.
        limits: What makes images near duplicates.
        workers: Number of threads.
    """
    ids = [imagenet_id(place.source) for place in places]
    found = _by_id(places, ids, names)
    ours = hashes_of(measured)
    ours = ours.of(np.array([not ids[number] for number in ours.numbers], bool))
    dropped = beyond = 0
    if len(ours.numbers):
        key = hashlib.sha256(str(against.resolve()).encode(errors="surrogateescape")).hexdigest()[:8]
        theirs = _hashes(against, names, cache / f"{key}.csv", workers)
        pairs, total = near_pairs(ours, theirs, limits, workers)
        candidates = [
            _finding(
                "pretraining_near", places[ours.numbers[one]], names[theirs.numbers[two]], int(p), int(d)
            )
            for one, two, p, d in zip(pairs.one, pairs.two, pairs.phash, pairs.dhash, strict=True)
        ]
        near = agreeing(candidates, (root, against), cache / f"{key}-pairs.csv", limits, workers)
        found += near
        dropped, beyond = len(candidates) - len(near), total - len(pairs)
    seen = {finding.id for finding in found}
    return Overlap(found, seen, sum(map(bool, ids)), len(ours.numbers), dropped, beyond, len(names))


def _by_id(places: Sequence[Place], ids: Sequence[str], names: Sequence[str]) -> list[Finding]:
    wanted = set(ids) - {""}
    there = {stem: name for name in names if (stem := PurePosixPath(name).stem) in wanted}
    return [
        _finding("pretraining_id", place, there[id_])
        for place, id_ in zip(places, ids, strict=True)
        if id_ in there
    ]


def _finding(kind: str, place: Place, other: str, phash: int = -1, dhash: int = -1) -> Finding:
    return Finding(kind, place.id, other, phash, dhash, split=place.split, class_name=place.class_name)


def _hashes(against: Path, names: Sequence[str], cache: Path, workers: int) -> Hashes:
    """The hashes of a pre-training set, from the file that keeps them as far as it has them."""
    hashes = np.zeros((2, len(names)), np.uint64)
    there = np.zeros(len(names), bool)
    for index, row in remembered(against, names, hash_image, HASH_COLUMNS, cache, workers):
        if row[0]:
            hashes[:, index] = [int(text, 16) for text in row]
            there[index] = True
    numbers = np.arange(len(names))
    return Hashes(numbers, hashes[0], hashes[1], np.full(len(names), -1)).of(there)
