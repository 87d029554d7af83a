"""The `study` command from start to end, killed and started again, and refused where it can't run."""

from __future__ import annotations

import csv
import json
import multiprocessing
import os
import re
import shutil
import signal
import subprocess
import sys
import time

import pytest
import torch

from convnext_ablation import cli
from convnext_ablation.errors import UserError
from convnext_ablation.study import command, precision, runner
from convnext_ablation.study.plan import choose_learning_rates
from convnext_ablation.study.progress import Progress

MEASURED = ("train_images_per_second", "images_per_second", "seconds", "train_seconds")


@pytest.fixture
def arguments(image_folder, recipe_file, tmp_path):
    """The command line of a small study: five networks, two seeds, two epochs."""
    return [
        "study",
        f"--data={image_folder}",
        f"--recipe={recipe_file}",
        "--precision=float32",
        "--jobs=2",
        f"--output={tmp_path / 'study'}",
        "--seeds",
        "0",
        "1",
    ]


def start(arguments):
    return subprocess.Popen(
        [sys.executable, "-m", "convnext_ablation.cli", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def deterministic_columns(folder):
    """The tables without what was timed."""
    tables = {}
    for name in ("table.csv", "seeds.csv"):
        with open(folder / "report" / name, newline="") as file:
            rows = list(csv.DictReader(file))
        tables[name] = [{key: row[key] for key in row if key not in MEASURED} for row in rows]
    return tables


def finished(folder):
    return {path.parent.name: path.stat().st_mtime_ns for path in folder.glob("runs/*/result.json")}


def test_a_killed_study_goes_on_and_ends_with_the_same_tables(arguments, tmp_path):
    undisturbed = tmp_path / "undisturbed"
    process = start([*arguments, f"--output={undisturbed}"])
    output = process.communicate(timeout=400)[0]
    assert process.returncode == 0, output
    assert re.search(r"\[10/10\] model_\w+_atto seed \d", output)
    assert "took" in output

    folder = tmp_path / "study"
    process = start(arguments)
    while len(finished(folder)) < 3 and process.poll() is None:
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    done = finished(folder)
    assert 3 <= len(done) < 10

    process = start(arguments)
    output = process.communicate(timeout=400)[0]
    assert process.returncode == 0, output
    assert f"{len(done)} done before" in output
    assert {name: finished(folder)[name] for name in done} == done
    assert deterministic_columns(folder) == deterministic_columns(undisturbed)
    assert len(deterministic_columns(folder)["seeds.csv"]) == 10
    assert not list(folder.glob("runs/*/last.pth.tar"))

    # and once more: everything is there, nothing is trained
    assert cli.main(arguments) == 0
    assert len(finished(folder)) == 10


def test_a_finished_study_trains_nothing_and_a_failed_run_stops_no_other(
    arguments, tmp_path, monkeypatch, capsys
):
    bad = [*arguments[:-1], "--lr", "model_iii_atto=1e30"]  # seed 0 only
    assert cli.main(bad) == 2
    captured = capsys.readouterr()
    assert "1 of 5 runs failed (model_iii_atto-seed0" in captured.err
    assert "the loss is" in captured.err
    assert len(finished(tmp_path / "study")) == 4
    assert cli.main(arguments) == 2
    assert "holds another study: its learning rates is" in capsys.readouterr().err


def test_a_killed_worker_is_one_line(arguments, tmp_path, monkeypatch, capsys):
    def kill(self, name, number):
        os.kill(multiprocessing.active_children()[0].pid, signal.SIGKILL)

    monkeypatch.setattr(Progress, "epoch", kill)
    assert cli.main([*arguments, "--jobs=1"]) == 2
    assert "a process that trained was killed" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (["--seeds", "0", "1", "0"], "a seed is given twice"),
        (["--seeds", "-1"], "a seed is a whole number from 0"),
        (["--design=stage"], "unknown design 'stage'; did you mean 'stages'?"),
        (["--width=half"], "unknown width 'half'"),
        (["--device=nvidia"], "device is 'nvidia'; it takes cpu or cuda"),
        (["--data=imagenet"], "make its folder first with `convnext-ablation prepare imagenet OUT`"),
        (["--data=typeface"], "unknown data set or folder 'typeface'; did you mean 'typefaces'?"),
        (["--threads=0"], "--threads is 0"),
        (["--jobs=0"], "--jobs is 0"),
        (["--lr", "model_i_atto"], "write NETWORK=VALUE"),
        (["--lr", "model_i=0.1"], "not a network of this design"),
        (["--recipe=typeface"], "unknown recipe 'typeface'; did you mean 'typefaces'?"),
        (["--precision=float64"], "invalid choice: 'float64'"),
    ],
)
def test_bad_arguments_are_one_line_and_code_2(arguments, tmp_path, capsys, extra, message):
    try:
        code = cli.main([*arguments, *extra])
    except SystemExit as error:  # argparse
        code = error.code
    captured = capsys.readouterr()
    assert code == 2
    assert message in captured.err
    assert captured.err.count("\n") == 1
    assert not (tmp_path / "study").exists()


def spoil_nothing_there(folder):
    shutil.rmtree(folder)


def spoil_class_not_in_train(folder):
    shutil.copytree(folder / "test" / "dark", folder / "test" / "black")


def spoil_image(folder):
    (folder / "train" / "grey" / "03.png").write_bytes(b"not an image")


def spoil_split(folder):
    shutil.rmtree(folder / "val")


def spoil_batch(folder):
    for path in folder.glob("train/*/*.png"):
        if int(path.stem) > 1:
            path.unlink()


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (spoil_nothing_there, "unknown data set or folder"),
        (spoil_class_not_in_train, "black"),
        (spoil_image, "03.png"),
        (spoil_split, "val"),
        (spoil_batch, "6 training images are fewer than one batch of 8"),
    ],
)
def test_bad_data_are_named_before_anything_is_trained(
    arguments, image_folder, tmp_path, capsys, spoil, message
):
    folder = tmp_path / "data"
    shutil.copytree(image_folder, folder)
    spoil(folder)
    assert cli.main([*arguments, f"--data={folder}"]) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.err.count("\n") == 1
    assert not (tmp_path / "study").exists()


def test_a_folder_needs_a_recipe(image_folder, tmp_path, capsys):
    assert cli.main(["study", f"--data={image_folder}", f"--output={tmp_path / 'study'}"]) == 2
    assert "needs --recipe" in capsys.readouterr().err


def test_damaged_results_are_named(tmp_path):
    with pytest.raises(UserError, match=r"result\.json: can't be read"):
        runner.read_result(_Run(tmp_path), tmp_path)


class _Run:
    def __init__(self, folder):
        self.where = folder

    def folder(self, study_folder):
        return self.where


@pytest.mark.parametrize(
    ("seconds", "faster"),
    [({"float32": 1.0, "bfloat16": 0.5}, "bfloat16"), ({"float32": 1.0, "bfloat16": 0.95}, "float32")],
)
def test_bfloat16_must_be_clearly_faster(monkeypatch, seconds, faster):
    monkeypatch.setattr(precision, "_step_seconds", lambda model, images, which: seconds[which])
    assert precision.faster_precision(["model_i_atto"], (1, 32, 32), threads=1) == faster


def test_a_step_is_timed_in_both_precisions():
    assert precision.faster_precision(["model_v_atto"], (1, 32, 32), threads=1) in precision.PRECISIONS


def test_precision_of_a_study_is_measured_once(arguments, image_folder, tmp_path, monkeypatch):
    (tmp_path / "study").mkdir()
    (tmp_path / "study" / "study.json").write_text(json.dumps({"precision": "bfloat16"}))
    monkeypatch.setattr(command, "faster_precision", None)
    args = cli._parser(arguments).parse_args([*arguments, "--precision=auto"])
    assert command._plan(args)[0].precision == "bfloat16"


def test_progress_in_a_log_is_a_line_a_run(capsys):
    progress = Progress({"a": 2.0, "b": 2.0}, epochs=2, done=1)
    result = {"model": "model_i", "seed": 0, "val_top1": 50.0, "test_top1": 49.0, "train_seconds": 3.2}
    progress.epoch("a", 0)
    progress.epoch("a", 1)
    progress.start -= 120
    progress.finished("a", result)
    progress.failed("b", "the loss is nan")
    progress.close()
    assert capsys.readouterr().out.splitlines() == [
        "[2/3] model_i seed 0: val 50.00 %, test 49.00 %, 3 s; about 2 min left",
        "b failed: the loss is nan",
    ]


def test_learning_rates_of_the_built_in_studies_were_all_tuned():
    for recipe in ("typefaces", "fashion_mnist"):
        points = command.points_of("stages", "atto")
        assert len(choose_learning_rates(points, recipe, {}, {})) == 5


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("typefases", "unknown data set or folder 'typefases'; did you mean 'typefaces'?"),
        (".", "a folder of your own needs --recipe"),
    ],
)
def test_data_without_a_recipe_is_named_first(tmp_path, capsys, data, message):
    assert cli.main(["study", f"--data={data}", f"--output={tmp_path / 'study'}"]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_absent_gpu_is_one_line_and_leaves_nothing(arguments, tmp_path, capsys):
    assert cli.main([*arguments, "--device=cuda"]) == 2
    assert "there is no GPU here" in capsys.readouterr().err
    assert not (tmp_path / "study").exists()
