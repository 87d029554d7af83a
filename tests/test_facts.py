"""What pages, cards, tables and files say of runs in which everything differs from its default."""

import csv
import json
import platform

import pytest
import timm
import torch
import yaml
from inline_engine import Inline
from page_reader import read

from convnext_ablation.cli import main as cli
from convnext_ablation.cli import study_run
from convnext_ablation.machine import device_name
from convnext_ablation.models.cost import count_gmacs, count_parameters
from convnext_ablation.training.arguments import ARGUMENTS

RECIPE = {
    "input_size": [3, 28, 32], "mean": [0.4, 0.5, 0.6], "std": [0.3, 0.2, 0.25], "crop_pct": 0.8,
    "interpolation": "bilinear", "train_interpolation": "bicubic", "batch_size": 4,
    "validation_batch_size": 6, "global_batch": 12, "opt": "adamw", "opt_eps": 1e-5, "weight_decay": 0.03,
    "clip_grad": 1.5, "sched": "step", "lr": 0.003, "decay_epochs": 1.0, "decay_rate": 0.5, "epochs": 2,
    "warmup_epochs": 1, "warmup_prefix": True, "smoothing": 0.05, "mixup": 0.3, "cutmix": 0.4, "reprob": 0.2,
    "drop_path": 0.15, "model_ema": True, "model_ema_decay": 0.7, "eval_metric": "loss", "val_split": "val",
    "channels_last": True, "amp": True, "amp_dtype": "bfloat16",
}  # fmt: skip
PREPROCESSING = ("input_size", "mean", "std", "crop_pct", "interpolation")
NETWORKS = ("model_ii_atto", "resnet50_with_gelu_atto")


@pytest.fixture(scope="module")
def folder(image_folder, tmp_path_factory):
    """A study of two runs with its report, and a release of one of them."""
    root = tmp_path_factory.mktemp("facts")
    (root / "odd.yaml").write_text(yaml.safe_dump(RECIPE))
    (root / "design.yaml").write_text("networks: [model_ii, {label: GELU, components: {gelu: true}}]")
    for name in NETWORKS:
        torch.save(timm.create_model(name, num_classes=3).state_dict(), root / f"{name}.pth")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(study_run, "engine_of", lambda *_: Inline())
        patch.setattr("convnext_ablation.cli.study_report.write_charts", lambda report: {})
        given = [
            f"--data={image_folder}",
            f"--recipe={root / 'odd.yaml'}",
            f"--design={root / 'design.yaml'}",
        ]
        given += ["--seeds=5", "--device=cpu", "--width=atto", "--enlarge"]
        given += [f"--init={root}/{{model}}.pth", f"--output={root / 'study'}"]
        assert cli.main(["study", *given]) == 0
    (run,) = root.glob("study/runs/*gelu*")
    assert cli.main(["publish", str(run), "--to", str(root / "release"), "--license", "mit"]) == 0
    return root


@pytest.fixture(scope="module")
def run(folder):
    """The folder of the run that is published, and its result."""
    (run,) = folder.glob("study/runs/*gelu*")
    return run, json.loads((run / "result.json").read_text())


def test_the_files_of_a_run_hold_what_its_recipe_says(run):
    assert [
        name for name, value in RECIPE.items() if ARGUMENTS[name].check(value) == ARGUMENTS[name].default
    ] == []
    saved = yaml.safe_load((run[0] / "args.yaml").read_text())
    resolved = {"num_classes": 3, "grad_accum_steps": 3, "seed": 5, "device": "cpu", "test_split": "test"}
    assert {name: saved[name] for name in {**RECIPE, **resolved}} == {**RECIPE, **resolved}
    assert (run[0] / "summary.csv").read_text().count("\n") == 1 + 3  # an epoch of warm-up before the two


def test_page_and_tables_say_what_was_done(folder, run):
    report, result = folder / "study/report", run[1]
    versions = {"torch": torch.__version__, "timm": timm.__version__, "python": platform.python_version()}
    assert versions.items() <= result["versions"].items()
    done = [
        "shades0, 3 classes, 21 test images, 28 x 32 px",
        "3 epochs from pre-trained weights, bfloat16, seed 5",
        f"{platform.node()} ({device_name('cpu')}), 1 thread",
        ", ".join(f"{name} {version}" for name, version in result["versions"].items()),
        "Measured on shades0: 3 classes, 21 test images, 28 x 32 px, 3 epochs, 1 seed.",
    ]
    markdown, page = (report / "table.md").read_text(), read(report / "index.html")[0].words()
    assert [words for words in done if words not in markdown or words not in page] == []
    with open(report / "networks.csv", newline="") as file:
        line = list(csv.DictReader(file))[1]
    model = timm.create_model(NETWORKS[1], num_classes=3)
    cost = (count_parameters(model), count_gmacs(model, (3, 28, 32)), 0.003, result["test_top1_percent"])
    shown = ("parameters", "gmacs", "learning_rate", "top1_percent")
    assert tuple(float(line[name]) for name in shown) == pytest.approx(cost)
    assert f"{result['test_top1_percent']:.2f} [" in (report / "networks.tex").read_text()


def test_the_card_says_what_was_done(folder, run):
    card, result = (folder / "release/README.md").read_text(), run[1]
    done = [
        "trained on shades0 (3 classes, 28 x 32 px): the averaged weights (EMA) after epoch "
        f"{result['best_epoch']}, counted from 0, of 3.",
        f"| test | 21 | {result['test_top1_percent']:.2f} [",
        f"| val | 15 | {result['val_top1_percent']:.2f} [",
        "The epoch was picked by loss on val",
        "resized to 1.250 times the crop (bilinear), center crop of 28 x 32 px; mean 0.4, 0.5, 0.6, standard "
        "deviation 0.3, 0.2, 0.25",
        "start: the weights in `resnet50_with_gelu_atto.pth`",
        "3 epochs, 4 x 1 processes x 3 batches added up an update, seed 5",
        f"torch {torch.__version__}",
        "published under `mit`",
    ]
    assert [words for words in done if words not in card] == []
    recipe = yaml.safe_load(card.partition("```yaml")[2].partition("```")[0])
    assert {name: recipe[name] for name in RECIPE} == RECIPE
    images = json.loads((folder / "release/config.json").read_text())["pretrained_cfg"]
    assert {name: images[name] for name in PREPROCESSING} == {name: RECIPE[name] for name in PREPROCESSING}
