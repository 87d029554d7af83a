"""The command lines: timm's names, types and defaults, and one line for what is wrong."""

import importlib.util
import math
import os
from pathlib import Path

import pytest
import torch

from convnext_ablation.cli import asked
from convnext_ablation.cli.main import parsed
from convnext_ablation.errors import UserError
from convnext_ablation.training import network, settings, trained_arguments
from convnext_ablation.training.arguments import ARGUMENTS, RETIRED, TrainingArguments
from convnext_ablation.training.checks import dry_run
from convnext_ablation.training.settings import known_settings, read_recipe
from convnext_ablation.training.trained import TrainedWeights

OURS = {
    "class_weights", "early_stopping", "freeze", "global_batch", "sampler", "skip_bad_images", "test_split",
}  # fmt: skip
OURS_IN_VALIDATION = {
    "exclude", "optimize", "per_class_file", "predictions_file", "report_dir", "skip_bad_images",
}  # fmt: skip


def timms_script(name):
    folder = os.environ.get("TIMM_REPO")
    if not folder:
        pytest.skip("TIMM_REPO doesn't name a checkout of timm's repository")
    spec = importlib.util.spec_from_file_location(f"timms_{name}", Path(folder) / f"{name}.py")
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    return {action.dest: action for action in script.parser._actions if action.dest != "help"}


def same_default(ours, timms):
    return (list(ours) if isinstance(ours, tuple) else ours) == timms


def test_arguments_have_the_names_types_and_defaults_of_timms_train_script():
    timms = timms_script("train")
    of_before = {"log_tensorboard"}
    assert set(timms) - set(ARGUMENTS) == {*settings.TIMM_ONLY, *settings.WITHOUT_EFFECT} - of_before
    assert set(ARGUMENTS) - set(timms) == OURS
    known_settings({name: action.default for name, action in timms.items()}, "timm's defaults")
    for name, action in timms.items():
        if name not in ARGUMENTS:
            continue
        ours = ARGUMENTS[name]
        cores = len(os.sched_getaffinity(0))
        expected = min(action.default, cores) if name == "workers" else action.default
        assert same_default(ours.default, expected), name
        assert action.type in (None, ours.kind), name
        if ours.kind is not dict and name != "torchcompile":
            assert ours.several == (action.nargs in ("+", 3)), name
        options = [option for option in action.option_strings if option.startswith("--")]
        assert "--" + name.replace("_", "-") in options, name


def test_arguments_have_the_names_and_types_of_timms_validate_script():
    timms, ours = timms_script("validate"), trained_arguments.VALIDATION_ARGUMENTS
    assert set(timms) - set(ours) == {*trained_arguments.TIMM_ONLY, "data"}  # the folder by position
    assert set(ours) - set(timms) - OURS_IN_VALIDATION - {"data_dir"} == set()
    for name in set(timms) & set(ours) - {"model"}:  # ours takes the checkpoint's
        expected = ours[name].default if name == "workers" else timms[name].default
        assert same_default(ours[name].default, expected), name
        assert timms[name].type in (None, ours[name].kind), name


def test_the_command_line_goes_before_the_file(tmp_path):
    file = tmp_path / "recipe.yaml"
    file.write_text("lr: 0.1\nepochs: 7\nmean: [0.5, 0.5, 0.5]\namp: true\nscale: [1, 1]\n")
    words = f"data/x -c {file} --lr 0.2 -b 16 --model-kwargs inverted=True kernel_size=7"
    arguments = asked.train(parsed(words.split(), "train.py"))
    assert (arguments.lr, arguments.epochs, arguments.amp) == (0.2, 7, True)
    assert (arguments.mean, arguments.scale) == ((0.5, 0.5, 0.5), (1.0, 1.0))
    assert (arguments.data_dir, arguments.batch_size) == ("data/x", 16)
    assert arguments.model_kwargs == {"inverted": True, "kernel_size": 7}
    assert arguments.warmup_lr == 1e-5
    by_name = asked.train(parsed(["-c", "fashion_mnist", "--torchcompile"], "train.py"))
    assert (by_name.input_size, by_name.torchcompile) == ((1, 32, 32), "inductor")


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--epoch", "3"], r"unknown argument '--epoch'; did you mean '--epochs'"),
        (["--jsd-loss"], r"jsd_loss is an argument of timm's train.py that .*; run timm's with `"),
        (["--epochs", "many"], r"argument --epochs: invalid int value: 'many'"),
        (["--input-size", "3", "224"], r"input_size is \[3, 224\]; give channels, height and width"),
        (["--clip-mode", "nrom"], r"unknown clip_mode 'nrom'; did you mean 'norm'"),
        (["--batch-size", "0"], r"batch_size is 0; it must be at least 1"),
        (["--amp", "--model-dtype", "bfloat16"], r"model_dtype is bfloat16; amp needs float32"),
        (["-c", "cub2000_224"], r"unknown recipe 'cub2000_224'; did you mean 'cub200_224'"),
        (["--lr", "-1.0"], r"lr is -1\.0; it must be at least 0"),
        (["--class-weights", "balanced", "--sampler", "balanced"], "class_weights and sampler both"),
        (["--class-weights", "balanced", "--bce-loss"], "class_weights don't go with bce_loss; leave that"),
        (["--sampler", "balance"], "unknown sampler 'balance'; did you mean 'balanced'"),
        (["--early-stopping", "3", "--val-split", ""], "early_stopping is 3; it needs a val_split"),
        (
            ["--sched", "plateau", "--early-stopping", "11"],
            "early_stopping is 11, and plateau lowers the learning rate only after 11 evaluations",
        ),
    ],
)
def test_a_bad_command_line_is_one_line(argv, message):
    with pytest.raises(UserError, match=message) as caught:
        asked.train(parsed(argv, "train.py"))
    assert "\n" not in str(caught.value)


def test_a_name_that_a_recipe_misspells_is_told(tmp_path):
    (tmp_path / "recipe.yaml").write_text("epoch: 3\n")
    with pytest.raises(UserError, match="did you mean 'epochs'"):
        read_recipe(str(tmp_path / "recipe.yaml"))


NUMBERS = {name: each for name, each in ARGUMENTS.items() if each.kind in (int, float)}


def just_beyond(known):
    """Numbers that lie outside an argument's range, the nearest ones."""
    low, high = map(float, (known.within or "(-inf, inf)")[1:-1].split(","))
    step = 1 if known.kind is int else 1e-6
    beyond = [low if known.within.startswith("(") else low - step, high + step]
    beyond = [known.kind(number) for number in beyond if math.isfinite(number)]
    return beyond + ([10**30] if known.kind is int else [math.nan, -math.inf])


@pytest.mark.parametrize("name", NUMBERS)
def test_a_number_outside_its_range_is_one_line(name):
    known = NUMBERS[name]
    for number in just_beyond(known):
        value = [number] * (known.length or 3) if known.several else number
        with pytest.raises(UserError, match=rf"^{name} is .*; it (must be|takes) ") as caught:
            TrainingArguments(**{name: value})
        assert len(str(caught.value)) < 120


def test_help_gives_ranges(capsys):
    with pytest.raises(SystemExit):
        asked.train(parsed(["--help"], "train.py"))
    text = " ".join(capsys.readouterr().out.split())
    assert "probability of a horizontal flip (default: 0.5; range: [0, 1])" in text


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"lr": "4e-3"}, r"lr is '4e-3'; it takes a number; YAML reads 4e-3 as text, write 4.0e-3"),
        ({"epochs": 3.5}, "epochs is 3.5; it takes a whole number"),
        ({"amp": "yes"}, "amp is 'yes'; it takes true or false"),
        ({"mean": 0.5}, "mean is 0.5; it takes a list"),
    ],
)
def test_values_of_another_type_are_refused(settings, message):
    with pytest.raises(UserError, match=message):
        TrainingArguments(**settings)


def test_a_schedule_that_torch_has_outgrown_is_one_line_with_a_way_out(monkeypatch):
    def made(*args, **kwargs):
        raise TypeError("__init__() got an unexpected keyword argument 'verbose'")

    monkeypatch.setattr(network, "create_scheduler_v2", made)
    message = r"sched plateau \(timm .*'verbose'; pip install 'timm>=1\.0\.23', or give another sched"
    with pytest.raises(UserError, match=message):
        dry_run(TrainingArguments(model="test_resnet", sched="plateau", device="cpu"))


def test_channels_without_a_size_are_one_line():
    with pytest.raises(UserError, match=r"have the 3 channels of the network's own; give --input-size 1 HEI"):
        dry_run(TrainingArguments(model="test_resnet", in_chans=1, device="cpu"))


def test_settings_of_timms_script_are_accepted_where_they_change_nothing():
    given = {"epochs": 3, "naflex_loader": False, "naflex_max_seq_len": 576, "tta": 0, **RETIRED}
    assert known_settings(given, "args.yaml") == {"epochs": 3}
    for name, value in {"tta": 2, "train_num_samples": 9}.items():
        with pytest.raises(UserError, match=rf"args\.yaml: {name} is an argument of timm's train\.py"):
            known_settings({name: value}, "args.yaml")


@pytest.mark.parametrize(
    ("settings", "rate"),
    [
        ({"lr": 0.3, "decay_epochs": 0.0, "decay_milestones": (9, 3)}, 0.3),
        ({"lr": 0}, 0.0),
        ({"opt": "sgd"}, 0.1 * 1024 / 256),
        ({"opt": "adamw"}, 0.1 * (1024 / 256) ** 0.5),
        ({"opt": "lamb", "lr_base_scale": "linear", "lr_base": 4e-3, "lr_base_size": 4096}, 1e-3),
    ],
)
def test_the_learning_rate_follows_timms_rule(settings, rate):
    assert TrainingArguments(**settings).learning_rate(1024) == pytest.approx(rate)


@pytest.mark.parametrize(
    ("batch_size", "processes", "steps"), [(16, 1, 8), (16, 4, 2), (16, 8, 1), (32, 2, 2), (128, 1, 1)]
)
def test_batches_are_accumulated_up_to_the_global_batch(batch_size, processes, steps):
    arguments = TrainingArguments(batch_size=batch_size, global_batch=128)
    assert arguments.accumulated(processes).grad_accum_steps == steps
    assert arguments.images_an_update(processes) == 128
    without = TrainingArguments(batch_size=batch_size, grad_accum_steps=3)
    assert without.accumulated(processes) == without
    assert without.images_an_update(processes) == 3 * batch_size * processes


@pytest.mark.parametrize(
    ("settings", "processes", "message"),
    [
        ({"batch_size": 16}, 3, "global_batch is 128, no multiple of batch_size 16 x 3 processes = 48; "),
        ({"batch_size": 256}, 1, "global_batch is 128, no multiple of batch_size 256 x 1 process = 256; "),
        ({"batch_size": 16, "grad_accum_steps": 4}, 1, "but grad_accum_steps is 4; leave that out"),
    ],
)
def test_a_global_batch_that_cannot_be_reached_is_refused(settings, processes, message):
    with pytest.raises(UserError, match=message):
        TrainingArguments(**settings, global_batch=128).accumulated(processes)


def test_weights_of_a_run_are_used_with_its_colours(tmp_path):
    saved = {"num_classes": 2, "input_img_mode": "HSV"}
    torch.save({"arch": "model_i_atto", "state_dict": {}, "args": saved}, tmp_path / "a.pth")
    asked = trained_arguments.ValidationArguments.of({"checkpoint": str(tmp_path / "a.pth")})
    weights = TrainedWeights(asked)
    assert weights.arguments.image_mode == "HSV"
    assert "input_img_mode HSV" in weights.taken
