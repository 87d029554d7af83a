from __future__ import annotations

import gc
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

gc.disable()  # until all tests are collected
os.fsync = lambda file: None  # what tests write need not survive a power failure; 10 ms and more a file

if TYPE_CHECKING:  # the process that only hands tests to others needs none of this
    from page_reader import Reader

    from convnext_ablation.study.report.contents import Contents

CLASSES = ("dark", "grey", "light")
COUNTS = {"train": 16, "val": 5, "test": 7}  # a class; no multiple of the batch size
# of processes that tests start: their threads would get in each other's way
ONE_THREAD = {**os.environ, "OMP_NUM_THREADS": "1"}
# the longest first
SLOW_MODULES = (
    "test_timm_suite",
    "test_study_clusters",
    "test_study_running",
    "test_docs_run",
    "test_checkpoint_layouts",
    "test_study_phases",
    "test_study_plan_command",
    "test_export",
    "test_predict",
    "test_training_command",
    "test_study_official",
    "test_study_command",
    "test_training_killed",
    "test_training_distributed",
    "test_study_experiment_report",
    "test_publish",
    "test_fuzz",
    "test_study_recipe",
    "test_weights",
    "test_network",
    "test_network_property",
    "test_training_workers",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Starts with what takes longest, so that no process is left alone with it at the end."""
    rank = {name: place for place, name in enumerate(SLOW_MODULES)}
    items.sort(key=lambda item: rank.get(item.path.stem, len(rank)))


def pytest_collection_finish() -> None:
    """Keeps all that was imported out of the garbage collector's way, which takes an eighth of the time."""
    gc.enable()
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def _torch_as_it_was():
    """Training sets threads, algorithms and norms of the whole process; no test shall see another's."""
    import torch
    from timm.layers import set_fast_norm

    threads = torch.get_num_threads()
    yield
    set_fast_norm(False)
    torch.use_deterministic_algorithms(False)
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def little_to_collect():
    """The library statsmodels collects garbage each time it adjusts p-values: slow where much is imported."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def image_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of noisy 32 px images in three shades, easy to tell apart."""
    import numpy as np
    from PIL import Image

    root = tmp_path_factory.mktemp("shades")
    rng = np.random.default_rng(0)
    for split, count in COUNTS.items():
        for shade, name in zip((60, 120, 180), CLASSES, strict=True):
            (root / split / name).mkdir(parents=True)
            for index in range(count):
                pixels = np.clip(rng.normal(shade, 10.0, (32, 32)), 0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(root / split / name / f"{index:02d}.png")
    return root


@pytest.fixture(scope="session")
def unbalanced_folder(tmp_path_factory: pytest.TempPathFactory, image_folder: Path) -> Path:
    """The same with 16, 8 and 4 training images of the classes."""
    root = shutil.copytree(image_folder, tmp_path_factory.mktemp("unbalanced") / "shades")
    for name, left in (("grey", 8), ("light", 4)):
        for path in sorted((root / "train" / name).iterdir())[left:]:
            path.unlink()
    return root


RECIPE = """
input_size: [1, 32, 32]
mean: [0.5]
std: [0.5]
crop_pct: 1.0
interpolation: bilinear
train_interpolation: bilinear
scale: [0.8, 1.0]
color_jitter: null
batch_size: 8
opt: adamw
lr: 2.0e-3
epochs: 2
warmup_epochs: 0
sched_on_updates: true
channels_last: true
val_split: val
"""


@pytest.fixture(scope="session")
def recipe_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("recipe") / "shades.yaml"
    path.write_text(RECIPE)
    return path


@pytest.fixture
def arguments(recipe_file, image_folder):
    """Makes a training's arguments from that recipe and folder."""
    from convnext_ablation.training.arguments import TrainingArguments
    from convnext_ablation.training.settings import read_recipe

    settings = {**read_recipe(str(recipe_file)), "data_dir": str(image_folder), "model": "model_i_atto"}
    settings |= {"device": "cpu", "workers": 0, "seed": 3}
    return lambda **changes: TrainingArguments(**{**settings, **changes})


@pytest.fixture
def hub(monkeypatch):
    """A hub on loopback that this process publishes to and reads from."""
    from hub_server import Hub

    hub = Hub()
    hub.use(monkeypatch)
    yield hub
    hub.close()


@pytest.fixture(scope="session")
def study(tmp_path_factory: pytest.TempPathFactory) -> Contents:
    """A study that nobody ran, with its report; tests write elsewhere than into that."""
    from fake_study import fake_study, write_all, write_images  # with matplotlib, which most tests don't need

    contents = fake_study(tmp_path_factory.mktemp("study"))
    write_images(contents.evidence)
    write_all(contents)
    return contents


@pytest.fixture
def no_charts(monkeypatch):
    """Leaves figures out of a study's report, of whose time they take four fifths."""
    monkeypatch.setattr("convnext_ablation.cli.study_report.write_charts", lambda report: {})


@pytest.fixture(scope="session")
def page(study: Contents) -> tuple[Reader, str]:
    """What its page has, and its source."""
    from page_reader import read

    return read(study.folder / "index.html")
