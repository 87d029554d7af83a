"""A network's predictions on a split, their files, and accuracies."""

from __future__ import annotations

import csv
import io
import zipfile
from collections.abc import Collection
from dataclasses import dataclass, fields, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from convnext_ablation.data.layout import SPLIT_OF
from convnext_ablation.errors import UserError, in_one_line
from convnext_ablation.files import csv_text, write_csv, written_whole

_COLUMN = "id"
_ARRAYS = ("ids", "targets", "top5", "probability")


def _percentage(right: NDArray[np.bool_]) -> float:
    """Percentage of True; 100 * (7 / 50) would be 14.000000000000002."""
    return 100 * int(right.sum()) / len(right)


@dataclass(frozen=True)
class Predictions:
    """A network's predictions on the images of a split, in the split's order."""

    ids: NDArray[np.str_]  # (N,), paths relative to the split's folder
    targets: NDArray[np.int64]  # (N,), true classes
    top5: NDArray[np.int64]  # (N, K), the most probable classes, best first; K is at most 5
    probability: NDArray[np.float32]  # (N,), of the top-1 class
    loss: float  # mean cross-entropy in nats

    @property
    def predicted(self) -> NDArray[np.int64]:
        """The most probable class, ``(N,)``."""
        return self.top5[:, 0]

    @property
    def correct(self) -> NDArray[np.bool_]:
        """Whether the most probable class is the target, ``(N,)``."""
        return self.predicted == self.targets

    @property
    def top1(self) -> float:
        """Percentage of images whose most probable class is the target."""
        return _percentage(self.correct)

    @property
    def top5_accuracy(self) -> float:
        """Percentage of images whose target is among the five most probable classes."""
        return _percentage((self.top5 == self.targets[:, None]).any(axis=1))

    def save(self, path: Path) -> None:
        """Writes a compressed NumPy archive with one array per field."""
        with written_whole(path) as temporary, open(temporary, "wb") as file:
            np.savez_compressed(file, **{each.name: getattr(self, each.name) for each in fields(self)})

    @classmethod
    def load(cls, path: Path) -> Predictions:
        """Reads a file that `save` wrote."""
        try:
            with np.load(path, allow_pickle=False) as archive:
                arrays = {name: archive[name] for name in _ARRAYS}
                return cls(**arrays, loss=float(archive["loss"]))
        except (OSError, EOFError, KeyError, ValueError, zipfile.BadZipFile) as error:
            raise UserError(
                f"{path}: predictions can't be read ({error}); delete its run to do it again"
            ) from error


def write_predictions(path: Path, predictions: Predictions) -> None:
    """Writes a CSV file with one row per image."""
    columns = [f"top{rank + 1}" for rank in range(predictions.top5.shape[1])]
    arrays = [getattr(predictions, name) for name in _ARRAYS]
    rows = [
        [name, target, *top5, f"{probability:.6g}"]
        for name, target, top5, probability in zip(*arrays, strict=True)
    ]
    write_csv(path, ["id", "target", *columns, "probability"], rows)


def excluded_ids(path: Path, ids: Collection[str], folder: str, split: str) -> set[str]:
    """Reads the ids of a split's images that are to be excluded.

    Args:
        path: A text file with one image id per line, or a CSV file with the column ``id``. An id is the
            image's path relative to the split's folder, or the same after the split's name, as in
            ``test/class/name.jpg``. Ids of other splits are ignored.
        ids: Paths of the split's images relative to its folder.
        folder: The split's folder or tar.
        split: Name of the split.
    """
    listed, there = _read_ids(path), set(ids)
    own = {SPLIT_OF.get(name, name) for name in (split, Path(folder).name.removesuffix(".tar"))}
    found, missing, elsewhere = set(), [], []
    for id_ in listed:
        first, _, below = id_.partition("/")
        if id_ in there:
            found.add(id_)
        elif SPLIT_OF.get(first, first) in own and below in there:
            found.add(below)
        elif first in SPLIT_OF and SPLIT_OF[first] not in own:
            elsewhere.append(id_)
        else:
            missing.append(id_)
    if elsewhere and not found:
        missing += elsewhere
    if missing:
        raise UserError(
            f"{path}: {len(missing)} of the {len(listed)} ids in it are not in {folder}, "
            f"such as {missing[0]}; give paths below that folder"
        )
    return found


def _read_ids(path: Path) -> list[str]:
    with in_one_line(f"{path}: --exclude takes a file of image ids"):
        text = path.read_text(encoding="utf-8-sig")
    rows = csv.DictReader(io.StringIO(text))
    if _COLUMN in (rows.fieldnames or ()):
        ids = [csv_text(row[_COLUMN] or "") for row in rows]
    elif path.suffix.lower() == ".csv":
        raise UserError(f"{path}: has no column {_COLUMN!r}; name the column of the image ids so")
    else:
        ids = [line.strip() for line in text.split("\n")]
    return list(dict.fromkeys(id_ for id_ in ids if id_))


def without(predictions: Predictions, excluded: set[str]) -> Predictions:
    """The predictions without the excluded images; their mean loss is NaN."""
    kept = np.array([id_ not in excluded for id_ in predictions.ids.tolist()], dtype=bool)
    if not kept.any():
        raise UserError(f"all {len(kept)} images are excluded; leave some in")
    arrays = {name: getattr(predictions, name)[kept] for name in _ARRAYS}
    return replace(predictions, **arrays, loss=float("nan"))
