"""`train.py` and `validate.py` from the command line: what they write, print and refuse."""

from __future__ import annotations

import csv
import io
import json
import re
import shutil
import signal
import sys

import numpy as np
import pytest
import torch
import yaml

from convnext_ablation.cli import train as command
from convnext_ablation.cli import validate as validation
from convnext_ablation.inference import optimize_for_inference
from convnext_ablation.training import distributed
from convnext_ablation.training import validation as work
from convnext_ablation.training.arguments import TrainingArguments
from convnext_ablation.training.checkpoints import load_checkpoint, save_checkpoint
from convnext_ablation.training.history import Epoch
from convnext_ablation.training.logs import Logs
from convnext_ablation.training.predictions import Predictions


@pytest.fixture
def train(tmp_path, image_folder, recipe_file):
    def run(*more, data=image_folder, name="run"):
        arguments = [data, "-c", recipe_file, "--model", "model_i_atto", "--device", "cpu", "-j", "0"]
        arguments += ["--output", tmp_path, "--experiment", name, "--val-split", "val", "--log-interval", "3"]
        return command.main([*map(str, arguments), *map(str, more)])

    return run


@pytest.fixture(scope="module")
def finished(tmp_path_factory, image_folder, recipe_file):
    """A finished run with a test split."""
    folder = tmp_path_factory.mktemp("finished")
    arguments = [image_folder, "-c", recipe_file, "--model", "model_v_atto", "--device", "cpu", "-j", "0"]
    arguments += ["--epochs", "3", "--test-split", "test", "--output", folder, "--experiment", "run"]
    assert command.main(list(map(str, arguments))) == 0
    return folder / "run"


def test_a_run_tests_its_best_epoch_once(finished, image_folder, recipe_file, capsys):
    result = json.loads((finished / "test.json").read_text())
    predictions = Predictions.load(finished / "test_predictions.npz")
    assert (result["images"], result["split"]) == (21, "test")
    assert result["top1"] == predictions.top1
    with open(finished / "summary.csv", newline="") as file:
        top1 = [float(row["eval_top1"]) for row in csv.DictReader(file)]
    assert result["epoch"] == top1.index(max(top1))
    assert load_checkpoint(finished / "model_best.pth.tar")["epoch"] == result["epoch"]

    (finished / "test.json").write_text('{"top1": 0}')  # done before: not to be read again
    arguments = [image_folder, "-c", recipe_file, "--model", "model_v_atto", "--device", "cpu", "-j", "0"]
    arguments += ["--epochs", "3", "--test-split", "test", "--output", finished.parent]
    assert command.main([*map(str, arguments), "--experiment", "run", "--resume", "auto"]) == 0
    assert json.loads((finished / "test.json").read_text()) == {"top1": 0}
    assert "resumed from" in capsys.readouterr().out
    (finished / "test.json").write_text(json.dumps(result))


def test_the_arguments_are_written_as_they_were_used(finished):
    saved = yaml.safe_load((finished / "args.yaml").read_text())
    assert (saved["num_classes"], saved["model"], saved["epochs"]) == (3, "model_v_atto", 3)


def test_the_best_checkpoints_are_kept_under_their_epochs(train, tmp_path, capsys):
    assert train("--epochs", 4, "--checkpoint-hist", 2) == 0
    kept = {path.name for path in (tmp_path / "run").glob("checkpoint-*")}
    out = capsys.readouterr().out
    results = json.loads(out.partition("--result\n")[2])
    assert kept == {f"checkpoint-{result['epoch']}.pth.tar" for result in results[:2]}
    assert [result["validation"]["top1"] for result in results] == sorted(
        (result["validation"]["top1"] for result in results), reverse=True
    )
    assert "epoch 3: training loss" in out
    assert "images/s" in out


def test_epochs_between_evaluations_are_not_in_the_summary(train, tmp_path):
    assert train("--epochs", 5, "--val-interval", 2) == 0
    rows = (tmp_path / "run" / "summary.csv").read_text().splitlines()
    assert [row.partition(",")[0] for row in rows] == ["epoch", "1", "3", "4"]


def test_without_a_validation_split_the_training_loss_decides(train, tmp_path):
    assert train("--val-split", "", "--epochs", 2) == 0
    header, *rows = (tmp_path / "run" / "summary.csv").read_text().splitlines()
    assert header == "epoch,train_loss,lr"
    losses = [float(row.split(",")[1]) for row in rows]
    best = load_checkpoint(tmp_path / "run" / "model_best.pth.tar")
    assert best["metric"] == min(losses)


# timm warns of plateau since its own script forgets the metrics when it resumes
@pytest.mark.filterwarnings("ignore:PlateauLRScheduler is deprecated:FutureWarning")
def test_plateau_goes_on_as_if_it_was_never_interrupted(train, tmp_path, recipe_file):
    by_epoch = tmp_path / "by_epoch.yaml"
    by_epoch.write_text(recipe_file.read_text().replace("sched_on_updates: true", "sched: plateau"))
    plateau = ("-c", by_epoch, "--patience-epochs", 0, "--decay-rate", 0.5)
    plateau += ("--lr", 1e-6)  # nothing improves, so the rate falls
    assert train("--epochs", 5, *plateau, name="whole") == 0
    assert train("--epochs", 3, *plateau, name="parts") == 0
    assert train("--epochs", 5, *plateau, "--resume", "auto", name="parts") == 0
    rates = [
        [
            float(row.rpartition(",")[2])
            for row in (tmp_path / name / "summary.csv").read_text().splitlines()[1:]
        ]
        for name in ("whole", "parts")
    ]
    assert rates[0] == rates[1]
    assert rates[0][0] > rates[0][-1]


def test_fine_tuning_starts_from_weights_with_other_classes(finished, train, tmp_path, image_folder):
    data = tmp_path / "two"
    for split in ("train", "val"):
        for name in ("dark", "light"):
            shutil.copytree(image_folder / split / name, data / split / name)
    best = finished / "model_best.pth.tar"
    assert (
        train("--pretrained-path", best, "--model", "model_v_atto", "--lr", 1e-9, "--epochs", 1, data=data)
        == 0
    )
    tuned = load_checkpoint(tmp_path / "run" / "last.pth.tar")["state_dict"]
    original = load_checkpoint(best)["state_dict"]
    assert tuned["head.fc.weight"].shape[0] == 2
    torch.testing.assert_close(tuned["stem.conv.weight"], original["stem.conv.weight"], atol=1e-6, rtol=1e-4)


def test_bad_images_are_left_out_and_listed(train, tmp_path, image_folder):
    data = tmp_path / "data"
    shutil.copytree(image_folder, data)
    (data / "train" / "dark" / "02.png").write_text("text")
    (data / "val" / "light" / "01.png").write_text("text")
    assert train("--epochs", 1, data=data) == 2
    assert train("--epochs", 1, "--skip-bad-images", 2, data=data, name="without") == 0
    listed = (tmp_path / "without" / "unreadable_images.txt").read_text()
    assert "train/dark/02.png: " in listed
    assert "val/light/01.png: " in listed


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model", "model_vi"], "unknown model 'model_vi'; did you mean 'model_v"),
        (
            ["--model", "model_i_atto.in1k_112"],
            "model_i_atto.in1k_112: no public weights have this tag; set CONVNEXT_ABLATION_WEIGHTS",
        ),
        (["--model-kwargs", "kernel=7"], "model_i_atto: can't be made: .*kernel"),
        (["--opt", "sgdd"], "opt sgdd: "),
        (["--sched", "plateau"], "sched plateau: Plateau LR only supports step per epoch"),
        (["--device", "cuda"], "device is cuda, but there is no GPU here"),
        (["--device", "cpi"], "device is 'cpi'; it takes cpu or cuda"),
        (["--device-modules", "no_such_module"], "no_such_module: can't be imported"),
        (["-b", "64"], "batch size 64 is larger than the 48 training images"),
        (["--num-classes", "2"], "has 3 classes, but num_classes is 2"),
        (["--val-split", "testing"], "testing: no such folder"),
        (["--resume", "none.pth.tar"], r"none\.pth\.tar: no such checkpoint"),
        (["--pretrained-path", "none.pth"], r"none\.pth: "),
        (["--initial-checkpoint", __file__], r"test_training_command\.py: "),
        (["--lr", "1e20"], "the loss is (nan|inf) at step"),
        (["--log-wandb"], "log_wandb needs Weights & Biases; pip install wandb"),
        (["--wandb-resume-id", "x", "--log-tensorboard"], "log_tensorboard needs TensorBoard"),
    ],
)
def test_what_cannot_be_trained_is_one_line_and_exit_code_2(train, capsys, monkeypatch, arguments, message):
    for name in ("wandb", "torch.utils.tensorboard"):  # as if they weren't installed
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert train(*arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("train.py: error: ")
    assert error.count("\n") == 1
    assert re.search(message, error), error


def test_auto_resume_needs_a_name(image_folder, capsys):
    assert command.main([str(image_folder), "--device", "cpu", "--resume", "auto"]) == 2
    assert "--resume auto needs the name of the run's folder" in capsys.readouterr().err


def test_a_run_does_not_overwrite_another(finished, image_folder, recipe_file, capsys):
    before = (finished / "summary.csv").read_text()
    arguments = [image_folder, "-c", recipe_file, "--model", "model_v_atto", "--device", "cpu", "-j", "0"]
    assert command.main([*map(str, arguments), "--output", str(finished.parent), "--experiment", "run"]) == 2
    assert "holds a run already; go on with --resume auto" in capsys.readouterr().err
    assert (finished / "summary.csv").read_text() == before


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"arch": "model_ii_atto"}, "is of model_ii_atto, not of model_i_atto"),
        (
            {"optimizer": None},
            "holds weights but no optimizer; begin anew from them with --initial-checkpoint",
        ),
        ({"state_dict": {"fc": torch.ones(1)}}, "doesn't fit this run"),
    ],
)
def test_a_checkpoint_of_something_else_is_refused(train, tmp_path, capsys, change, message):
    assert train("--epochs", 1, name="first") == 0
    state = {**load_checkpoint(tmp_path / "first" / "last.pth.tar"), **change}
    path = tmp_path / "other.pth.tar"
    save_checkpoint(path, {name: value for name, value in state.items() if value is not None})
    assert train("--resume", path) == 2
    error = capsys.readouterr().err
    assert message in error
    assert not (tmp_path / "run").exists()


def test_changed_arguments_are_told_on_resuming(train, capsys):
    assert train("--epochs", 1) == 0
    assert train("--epochs", 2, "--smoothing", 0.2, "--resume", "auto") == 0
    out = capsys.readouterr().out
    assert "smoothing was 0.1 and is 0.2 now" in out
    assert "epochs was 1 and is 2 now" in out


def test_validation_takes_what_the_run_was_trained_with(finished, image_folder, tmp_path, capsys):
    best = finished / "model_best.pth.tar"
    files = {name: tmp_path / name for name in ("results.csv", "predictions.csv", "classes.csv", "p.npz")}
    arguments = [
        image_folder,
        "--split",
        "test",
        "--checkpoint",
        best,
        "--device",
        "cpu",
        "-j",
        "0",
        "-b",
        "4",
    ]
    arguments += ["--results-file", files["results.csv"], "--per-class-file", files["classes.csv"]]
    arguments += ["--predictions-file", files["predictions.csv"]]
    assert validation.main(list(map(str, arguments))) == 0
    out = capsys.readouterr().out
    assert "mean (0.5,)" in out
    expected = Predictions.load(finished / "test_predictions.npz")
    [result] = csv.DictReader(io.StringIO(files["results.csv"].read_text()))
    assert list(result) == [
        "model", "top1", "top1_err", "top5", "top5_err", "param_count", "img_size", "crop_pct",
        "interpolation",
    ]  # fmt: skip
    assert float(result["top1"]) == round(expected.top1, 4)
    rows = list(csv.DictReader(io.StringIO(files["predictions.csv"].read_text())))
    assert [row["id"] for row in rows] == expected.ids.tolist()
    assert [int(row["top1"]) for row in rows] == expected.top5[:, 0].tolist()
    classes = list(csv.DictReader(io.StringIO(files["classes.csv"].read_text())))
    assert [row["class"] for row in classes] == ["dark", "grey", "light"]
    assert np.mean([float(row["top1"]) for row in classes]) == pytest.approx(expected.top1, abs=1e-3)


def test_validation_with_the_fastest_form_says_the_same(finished, image_folder, tmp_path, monkeypatch):
    taken = []
    monkeypatch.setattr(
        work,
        "optimize_for_inference",
        lambda *args: taken.append(optimize_for_inference(*args)) or taken[0],
    )
    file = tmp_path / "predictions.npz"
    arguments = [image_folder, "--split", "test", "--checkpoint", finished / "model_best.pth.tar"]
    arguments += ["--device", "cpu", "-j", "0", "-b", "4", "--predictions-file", file, "--optimize"]
    assert validation.main(list(map(str, arguments))) == 0
    assert taken[0].choice.form == "packed"
    predictions, expected = Predictions.load(file), Predictions.load(finished / "test_predictions.npz")
    assert predictions.top5[:, 0].tolist() == expected.top5[:, 0].tolist()
    assert predictions.loss == pytest.approx(expected.loss, rel=1e-5)


def test_validation_of_a_folder_sorts_its_checkpoints(finished, image_folder, capsys):
    arguments = [image_folder, "--split", "test", "--checkpoint", finished, "--device", "cpu", "-j", "0"]
    assert validation.main([*map(str, arguments), "--reparam", "--channels-last"]) == 0
    results = json.loads(capsys.readouterr().out.partition("--result\n")[2])
    assert len(results) == len(list(finished.glob("*.pth.tar"))) >= 4
    assert [result["top1"] for result in results] == sorted((r["top1"] for r in results), reverse=True)
    assert results[0]["checkpoint"].endswith(".pth.tar")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--checkpoint", "none.pth.tar"], r"none\.pth\.tar: no such checkpoint"),
        (["--model", "model_i_atto"], "model_i_atto: nobody has published weights of it"),
        (["--model", "model_i_atto", "--split", "exam"], "exam: no such folder"),
        (["--model", "model_i_atto", "--optimize", "--amp"], "--optimize can't be combined with --amp;"),
    ],
)
def test_what_cannot_be_validated_is_one_line(image_folder, capsys, arguments, message):
    assert (
        validation.main([str(image_folder), "--split", "test", "--device", "cpu", "-j", "0", *arguments]) == 2
    )
    error = capsys.readouterr().err
    assert error.startswith("validate.py: error: ")
    assert error.count("\n") == 1
    assert re.search(message, error), error


def test_a_terminal_gets_a_bar_with_the_time_left(monkeypatch, tmp_path):
    terminal = io.StringIO()
    terminal.isatty = lambda: True
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setattr(sys, "stdout", terminal)
    console = Logs(TrainingArguments(), tmp_path)
    console.started(epochs=2, steps=10, done=5)
    for step in range(5, 10):
        console.trained(0, step, 8)
    console.update(0, 9, 1.5, 0.1)
    console.epoch(Epoch(0, 1.5, 1.0, 50.0, 90.0, 0.1))
    console.close()
    shown = terminal.getvalue()
    assert " 50%|" in shown
    assert "epoch 0, loss 1.500" in shown
    assert "epoch 0: training loss 1.5000, validation loss 1.0000, top-1 50.00 %, top-5 90.00 %" in shown


def test_a_second_interrupt_stops_at_once():
    before = signal.getsignal(signal.SIGINT)
    with command.StopRequest() as stop:
        signal.raise_signal(signal.SIGINT)
        assert stop()
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before


def test_going_on_from_an_earlier_epoch_leaves_nothing_of_the_later_ones(train, tmp_path):
    assert train("--epochs", 4) == 0
    whole = load_checkpoint(tmp_path / "run" / "last.pth.tar")
    earlier = tmp_path / "run" / "checkpoint-1.pth.tar"
    for name in ("run", "elsewhere"):
        assert train("--epochs", 4, "--resume", earlier, name=name) == 0
        folder = tmp_path / name
        again = load_checkpoint(folder / "last.pth.tar")
        assert all(torch.equal(value, again["state_dict"][key]) for key, value in whole["state_dict"].items())
        rows = (folder / "summary.csv").read_text().splitlines()
        assert [row.partition(",")[0] for row in rows] == ["epoch", "0", "1", "2", "3"]
        top1 = [float(row.split(",")[3]) for row in rows[1:]]
        best = load_checkpoint(folder / "model_best.pth.tar")
        assert best["epoch"] == top1.index(max(top1))
        assert best["metric"] == max(top1)


def test_memory_is_kept_before_anything_is_computed(monkeypatch):
    asked = []
    monkeypatch.setattr(distributed, "keep_memory", lambda: asked.append(torch.get_num_threads()))
    distributed.prepare_torch(torch.device("cpu"))
    assert len(asked) == 1
