"""What a study's runs will take, by a short measurement; and how much chance is in a finished study."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from convnext_ablation.console import track
from convnext_ablation.errors import UserError
from convnext_ablation.study.stats.variance import Scatter, measured_scatter
from convnext_ablation.study.store import PREDICTIONS, load_result
from convnext_ablation.study.wording import counted
from convnext_ablation.training.arguments import TrainingArguments
from convnext_ablation.training.loop import Trainer
from convnext_ablation.training.parts import memory_format
from convnext_ablation.training.predictions import Predictions

_FEW_IMAGES = 4  # half of it is enough for BatchNorm
_FORWARD = 1 / 3  # of a training step
_LOADING_SECONDS = 3.0
_RUN = re.compile(r"(?P<key>.+)-seed(?P<seed>\d+)-[0-9a-f]{8}")  # a run's folder


@dataclass(frozen=True)
class Timing:
    """What a measurement found.

    Attributes:
        steps: Seconds of a training step of a whole batch, images at hand, by the network's key.
        runs: Seconds of a run: training, validation after each epoch, and the test; with loading.
        measured: The networks whose steps were timed; those of others are told from them by GMACs.
        loading: Seconds to read and prepare one image.
    """

    steps: Mapping[str, float]
    runs: Mapping[str, float]
    measured: frozenset[str]
    loading: float


def time_networks(
    arguments: Mapping[str, TrainingArguments],
    gmacs: Mapping[str, float],
    counts: Mapping[str, int],
    threads: int,
    seconds: float,
) -> Timing:
    """Times training steps of one network after another, and tells from them what a run of each takes.

    Args:
        arguments: How each network is trained, by its key.
        gmacs: Multiply-accumulates of each for one image.
        counts: Images of the training, validation and test split, by what the arguments call them.
        threads: Threads of a run.
        seconds: What this may take, about; the networks with the fewest and the most GMACs are timed anyway.
    """
    by_gmacs = sorted(arguments, key=lambda key: gmacs[key])
    order = list(dict.fromkeys([by_gmacs[0], by_gmacs[-1], *by_gmacs]))
    before, start = torch.get_num_threads(), time.perf_counter()
    torch.set_num_threads(threads)
    known: dict[str, float] = {}
    try:
        images, targets, loading = _load(_trainer(arguments[order[0]]))
        for key in track(order, "timing", len(order), "networks"):
            if len(known) < 2 or time.perf_counter() - start < seconds:
                known[key] = _step_seconds(_trainer(arguments[key]), images, targets, seconds / len(order))
    finally:
        torch.set_num_threads(before)
    timed = [key for key in by_gmacs if key in known]
    at, taken = [gmacs[key] for key in timed], [known[key] for key in timed]
    steps = {key: known.get(key, float(np.interp(gmacs[key], at, taken))) for key in arguments}
    runs = {key: run_seconds(arguments[key], step, loading, counts) for key, step in steps.items()}
    return Timing(steps, runs, frozenset(known), loading)


def _trainer(arguments: TrainingArguments) -> Trainer:
    # random weights take as long; it writes nothing before it runs
    fresh = replace(arguments, pretrained=False, pretrained_path=None, initial_checkpoint="", resume="")
    return Trainer(fresh, Path())


def _load(trainer: Trainer) -> tuple[torch.Tensor, torch.Tensor, float]:
    """A batch of the training set, and the seconds to load and prepare an image."""
    trainer.train_images.start_at(0, 0)
    start, loaded, batches = time.perf_counter(), 0, []
    for images, targets in trainer.train_batches:
        loaded += len(images)
        batches.append((images, targets))
        if time.perf_counter() - start > _LOADING_SECONDS:
            break
    return *batches[0], (time.perf_counter() - start) / loaded


def _step_seconds(trainer: Trainer, images: torch.Tensor, targets: torch.Tensor, seconds: float) -> float:
    """Seconds of a step of a whole batch, told from fewer images where it takes longer than `seconds`."""
    _step(trainer, images[:_FEW_IMAGES], targets[:_FEW_IMAGES])  # the first warms up
    image = _step(trainer, images[:_FEW_IMAGES], targets[:_FEW_IMAGES]) / min(_FEW_IMAGES, len(images))
    size = min(len(images), max(_FEW_IMAGES, int(seconds / image / 2)))
    step = min(_step(trainer, images[:size], targets[:size]) for _ in range(2))
    return step * trainer.arguments.batch_size / size


def _step(trainer: Trainer, images: torch.Tensor, targets: torch.Tensor) -> float:
    images = images.contiguous(memory_format=memory_format(trainer.arguments))
    _wait(images)
    start = time.perf_counter()
    with trainer.precision():
        loss = trainer.loss(trainer.wrapped(images), targets)
    loss.backward()
    trainer.optimizer.step()
    trainer.optimizer.zero_grad()
    _wait(images)
    return time.perf_counter() - start


def _wait(images: torch.Tensor) -> None:
    if images.is_cuda:
        torch.cuda.synchronize()


def run_seconds(
    arguments: TrainingArguments, step: float, loading: float, counts: Mapping[str, int]
) -> float:
    """What a run takes, from the seconds of a training step and of loading an image."""
    epochs = arguments.epochs + (arguments.warmup_epochs if arguments.warmup_prefix else 0)
    steps = counts[arguments.train_split] // arguments.batch_size
    evaluated = step * _FORWARD / arguments.batch_size + loading  # an image
    epoch = steps * (step + arguments.batch_size * loading)
    validations = -(-epochs // arguments.val_interval) if arguments.val_split else 0
    validation = counts[arguments.val_split] * evaluated if arguments.val_split else 0.0
    test = counts[arguments.test_split] * evaluated if arguments.test_split else 0.0
    return epochs * epoch + validations * validation + test


def read_scatter(study: Path) -> Scatter:
    """Estimates how much chance there is from the finished runs of a study."""
    found: dict[str, dict[tuple[int, int], Path]] = {}
    for result in sorted(study.glob("runs/*/result.json"), key=lambda path: path.stat().st_mtime):
        if match := _RUN.fullmatch(result.parent.name):
            seeds = (load_result(result).get("pretraining_seed") or 0, int(match["seed"]))
            found.setdefault(match["key"], {})[seeds] = result.parent  # of two such runs the later one
    if not found:
        raise UserError(f"--like {study}: no finished run is there; name the folder of a study")
    shared = sorted(set.intersection(*(set(runs) for runs in found.values())))
    tables, ids = [], None
    for runs in found.values() if shared else ():
        predictions = [Predictions.load(runs[seeds] / PREDICTIONS) for seeds in shared]
        for each, seeds in zip(predictions, shared, strict=True):
            ids = each.ids if ids is None else ids
            if not np.array_equal(each.ids, ids):
                name = runs[seeds].name
                raise UserError(f"--like {study}: {name} was tested on other images than the others")
        tables.append(np.stack([each.correct for each in predictions]))
    source = f"measured in {study} ({len(found)} networks, {counted(len(shared), 'seed')})"
    return measured_scatter(tables, source)
