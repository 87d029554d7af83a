"""Figures without some images, for `validate.py --exclude`: such as without copies of training images.

The predictions are the same; only what is counted differs.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from convnext_ablation.data.folder import SYNONYMS
from convnext_ablation.errors import UserError
from convnext_ablation.training.evaluation import Predictions
from convnext_ablation.training.images import Images

__all__ = ["excluded_ids", "read_ids", "side_by_side", "without"]

_COLUMN = "id"
_SPLITS = [set(names) for names in SYNONYMS.values()]


def read_ids(path: Path) -> list[str]:
    """Reads image ids: one a line, or the column ``id`` of a CSV file with a header.

    Raises:
        UserError: There is no such file, or it is a CSV file without that column.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not in UTF-8"
        raise UserError(f"{path}: can't be read ({reason}); --exclude takes a file of image ids") from error
    header = next(csv.reader(lines), [])
    if _COLUMN in header:
        ids = [row[_COLUMN] or "" for row in csv.DictReader(lines)]
    elif path.suffix.lower() == ".csv":
        raise UserError(f"{path}: has no column {_COLUMN!r}; name the column of the image ids so")
    else:
        ids = [line.strip() for line in lines]
    return list(dict.fromkeys(id_ for id_ in ids if id_))


def excluded_ids(path: Path, images: Images, split: str) -> set[str]:
    """Finds the images of a split that a file names.

    Args:
        path: See `read_ids`. An id is the image's path below the split's folder, or that with the split
            before it, ``test/class/name.jpg``; those of other splits are passed over.
        images: The split.
        split: Its name.

    Returns:
        Paths below the split's folder, as `images` has them.

    Raises:
        UserError: An image isn't in the split, or all are of other splits.
    """
    ids, there = read_ids(path), set(images.ids())
    own = {split, Path(images.name).name.removesuffix(".tar")}
    own = own.union(*(names for names in _SPLITS if names & own))
    others = set().union(*_SPLITS) - own
    found, missing, elsewhere = set(), [], []
    for id_ in ids:
        first, _, below = id_.partition("/")
        if id_ in there:
            found.add(id_)
        elif first in own and below in there:
            found.add(below)
        elif first in others:
            elsewhere.append(id_)
        else:
            missing.append(id_)
    if elsewhere and not found:
        missing += elsewhere
    if missing:
        raise UserError(
            f"{path}: {len(missing)} of the {len(ids)} ids in it are not in {images.name}, "
            f"such as {missing[0]}; give paths below that folder"
        )
    return found


def without(predictions: Predictions, excluded: set[str]) -> Predictions:
    """The predictions of all other images; their mean loss is not known.

    Raises:
        UserError: There are no others.
    """
    kept = np.array([id_ not in excluded for id_ in predictions.ids.tolist()], dtype=bool)
    if not kept.any():
        raise UserError(f"all {len(kept)} images are excluded; leave some in")
    return replace(
        predictions,
        ids=predictions.ids[kept],
        targets=predictions.targets[kept],
        top5=predictions.top5[kept],
        probability=predictions.probability[kept],
        loss=float("nan"),
    )


def side_by_side(predictions: Predictions, kept: Predictions) -> str:
    """A small table of both figures, for a terminal."""
    rows: Sequence[tuple[str, str, str]] = (
        ("", "all", "without excluded"),
        ("images", str(len(predictions.ids)), str(len(kept.ids))),
        ("top-1 %", f"{predictions.top1:.3f}", f"{kept.top1:.3f}"),
        ("top-5 %", f"{predictions.top5_accuracy:.3f}", f"{kept.top5_accuracy:.3f}"),
    )
    return "\n".join(f"{name:8}{every:>9}{others:>18}" for name, every, others in rows)
