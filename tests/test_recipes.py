"""The recipes: what they set, what timm makes of them, and the command that lists them."""

import random
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import stats
from timm.data import resolve_data_config

from convnext_ablation.cli import main as cli
from convnext_ablation.study.report.reported import reported_rows
from convnext_ablation.training.arguments import TrainingArguments
from convnext_ablation.training.images import EvaluatedImages, TrainingImages
from convnext_ablation.training.loaders import evaluation_loader, training_loader
from convnext_ablation.training.settings import read_recipe
from convnext_ablation.training.splits import open_split
from convnext_ablation.yaml_files import built_in

STAGES = ("model_i", "model_ii", "model_iii", "model_iv", "model_v")
AS_REPORTED = tuple(f"in1k_112_as_reported_{stage}" for stage in STAGES)
CLASSES = {
    "cub200": 200,
    "stanford_dogs": 120,
    "fgvc_aircraft": 100,
    "food101": 101,
    "flowers102": 102,
    "oxford_pets": 37,
    "stanford_cars": 196,
    "nabirds": 555,
}
FINE_TUNING = {f"{name}_{size}": size for size in (224, 448) for name in CLASSES}
DRAWN = ("characters", "diacritics", "typefaces", "typefaces_64")
NAMES = ("fashion_mnist", "in1k_112", "photographs_224", *DRAWN, *AS_REPORTED, *FINE_TUNING)


def test_every_recipe_is_listed_and_valid():
    assert list(built_in("recipes")) == sorted(NAMES)
    for name in NAMES:
        TrainingArguments(**read_recipe(name))
        header = built_in("recipes")[name].read_text().partition("\n\n")[0]
        for part in ("Command", "timm's own", "Models", "Data", "Hardware", "Time", "Accuracy"):
            assert f"\n# {part}  " in header
        assert f"recipes {name} --path" in header


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
    assert (recipe["model"], recipe["batch_size"], recipe["lr"]) == (stage, batch_size, lr)
    assert recipe["global_batch"] == 8 * batch_size
    assert (recipe["epochs"], recipe["warmup_epochs"]) == (epochs, warmup_epochs)
    assert recipe["drop_path"] == drop_path
    assert recipe.get("model_kwargs") == ({"uniform_drop_path": True} if stage == "model_v" else None)
    assert recipe["opt_kwargs"] == {"filter_bias_and_bn": False}


def test_the_fair_recipe_is_what_the_reported_ones_share():
    fair = read_recipe("in1k_112")
    varied = {"model", "model_kwargs", "batch_size", "global_batch", "lr", "epochs"}
    varied |= {"warmup_epochs", "drop_path"}
    for name in AS_REPORTED:
        reported = read_recipe(name)
        assert {key: reported[key] for key in reported.keys() - varied} == {
            key: fair[key] for key in fair.keys() - varied - {"lr_base", "lr_base_size", "lr_base_scale"}
        }


@pytest.mark.parametrize("name", ["in1k_112", *AS_REPORTED, *FINE_TUNING])
@pytest.mark.parametrize("processes", [1, 2, 4, 8])
def test_any_number_of_gpus_reaches_the_global_batch(name, processes):
    stated = TrainingArguments(**read_recipe(name))
    arguments = stated.accumulated(processes)
    images = arguments.batch_size * processes * arguments.grad_accum_steps
    assert images == 8 * arguments.batch_size == arguments.images_an_update(processes)
    assert stated.learning_rate(images) == pytest.approx(8e-3 / 2 if name == "in1k_112" else stated.lr)


@pytest.mark.parametrize("name", FINE_TUNING)
def test_fine_tuning_differs_only_in_size_and_classes(name):
    recipe = read_recipe(name)
    assert recipe.pop("input_size") == [3, FINE_TUNING[name], FINE_TUNING[name]]
    assert recipe.pop("num_classes") == CLASSES[name.rpartition("_")[0]]
    other = read_recipe("cub200_224")
    assert recipe == {key: other[key] for key in other.keys() - {"input_size", "num_classes"}}


def test_recipes_for_drawn_sets_differ_in_size_batch_epochs_and_start_alone():
    fine_tuning = {"input_size": [1, 64, 64], "batch_size": 16, "epochs": 1, "pretrained": True}
    typefaces = read_recipe("typefaces")
    assert read_recipe("characters") == {**typefaces, "epochs": 1}
    assert read_recipe("typefaces_64") == {**typefaces, **fine_tuning} == read_recipe("diacritics")


@pytest.mark.parametrize(
    ("table", "recipe_of"),
    [
        ("imagenet", lambda row: f"in1k_112_as_reported_{row['model']}"),
        ("imagenet", lambda row: "in1k_112"),
        ("finetune", lambda row: f"{row['dataset']}_{row['input_size']}"),
        ("baselines", lambda row: f"{row['dataset']}_{row['input_size']}"),
    ],
)
def test_the_figures_a_recipe_expects_are_those_that_were_reported(table, recipe_of):
    for row in reported_rows(table):
        text = built_in("recipes")[recipe_of(row)].read_text()
        assert row["top1_percent"] in text
        assert f"convnext_ablation/reported/{table}.csv" in text


def transform_of(name: str, folder: Path, training: bool):
    """The transform that training, or evaluation, applies to an image before it is collated."""
    arguments = TrainingArguments(**read_recipe(name), data_dir=str(folder), device="cpu", workers=0)
    images = open_split(arguments, "train")
    config = resolve_data_config(arguments.preprocessing())
    if training:
        dataset = TrainingImages(images, 1, 0, 0, 1)
        training_loader(dataset, arguments, config, 1, torch.device("cpu"))
    else:
        dataset = EvaluatedImages(images, 0, 1)
        evaluation_loader(dataset, arguments, config, torch.device("cpu"))
    return lambda pixels: np.asarray(dataset.transform(Image.fromarray(pixels))).transpose(1, 2, 0)


def squashed(size: int) -> np.ndarray:
    """An image in which each pixel has a colour that says where it is, (size, size, 3)."""
    y, x = np.mgrid[:size, :size]
    return np.stack([x % 256, y % 256, x // 256 + 2 * (y // 256)], axis=-1).astype(np.uint8)


def test_fine_tuning_crops_anywhere_and_flips_half_without_resampling(image_folder):
    size = 224
    pixels, transform = squashed(size * 8 // 7), transform_of("cub200_224", image_folder, training=True)
    random.seed(0)
    torch.manual_seed(0)
    corners, flips = [], 0
    for _ in range(400):
        crop = transform(pixels)
        flipped = bool(np.median(np.diff(crop[0, :9, 0].astype(int))) < 0)
        crop = crop[:, ::-1] if flipped else crop
        left, top = (int(crop[0, 0, axis]) for axis in (0, 1))
        assert np.array_equal(crop, pixels[top : top + size, left : left + size])
        corners.append((left, top))
        flips += flipped
    lefts, tops = zip(*corners, strict=True)
    for offsets in (lefts, tops):  # from the first pixel to the last, as often here as there
        counts = np.bincount(np.array(offsets) * 8 // (size // 7 + 1), minlength=8)
        assert stats.chisquare(counts).pvalue > 0.01
    assert stats.binomtest(flips, 400).pvalue > 0.01
    assert abs(stats.pearsonr(lefts, tops).statistic) < 0.15


@pytest.mark.parametrize(
    ("name", "size"), [("cub200_224", 224), ("stanford_dogs_448", 448), ("in1k_112", 112)]
)
def test_evaluation_takes_the_exact_centre(name, size, image_folder):
    pixels = squashed(size * 8 // 7)
    margin = (len(pixels) - size) // 2
    crop = transform_of(name, image_folder, training=False)(pixels)
    np.testing.assert_array_equal(crop, pixels[margin : margin + size, margin : margin + size])


def test_the_command_lists_what_each_recipe_is_for(capsys):
    assert cli.main(["recipes"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2 + len(NAMES) + 3 + len(built_in("experiments"))
    assert "fgvc_11785 " in "\n".join(lines[-len(built_in("experiments")) :])
    line = next(line for line in lines if line.startswith("cub200_448 "))
    assert line.split("  ")[-2:] == ["3x448x448", "100 + 5 of warm-up"]
    assert "CUB-200-2011 at 448, fine-tuning" in line


@pytest.mark.parametrize("name", ["in1k_112", "fgvc_11785"])
def test_the_command_prints_a_recipe_or_an_experiment_or_where_it_is(capsys, name):
    assert cli.main(["recipes", name]) == 0
    printed = capsys.readouterr().out
    assert cli.main(["recipes", name, "--path"]) == 0
    path = Path(capsys.readouterr().out.strip())
    assert path.read_text() == printed
    assert (path.name, path.is_absolute()) == (f"{name}.yaml", True)


def test_a_recipe_that_is_unknown_is_named(capsys):
    assert cli.main(["recipes", "in1k_122"]) == 2
    error = capsys.readouterr().err
    assert error == "convnext-ablation: error: unknown recipe 'in1k_122'; did you mean 'in1k_112'?\n"
