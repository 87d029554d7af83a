from __future__ import annotations

import multiprocessing
import os
import signal
import time

import pytest
import torch

from convnext_ablation.errors import UserError
from convnext_ablation.training import loaders
from convnext_ablation.training.images import Images
from convnext_ablation.training.loop import Trainer

_load = Images.load


def _no_shared_memory(*_: object) -> None:
    raise RuntimeError("unable to write to file </torch_1_2_0>: No space left on device (28)")


def _failing(how):
    """An `Images.load` that does `how` at the sixth image of a worker."""
    read = []

    def load(images, index):
        read.append(index)
        if len(read) == 6 and multiprocessing.parent_process():
            how()
        return _load(images, index)

    return load


FAILURES = {
    "killed": (
        lambda: os.kill(os.getpid(), signal.SIGKILL),
        r"a worker .* failed: .*killed by signal: Killed",
    ),
    "ended": (lambda: os._exit(0), r"a worker .* failed: .*exited unexpectedly"),
    "stalled": (lambda: time.sleep(60), r"the workers .* stand still: no image for 3 s; .*--workers 0"),
    "shared memory": (
        lambda: setattr(torch.Tensor, "share_memory_", _no_shared_memory),
        r"a worker .* failed: .*No space left.*; shared memory \(/dev/shm, .*--shm-size.*--workers 0",
    ),
}


@pytest.mark.parametrize("split", ["train", "val"])
@pytest.mark.parametrize("failure", FAILURES)
def test_a_worker_that_fails_ends_the_run_with_its_reason(arguments, tmp_path, monkeypatch, failure, split):
    how, message = FAILURES[failure]
    monkeypatch.setattr(loaders, "_SECONDS_A_WAIT", 1.0)
    trainer = Trainer(arguments(workers=1, epochs=1), tmp_path / "run")
    monkeypatch.setattr(Images, "load", _failing(how))
    with pytest.raises(UserError, match=f"^{message}"):
        trainer.run() if split == "train" else trainer.evaluate("val")
    assert not (tmp_path / "run" / "last.pth.tar").exists()


def test_batches_that_never_came_end_the_run(arguments, tmp_path):
    trainer = Trainer(arguments(epochs=1), tmp_path / "run")
    trainer.train_batches = list(trainer.train_batches)[:-1]
    with pytest.raises(UserError, match="epoch 0: 5 of 6 batches came"):
        trainer.run()


@pytest.mark.parametrize("workers", [0, 2])
def test_training_and_evaluation_keep_nothing_a_batch(arguments, tmp_path, workers):
    trainer = Trainer(arguments(workers=workers, epochs=1, batch_size=2, validation_batch_size=1), tmp_path)
    open_before, most, batches = len(os.listdir("/proc/self/fd")), 0, 0

    def look(*_: object) -> None:
        nonlocal most, batches
        most, batches = max(most, len(os.listdir("/proc/self/fd"))), batches + 1

    trainer.log.trained = look
    trainer.log.evaluated = look
    trainer.run()
    assert batches == 24 + 15
    few = 2 + 16 * workers  # pipes and semaphores of workers, and the batches that they are ahead
    assert most - open_before <= few
    del trainer
    assert len(multiprocessing.active_children()) == 0


@pytest.mark.parametrize("place", ["weight", "statistic", "average"])
def test_values_that_are_not_finite_stop_a_run_with_their_place(arguments, tmp_path, place):
    trainer = Trainer(arguments(epochs=1, model_ema=place == "average"), tmp_path / "run")
    model = trainer.average.module if place == "average" else trainer.model
    name, values = next(
        (name, values)
        for name, values in model.state_dict().items()
        if ("running_var" in name) == (place == "statistic")
    )
    values.flatten()[0] = float("inf")
    with pytest.raises(UserError, match=f"at the start: {name} isn't finite"):
        trainer.run()


def test_logits_that_are_not_finite_stop_an_evaluation_with_their_image(arguments, tmp_path):
    trainer = Trainer(arguments(), tmp_path / "run")
    trainer.model.get_classifier().weight.data.fill_(float("nan"))
    with pytest.raises(UserError, match=r"^dark/00.png: the network's logits aren't finite, as for 15 of 15"):
        trainer.evaluate("val")
