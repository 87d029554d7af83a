"""The recipes: what they set, what timm makes of them, and the command that lists them."""

from __future__ import annotations

import csv
import math
import random
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from scipy import stats
from timm.data import create_loader
from timm.scheduler import create_scheduler_v2, scheduler_kwargs

from convnext_ablation.cli import main as cli
from convnext_ablation.training.recipes import read_recipe, recipe_names, recipe_path

RESULTS = Path(__file__).parents[1] / "results"
STAGES = ("model_i", "model_ii", "model_iii", "model_iv", "model_v")
AS_REPORTED = tuple(f"in1k_112_as_reported_{stage}" for stage in STAGES)
FINE_TUNING = {name: size for size in (224, 448) for name in (f"cub200_{size}", f"stanford_dogs_{size}")}
NAMES = ("fashion_mnist", "in1k_112", "typefaces", *AS_REPORTED, *FINE_TUNING)


def test_every_recipe_is_listed():
    assert recipe_names() == sorted(NAMES)


@pytest.mark.parametrize(
    ("stage", "batch_size", "lr", "epochs", "warmup_epochs", "drop_path"),
    [
        ("model_i", 512, 3e-3, 200, 0, 0.0),
        ("model_ii", 512, 4e-3, 300, 20, 0.0),
        ("model_iii", 256, 2e-3, 300, 20, 0.0),
        ("model_iv", 256, 2e-3, 300, 20, 0.0),
        ("model_v", 512, 4e-3, 300, 20, 0.1),
    ],
)
def test_each_stage_is_pre_trained_as_reported(stage, batch_size, lr, epochs, warmup_epochs, drop_path):
    recipe = read_recipe(f"in1k_112_as_reported_{stage}")
    assert recipe["model"] == stage
    assert recipe["batch_size"] == batch_size
    assert recipe["lr"] == lr
    assert (recipe["epochs"], recipe["warmup_epochs"]) == (epochs, warmup_epochs)
    assert recipe["drop_path"] == drop_path
    assert recipe.get("model_kwargs") == ({"uniform_drop_path": True} if stage == "model_v" else None)
    assert recipe["opt_kwargs"] == {"filter_bias_and_bn": False}


def test_the_fair_recipe_is_what_the_reported_ones_share():
    fair = read_recipe("in1k_112")
    varied = {"model", "model_kwargs", "batch_size", "lr", "epochs", "warmup_epochs", "drop_path"}
    for name in AS_REPORTED:
        reported = read_recipe(name)
        assert {key: reported[key] for key in reported.keys() - varied} == {
            key: fair[key] for key in fair.keys() - varied - {"lr_base", "lr_base_size", "lr_base_scale"}
        }


@pytest.mark.parametrize("name", FINE_TUNING)
def test_fine_tuning_differs_only_in_size_and_classes(name):
    recipe = read_recipe(name)
    assert recipe.pop("input_size") == [3, FINE_TUNING[name], FINE_TUNING[name]]
    assert recipe.pop("num_classes") == (200 if name.startswith("cub") else 120)
    other = read_recipe("cub200_224")
    assert recipe == {key: other[key] for key in other.keys() - {"input_size", "num_classes"}}


@pytest.mark.parametrize("name", NAMES)
def test_a_recipe_opens_with_command_hardware_time_and_accuracy(name):
    header = recipe_path(name).read_text().partition("\n\n")[0]
    for part in ("Command", "timm's own", "Models", "Data", "Hardware", "Time", "Accuracy"):
        assert f"\n# {part}  " in header
    assert f"recipes {name} --path" in header


@pytest.mark.parametrize(
    ("file", "recipe_of"),
    [
        ("reported_imagenet.csv", lambda row: f"in1k_112_as_reported_{row['model']}"),
        ("reported_imagenet.csv", lambda row: "in1k_112"),
        ("reported_finetune.csv", lambda row: f"{row['dataset']}_{row['input_size']}"),
        ("reported_baselines.csv", lambda row: f"{row['dataset']}_{row['input_size']}"),
    ],
)
def test_the_figures_a_recipe_expects_are_those_in_results(file, recipe_of):
    with open(RESULTS / file) as lines:
        for row in csv.DictReader(lines):
            text = recipe_path(recipe_of(row)).read_text()
            assert row["top1"] in text
            assert file in text


# What timm's train.py takes where a recipe says nothing.
SCHEDULE_DEFAULTS = {
    "lr_noise": None,
    "lr_cycle_mul": 1.0,
    "lr_cycle_decay": 0.5,
    "lr_cycle_limit": 1,
    "lr_k_decay": 1.0,
    "warmup_prefix": False,
    "cooldown_epochs": 0,
    "patience_epochs": 10,
    "decay_epochs": 90,
    "decay_milestones": [90, 180, 270],
    "decay_rate": 0.1,
}
TRAINING_IMAGES = {"in1k": 1281167, "cub200": 4794, "stanford": 9600, "fashion": 54000, "typefaces": 8000}


def learning_rate(recipe: dict, world_size: int) -> float:
    """What timm's train.py takes: an absolute one, or one in proportion to the global batch."""
    if "lr" in recipe:
        return recipe["lr"]
    assert recipe["lr_base_scale"] == "linear"
    return recipe["lr_base"] * (recipe["batch_size"] * world_size / recipe["lr_base_size"])


@pytest.mark.parametrize("name", NAMES)
def test_timm_follows_a_cosine_after_a_linear_warm_up(name):
    recipe = read_recipe(name)
    world_size = 1 if name in ("fashion_mnist", "typefaces") else 8
    updates_per_epoch = TRAINING_IMAGES[name.split("_")[0]] // (recipe["batch_size"] * world_size)
    lr = learning_rate(recipe, world_size)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=lr)
    scheduler, epochs = create_scheduler_v2(
        optimizer,
        **scheduler_kwargs(SimpleNamespace(**{**SCHEDULE_DEFAULTS, **recipe})),
        updates_per_epoch=updates_per_epoch,
    )
    curve = []
    for epoch in range(epochs):  # as the script drives it
        for update in range(updates_per_epoch):
            curve.append(optimizer.param_groups[0]["lr"])
            scheduler.step_update(num_updates=epoch * updates_per_epoch + update + 1, metric=0.0)
        scheduler.step(epoch + 1, 0.0)

    warm_up = recipe["warmup_epochs"] * updates_per_epoch
    decay = recipe["epochs"] * updates_per_epoch
    step = np.arange(warm_up + decay)
    expected = np.where(
        step < warm_up,
        lr * step / max(warm_up, 1),
        lr * (1 + np.cos(math.pi * (step - warm_up) / decay)) / 2,
    )
    assert len(curve) == len(expected)
    np.testing.assert_allclose(curve, expected, rtol=0, atol=1e-12)


def test_the_fair_recipe_takes_the_reported_learning_rates_where_batches_are_equal():
    assert learning_rate(read_recipe("in1k_112"), world_size=8) == pytest.approx(4e-3)  # Models II and V
    assert learning_rate({**read_recipe("in1k_112"), "batch_size": 256}, 8) == pytest.approx(2e-3)  # III, IV


class OneImage(torch.utils.data.Dataset):
    """Looks like a data set of timm's; the loader sets its transform."""

    transform = None

    def __len__(self):
        return 1


def transform_of(recipe: dict, is_training: bool):
    """The transform that timm's loader applies before images are collated."""
    dataset = OneImage()
    create_loader(
        dataset,
        input_size=tuple(recipe["input_size"]),
        batch_size=1,
        is_training=is_training,
        scale=recipe["scale"],
        ratio=recipe["ratio"],
        hflip=recipe["hflip"],
        color_jitter=recipe["color_jitter"],
        interpolation=recipe["train_interpolation"] if is_training else recipe["interpolation"],
        crop_pct=recipe["crop_pct"],
        mean=recipe["mean"],
        std=recipe["std"],
        num_workers=0,
        persistent_workers=False,
        device=torch.device("cpu"),
    )
    return dataset.transform


def pixels_of(transformed) -> np.ndarray:
    """(C, H, W), an array or a tensor by timm's version, to (H, W, C)."""
    assert transformed.dtype in (np.uint8, torch.uint8)
    return np.asarray(transformed).transpose(1, 2, 0)


def squashed(size: int) -> np.ndarray:
    """An image in which each pixel has a colour that says where it is, (size, size, 3)."""
    y, x = np.mgrid[:size, :size]
    return np.stack([x % 256, y % 256, x // 256 + 2 * (y // 256)], axis=-1).astype(np.uint8)


@pytest.mark.parametrize("name", ["cub200_224", "cub200_448"])
def test_fine_tuning_crops_anywhere_and_flips_half_without_resampling(name):
    size = FINE_TUNING[name]
    pixels = squashed(size * 8 // 7)
    image, transform = Image.fromarray(pixels), transform_of(read_recipe(name), is_training=True)
    random.seed(0)
    torch.manual_seed(0)
    lefts, tops, flips = [], [], 0
    for _ in range(1200):
        crop = pixels_of(transform(image))
        flipped = bool(np.median(np.diff(crop[0, :9, 0].astype(int))) < 0)
        crop = crop[:, ::-1] if flipped else crop
        left, top = (int(crop[0, 0, axis]) for axis in (0, 1))
        assert np.array_equal(crop, pixels[top : top + size, left : left + size])
        lefts.append(left)
        tops.append(top)
        flips += flipped
    for offsets in (lefts, tops):
        counts = np.bincount(offsets, minlength=size // 7 + 1)
        assert len(counts) == size // 7 + 1  # from the first pixel to the last
        assert counts.min() > 0
        assert stats.chisquare(counts).pvalue > 0.01
    assert stats.binomtest(flips, 1200).pvalue > 0.01
    assert abs(stats.pearsonr(lefts, tops).statistic) < 0.1


@pytest.mark.parametrize("name", FINE_TUNING)
def test_fine_tuning_is_evaluated_on_the_exact_centre(name):
    size = FINE_TUNING[name]
    pixels, margin = squashed(size * 8 // 7), size // 14
    crop = pixels_of(transform_of(read_recipe(name), is_training=False)(Image.fromarray(pixels)))
    np.testing.assert_array_equal(crop, pixels[margin : margin + size, margin : margin + size])


def test_pre_training_is_evaluated_on_the_centre_of_128_pixels():
    recipe = {**read_recipe("in1k_112"), "scale": None, "ratio": None, "hflip": 0.5}
    pixels = squashed(128)
    crop = pixels_of(transform_of(recipe, is_training=False)(Image.fromarray(pixels)))
    np.testing.assert_array_equal(crop, pixels[8:120, 8:120])


def test_the_command_lists_what_each_recipe_is_for(capsys):
    assert cli.main(["recipes"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 1 + len(NAMES)
    line = next(line for line in lines if line.startswith("cub200_448 "))
    assert line.split("  ")[-2:] == ["3x448x448", "100 + 5 of warm-up"]
    assert "CUB-200-2011 at 448, fine-tuning" in line


def test_the_command_prints_a_recipe_or_where_it_is(capsys):
    assert cli.main(["recipes", "in1k_112"]) == 0
    printed = capsys.readouterr().out
    assert cli.main(["recipes", "in1k_112", "--path"]) == 0
    path = Path(capsys.readouterr().out.strip())
    assert path.is_absolute()
    assert path.read_text() == printed
    assert yaml.safe_load(printed) == read_recipe("in1k_112")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["in1k_122"], "unknown recipe 'in1k_122'; did you mean 'in1k_112'?"),
        (["../setup.cfg", "--path"], "unknown recipe '../setup.cfg'; known: cub200_224"),
        (["--path"], "--path needs the name of a recipe"),
    ],
)
def test_a_recipe_that_is_not_there_is_one_line(capsys, arguments, message):
    assert cli.main(["recipes", *arguments]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"convnext-ablation: error: {message}")
    assert error.count("\n") == 1
