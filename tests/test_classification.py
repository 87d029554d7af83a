"""What `validate.py` tells of a classifier: scikit-learn's figures, in tables and charts that can be read."""

import csv
import json
import warnings
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib import font_manager
from sklearn.metrics import balanced_accuracy_score, classification_report, confusion_matrix

from convnext_ablation.study.report.classification_charts import matrix_chart, write_classification_charts
from convnext_ablation.study.report.figures import write_specification
from convnext_ablation.training.classification import MOST_CLASSES, write_figures
from convnext_ablation.training.predictions import Predictions


def made(targets, predicted, probability=None):
    targets, predicted = np.array(targets, np.int64), np.array(predicted, np.int64)
    probability = np.full(len(targets), 0.5) if probability is None else np.array(probability)
    ids = np.array([f"{number}.png" for number in range(len(targets))])
    return Predictions(ids, targets, predicted[:, None], probability.astype(np.float32), loss=1.0)


def read(path):
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def close(cell, fraction):
    """Whether a cell shows a fraction in percent; an empty one shows NaN."""
    return float("nan" if cell == "" else cell) == pytest.approx(100 * fraction, abs=1e-9, nan_ok=True)


def check_files(folder, classes):
    """Compares all files with what scikit-learn makes of the predictions among them."""
    rows = read(folder / "predictions.csv")
    targets, predicted = ([int(row[name]) for row in rows] for name in ("target", "top1"))
    labels = list(range(classes))
    with warnings.catch_warnings():  # of classes that are predicted and have no images
        warnings.simplefilter("ignore")
        expected = classification_report(
            targets, predicted, labels=labels, output_dict=True, zero_division=np.nan
        )
        balanced = balanced_accuracy_score(targets, predicted)
        matrix = confusion_matrix(targets, predicted, labels=labels)
    for number, line in enumerate(read(folder / "classes.csv")):
        of_class = expected[str(number)]
        assert int(line["images"]) == of_class["support"]
        for ours, theirs in (("precision", "precision"), ("recall", "recall"), ("f1", "f1-score")):
            assert close(line[f"{ours}_percent"], of_class[theirs]), (number, ours)
    metrics = json.loads((folder / "metrics.json").read_text())
    assert metrics["balanced_accuracy_percent"] == 100 * balanced
    assert close(metrics["top1_percent"], np.mean(np.equal(targets, predicted)))
    with open(folder / "confusion_matrix.csv", newline="") as file:
        _, *lines = csv.reader(file)
    assert [[int(cell) for cell in line[1:]] for line in lines] == matrix.tolist()
    confused = {
        (int(each["class_number"]), int(each["taken_for_number"])): int(each["images"])
        for each in read(folder / "confusions.csv")
    }
    off = matrix - np.diag(np.diag(matrix))
    assert confused == {(int(i), int(j)): off[i, j] for i, j in np.argwhere(off)}
    assert list(confused.values()) == sorted(confused.values(), reverse=True)
    return metrics, rows


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_figures_are_scikit_learns_for_any_predictions(data):
    classes, images = data.draw(st.integers(1, 6)), data.draw(st.integers(1, 40))
    label = st.lists(st.integers(0, classes - 1), min_size=images, max_size=images)
    sure = st.lists(st.floats(0, 1, width=32), min_size=images, max_size=images)
    predictions = made(data.draw(label), data.draw(label), data.draw(sure))
    with TemporaryDirectory() as folder:
        write_figures(Path(folder), predictions, classes, [], {})
        metrics, _ = check_files(Path(folder), classes)
        bins = read(Path(folder, "calibration.csv"))
    gaps = np.zeros(15)  # by the definition, image by image
    for probability, right in zip(predictions.probability.tolist(), predictions.correct, strict=True):
        gaps[max(0, int(np.ceil(probability * 15)) - 1)] += probability - right
    assert close(metrics["ece_percent"], np.abs(gaps).sum() / images)
    assert sum(int(each["images"]) for each in bins) == images


def test_a_class_without_images_has_no_recall_and_one_never_predicted_no_precision(tmp_path):
    write_figures(tmp_path, made([0, 0, 2], [0, 1, 0]), 4, ["ash", "=oak", "elm"], {"model": "x"})
    lines = read(tmp_path / "classes.csv")
    assert [line["class"] for line in lines] == ["ash", "'=oak", "elm", ""]
    assert [line["images"] for line in lines] == ["2", "0", "1", "0"]
    assert [line["recall_percent"] for line in lines] == ["50.0", "", "0.0", ""]
    assert [line["precision_percent"] for line in lines] == ["50.0", "0.0", "", ""]
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert (metrics["model"], metrics["classes"], metrics["classes_with_images"]) == ("x", 4, 2)
    assert metrics["balanced_accuracy_percent"] == 25.0


@pytest.mark.parametrize("classes", [1, 3, 200])
def test_charts_name_what_is_confused_and_say_how_calibrated_it_is(tmp_path, classes):
    targets = np.repeat(np.arange(classes), 4)
    predicted = np.where(np.arange(len(targets)) % 4 == 0, (targets + 1) % classes, targets)
    predicted[:4] = 1 % classes
    names = [f"kind {number} $x" for number in range(classes)]
    predictions = made(targets, predicted, np.full(len(targets), 0.95))
    write_classification_charts(tmp_path, predictions, classes, names)
    matrix, reliability = (
        (tmp_path / f"{name}.svg").read_text() for name in ("confusion_matrix", "reliability")
    )
    found = "No confusions" if classes == 1 else "Most frequent confusion: kind 0 $x as kind 1 $x, 4 of 4"
    assert f">{found}<" in matrix
    assert (">kind 0 $x<" in matrix) == (classes < 200)
    gap = 95 - predictions.top1
    assert (
        f">{'Over' if gap > 0 else 'Under'}confident by {abs(gap):.1f} points; ECE {abs(gap):.1f} %<"
        in reliability
    )
    assert (tmp_path / "confusion_matrix.pdf").is_file()


def write_font(path, letters):
    """Writes a font of squares for these letters."""
    names = [".notdef", *(f"square{number}" for number in range(len(letters)))]
    font = FontBuilder(1000)
    font.setupGlyphOrder(names)
    font.setupCharacterMap(dict(zip(map(ord, letters), names[1:], strict=True)))
    pen = TTGlyphPen(None)
    pen.moveTo((0, 0))
    for corner in ((0, 800), (800, 800), (800, 0)):
        pen.lineTo(corner)
    pen.closePath()
    font.setupGlyf(dict.fromkeys(names, pen.glyph()))
    font.setupHorizontalMetrics(dict.fromkeys(names, (900, 0)))
    font.setupHorizontalHeader(ascent=800, descent=-200)
    font.setupNameTable({"familyName": "Squares", "styleName": "Regular", "psName": "Squares-Regular"})
    font.setupOS2()
    font.setupPost()
    font.save(path)


@pytest.mark.parametrize("letters", ["冷杉", "冷"])
def test_letters_come_from_a_font_that_has_them_or_the_font_to_install_is_named(
    tmp_path, monkeypatch, capsys, letters
):
    write_font(tmp_path / "squares.ttf", letters)
    monkeypatch.setattr(font_manager, "findSystemFonts", lambda: [str(tmp_path / "squares.ttf")])
    write_specification(tmp_path, "matrix", matrix_chart(np.diag([3, 2]), ["冷杉", "oak"], []))
    assert ">冷杉<" in (tmp_path / "matrix.svg").read_text(encoding="utf-8")
    assert b"Squares-Regular" in (tmp_path / "matrix.pdf").read_bytes()
    said = (
        f"{tmp_path}/matrix.pdf: has boxes for 杉, as no font here has these letters; install Noto Sans CJK, "
        "and write it again. matrix.svg has the letters\n"
    )
    assert capsys.readouterr().err == said * (letters == "冷")


def test_of_very_many_classes_there_is_a_list_of_confusions_and_no_matrix(tmp_path):
    predictions = made([0, MOST_CLASSES], [1, MOST_CLASSES])
    write_figures(tmp_path, predictions, MOST_CLASSES + 1, [], {})
    write_classification_charts(tmp_path, predictions, MOST_CLASSES + 1, [])
    assert not [*tmp_path.glob("confusion_matrix.*")]
    assert [each["taken_for"] for each in read(tmp_path / "confusions.csv")] == ["1"]
