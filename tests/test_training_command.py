"""`train.py` and `validate.py` from the command line: what they write, print and refuse."""

import csv
import io
import itertools
import json
import multiprocessing
import os
import re
import shutil
import signal
import sys
from functools import partial
from types import SimpleNamespace
from unittest import mock

import numpy as np
import pytest
import torch
from filelock import FileLock
from PIL import Image
from test_classification import check_files

from convnext_ablation.cli import train as train_command
from convnext_ablation.cli import validate as validate_command
from convnext_ablation.errors import UserError
from convnext_ablation.inference import optimize_for_inference
from convnext_ablation.training import distributed
from convnext_ablation.training.checkpoints import load_checkpoint, save_checkpoint
from convnext_ablation.training.history import read_summary
from convnext_ablation.training.logs import Log
from convnext_ablation.training.loop import Trainer
from convnext_ablation.training.predictions import Predictions
from convnext_ablation.training.settings import read_recipe

CPU = ("--device", "cpu", "-j", "0")


FINISHED = ("--model", "model_v_atto", "--epochs", "2", "--test-split", "test")


@pytest.fixture(scope="module")
def train(image_folder, recipe_file):
    def run(folder, *more, data=image_folder, name="run"):
        arguments = [data, "-c", recipe_file, "--model", "test_resnet", *CPU, "--log-interval", "3"]
        arguments += ["--output", folder, "--experiment", name, *more]
        return train_command.main([*map(str, arguments)])

    return run


@pytest.fixture(scope="module")
def finished(train, tmp_path_factory):
    """The folder of a run that was trained with these arguments, and tested."""
    folder = tmp_path_factory.mktemp("finished")
    assert train(folder, *FINISHED) == 0
    return folder / "run"


@pytest.fixture
def validate(image_folder):
    def run(*more):
        return validate_command.main([*map(str, (image_folder, "--split", "test", *CPU, *more))])

    return run


def one_line(capsys, program, message):
    error = capsys.readouterr().err
    assert error.startswith(f"{program}: error: ")
    assert error.count("\n") == 1
    assert re.search(message, error), error


def test_a_run_tests_its_best_epoch_once(finished, train, capsys):
    text = (finished / "test.json").read_text()
    result = json.loads(text)
    predictions = Predictions.load(finished / "test_predictions.npz")
    assert (result["images"], result["split"]) == (21, "test")
    assert result["top1_percent"] == predictions.top1
    saved = read_recipe(str(finished / "args.yaml"))
    assert (saved["num_classes"], saved["model"], saved["epochs"]) == (3, "model_v_atto", 2)
    top1 = [epoch.eval_top1 for epoch in read_summary(finished / "summary.csv")]
    assert result["epoch"] == top1.index(max(top1))
    assert load_checkpoint(finished / "model_best.pth.tar")["epoch"] == result["epoch"]

    (finished / "test.json").write_text('{"top1": 0}')  # done before: not to be read again
    assert train(finished.parent, *FINISHED, "--resume", "auto") == 0
    assert json.loads((finished / "test.json").read_text()) == {"top1": 0}
    said = capsys.readouterr().out
    assert "resumed from" in said
    assert "WARNING" not in said
    (finished / "test.json").write_text('{"epoch": 7}')  # of before the run went on
    assert train(finished.parent, *FINISHED, "--resume", "auto") == 0
    told = f"test.json is of epoch 7, and the best is {result['epoch']} now; remove it to test that\n"
    assert told in capsys.readouterr().out
    (finished / "test.json").write_text(text)


def test_a_run_does_not_overwrite_another(finished, train, capsys):
    before = (finished / "summary.csv").read_text()
    assert train(finished.parent, *FINISHED) == 2
    one_line(capsys, "train.py", "holds a run already; resume it with --resume auto")
    assert (finished / "summary.csv").read_text() == before


def test_two_cannot_train_in_one_folder(train, tmp_path, capsys):
    (tmp_path / "run").mkdir()
    with FileLock(tmp_path / "run" / ".train.lock"):
        assert train(tmp_path, "--experiment", "run") == 2
    assert "another train.py works there" in capsys.readouterr().err
    assert not (tmp_path / "run" / "args.yaml").exists()


def test_the_best_epochs_that_were_evaluated_are_kept_and_in_the_summary(train, tmp_path, capsys):
    assert train(tmp_path, "--epochs", 5, "--val-interval", 2, "--checkpoint-hist", 2) == 0
    header, *rows = (tmp_path / "run" / "summary.csv").read_text().splitlines()
    assert header == "epoch,train_loss,eval_loss,eval_top1,eval_top5,lr"
    assert [row.partition(",")[0] for row in rows] == ["1", "3", "4"]
    out = capsys.readouterr().out
    results = json.loads(out.partition("--result\n")[2])
    top1 = [result["validation"]["top1"] for result in results]
    assert top1 == sorted(top1, reverse=True)
    kept = {path.name for path in (tmp_path / "run").glob("checkpoint-*")}
    assert kept == {f"checkpoint-{result['epoch']}.pth.tar" for result in results[:2]}
    assert "epoch 3: training loss" in out
    assert "images/s" in out


def test_without_a_validation_split_the_training_loss_decides(train, tmp_path):
    assert train(tmp_path, "--val-split", "", "--epochs", 2) == 0
    header, *rows = (tmp_path / "run" / "summary.csv").read_text().splitlines()
    assert header == "epoch,train_loss,lr"
    best = load_checkpoint(tmp_path / "run" / "model_best.pth.tar")
    assert best["metric"] == min(float(row.split(",")[1]) for row in rows)


# timm warns of plateau since its own script forgets the metrics when it resumes
@pytest.mark.filterwarnings("ignore:PlateauLRScheduler is deprecated:FutureWarning")
def test_plateau_resumes_as_if_it_was_never_interrupted(train, tmp_path, recipe_file):
    by_epoch = tmp_path / "by_epoch.yaml"
    by_epoch.write_text(recipe_file.read_text().replace("sched_on_updates: true", "sched: plateau"))
    plateau = ("-c", by_epoch, "--patience-epochs", 0, "--decay-rate", 0.5)
    plateau += ("--lr", 1e-6, "--lr-noise", 0)  # nothing improves, so the rate falls
    assert train(tmp_path, "--epochs", 4, *plateau, name="whole") == 0
    assert train(tmp_path, "--epochs", 2, *plateau, name="parts") == 0
    assert train(tmp_path, "--epochs", 4, *plateau, "--resume", "auto", name="parts") == 0
    whole, parts = (read_summary(tmp_path / name / "summary.csv") for name in ("whole", "parts"))
    assert [epoch.lr for epoch in whole] == [epoch.lr for epoch in parts]
    assert whole[0].lr > whole[-1].lr


def test_timms_checkpoint_resumes_at_the_epoch_that_is_asked_for(finished, train, tmp_path):
    state = load_checkpoint(finished / "last.pth.tar")
    save_checkpoint(tmp_path / "timms.pth.tar", {"arch": "model_v_atto", "state_dict": state["state_dict"]})
    resumed = ("--resume", tmp_path / "timms.pth.tar", "--start-epoch", "1", "--no-resume-opt")
    assert train(tmp_path, *FINISHED, *resumed) == 0
    epochs = read_summary(tmp_path / "run" / "summary.csv")
    whole = read_summary(finished / "summary.csv")
    assert [(epoch.epoch, epoch.lr) for epoch in epochs] == [(epoch.epoch, epoch.lr) for epoch in whole[1:]]


def test_arguments_reach_what_timm_makes_of_them(train, tmp_path):
    given = "--fast-norm --bce-loss --bce-sum --bce-pos-weight 2 --color-jitter-prob 0.5 --grayscale-prob 0.5"
    given += " --gaussian-blur-prob 0.5 --cutmix-minmax 0.2 0.8 --layer-decay 0.9 --layer-decay-min-scale 0.5"
    given += " --head-init-scale 0 --head-init-bias -3 --model-ema --model-ema-force-cpu"
    given += " --epochs 1 --lr 1e-30 --warmup-lr 1e-30 --min-lr 1e-30"
    assert train(tmp_path, *given.split()) == 0
    [epoch] = read_summary(tmp_path / "run" / "summary.csv")
    assert epoch.eval_loss == pytest.approx(np.log(3))
    # all logits are -3: the positive class counts twice, the two others once
    assert epoch.train_loss == pytest.approx(2 * np.log1p(np.exp(3)) + 2 * np.log1p(np.exp(-3)))
    assert 0.5e-30 < epoch.lr < 1e-30


def test_fine_tuning_starts_from_weights_with_other_classes(finished, train, tmp_path, image_folder):
    data, best = tmp_path / "two", finished / "model_best.pth.tar"
    for split in ("train", "val"):
        for name in ("dark", "light"):
            shutil.copytree(image_folder / split / name, data / split / name)
    tune = ("--pretrained-path", best, "--model", "model_v_atto", "--lr", 1e-9, "--epochs", 1)
    assert train(tmp_path, *tune, data=data) == 0
    tuned = load_checkpoint(tmp_path / "run" / "last.pth.tar")["state_dict"]
    original = load_checkpoint(best)["state_dict"]
    assert tuned["head.fc.weight"].shape[0] == 2
    torch.testing.assert_close(tuned["stem.conv.weight"], original["stem.conv.weight"], atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model", "model_vi"], "unknown model 'model_vi'; did you mean 'model_v"),
        (["--model-kwargs", "kernel=7"], "test_resnet: can't be made: .*kernel"),
        (["--gp", "x"], "test_resnet: can't be made: Invalid pool type: x"),
        (["--model", "model_i_atto", "--gp", ""], "gives no logits for whole images; give another gp"),
        (["--train-crop-mode", "x"], "can't be augmented like this: "),
        (["--sched", "multistep", "--decay-milestones", "9", "3"], r"is \[9, 3\]; give them in order"),
        (["--lr-cycle-mul", "1e300", "--lr-cycle-limit", "9"], r"sched cosine \(timm \S+\): "),
        (["--smoothing", "1"], "can't be augmented like this: "),
        (["--opt", "sgdd"], "opt sgdd: "),
        (["--sched", "plateau"], r"sched plateau \(timm \S+\): Plateau LR only supports step per epoch"),
        (["--sched", "step", "--decay-epochs", "0"], "decay_epochs is 0; sched step needs a number above 0"),
        (["--sched", "none"], "sched none: give step, decay_rate 1"),
        (["--start-epoch", "2"], "start_epoch is 2, and there are 2 epochs"),
        (["--freeze", "stages=9"], "freeze is stages=9, and test_resnet has 4 stages; give a smaller number"),
        (["--scale", "1"], r"scale is \[1.0\]; it takes 2 numbers"),
        (["--mixup", "1", "-b", "7"], "batch_size is 7; mixup and cutmix need an even one"),
        (["--in-chans", "3"], r"in_chans is 3, and input_size \[1, 32, 32\]"),
        (["--input-img-mode", "RGB"], "input_img_mode RGB has not 1 channels"),
        (["--aa", "none-such"], "can't be augmented like this: Unknown AA policy"),
        (["--mean", "0.5", "0.5"], "input_size, mean, std or interpolation: "),
        (["--interpolation", "none-such"], "input_size, mean, std or interpolation: "),
        (["--opt-betas", "0.9"], "opt adamw: "),
        (["--torchcompile", "none-such"], "torchcompile none-such: "),
        (["--device", "meta"], "device meta can't be used here"),
        (
            ["--model", "model_v_atto", "--input-size", "1", "31", "40"],
            "model_v_atto: can't take images of 31 x 40 px: .*; give at least 32 px",
        ),
        (["-b", "1"], r"test_resnet: can't take images of 32 x 32 px: .*; give at least \d+ px"),
        (["--dataset", "hfds/"], "hfds/: can't be read"),
        (["--device", "cuda"], "device is cuda, but there is no GPU here"),
        (["--device-modules", "no_such_module"], "no_such_module: can't be imported"),
        (["-b", "64"], "batch size 64 x 1 processes is larger than the 48 training images"),
        (
            ["--global-batch", "64"],
            "global batch 64 is larger than the 48 training images; give a smaller global_",
        ),
        (["--scale", "1e-9", "1e-9"], r"scale is \[1e-09, 1e-09\], ratio .*: no crop .* has a pixel"),
        (["--num-classes", "9"], "has 3 classes, but num_classes is 9; give --num-classes 3"),
        (["--resume", "none.pth.tar"], r"none\.pth\.tar: no such checkpoint"),
        (["--resume", "auto", "--experiment", ""], "--resume auto needs the name of the run's folder"),
        (["--pretrained-path", "none.pth"], r"none\.pth: "),
        (["--initial-checkpoint", __file__], r"test_training_command\.py: "),
        (["--lr", "1e20"], "epoch 0, learning rate 1e.20: the loss is (nan|inf) at step"),
        (
            ["--dataset", "torch/image_folder", "--skip-bad-images", "1"],
            "skip_bad_images is 1, and .*train is",
        ),
        (["--log-wandb"], "log_wandb needs Weights & Biases; pip install wandb"),
    ],
)
def test_what_cannot_be_trained_is_one_line(train, tmp_path, capsys, monkeypatch, arguments, message):
    monkeypatch.setitem(sys.modules, "wandb", None)  # as if it weren't installed
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert train(tmp_path, *arguments) == 2
    one_line(capsys, r"train.py", message)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"arch": "model_ii_atto"}, "is of model_ii_atto, not of model_v_atto"),
        ({"optimizer": None}, "holds weights but no optimizer; start again from them with --initial-check"),
        ({"state_dict": {"fc": torch.ones(1)}, "convnext_ablation": None}, "holds no weights"),
        ({}, "a run resumes in its own folder, where it stopped, by --resume auto"),
    ],
)
def test_a_checkpoint_of_something_else_is_refused(finished, train, tmp_path, capsys, change, message):
    state = {**load_checkpoint(finished / "last.pth.tar"), **change}
    path = tmp_path / "other.pth.tar"
    save_checkpoint(path, {name: value for name, value in state.items() if value is not None})
    assert train(tmp_path, "--model", "model_v_atto", "--resume", path) == 2
    one_line(capsys, "train.py", message)
    assert not (tmp_path / "run").exists()


def test_a_run_stopped_in_its_final_test_is_tested_when_it_resumes(
    train, finished, tmp_path, monkeypatch, capsys
):
    class Stopping(Log):
        def evaluated(self, split, images, of):
            super().evaluated(split, images, of)
            if split == "test":
                signal.raise_signal(signal.SIGTERM)

    shutil.copytree(finished, tmp_path / "run", ignore=shutil.ignore_patterns("test*"))
    same = (*FINISHED, "-vb", 8, "--resume", "auto")
    with monkeypatch.context() as patched:
        patched.setattr(train_command, "Log", Stopping)
        assert train(tmp_path, *same) == 128 + signal.SIGTERM
    assert "resume with the same command and --resume auto" in capsys.readouterr().err
    assert not (tmp_path / "run" / "test.json").exists()
    assert train(tmp_path, *same) == 0
    assert (tmp_path / "run" / "test.json").read_text() == (finished / "test.json").read_text()


def test_a_run_that_is_stopped_twice_resumes_bit_identical(train, finished, tmp_path, monkeypatch, capsys):
    same = (*FINISHED, "--workers", 1, "--resume", "auto")
    for how, epoch in ((signal.SIGUSR1, 0), (signal.SIGINT, 1)):
        with monkeypatch.context() as patched:
            patched.setattr(train_command, "Log", partial(_Stopping, how, epoch))
            assert train(tmp_path, *same) == 128 + how
        assert "resume with the same command and --resume auto" in capsys.readouterr().err
        assert [path.name for path in (tmp_path / "run").glob("recovery-*")] == [
            f"recovery-{epoch}-3.pth.tar"
        ]
    assert train(tmp_path, *same) == 0
    for name in ("summary.csv", "test.json"):
        assert (tmp_path / "run" / name).read_text() == (finished / name).read_text()
    one, two = (load_checkpoint(folder / "last.pth.tar") for folder in (finished, tmp_path / "run"))
    assert all(torch.equal(value, two["state_dict"][key]) for key, value in one["state_dict"].items())
    assert not list((tmp_path / "run").glob("recovery-*"))


class _Stopping(Log):
    """Asks the run to stop in an epoch, after three batches."""

    def __init__(self, how, in_epoch, **options):
        super().__init__(**options)
        self.how, self.in_epoch = how, in_epoch

    def trained(self, epoch, step, images):
        super().trained(epoch, step, images)
        if (epoch, step) == (self.in_epoch, 2):
            for process in (*multiprocessing.active_children(), multiprocessing.current_process()):
                os.kill(process.pid, self.how)  # as a terminal or Slurm does


def test_broken_images_that_are_left_out_are_said_by_runs_that_resume_and_by_validation(
    train, validate, tmp_path, image_folder, recipe_file, monkeypatch, capsys
):
    broken = shutil.copytree(image_folder, tmp_path / "broken")
    for name in ("train/grey/03.png", "val/dark/01.png", "test/dark/02.png"):
        (broken / name).write_bytes((broken / name).read_bytes()[:200])
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(f"{recipe_file.read_text()}\nskip_bad_images: 3\n")
    same = ("-c", recipe, "--epochs", "1", "--test-split", "test")
    with monkeypatch.context() as patched:
        patched.setattr(train_command, "Log", partial(_Stopping, signal.SIGTERM, 0))
        assert train(tmp_path, *same, data=broken) == 128 + signal.SIGTERM
    capsys.readouterr()
    assert train(tmp_path, *same, "--resume", "auto", "-j", "1", data=broken) == 0
    said = capsys.readouterr().out
    assert f"{broken / 'train'}: skipped, 1 of 48 images, which can't be decoded:\n" in said
    assert said.count("grey/03.png: ") == 1
    assert "20 images, 1 left out" in said
    with open(tmp_path / "run" / "skipped.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["name"] for row in rows] == ["test/dark/02.png", "train/grey/03.png", "val/dark/01.png"]
    assert all("truncated" in row["reason"] for row in rows)
    assert json.loads((tmp_path / "run" / "test.json").read_text())["left_out"] == 1
    last = ("--checkpoint", tmp_path / "run" / "last.pth.tar", "--data-dir", broken)
    assert validate(*last, "--skip-bad-images", "1") == 0
    shown = capsys.readouterr().out
    assert "20 images (1 left out), 3 classes" in shown
    assert json.loads(shown.rpartition("--result\n")[2])["left_out"] == 1
    assert validate(*last) == 2
    one_line(capsys, "validate.py", r"dark/02\.png: can't be decoded: ")
    assert train(tmp_path, *same, "--skip-bad-images", "2", data=broken, name="more") == 2
    one_line(
        capsys,
        "train.py",
        r"more than 2 of 84 images can't be decoded: train/grey/03\.png \(.*val/dark/01\.png \(",
    )


@pytest.mark.parametrize(("more", "forms"), [([], []), (["--optimize"], ["packed"])])
def test_validation_takes_what_the_run_was_trained_with_in_either_form(
    finished, validate, tmp_path, monkeypatch, capsys, more, forms
):
    taken = []
    monkeypatch.setattr(
        validate_command,
        "optimize_for_inference",
        lambda *args: taken.append(optimize_for_inference(*args)) or taken[0],
    )
    files = [tmp_path / f"{name}.csv" for name in ("results", "predictions", "classes")]
    options = ("--results-file", "--predictions-file", "--per-class-file")
    arguments = ["--checkpoint", finished / "model_best.pth.tar", "-b", "4", *more]
    assert validate(*arguments, *itertools.chain(*zip(options, files, strict=True))) == 0
    assert [network.choice.form for network in taken] == forms
    assert "mean (0.5,)" in capsys.readouterr().out
    expected = Predictions.load(finished / "test_predictions.npz")
    [result], rows, classes = (list(csv.DictReader(io.StringIO(file.read_text()))) for file in files)
    assert list(result) == [
        "model", "top1", "top1_err", "top5", "top5_err", "param_count", "img_size", "crop_pct",
        "interpolation",
    ]  # fmt: skip
    assert float(result["top1"]) == round(expected.top1, 4)
    assert [row["id"] for row in rows] == expected.ids.tolist()
    assert [int(row["top1"]) for row in rows] == expected.top5[:, 0].tolist()
    assert [float(row["probability"]) for row in rows] == pytest.approx(expected.probability, rel=1e-5)
    assert [row["class"] for row in classes] == ["dark", "grey", "light"]
    assert np.mean([float(row["recall_percent"]) for row in classes]) == pytest.approx(
        expected.top1, abs=1e-3
    )


def test_validation_reports_scikit_learns_figures_of_a_split_whose_classes_differ_in_size(
    finished, validate, image_folder, tmp_path, capsys
):
    uneven = shutil.copytree(image_folder / "test", tmp_path / "uneven" / "test")
    shutil.rmtree(uneven / "dark")
    for number in range(4):
        (uneven / "grey" / f"0{number}.png").unlink()
    report = tmp_path / "report"
    given = ("--checkpoint", finished / "model_best.pth.tar", "--data-dir", uneven.parent)
    assert validate(*given, "--report-dir", report) == 0
    said = capsys.readouterr().out
    metrics, rows = check_files(report, 3)
    assert (len(rows), metrics["images"], metrics["classes_with_images"]) == (10, 10, 2)
    assert (metrics["model"], metrics["data"]) == ("model_v_atto", str(uneven))
    assert said.index("has no image of 'dark'") < said.index("top-1")
    balanced = (
        f"balanced (macro) accuracy {metrics['balanced_accuracy_percent']:.3f} %: mean recall of the 2 "
    )
    assert f"{balanced}classes with images; expected calibration error {metrics['ece_percent']:.3f} %" in said
    with open(report / "classes.csv", newline="") as file:
        assert [(line["class"], line["images"]) for line in csv.DictReader(file)] == [
            ("dark", "0"), ("grey", "3"), ("light", "7")
        ]  # fmt: skip
    assert {"reliability.svg", "confusion_matrix.pdf"} <= {path.name for path in report.iterdir()}
    assert validate(*given[:2]) == 0
    assert "equal to top-1 as each has as many images" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "no network is given"),
        (
            ["--model", "model_i_atto", "--report-dir", "no/where"],
            "no/where: can't be a folder; --report-dir",
        ),
        (["--model", "model_i_atto"], "model_i_atto: there are no public weights of it"),
        (["--model", "model_i_atto", "--split", "exam"], "exam: no such folder"),
        (["--model", "model_v", "--img-size", "16"], "images of 16 x 16 px: .*; give at least 32 px"),
        (["--model", "model_i_atto", "--exclude", "x.txt"], "x.txt: --exclude takes a file of image ids"),
        (["--checkpoint", "x.pth"], r"x\.pth: no such checkpoint"),
        (["--model", "model_i_atto", "--optimize", "--amp"], "--optimize can't be combined with --amp;"),
        (["--real-labels", "x"], r"real_labels is an argument of timm's validate\.py"),
    ],
)
def test_what_cannot_be_validated_is_one_line(validate, capsys, arguments, message):
    assert validate(*arguments) == 2
    one_line(capsys, "validate.py", message)


def test_a_resumed_run_goes_on_in_its_run_of_weights_and_biases(train, tmp_path, monkeypatch, capsys):
    begun, rows = [], []

    def init(**given):
        begun.append((given["id"], given["resume"]))
        return SimpleNamespace(log=rows.append)

    monkeypatch.setitem(sys.modules, "wandb", wandb := SimpleNamespace(init=init))
    for epochs in (1, 2):
        assert train(tmp_path, "--epochs", epochs, "--resume", "auto", "--log-wandb") == 0
    assert begun[0] == begun[1] == ((tmp_path / "run" / "wandb_id.txt").read_text(), "allow")
    assert [row["epoch"] for row in rows] == [0, 1]
    train(tmp_path, "--epochs", 3, "--resume", "auto", "--log-wandb", "--wandb-resume-id", "abc")
    assert begun[2] == ("abc", "allow")
    failing = {"log": lambda **given: SimpleNamespace(log=lambda row: 1 / 0), "init": lambda **given: 1 / 0}
    for name, wandb.init in failing.items():
        assert train(tmp_path, "--epochs", 1, "--log-wandb", name=name) == 0
        said = "WARNING: nothing is logged to Weights & Biases: division by zero\n"
        assert said in capsys.readouterr().out
    (tmp_path / "wandb.py").write_text("1 / 0")  # an installation that does not fit the others
    monkeypatch.delitem(sys.modules, "wandb")
    monkeypatch.syspath_prepend(tmp_path)
    assert train(tmp_path, "--epochs", 1, "--log-wandb", name="import") == 0
    assert said in capsys.readouterr().out


def test_one_process_in_a_slurm_allocation_of_several_tasks_trains_alone():
    slurm = {"SLURM_NTASKS": "4", "SLURM_PROCID": "0", "SLURM_LOCALID": "0"}
    with mock.patch.dict(os.environ, slurm):
        assert distributed.start_processes("cpu").world_size == 1
    by_srun = mock.patch.dict(os.environ, {**slurm, "SLURM_STEP_NUM_TASKS": "4"})
    with by_srun, pytest.raises(UserError, match=r"can't be joined: .*MASTER_ADDR expected, but not set"):
        distributed.start_processes("cpu")


def test_a_second_interrupt_stops_at_once():
    before = signal.getsignal(signal.SIGINT)
    with distributed.StopRequest() as stop:
        signal.raise_signal(signal.SIGINT)
        assert stop()
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (
            ["--amp"],
            "WARNING: float16 is slow on a CPU, and gradients aren't scaled; --amp-dtype bfloat16 is fast",
        ),
        (["--amp", "--amp-dtype=bfloat16"], ""),
        (
            ["--epochs=1", "--warmup-epochs=2", "--warmup-prefix"],
            "; 3 epochs (1 + 2 of warm-up before them) of 6 ",
        ),
        (["--epochs=1", "--cooldown-epochs=1"], "; 2 epochs (1 + 1 of cooldown) of 6 "),
        (["--epochs=2", "--warmup-epochs=1"], "; 2 epochs of 6 "),
        (["--epochs=1", "--lr-cycle-limit=2"], "; 2 epochs of 6 "),
    ],
)
def test_added_epochs_and_a_slow_type_are_said(train, tmp_path, capsys, monkeypatch, more, said):
    monkeypatch.setattr(Trainer, "run", lambda trainer: [])
    monkeypatch.setattr(Trainer, "test", lambda trainer: None)
    train(tmp_path, *more)
    out = capsys.readouterr().out
    assert said in out
    assert ("WARNING: float16" in out) == ("float16" in said)


@pytest.fixture
def started(train, tmp_path, monkeypatch):
    """Makes a run without training it, from a recipe for fine-tuning; gives the exit code."""

    def start(*more):
        recipe = tmp_path / "fine_tuning.yaml"
        shades = "input_size: [1, 32, 32]\nmean: [0.5]\nstd: [0.5]\nbatch_size: 8\nval_split: val\n"
        recipe.write_text(f"{shades}pretrained: true\n")
        monkeypatch.setattr(Trainer, "run", lambda trainer: models.append(trainer.model))
        monkeypatch.setattr(Trainer, "test", lambda trainer: None)
        train(tmp_path, "-c", recipe, *more)
        return bool(models)

    models = []
    return start


@pytest.mark.parametrize("model", ["model_iv_atto", "model_ii", "resnet_to_convnext_atto"])
def test_fine_tuning_without_weights_is_refused(started, capsys, model):
    assert not started("--model", model)
    message = f"{model} would start from pretrained weights, and none are published; give --pretrained-path"
    one_line(capsys, "train.py", message)


def test_fine_tuning_starts_from_the_weights_given_or_from_scratch(started, finished, capsys):
    best = finished / "model_best.pth.tar"
    for more in (["--pretrained-path", best], ["--initial-checkpoint", best], ["--from-scratch"]):
        assert started("--model", "model_v_atto", *more)
    capsys.readouterr()
    started("--model", "model_v_atto", "--from-scratch", "--pretrained-path", best)
    one_line(capsys, "train.py", "--from-scratch and --pretrained-path are both given; give one")


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ([], []),
        (
            ["--input-size", "1", "48", "48"],
            ["WARNING: .*train: the images are enlarged, from 32 px .* to 48"],
        ),
        (["--crop-pct", "0.5"], ["WARNING: .*train: the images are enlarged, from 32 px .* to 64"]),
        (
            ["--input-size", "3", "32", "32", "--mean", "0.5", "0.5", "0.5", "--std", "0.5", "0.5", "0.5"],
            [".*train: the images are grey; the network takes them as three equal channels"],
        ),
    ],
)
def test_what_is_done_to_the_images_is_said(started, capsys, more, said):
    assert started("--model", "model_v_atto", "--from-scratch", "--crop-pct", "1", *more)
    lines = [line for line in capsys.readouterr().out.splitlines() if "the images are " in line]
    assert len(lines) == len(said)
    assert all(re.fullmatch(pattern, line) for pattern, line in zip(said, lines, strict=True))


def test_photographs_become_grey_only_if_that_is_said(train, tmp_path, capsys):
    rng = np.random.default_rng(0)
    for split, name, number in itertools.product(("train", "val"), ("a", "b"), range(4)):
        path = tmp_path / "photographs" / split / name / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(path)
    call = ["--epochs", "1"]
    assert train(tmp_path, *call, data=tmp_path / "photographs") == 2
    one_line(capsys, "train.py", "the images have colour, and the network takes one .* --input-img-mode L")
    assert train(tmp_path, *call, "--input-img-mode", "L", data=tmp_path / "photographs") == 0
