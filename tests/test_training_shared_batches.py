"""Batches in memory that is used again: the same batches as ever, whatever becomes of an epoch."""

from __future__ import annotations

import pytest
import torch
from timm.data import resolve_data_config

from convnext_ablation.training import shared_batches
from convnext_ablation.training.arguments import TrainingArguments
from convnext_ablation.training.images import TrainingImages
from convnext_ablation.training.loaders import training_loader
from convnext_ablation.training.recipes import read_recipe
from convnext_ablation.training.shared_batches import FromShared, SharedBatches
from convnext_ablation.training.splits import open_split


@pytest.fixture
def make(recipe_file, image_folder):
    """Makes a loader of 12 batches of 4, and what it reads."""

    def loader(workers, **changes):
        settings = {**read_recipe(str(recipe_file)), "data_dir": str(image_folder), "device": "cpu"}
        arguments = TrainingArguments(**{**settings, "batch_size": 4, "workers": workers, **changes})
        images = TrainingImages(open_split(arguments, "train"), 4, 7, 0, 1, "")
        config = resolve_data_config({"input_size": arguments.input_size, "mean": (0.5,), "std": (0.5,)})
        return training_loader(images, arguments, config, 3, torch.device("cpu")), images

    return loader


def read(loader, images, epoch, batches=None):
    """The first batches of an epoch, kept until all are read."""
    images.start_at(epoch, 0)
    return [batch for batch, _ in zip(loader, range(batches or 12), strict=False)]


def same(one, other):
    return len(one) == len(other) and all(
        torch.equal(a, b) for pair in zip(one, other, strict=True) for a, b in zip(*pair, strict=True)
    )


def refuse(_):
    raise AssertionError("no place was free")


@pytest.mark.parametrize("workers", [1, 2])
def test_batches_are_those_of_one_process(make, monkeypatch, workers):
    alone, images = make(0)
    expected = [read(alone, images, epoch) for epoch in (0, 1)]
    if workers == 1:  # of several, one may be further ahead at the end of an epoch
        monkeypatch.setattr(shared_batches, "default_collate", refuse)
    loader, images = make(workers)
    assert isinstance(loader.loader, FromShared)
    for epoch in (0, 1):
        assert same(read(loader, images, epoch), expected[epoch])
    assert not loader.loader.batches.taken.any()


def test_an_epoch_that_is_broken_off_takes_no_place_for_good(make):
    alone, images = make(0)
    expected = read(alone, images, 1)
    loader, images = make(2)
    for _ in range(3):
        assert len(read(loader, images, 0, batches=2)) == 2
    for _ in range(2):
        assert same(read(loader, images, 1), expected)
    assert not loader.loader.batches.taken.any()


def test_a_batch_that_finds_no_place_goes_the_usual_way():
    batches = SharedBatches(1, 2, (1, 4, 4))
    images = [(torch.full((1, 4, 4), value, dtype=torch.uint8), value) for value in (3, 5)]
    stacked, targets = batches(images)  # in the main process, which has no place
    assert stacked[:, 0, 0, 0].tolist() == targets.tolist() == [3, 5]


def test_full_places_and_other_shapes_go_the_usual_way(monkeypatch):
    worker = type("Worker", (), {"id": 1})
    monkeypatch.setattr(shared_batches, "get_worker_info", lambda: worker)
    batches = SharedBatches(2, 2, (1, 4, 4))
    images = [(torch.full((1, 4, 4), value, dtype=torch.uint8), value) for value in (3, 5)]
    assert [batches(images)[0] for _ in range(3)] == [3, 4, 5]  # never the other worker's
    assert batches.images[3:, :, 0, 0, 0].tolist() == [[3, 5]] * 3
    assert torch.is_tensor(batches(images)[0])
    batches.taken.zero_()
    assert torch.is_tensor(batches(images[:1])[0])
    assert batches(images) == (3, [3, 5])


@pytest.mark.parametrize("copy", [False, True])
def test_a_place_is_free_again_at_the_next_step(monkeypatch, copy):
    batches = SharedBatches(1, 2, (1, 4, 4))
    batches.taken[2] = True
    steps = iter(FromShared([(2, [0, 1]), (0, [1, 0])], batches, copy))
    images, targets = next(steps)
    assert targets.tolist() == [0, 1]
    assert (images.data_ptr() == batches.images[2].data_ptr()) is not copy
    batches.taken[2] = True
    next(steps)
    assert not batches.taken[2]


@pytest.mark.parametrize("changes", [{"mixup": 0.5}, {"pin_mem": True}, {"workers": 0}])
def test_what_mixes_pins_or_has_no_workers_takes_no_places(make, changes):
    assert not isinstance(make(**{"workers": 1, **changes})[0].loader, FromShared)
