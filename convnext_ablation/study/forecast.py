"""What a study's runs will take, by a short measurement; and how much chance is in a finished study."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from convnext_ablation.console import counted, track
from convnext_ablation.study.experiment import Study
from convnext_ablation.study.results import read_results
from convnext_ablation.study.stats.variance import Scatter, measured_scatter
from convnext_ablation.study.store import read_study
from convnext_ablation.training.arguments import TrainingArguments
from convnext_ablation.training.loop import Trainer

_SECONDS = 30.0  # that the steps of all networks may take, about
_FEW_IMAGES = 4  # half of it is enough for BatchNorm
_FORWARD = 1 / 3  # of a training step
_LOADING_SECONDS = 3.0


@dataclass(frozen=True)
class Timing:
    """What a measurement found.

    Attributes:
        steps: Seconds of a training step of a whole batch, images at hand, by the network's key.
        runs: Seconds of a run: training, validation after each epoch, and the test; with loading.
        loading: Seconds to read and prepare one image.
    """

    steps: Mapping[str, float]
    runs: Mapping[str, float]
    loading: float


def time_networks(study: Study, counts: Mapping[str, int]) -> Timing:
    """Times training steps of one network after another, and tells from them what a run of each takes.

    Args:
        study: Its networks, and how they are trained.
        counts: Images of ``train``, ``val`` and ``test``.
    """
    arguments = {run.point.key: run.arguments for run in study.one_run_each()}
    steps, runs, before = {}, {}, torch.get_num_threads()
    torch.set_num_threads(study.threads)
    try:
        images, targets, loading = _load(_trainer(next(iter(arguments.values()))))
        for key in track(arguments, "timing", len(arguments), "networks"):
            trainer = _trainer(arguments[key])
            steps[key] = _step_seconds(trainer, images, targets, _SECONDS / len(arguments))
            runs[key] = run_seconds(arguments[key], study.epochs, steps[key], loading, counts)
    finally:
        torch.set_num_threads(before)
    return Timing(steps, runs, loading)


def _trainer(arguments: TrainingArguments) -> Trainer:
    # random weights take as long; it writes nothing before it runs
    fresh = replace(arguments, pretrained=False, pretrained_path=None, initial_checkpoint="", resume="")
    return Trainer(fresh, Path())


def _load(trainer: Trainer) -> tuple[torch.Tensor, torch.Tensor, float]:
    """A batch of the training set, and the seconds to load and prepare an image."""
    trainer.train_images.start_at(0, 0)
    start, loaded = time.perf_counter(), 0
    for batch in trainer.train_batches:
        loaded += len(batch[0])
        if time.perf_counter() - start > _LOADING_SECONDS:
            break
    return batch[0], batch[1], (time.perf_counter() - start) / loaded


def _step_seconds(trainer: Trainer, images: torch.Tensor, targets: torch.Tensor, seconds: float) -> float:
    """Seconds of a step of a whole batch, told from fewer images where it takes longer than `seconds`."""
    _step(trainer, images[:_FEW_IMAGES], targets[:_FEW_IMAGES])  # the first warms up
    image = _step(trainer, images[:_FEW_IMAGES], targets[:_FEW_IMAGES]) / min(_FEW_IMAGES, len(images))
    size = min(len(images), max(_FEW_IMAGES, int(seconds / image / 2)))
    step = min(_step(trainer, images[:size], targets[:size]) for _ in range(2))
    return step * trainer.arguments.batch_size / size


def _step(trainer: Trainer, images: torch.Tensor, targets: torch.Tensor) -> float:
    start = time.perf_counter()
    trainer.step(images, targets, share=1, updates=True).item()  # waits for a GPU
    return time.perf_counter() - start


def run_seconds(
    arguments: TrainingArguments, epochs: int, step: float, loading: float, counts: Mapping[str, int]
) -> float:
    """What a run takes, from the seconds of a training step and of loading an image."""
    steps = counts["train"] // arguments.batch_size
    training = steps * (step + arguments.batch_size * loading)
    evaluated = step * _FORWARD / arguments.batch_size + loading  # an image
    validations = -(-epochs // arguments.val_interval)
    return epochs * training + (validations * counts["val"] + counts["test"]) * evaluated


def read_scatter(folder: Path) -> Scatter:
    """Estimates how much chance there is from the finished runs of a study."""
    networks = read_results(read_study(folder), folder).networks()
    correct = [{run.seeds: run.correct for run in network.runs} for network in networks]
    shared = sorted(set.intersection(*(set(each) for each in correct)))
    tables = [np.stack([each[seeds] for seeds in shared]) for each in correct if shared]
    source = f"measured in {folder} ({counted(len(networks), 'network')}, {counted(len(shared), 'seed')})"
    return measured_scatter(tables, source)
