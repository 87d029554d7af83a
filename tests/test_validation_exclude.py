"""`validate.py --exclude`: figures with and without some images, from the same predictions."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from timm import create_model

from convnext_ablation.cli import validate as validation
from convnext_ablation.errors import UserError
from convnext_ablation.training.evaluation import Predictions
from convnext_ablation.training.exclusion import excluded_ids, read_ids, side_by_side, without


class Split:
    """What `excluded_ids` asks of a split."""

    def __init__(self, name="data/val", ids=("cat/1.png", "cat/2.png", "dog/1.png", "train/1.png")):
        self.name = name
        self._ids = list(ids)

    def ids(self):
        return self._ids


def predictions(ids, correct):
    top5 = np.array([[0, 1] if each else [1, 0] for each in correct])
    return Predictions(np.array(ids), np.zeros(len(ids), np.int64), top5, np.ones(len(ids), np.float32), 0.5)


def listing(tmp_path, text, name="ids.txt"):
    path = tmp_path / name
    path.write_bytes(text.encode())
    return path


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("ids.txt", "a/1.png\n\n b/2, x.png \na/1.png\n"),
        ("ids.txt", "\ufeffa/1.png\r\nb/2, x.png\r\n"),
        ("ids.csv", 'kind,id\nnear,a/1.png\nsame,"b/2, x.png"\nmissing_class,\n'),
        ("table.txt", 'id\na/1.png\n"b/2, x.png"\n'),
    ],
)
def test_ids_stand_one_a_line_or_in_a_column(tmp_path, name, text):
    assert read_ids(listing(tmp_path, text, name)) == ["a/1.png", "b/2, x.png"]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("ids.csv", "image\na/1.png\n", r"ids\.csv: has no column 'id'"),
        ("ids.txt", None, r"ids\.txt: can't be read \(No such file"),
    ],
)
def test_a_file_without_ids_is_refused(tmp_path, name, text, message):
    path = tmp_path / name if text is None else listing(tmp_path, text, name)
    with pytest.raises(UserError, match=message):
        read_ids(path)


def test_a_file_of_something_else_is_refused(tmp_path):
    (tmp_path / "picture.png").write_bytes(b"\x89PNG\xff")
    with pytest.raises(UserError, match="not in UTF-8"):
        read_ids(tmp_path / "picture.png")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("cat/1.png\nvalidation/cat/2.png\nval/dog/1.png", {"cat/1.png", "cat/2.png", "dog/1.png"}),
        ("test/bird/9.png\ntrain/bird/9.png\ncat/1.png", {"cat/1.png"}),
        ("train/1.png", {"train/1.png"}),  # a class of that name
        ("", set()),
    ],
)
def test_ids_may_have_the_split_before_them(tmp_path, text, expected):
    assert excluded_ids(listing(tmp_path, text), Split(), "validation") == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "cat/1.png\ncat/9.png\nval/dog/8.png",
            r"2 of the 3 ids in it are not in data/val, such as cat/9\.png",
        ),
        (
            "test/cat/1.png\ntest/cat/2.png",
            r"2 of the 2 ids in it are not in data/val, such as test/cat/1\.png",
        ),
    ],
)
def test_ids_that_are_not_in_the_split_are_counted_and_the_first_named(tmp_path, text, message):
    with pytest.raises(UserError, match=message):
        excluded_ids(listing(tmp_path, text), Split(), "val")


def test_a_split_in_a_tar_has_its_name(tmp_path):
    ids = listing(tmp_path, "exam/cat/1.png")
    assert excluded_ids(ids, Split("data/exam.tar"), "exam") == {"cat/1.png"}


def test_figures_without_images_count_the_others():
    every = predictions(["a", "b", "c", "d"], [True, True, True, False])
    kept = without(every, {"a", "b"})
    assert kept.ids.tolist() == ["c", "d"]
    assert (every.top1, kept.top1, kept.top5_accuracy) == (75.0, 50.0, 100.0)
    assert side_by_side(every, kept).splitlines() == [
        "              all  without excluded",
        "images          4                 2",
        "top-1 %    75.000            50.000",
        "top-5 %   100.000           100.000",
    ]
    with pytest.raises(UserError, match="all 4 images are excluded"):
        without(every, set("abcd"))


@pytest.fixture
def validate(image_folder, tmp_path, capsys):
    def run(*more, data=image_folder):
        torch.manual_seed(0)
        arguments = ["--split", "test", "--device", "cpu", "-j", "0", "--img-size", "32"]
        weights = tmp_path / "weights.safetensors"
        if not weights.exists():
            save_file(create_model("model_i_atto", num_classes=3, in_chans=1).state_dict(), weights)
        arguments += ["--checkpoint", weights, "--model", "model_i_atto", "--in-chans", "1"]
        arguments += ["--input-img-mode", "L"]
        code = validation.main([str(data), *map(str, arguments), *map(str, more)])
        return code, capsys.readouterr()

    return run


def test_the_result_has_both_figures_from_the_same_predictions(validate, tmp_path):
    table = tmp_path / "predictions.csv"
    ids = listing(tmp_path, "test/dark/00.png\ntest/dark/01.png\ntrain/dark/00.png\nlight/06.png\n")
    code, plain = validate("--predictions-file", table)
    assert code == 0
    plain_result = json.loads(plain.out.partition("--result\n")[2])
    code, shown = validate("--exclude", ids, "--results-file", tmp_path / "results.csv")
    assert code == 0
    result = json.loads(shown.out.partition("--result\n")[2])
    with open(table, newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["id"] not in ids.read_text()]
    assert len(rows) == 18
    right = sum(row["top1"] == row["target"] for row in rows)
    assert result == {
        **plain_result,
        "top1_without_excluded": round(100 * right / 18, 4),
        "top5_without_excluded": 100.0,
        "excluded": 3,
    }
    assert re.search(rf"top-1 % +{plain_result['top1']:.3f} +{100 * right / 18:.3f}\n", shown.out)
    with open(tmp_path / "results.csv", newline="") as file:
        [written] = csv.DictReader(file)
    assert written["excluded"] == "3"


def test_wrong_ids_are_one_line_before_anything_is_evaluated(validate, tmp_path):
    code, shown = validate("--exclude", listing(tmp_path, "dark/99.png\n"))
    assert code == 2
    assert re.search(
        r"^validate\.py: error: .*1 of the 1 ids in it are not in .*test, such as dark/99", shown.err
    )
    assert shown.err.count("\n") == 1


def test_images_without_ids_cannot_be_excluded():
    arguments = validation.ValidationArguments(model="model_i", exclude=str(Path("ids.txt")))
    with pytest.raises(UserError, match="have no ids"):
        validation._excluded(arguments, iter(()))
