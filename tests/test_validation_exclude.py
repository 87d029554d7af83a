"""`validate.py --exclude`: figures with and without some images, from the same predictions."""

import csv
import json
import re

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from timm import create_model

from convnext_ablation.cli import validate as validation
from convnext_ablation.errors import UserError
from convnext_ablation.training.predictions import Predictions, excluded_ids, without

IDS = ("cat/1.png", "cat/2.png", "dog/a, b.png", "train/1.png")


def excluded(path, text):
    path.write_bytes(text.encode("latin-1"))
    return excluded_ids(path, IDS, "data/val.tar", "validation")


@pytest.mark.parametrize(
    ("text", "name", "expected"),
    [
        ("cat/1.png\n\n dog/a, b.png \ncat/1.png\n", "ids.txt", {"cat/1.png", "dog/a, b.png"}),
        ("\xef\xbb\xbfcat/1.png\r\ndog/a, b.png\r\n", "ids.txt", {"cat/1.png", "dog/a, b.png"}),
        ('kind,id\nnear,cat/1.png\nsame,"dog/a, b.png"\nmissing_class,\n', "ids.csv", {IDS[0], IDS[2]}),
        # with the split before them
        ("cat/1.png\nvalidation/cat/2.png\nval/cat/1.png", "ids.txt", {"cat/1.png", "cat/2.png"}),
        ("test/bird/9.png\ntrain/bird/9.png\ncat/1.png", "ids.txt", {"cat/1.png"}),
        ("train/1.png", "ids.txt", {"train/1.png"}),  # a class of that name
    ],
)
def test_ids_stand_one_a_line_or_in_a_column(tmp_path, text, name, expected):
    assert excluded(tmp_path / name, text) == expected


@pytest.mark.parametrize(
    ("text", "name", "message"),
    [
        ("image\ncat/1.png\n", "ids.csv", r"ids\.csv: has no column 'id'"),
        (
            "cat/1.png\ncat/9.png\nval/dog/8.png",
            "ids.txt",
            r"2 of the 3 ids .*val.tar, such as cat/9\.png",
        ),
        ("\x89PNG\xff", "ids.txt", r"ids\.txt: --exclude takes a file of image ids: .*decode"),
        ("test/cat/1.png\ntest/cat/2.png", "ids.txt", r"2 of the 2 ids .*, such as test/cat/1\.png"),
    ],
)
def test_ids_that_are_not_there_are_an_error(tmp_path, text, name, message):
    with pytest.raises(UserError, match=message):
        excluded(tmp_path / name, text)


def test_figures_without_images_count_the_others():
    top5 = np.array([[0, 1], [0, 1], [0, 1], [1, 0]])
    every = Predictions(np.array(list("abcd")), np.zeros(4, np.int64), top5, np.ones(4, np.float32), loss=0.5)
    kept = without(every, {"a", "b"})
    assert kept.ids.tolist() == ["c", "d"]
    assert (every.top1, kept.top1, kept.top5_accuracy) == (75.0, 50.0, 100.0)
    with pytest.raises(UserError, match="all 4 images are excluded"):
        without(every, set("abcd"))


@pytest.fixture
def validate(image_folder, tmp_path, capsys):
    def run(*more):
        torch.manual_seed(0)
        arguments = [image_folder, "--split", "test", "--device", "cpu", "-j", "0", "--img-size", "32"]
        weights = tmp_path / "weights.safetensors"
        if not weights.exists():
            save_file(create_model("model_i_atto", num_classes=3, in_chans=1).state_dict(), weights)
        arguments += ["--checkpoint", weights, "--model", "model_i_atto", "--in-chans", "1", *more]
        return validation.main([*map(str, arguments)]), capsys.readouterr()

    return run


def test_the_result_has_both_figures_from_the_same_predictions(validate, tmp_path):
    table, ids = tmp_path / "predictions.csv", tmp_path / "ids.txt"
    ids.write_text("test/dark/00.png\ntest/dark/01.png\ntrain/dark/00.png\nlight/06.png\n")
    code, refused = validate("--predictions-file", tmp_path / "none" / "predictions.csv")
    assert (code, refused.out) == (2, "")  # before anything is evaluated
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
