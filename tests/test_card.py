"""The model card: what it says of runs of every kind, and that the hub's own tools read it."""

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from huggingface_hub import ModelCard

from convnext_ablation.hub.card import model_card, recipe_of
from convnext_ablation.hub.finished_run import DataFacts, FinishedRun, SplitResult
from convnext_ablation.study.stats.effects import accuracy
from convnext_ablation.training.arguments import TrainingArguments
from convnext_ablation.training.history import Epoch

TEST, VALIDATION = SplitResult("test", 81.234, 95.6, 5794, False), SplitResult("val", 82.5, 96.0, 1200, True)
IMAGES = {"input_size": (3, 224, 224), "crop_pct": 0.875, "crop_mode": "center", "interpolation": "bilinear"}
IMAGES |= {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}
NAME = "model_iv.birds_224"


def run_of(results=(TEST, VALIDATION), data="birds", processes=8, by_timm=False, left_out=0, **more):
    saved = {"model": "model_iv", "epochs": 105, "lr": 0.03, "seed": 3, "val_split": "val", **more}
    facts, best = DataFacts(data, ("crow", "tern"), "ab" * 32), Epoch(97, 0.1, 0.7, 82.5, 96.0, 0.001)
    arguments, versions = TrainingArguments(**saved), {"torch": "2.9.9", "timm": "1.0.31"}
    return FinishedRun(
        *(Path("run"), arguments, saved, facts, best, 105, tuple(results), versions, processes, by_timm),
        left_out,
    )


def card_of(run, architecture="model_iv", **more):
    config = {"architecture": architecture, "num_classes": 200, "weights": {"sha256": "cd" * 32}}
    facts = {"name": NAME, "repository": f"lab/{NAME}", "parameters": 28_200_000, "gmacs": 4.5678}
    facts |= {"config": config, "images": IMAGES}
    return model_card(run, **{**facts, **more})


def test_the_hubs_tools_read_the_metadata():
    card = ModelCard(card_of(run_of(), license="cc-by-4.0"))
    assert (card.data.library_name, card.data.license) == ("timm", "cc-by-4.0")
    assert card.data.metrics == ["accuracy"]
    assert {"timm", "convnext_ablation", "image-classification"} <= set(card.data.tags)
    (model,) = card.data.to_dict()["model-index"]
    assert model["name"] == NAME
    found = {
        (each.dataset_name, each.dataset_split, each.metric_type): each.metric_value
        for each in card.data.eval_results
    }
    assert found == {
        ("birds", "test", "accuracy"): 81.234,
        ("birds", "test", "top_5_accuracy"): 95.6,
        ("birds", "val", "accuracy"): 82.5,
        ("birds", "val", "top_5_accuracy"): 96.0,
    }
    without = ModelCard(card_of(run_of(())))
    assert (without.data.license, without.data.eval_results) == (None, None)
    imagenet = ModelCard(card_of(run_of(data="imagenet"))).data
    assert imagenet.datasets == [imagenet.eval_results[0].dataset_type] == ["imagenet-1k"]


def test_intervals_are_over_images():
    interval = accuracy((np.arange(1200) < 990)[None])
    assert VALIDATION.percent == f"82.50 [{100 * interval.low:.2f}, {100 * interval.high:.2f}]"
    assert replace(VALIDATION, images=None).percent == "82.50"


def test_the_name_of_the_data_is_text():
    text = card_of(run_of(data="<img src=x> ![x](http://a)")).split("```")[0].split("\n---\n")[1]
    assert text.count(r"trained on \<img src=x> ![x\](http://a) (") == 1
    assert not re.search(r"(?<!\\)<img|(?<!\\)\]\(", text)


def test_a_network_of_timms_is_told_as_one():
    text = card_of(run_of(model="resnet18"), architecture="resnet18", name="mine", repository="")
    assert "`resnet18`, trained on birds" in text
    assert "local-dir:path/to/mine" in text
    for ours in ("import convnext_ablation", "ConvNet for the 2020s", "- convnext_ablation"):
        assert ours not in text


@pytest.mark.parametrize(
    ("run", "words"),
    [
        (
            run_of(),
            (
                "Model IV (depthwise moved up, kernel 7), trained on birds (200 classes, 224 x 224 px)",
                f"| test | 5794 | {TEST.percent} | 95.60 | read once, after training |",
                f"| val | 1200 | {VALIDATION.percent} | 96.00 | the epoch was picked on it |",
                "the figures on val are therefore too high. Judge by test.",
                "resized to 1.143 times the crop (bilinear), center crop of 224 x 224 px",
                "105 epochs, 128 x 8 processes an update, seed 3",
                "torchrun --nproc-per-node 8 train.py path/to/birds -c recipe.yaml",
                f'timm.create_model("hf-hub:lab/{NAME}", pretrained=True)',
                f"With `CONVNEXT_ABLATION_HUB=lab`, `timm.create_model('{NAME}', pretrained=True)`",
                "None is stated",
            ),
        ),
        (run_of((VALIDATION,)), ["The epoch was picked by top1 on val, which the figures are of"]),
        (run_of(left_out=2), ["left out, as they can't be decoded: 2 images"]),
        (run_of(()), ["the run was evaluated on no split"]),
        (run_of((replace(VALIDATION, images=None),)), ["there is no interval"]),
        (run_of(data="cub200"), ["22 or 23 of its test images also stand in ImageNet"]),
        (run_of(pretrained=True, model="model_i"), ["weights `model_i`, whose licence is apache-2.0"]),
        (run_of(pretrained=True, model="model_iv.cub200_448"), ["weights `model_iv.cub200_448`"]),
        (run_of(pretrained_path="/home/me/iv.safetensors"), ["weights in `iv.safetensors`"]),
        (
            run_of(processes=None, by_timm=True, amp=True),
            (
                "timm's own, under AMP in float16",
                "\npython -m convnext_ablation.stock path/to/timm/train.py path",
            ),
        ),
    ],
)
def test_the_card_says_of_a_run(run, words):
    text = card_of(run)
    assert [word for word in words if word not in text] == []
    assert "/home/me" not in text


def test_the_recipe_leaves_out_defaults_and_the_machine():
    saved = {
        "lr": 0.1,
        "smoothing": 0.1,  # the default
        "scale": [0.08, 1.0],  # the default, as YAML has it
        "output": "/home/me/runs",
        "class_map": "/home/me/classes.txt",
        "jsd_loss": True,  # timm's script alone has it
        "of_another_script": 1,
    }
    assert recipe_of(saved) == {"lr": 0.1, "class_map": "classes.txt", "jsd_loss": True}
