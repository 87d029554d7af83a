"""Ours and timm's own scripts on one another's files; needs a checkout of timm's repository at TIMM_REPO."""

import csv
import json
import sys
from pathlib import Path

import pytest
from timm_repo import FOLDER, STOCK, needs_timm_repo, run

from convnext_ablation.training.history import read_summary

ROOT = Path(__file__).parents[1]
pytestmark = needs_timm_repo
PREPARED = ["--input-size", "1", "32", "32", "--mean", "0.5", "--std", "0.5", "--crop-pct", "1.0"]
TRAINED = ["--model", "model_i_atto", "--num-classes", "3", "--device", "cpu", "-j", "0", "--model-ema"]


def start(whose, script, *arguments):
    which = [ROOT / script] if whose == "ours" else [*STOCK, FOLDER / script]
    done = run([sys.executable, *which, *arguments], ROOT)
    assert done.returncode == 0, done.stderr


def train(whose, folder, image_folder, recipe_file, *more):
    where = ("--output", folder.parent, "--experiment", folder.name)
    start(whose, "train.py", "--data-dir", image_folder, "-c", recipe_file, *TRAINED, *more, *where)


@pytest.fixture(scope="module")
def runs(tmp_path_factory, image_folder, recipe_file):
    """A run of two epochs by each script."""
    root = tmp_path_factory.mktemp("runs")
    for script in ("ours", "timms"):
        train(script, root / script, image_folder, recipe_file)
    return root


@pytest.mark.parametrize(("first", "then"), [("ours", "timms"), ("timms", "ours")])
def test_either_script_goes_on_from_the_others_checkpoint(
    runs, tmp_path, image_folder, recipe_file, first, then
):
    checkpoint = runs / first / "last.pth.tar"
    train(then, tmp_path / "on", image_folder, recipe_file, "--resume", checkpoint, "--epochs", "4")
    epochs = read_summary(tmp_path / "on" / "summary.csv")
    assert [epoch.epoch for epoch in epochs] == [2, 3]
    before = read_summary(runs / first / "summary.csv")
    assert epochs[0].train_loss < before[0].train_loss


def test_ours_goes_on_in_the_folder_of_timms_run_without_a_second_header(
    runs, tmp_path, image_folder, recipe_file
):
    folder = tmp_path / "timms"
    train("timms", folder, image_folder, recipe_file)
    train("ours", folder, image_folder, recipe_file, "--resume", "auto", "--epochs", "3")
    assert [epoch.epoch for epoch in read_summary(folder / "summary.csv")] == [0, 1, 2]
    assert (folder / "summary.csv").read_text().count("train_loss") == 1


def test_both_write_the_same_files_with_the_same_columns(runs):
    names = {"args.yaml", "summary.csv", "last.pth.tar", "model_best.pth.tar", "checkpoint-0.pth.tar"}
    headers = []
    for script in ("ours", "timms"):
        assert names <= {path.name for path in (runs / script).iterdir()}
        with open(runs / script / "summary.csv", newline="") as file:
            headers.append(next(csv.reader(file)))
    assert headers[0] == headers[1]
    ours, timms = (read_summary(runs / script / "summary.csv") for script in ("ours", "timms"))
    assert [epoch.lr for epoch in ours] == pytest.approx([epoch.lr for epoch in timms], abs=1e-12)


@pytest.mark.parametrize("weights", [[], ["--use-ema"]])
@pytest.mark.parametrize("script", ["ours", "timms"])
def test_both_validations_give_a_checkpoint_the_same_result(runs, tmp_path, image_folder, script, weights):
    common = [
        image_folder, "--split", "test", "--model", "model_i_atto", "--num-classes", "3", "--device", "cpu",
        "--checkpoint", runs / script / "last.pth.tar", "-j", "0", "-b", "8", *PREPARED, "--interpolation",
        "bilinear", *weights,
    ]  # fmt: skip
    results = []
    for whose in ("ours", "timms"):
        file = tmp_path / whose
        start(whose, "validate.py", *common, "--results-file", file, "--results-format", "json")
        results.append(json.loads(file.read_text()))
    assert results[0] == results[1]
