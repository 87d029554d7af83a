"""How far two processes agree with one: exactly in what they count, by rounding in what they learn."""

import json
import shutil

import numpy as np
import pytest
import torch
from two_processes import finished, start, train, train_cases

import convnext_ablation  # noqa: F401  registers the networks
from convnext_ablation.training.arguments import TrainingArguments
from convnext_ablation.training.checkpoints import load_checkpoint
from convnext_ablation.training.distributed import make_deterministic
from convnext_ablation.training.history import LAST
from convnext_ablation.training.loop import Trainer
from convnext_ablation.training.predictions import Predictions
from convnext_ablation.training.settings import read_recipe

PLAIN = {"opt": "momentum", "lr": 0.05, "epochs": 2, "clip_grad": 1.0, "batch_size": 4, "seed": 5}
SMALL = {**PLAIN, "model": "test_convnext", "batch_size": 2}
TRAINING = {
    # LayerNorm looks at one image, so nothing but the order of sums can differ
    "layer norm": {**PLAIN, "epochs": 1, "model": "model_v_atto", "model_kwargs": {"layer_scale_init": 1.0}},
    "accumulated": {**SMALL, "grad_accum_steps": 2, "model_ema": True, "model_ema_decay": 0.5},
    "class weights": {**SMALL, "class_weights": "balanced", "grad_accum_steps": 3},
    "frozen": {**PLAIN, "model": "model_v_atto", "epochs": 1, "freeze": "stages=2", "batch_size": 2},
    "begun": {**PLAIN, "model": "test_convnext", "epochs": 1, "sched": "step"},
    "sampler": {**SMALL, "sampler": "balanced", "epochs": 1},
    "global batch": {**SMALL, "global_batch": 16},
    "stops early": {**PLAIN, "model": "test_convnext", "lr": 1e-30, "epochs": 9, "early_stopping": 1},
    # weights that stand still: what BatchNorm notes down of its inputs is compared
    "batch norm": {**PLAIN, "model": "model_i_atto", "lr": 1e-12, "epochs": 1, "no_ddp_bb": True},
}
UNBALANCED = ("class weights", "sampler")
EVALUATION = {"validation_batch_size": 4}
BROKEN = ["test/dark/02.png", "train/dark/00.png", "train/grey/03.png", "val/light/04.png"]


def settings(image_folder, recipe_file, **changes):
    return {
        **read_recipe(str(recipe_file)),
        "model": "model_i_atto",
        "data_dir": str(image_folder),
        "device": "cpu",
        "workers": 0,
        "test_split": "test",
        **changes,
    }


def train_together(folder, processes, **cases):
    """Has processes train by each case, and evaluate by that called ``test``; returns the folder."""
    (folder / "cases.json").write_text(json.dumps(cases))
    agent = start(folder / "log", train_cases, folder, processes=processes)
    output = finished(agent, folder / "log")
    assert agent.exitcode == 0, output
    return folder


@pytest.fixture(scope="module")
def cases(image_folder, unbalanced_folder, recipe_file):
    """The settings of each training, and of the evaluation."""
    return {
        name: settings(unbalanced_folder if name in UNBALANCED else image_folder, recipe_file, **case)
        for name, case in {**TRAINING, "test": EVALUATION}.items()
    }


@pytest.fixture(scope="module")
def together(tmp_path_factory, cases):
    """Folder with what two processes left: a run for each training, predictions for each evaluation."""
    return train_together(tmp_path_factory.mktemp("together"), 2, **cases)


@pytest.fixture
def alone(tmp_path, cases):
    """Trains with one process on batches twice as large, and returns its last checkpoint."""

    def train(name, **changes):
        make_deterministic(threads=1)
        case = {**cases[name], "batch_size": 2 * cases[name]["batch_size"], **changes}
        trainer = Trainer(TrainingArguments(**case), tmp_path)
        trainer.run()
        return load_checkpoint(tmp_path / LAST)

    return train


@pytest.mark.parametrize("name", sorted(set(TRAINING) - {"begun", "stops early", "batch norm"}))
def test_two_processes_learn_what_one_with_twice_the_batch_learns(together, alone, name):
    one, two = alone(name), load_checkpoint(together / name / LAST)
    for entry in {"state_dict", "state_dict_ema"} & set(one):
        for key, value in one[entry].items():
            torch.testing.assert_close(two[entry][key], value, rtol=1e-3, atol=2e-5, msg=f"{entry} {key}")
    for mine, other in zip(
        two["convnext_ablation"]["history"], one["convnext_ablation"]["history"], strict=True
    ):
        assert mine["train_loss"] == pytest.approx(other["train_loss"], rel=1e-4)
        assert mine["eval_loss"] == pytest.approx(other["eval_loss"], rel=1e-4)
        assert mine["eval_top1"] == other["eval_top1"]
        assert mine["images"] == other["images"] == (28 if name in UNBALANCED else 48)


def test_three_processes_that_resume_learn_what_they_would_have_bit_for_bit(
    tmp_path, image_folder, recipe_file
):
    plain = settings(image_folder, recipe_file, **PLAIN, model="model_v_atto", sched="step")
    train_together(tmp_path, 3, whole=plain, resumed={**plain, "epochs": 1})
    train_together(tmp_path, 3, resumed={**plain, "resume": "auto"})
    whole, resumed = (load_checkpoint(tmp_path / name / LAST) for name in ("whole", "resumed"))
    assert whole["state_dict"].keys() == resumed["state_dict"].keys()
    for name, value in whole["state_dict"].items():
        assert torch.equal(value, resumed["state_dict"][name]), name
    losses = [
        [past["train_loss"] for past in state["convnext_ablation"]["history"]] for state in (whole, resumed)
    ]
    assert losses[0] == losses[1]


def test_batch_norm_statistics_of_two_processes_are_those_of_one_as_far_as_halves_tell(together, alone):
    one = alone("batch norm")["state_dict"]
    two = load_checkpoint(together / "batch norm" / LAST)["state_dict"]
    # behind the first conv the mean of two halves' means is the whole's mean ...
    torch.testing.assert_close(
        two["stem.norm.running_mean"], one["stem.norm.running_mean"], rtol=1e-4, atol=1e-5
    )
    # ... and their variances lack what lies between the halves: some, but not much
    ratio = two["stem.norm.running_var"] / one["stem.norm.running_var"]
    assert not torch.equal(two["stem.norm.running_var"], one["stem.norm.running_var"])
    assert 0.8 < ratio.min() < ratio.max() < 1.2


def test_one_process_goes_on_with_the_updates_of_two(together, alone, cases, tmp_path):
    one = alone("begun", epochs=2)
    shutil.copytree(together / "begun", tmp_path / "begun")
    resumed = TrainingArguments(
        **{**cases["begun"], "epochs": 2, "batch_size": 4, "grad_accum_steps": 2, "resume": "auto"}
    )
    Trainer(resumed, tmp_path / "begun").run()
    state = load_checkpoint(tmp_path / "begun" / LAST)
    for name, value in one["state_dict"].items():
        torch.testing.assert_close(state["state_dict"][name], value, rtol=1e-3, atol=2e-5, msg=name)


def test_two_processes_stop_early_together(together):
    assert load_checkpoint(together / "stops early" / LAST)["epoch"] == 1  # the second


def test_two_processes_count_every_image_once(together, tmp_path, image_folder, recipe_file):
    make_deterministic(threads=1)
    case = settings(image_folder, recipe_file, **EVALUATION)
    one = Trainer(TrainingArguments(**case), tmp_path).evaluate("test")
    two = Predictions.load(together / "test.npz")
    assert len(two.ids) == len(set(two.ids.tolist())) == 21
    assert np.array_equal(two.ids, one.ids)
    assert np.array_equal(two.targets, one.targets)
    assert np.array_equal(two.top5, one.top5)
    assert two.loss == pytest.approx(one.loss, rel=1e-5)


@pytest.fixture(scope="module")
def of_three(tmp_path_factory, image_folder, recipe_file):
    """Folder with the runs of three processes: with broken images, without these, and of all images."""
    folder = tmp_path_factory.mktemp("three")
    roots = {"broken": folder / "broken", "without": folder / "without"}
    for root in roots.values():
        shutil.copytree(image_folder, root)
    for name in BROKEN:
        (roots["broken"] / name).write_bytes(b"not an image")
        (roots["without"] / name).unlink()
    once = {"epochs": 1, "model": "test_convnext"}
    tolerant = {**once, "batch_size": 8, "skip_bad_images": len(BROKEN)}
    cases = {name: settings(root, recipe_file, **tolerant) for name, root in roots.items()}
    cases |= dict.fromkeys(("run", "test"), settings(image_folder, recipe_file, **once, batch_size=4))
    return train_together(folder, 3, **cases)


def test_three_processes_count_every_image_once(of_three, image_folder):
    ids = Predictions.load(of_three / "test.npz").ids.tolist()
    assert len(ids) == len(set(ids)) == 21
    [epoch] = load_checkpoint(of_three / "run" / LAST)["convnext_ablation"]["history"]
    assert epoch["images"] == len(list(image_folder.glob("train/*/*"))) // 12 * 12


def test_three_processes_leave_broken_images_out_as_if_they_were_not_there(of_three):
    broken, without = of_three / "broken", of_three / "without"
    one, other = (load_checkpoint(root / LAST) for root in (broken, without))
    assert all(torch.equal(value, other["state_dict"][key]) for key, value in one["state_dict"].items())
    [judged], [expected] = (state["convnext_ablation"]["history"] for state in (one, other))
    assert (judged["eval_top1"], judged["eval_loss"]) == (expected["eval_top1"], expected["eval_loss"])
    rows = (broken / "skipped.csv").read_text().splitlines()
    assert rows == ["name,reason", *(f"{name},cannot identify image file" for name in BROKEN)]
    assert not (without / "skipped.csv").exists()


@pytest.mark.parametrize(("processes", "left_out"), [(2, 0), (3, 1)])
def test_a_broken_image_ends_all_processes_and_is_named_once(
    image_folder, recipe_file, tmp_path, processes, left_out
):
    root = tmp_path / "data"
    shutil.copytree(image_folder, root)
    broken = BROKEN[2 - left_out : 3]
    for name in broken:
        (root / name).write_bytes(b"not an image")
    command = [str(root), "-c", str(recipe_file), "--model", "test_resnet", "--device", "cpu", "-j", "0"]
    command += ["--skip-bad-images", str(left_out)]
    agent = start(tmp_path / "log", train, *command, "--output", str(tmp_path), processes=processes)
    output = finished(agent, tmp_path / "log")
    assert agent.exitcode != 0
    said = [line for line in output.splitlines() if line.startswith("train.py: error")]
    assert len(said) == 1
    if left_out:
        assert "more than 1 of 63 images can't be decoded" in said[0]
        assert all(f" {name} (cannot identify image file)" in said[0] for name in broken)
    else:
        assert "grey/03.png: can't be decoded" in said[0]
