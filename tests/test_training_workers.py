from __future__ import annotations

import multiprocessing
import os
import signal
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from convnext_ablation.errors import UserError
from convnext_ablation.training import loaders, parts
from convnext_ablation.training.images import Images
from convnext_ablation.training.loop import Trainer

_load = Images.load


def _no_shared_memory(*_: object) -> None:
    raise RuntimeError("unable to write to file </torch_1_2_0>: No space left on device (28)")


def _failing(how, at=6):
    """An `Images.load` that does `how` at the sixth image of a worker, or another."""
    read = []

    def load(images, index):
        read.append(index)
        if len(read) == at and multiprocessing.parent_process():
            how()
        return _load(images, index)

    return load


FAILURES = {
    "killed": (
        lambda: os.kill(os.getpid(), signal.SIGKILL),
        r"a worker .* failed: .*killed by signal: Killed",
    ),
    "ended": (lambda: os._exit(0), r"a worker .* failed: .*exited unexpectedly"),
    "stalled": (lambda: time.sleep(60), r"the data workers hang: no image for 3 s; .*--workers 0"),
    "shared memory": (
        lambda: setattr(torch.Tensor, "share_memory_", _no_shared_memory),
        r"a worker .* failed: .*No space left.*; shared memory \(/dev/shm, .*--shm-size.*--workers 0",
    ),
}


@pytest.mark.parametrize(
    ("failure", "split"), [("killed", "train"), *zip(FAILURES, ("val", "val", "val", "train"), strict=True)]
)
def test_a_worker_that_fails_ends_the_run_with_its_reason(arguments, tmp_path, monkeypatch, failure, split):
    how, message = FAILURES[failure]
    if failure == "stalled":  # torch looks every 5 seconds whether workers have ended
        monkeypatch.setattr(loaders, "_SECONDS_STALLED", 3.0)
    trainer = Trainer(arguments(workers=1, epochs=1), tmp_path / "run")
    monkeypatch.setattr(Images, "load", _failing(how))
    with pytest.raises(UserError, match=f"^{message}"):
        trainer.run() if split == "train" else trainer.evaluate("val")
    assert not (tmp_path / "run" / "last.pth.tar").exists()


def test_a_worker_that_is_stopped_with_batches_on_their_way_ends_the_run(arguments, tmp_path, monkeypatch):
    def until_stopped(*_):
        (worker,) = multiprocessing.active_children()
        while Path(f"/proc/{worker.pid}/stat").read_text().rpartition(")")[2].split()[0] != "T":
            time.sleep(0.01)

    monkeypatch.setattr(loaders, "_SECONDS_STALLED", 3.0)
    trainer = Trainer(arguments(workers=1, epochs=1), tmp_path / "run")
    monkeypatch.setattr(Images, "load", _failing(lambda: os.kill(os.getpid(), signal.SIGSTOP), at=20))
    monkeypatch.setattr(trainer.log, "trained", until_stopped)
    with pytest.raises(UserError, match=FAILURES["stalled"][1]):  # the second batch is never fetched
        trainer.run()


def _load_nothing(pipe):
    loaders._start_worker(SimpleNamespace(seed=0))
    pipe.send("begun")
    time.sleep(600)


def _start_one(pipe):
    multiprocessing.get_context("fork").Process(target=_load_nothing, args=(pipe,)).start()
    time.sleep(600)


def test_a_worker_ends_with_the_process_that_it_loads_for():
    ours, theirs = multiprocessing.Pipe()
    trainer = multiprocessing.get_context("fork").Process(target=_start_one, args=(theirs,))
    trainer.start()
    theirs.close()
    assert ours.recv() == "begun"
    trainer.kill()
    assert ours.poll(60)  # it is told once nobody holds the other end
    with pytest.raises(EOFError):
        ours.recv()


def test_batches_that_never_came_end_the_run(arguments, tmp_path):
    trainer = Trainer(arguments(epochs=1), tmp_path / "run")
    trainer.train_batches = list(trainer.train_batches)[:-1]
    with pytest.raises(UserError, match="epoch 0: 5 of 6 batches came"):
        trainer.run()


def _resources():
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    owners = [os.getpid(), *(child.pid for child in multiprocessing.active_children())]
    files = [
        name for name in os.listdir("/dev/shm") if name.startswith(tuple(f"torch_{pid}_" for pid in owners))
    ]
    kilobytes = sum(int(status[name].split()[0]) for name in ("RssAnon", "RssShmem"))
    threads = int(status["Threads"])
    return len(os.listdir("/proc/self/fd")), len(owners), threads, len(files), kilobytes >> 10


def test_500_batches_of_training_evaluation_and_prediction_take_no_more_than_50(
    arguments, image_folder, tmp_path, monkeypatch
):
    """Descriptors, processes, threads, files in shared memory, and MB: a batch has 0.1 MB."""
    for place in ("train", "val", "test"):
        for number in range(500):
            path = tmp_path / "many" / place / ("dark", "light")[number % 2] / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.symlink_to(image_folder / "train/dark/00.png")
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(160 * 160, 2))
    monkeypatch.setattr(parts, "create_network", lambda *_: network)
    settings = {"data_dir": str(tmp_path / "many"), "input_size": (1, 160, 160), "no_aug": True}
    settings |= {"batch_size": 1, "epochs": 1, "test_split": "test", "workers": 2}
    trainer, seen = Trainer(arguments(**settings), tmp_path / "run"), []
    monkeypatch.setattr(trainer.log, "trained", lambda *_: seen.append(_resources()))
    monkeypatch.setattr(trainer.log, "evaluated", lambda *_: seen.append(_resources()))
    trainer.run()
    trainer.test()
    assert len(seen) == 3 * 500
    for part in (seen[:500], seen[500:1000], seen[1000:]):
        first, most = np.max(part[:50], axis=0), np.max(part[50:], axis=0)
        assert (most - first <= [8, 0, 0, 8, 20]).all(), (first, most)  # workers are batches ahead
    del trainer
    for worker in multiprocessing.active_children():  # told to end; on a busy machine it takes its time
        worker.join(60)
    assert not multiprocessing.active_children()


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
