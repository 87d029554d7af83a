"""How well a classifier does, by scikit-learn: figures of each class, confusions, and calibration.

Functions take the class of each image and the class that was predicted for it, ``(N,)``.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from sklearn.calibration import calibration_curve
from sklearn.metrics import confusion_matrix, precision_recall_fscore_support, recall_score

from convnext_ablation.files import write_csv, write_text
from convnext_ablation.training.predictions import Predictions, write_predictions

BINS = 15  # of confidence, as in Guo et al. (arXiv:1706.04599)
MOST_CLASSES = 2000  # of a confusion matrix

Labels = NDArray[np.int64]
Values = NDArray[np.float64]


class Confusion(NamedTuple):
    """A line of confusions.csv: how many images of one class are taken for another."""

    class_number: int
    class_name: str
    taken_for_number: int
    taken_for: str
    images: int
    class_images: int


@dataclass(frozen=True)
class Calibration:
    """How the probability of the predicted class compares with the share of images that are right.

    A bin has its upper bound, not its lower. Values are fractions, NaN where a bin has no image.
    """

    bounds: Values  # of the bins, (BINS + 1,)
    images: Labels  # in each bin, (BINS,)
    confidence: Values  # mean probability of a bin's images, (BINS,)
    accuracy: Values  # share of a bin's images that are right, (BINS,)

    @property
    def ece(self) -> float:
        """Expected calibration error: mean distance of the two over all images (Guo et al., equation 3)."""
        return float(np.nansum(self.images * np.abs(self.accuracy - self.confidence)) / self.images.sum())


def balanced_accuracy(targets: Labels, predicted: Labels) -> float:
    """Mean recall over the classes that have images, a fraction: scikit-learn's `balanced_accuracy_score`.

    It is called macro accuracy, too.
    """
    return float(recall_score(targets, predicted, labels=np.unique(targets), average="macro"))


def matrix_of(targets: Labels, predicted: Labels, classes: int) -> Labels:
    """The confusion matrix, ``(classes, classes)``: a row a class, a column a predicted class, in images."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a single class may be all that there is
        return confusion_matrix(targets, predicted, labels=np.arange(classes))


def confusions(targets: Labels, predicted: Labels, names: Sequence[str]) -> list[Confusion]:
    """Every pair of classes that is confused, the most frequent first, then in the order of classes."""
    wrong = np.flatnonzero(targets != predicted)
    pairs, images = np.unique(np.stack([targets[wrong], predicted[wrong]]), axis=1, return_counts=True)
    of_class = np.bincount(targets)
    return [
        Confusion(true, name_of(true, names), other, name_of(other, names), count, int(of_class[true]))
        for (true, other), count in sorted(
            zip(pairs.T.tolist(), images.tolist(), strict=True), key=lambda each: -each[1]
        )
    ]


def calibration(predictions: Predictions) -> Calibration:
    """The reliability of the predicted class's probability, in bins of one width."""
    probability = predictions.probability.clip(0, 1).astype(np.float64)
    bounds = np.linspace(0, 1, BINS + 1)
    images = np.bincount(np.searchsorted(bounds[1:-1], probability), minlength=BINS)
    accuracy, confidence = np.full((2, BINS), np.nan)
    filled = images > 0  # scikit-learn leaves out the others
    accuracy[filled], confidence[filled] = calibration_curve(predictions.correct, probability, n_bins=BINS)
    return Calibration(bounds, images, confidence, accuracy)


def name_of(number: int, names: Sequence[str]) -> str:
    """A class's name, or its number where it has none."""
    return names[number] if number < len(names) else str(number)


def write_classes(path: Path, predictions: Predictions, classes: int, names: Sequence[str]) -> None:
    """Writes a CSV file with a line for each class: number, name if known, images, precision, recall, F1.

    Empty are the precision of a class that is never predicted, the recall of one without images, and the F1
    of one that is neither.
    """
    *figures, images = precision_recall_fscore_support(
        predictions.targets, predictions.predicted, labels=np.arange(classes), zero_division=np.nan
    )
    rows = [  # the images are of float where every one is wrong
        [index, names[index] if index < len(names) else "", int(images[index]), *map(_percent, of_class)]
        for index, of_class in enumerate(zip(*figures, strict=True))
    ]
    write_csv(path, ["index", "class", "images", "precision_percent", "recall_percent", "f1_percent"], rows)


def write_figures(
    folder: Path, predictions: Predictions, classes: int, names: Sequence[str], facts: Mapping[str, Any]
) -> None:
    """Writes a line an image, a class, a confusion and a bin as CSV files, the matrix, and all in one.

    Args:
        folder: Where they go; it is made.
        predictions: Of the images of a split.
        classes: How many the network has. Of more than `MOST_CLASSES` no matrix is written.
        names: Their names, as far as they are known.
        facts: What stands in ``metrics.json`` before the figures.
    """
    folder.mkdir(exist_ok=True)
    targets, predicted, bins = predictions.targets, predictions.predicted, calibration(predictions)
    write_predictions(folder / "predictions.csv", predictions)
    write_classes(folder / "classes.csv", predictions, classes, names)
    write_csv(folder / "confusions.csv", Confusion._fields, confusions(targets, predicted, names))
    if classes <= MOST_CLASSES:
        called = [name_of(number, names) for number in range(classes)]
        matrix = matrix_of(targets, predicted, classes).tolist()
        lines = ([name, *row] for name, row in zip(called, matrix, strict=True))
        write_csv(folder / "confusion_matrix.csv", ["class", *called], lines)
    columns = zip(bins.bounds[:-1], bins.bounds[1:], bins.confidence, bins.accuracy, strict=True)
    rows = [[*map(_percent, each), count] for each, count in zip(columns, bins.images.tolist(), strict=True)]
    header = ["low_percent", "high_percent", "confidence_percent", "accuracy_percent", "images"]
    write_csv(folder / "calibration.csv", header, rows)
    figures = {
        "images": len(targets),
        "classes": classes,
        "classes_with_images": len(np.unique(targets)),
        "top1_percent": predictions.top1,
        "top5_percent": predictions.top5_accuracy,
        "balanced_accuracy_percent": 100 * balanced_accuracy(targets, predicted),
        "ece_percent": 100 * bins.ece,
        "ece_bins": BINS,
        "loss": predictions.loss,
    }
    write_text(folder / "metrics.json", json.dumps({**facts, **figures}, indent=2) + "\n")


def _percent(fraction: float) -> str:
    """A fraction in percent, in full precision; empty if it isn't known."""
    return "" if np.isnan(fraction) else repr(100 * float(fraction))
