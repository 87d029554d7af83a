"""Classification metrics: per-class metrics, confusions and calibration, most of them by scikit-learn.

Functions take the true and the predicted class of each image, both ``(N,)``. scikit-learn is imported where
it is used, because a report needs balanced accuracy alone.
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

from convnext_ablation.files import write_csv, write_text
from convnext_ablation.training.predictions import Predictions, write_predictions

BINS = 15  # of confidence, as in Guo et al. (arXiv:1706.04599)
MOST_CLASSES = 2000  # largest confusion matrix that is written

Labels = NDArray[np.int64]
Values = NDArray[np.float64]


class Confusion(NamedTuple):
    """A row of confusions.csv: how many images of one class are predicted as another."""

    class_number: int
    class_name: str
    taken_for_number: int
    taken_for: str
    images: int
    class_images: int


@dataclass(frozen=True)
class Calibration:
    """Reliability diagram: confidence and accuracy of the top-1 class, in bins of equal width.

    Bins include their upper bound but not their lower. Values are fractions, NaN in empty bins.
    """

    bounds: Values  # bin edges, (BINS + 1,)
    images: Labels  # per bin, (BINS,)
    confidence: Values  # mean probability per bin, (BINS,)
    accuracy: Values  # fraction of correct images per bin, (BINS,)

    @property
    def ece(self) -> float:
        """Expected calibration error: mean |accuracy - confidence| over images (Guo et al., equation 3)."""
        return float(np.nansum(self.images * np.abs(self.accuracy - self.confidence)) / self.images.sum())


def balanced_accuracy(targets: Labels, predicted: Labels) -> float:
    """Mean recall of the classes with images (macro accuracy), equal to scikit-learn's; a fraction."""
    images = np.bincount(targets)
    right = np.bincount(targets[predicted == targets], minlength=len(images))
    return float(np.mean(right[images > 0] / images[images > 0]))


def matrix_of(targets: Labels, predicted: Labels, classes: int) -> Labels:
    """Confusion matrix in images, ``(classes, classes)``: rows are true classes, columns predicted ones."""
    from sklearn.metrics import confusion_matrix

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # scikit-learn warns if there is a single class
        return confusion_matrix(targets, predicted, labels=np.arange(classes))


def confusions(targets: Labels, predicted: Labels, names: Sequence[str]) -> list[Confusion]:
    """All pairs of confused classes, most frequent first; ties are in class order."""
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
    """Calibration of the top-1 probability, in `BINS` bins of equal width."""
    from sklearn.calibration import calibration_curve

    probability = predictions.probability.clip(0, 1).astype(np.float64)
    bounds = np.linspace(0, 1, BINS + 1)
    images = np.bincount(np.searchsorted(bounds[1:-1], probability), minlength=BINS)
    accuracy, confidence = np.full((2, BINS), np.nan)
    filled = images > 0  # scikit-learn omits empty bins
    accuracy[filled], confidence[filled] = calibration_curve(predictions.correct, probability, n_bins=BINS)
    return Calibration(bounds, images, confidence, accuracy)


def name_of(number: int, names: Sequence[str]) -> str:
    """A class's name, or its number if it has no name."""
    return names[number] if number < len(names) else str(number)


def write_classes(path: Path, predictions: Predictions, classes: int, names: Sequence[str]) -> None:
    """Writes a CSV file with one row per class: number, name if known, images, precision, recall, F1.

    Precision is empty for a class that is never predicted, recall for a class without images, and F1 for a
    class with neither.
    """
    from sklearn.metrics import precision_recall_fscore_support

    *figures, images = precision_recall_fscore_support(
        predictions.targets, predictions.predicted, labels=np.arange(classes), zero_division=np.nan
    )
    rows = [  # `images` are floats if every prediction is wrong
        [index, names[index] if index < len(names) else "", int(images[index]), *map(_percent, of_class)]
        for index, of_class in enumerate(zip(*figures, strict=True))
    ]
    write_csv(path, ["index", "class", "images", "precision_percent", "recall_percent", "f1_percent"], rows)


def write_figures(
    folder: Path, predictions: Predictions, classes: int, names: Sequence[str], facts: Mapping[str, Any]
) -> None:
    """Writes CSV files of predictions, classes, confusions and calibration, the matrix, and metrics.json.

    Args:
        folder: Created if missing.
        predictions: Those of a split.
        classes: Number of classes of the network. Above `MOST_CLASSES`, no matrix is written.
        names: Class names, as far as they are known.
        facts: Entries of ``metrics.json`` that precede the metrics.
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
    """A fraction as a percentage in full precision; empty if NaN."""
    return "" if np.isnan(fraction) else repr(100 * float(fraction))
