"""What a study's runs will take, by a short measurement; and how much chance is in a finished study."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import timm
import torch
from torch import nn

from convnext_ablation.console import track
from convnext_ablation.errors import UserError
from convnext_ablation.models.cost import count_parameters
from convnext_ablation.study.stats.effects import BoolArray
from convnext_ablation.study.stats.variance import Scatter, measured_scatter
from convnext_ablation.study.wording import counted
from convnext_ablation.training.arguments import TrainingArguments
from convnext_ablation.training.loop import Trainer
from convnext_ablation.training.parts import memory_format
from convnext_ablation.training.predictions import Predictions

MOST_NETWORKS = 16  # that are timed; weights and optimizers of all are in memory at the same time
MOST_PARAMETERS = 150_000_000  # of these together, with optimizers 2.4 GB; if more, fewer networks are timed
_FEWEST_NETWORKS = 3
_SMALLEST_BATCH = 4  # half of it is enough for BatchNorm
_ROUNDS = 5
_FORWARD = 1 / 3  # of a training step
_LOADING_SECONDS = 3.0
PRECISIONS = ("float32", "bfloat16")
_TRIALS = 3
_BATCH = 32
# how much faster bfloat16 must be before its rounding is worth it; also keeps noise from deciding
_WORTHWHILE = 0.85
_RUN = re.compile(r"(?P<key>.+)-seed(?P<seed>\d+)-[0-9a-f]{8}")  # a run's folder


@dataclass(frozen=True)
class Cost:
    """What training one network takes.

    Attributes:
        step_seconds: A training step of a whole batch, images at hand.
        run_seconds: A run: training, validation after each epoch, and the test; with loading.
        measured: Whether its steps were timed; else they are told from others', by multiply-accumulates.
    """

    step_seconds: float
    run_seconds: float
    measured: bool


@dataclass(frozen=True)
class Timing:
    """What a measurement found.

    Attributes:
        costs: By the network's key.
        loading_seconds: Reading and preparing one image.
        smallest_batch: Images of the smallest batch that was timed; less than the whole if steps are long.
    """

    costs: Mapping[str, Cost]
    loading_seconds: float
    smallest_batch: int

    @property
    def measured(self) -> int:
        """How many networks were timed."""
        return sum(cost.measured for cost in self.costs.values())


def time_networks(
    arguments: Mapping[str, TrainingArguments],
    gmacs: Mapping[str, float],
    counts: Mapping[str, int],
    threads: int,
    seconds: float,
) -> Timing:
    """Times training steps of a design's networks in turn, and tells from them what a run of each takes.

    Args:
        arguments: How each network is trained, by its key.
        gmacs: Multiply-accumulates of each for one image.
        counts: Images of the training, validation and test split, by what the arguments call them.
        threads: Threads of a run.
        seconds: What the timed steps may take together, about; making the networks comes on top.

    Raises:
        UserError: A network or the data can't be made as asked.
    """
    timed = _affordable(sorted(arguments, key=lambda key: gmacs[key]), arguments)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        steppers = {key: _Stepper(arguments[key]) for key in timed}
        loading = steppers[timed[0]].loading_seconds()
        for stepper in steppers.values():
            stepper.choose_batch(seconds / (_ROUNDS * len(timed)))
        _time_in_turn(list(steppers.values()), seconds)
    finally:
        torch.set_num_threads(before)
    known = {key: stepper.whole_step() for key, stepper in steppers.items()}
    steps = {key: known.get(key, _between(gmacs[key], timed, gmacs, known)) for key in arguments}
    costs = {
        key: Cost(step, run_seconds(arguments[key], step, loading, counts), key in known)
        for key, step in steps.items()
    }
    return Timing(costs, loading, min(stepper.batch for stepper in steppers.values()))


def _affordable(keys: Sequence[str], arguments: Mapping[str, TrainingArguments]) -> list[str]:
    """As many networks, evenly spread over a sorted list, as fit into memory."""
    parameters = {key: _parameters(arguments[key]) for key in keys}
    for most in range(min(len(keys), MOST_NETWORKS), _FEWEST_NETWORKS, -1):
        chosen = spread(keys, most)
        if sum(parameters[key] for key in chosen) <= MOST_PARAMETERS:
            return chosen
    return spread(keys, _FEWEST_NETWORKS)


def _parameters(arguments: TrainingArguments) -> int:
    with torch.device("meta"):
        model = timm.create_model(arguments.model, in_chans=arguments.channels, **arguments.model_kwargs)
    return count_parameters(model)


def _between(
    gmacs: float, timed: Sequence[str], all_gmacs: Mapping[str, float], known: Mapping[str, float]
) -> float:
    """A network's step, from those of the timed networks with fewer and with more multiply-accumulates."""
    return float(np.interp(gmacs, [all_gmacs[key] for key in timed], [known[key] for key in timed]))


def spread(items: Sequence[str], most: int) -> list[str]:
    """Takes at most so many of a list, evenly spread, its first and its last among them."""
    if len(items) <= most:
        return list(items)
    return [items[round(place * (len(items) - 1) / (most - 1))] for place in range(most)]


def run_seconds(
    arguments: TrainingArguments, step: float, loading: float, counts: Mapping[str, int]
) -> float:
    """What a run takes: all its epochs, with validation, and the test."""
    epochs = arguments.epochs + (arguments.warmup_epochs if arguments.warmup_prefix else 0)
    steps = counts[arguments.train_split] // arguments.batch_size
    evaluated = step * _FORWARD / arguments.batch_size + loading  # an image
    epoch = steps * (step + arguments.batch_size * loading)
    validations = -(-epochs // arguments.val_interval) if arguments.val_split else 0
    validation = counts[arguments.val_split] * evaluated if arguments.val_split else 0.0
    test = counts[arguments.test_split] * evaluated if arguments.test_split else 0.0
    return epochs * epoch + validations * validation + test


def _time_in_turn(steppers: Sequence[_Stepper], seconds: float) -> None:
    start = time.perf_counter()
    for done in track(range(3 * _ROUNDS), "timing", 3 * _ROUNDS, "rounds"):
        for stepper in steppers:
            stepper.time()
        if (time.perf_counter() - start) * (done + 2) / (done + 1) > seconds:
            break


class _Stepper:
    """Makes training steps of one network, on images of its training set."""

    def __init__(self, arguments: TrainingArguments) -> None:
        # random weights take as long
        arguments = replace(
            arguments, pretrained=False, pretrained_path=None, initial_checkpoint="", resume=""
        )
        self.trainer = Trainer(arguments, Path())  # which writes nothing before it runs
        self.batch = self.whole = arguments.batch_size
        self.images, self.targets = next(iter(self._batches()))
        self.times: dict[int, list[float]] = {}

    def choose_batch(self, seconds: float) -> None:
        """Halves the batch until its step takes no longer than told."""
        sizes = [-(-self.whole // 2**halvings) for halvings in range(self.whole.bit_length())]
        sizes = [size for size in sizes if size >= _SMALLEST_BATCH] or [self.whole]
        trial = min(sizes)
        self._step(trial)  # the first warms up
        image = self._step(trial) / trial
        self.batch = next((size for size in sizes if size * image <= seconds), trial)
        self._step(self.batch)

    def time(self) -> None:
        """Times a step, and one of half the images where the batch isn't the whole one."""
        for size in {self.batch, self.batch if self.batch == self.whole else -(-self.batch // 2)}:
            self.times.setdefault(size, []).append(self._step(size))

    def whole_step(self) -> float:
        """Seconds of a step of a whole batch: what was timed, or a straight line through two batch sizes."""
        medians = {size: median(times) for size, times in self.times.items()}
        longest = medians[self.batch]
        if len(medians) == 1:
            return longest * self.whole / self.batch
        half = min(medians)
        image = max(0.0, (longest - medians[half]) / (self.batch - half))
        return longest + image * (self.whole - self.batch)

    def loading_seconds(self) -> float:
        """Seconds to load and prepare an image."""
        start, loaded = time.perf_counter(), 0
        for images, _ in self._batches():
            loaded += len(images)
            if time.perf_counter() - start > _LOADING_SECONDS:
                break
        return (time.perf_counter() - start) / loaded

    def _batches(self) -> Any:
        self.trainer.train_images.start_at(0, 0)
        return self.trainer.train_batches

    def _step(self, batch: int) -> float:
        trainer = self.trainer
        images = self.images[:batch].contiguous(memory_format=memory_format(trainer.arguments))
        self._wait()
        start = time.perf_counter()
        with trainer.precision():
            loss = trainer.loss(trainer.wrapped(images), self.targets[:batch])
        loss.backward()
        trainer.optimizer.step()
        trainer.optimizer.zero_grad()
        self._wait()
        return time.perf_counter() - start

    def _wait(self) -> None:
        if self.trainer.processes.device.type == "cuda":
            torch.cuda.synchronize()


def read_scatter(study: Path) -> Scatter:
    """Estimates how much chance there is from the finished runs of a study.

    Raises:
        UserError: There is no such study, too little of it is finished, or runs were tested on other images.
    """
    found: dict[str, dict[tuple[int, int], Path]] = {}
    for result in sorted(study.glob("runs/*/result.json"), key=lambda path: path.stat().st_mtime):
        match = _RUN.fullmatch(result.parent.name)
        if match:
            seed = (_pretraining_seed(result), int(match["seed"]))
            found.setdefault(match["key"], {})[seed] = result.parent  # of two such runs the later one
    if not found:
        raise UserError(f"--like {study}: no finished run is there; name the folder of a study")
    seeds = sorted(set.intersection(*(set(runs) for runs in found.values())))
    tables = _tables(found, seeds, study) if seeds else []
    return measured_scatter(
        tables, f"measured in {study} ({len(found)} networks, {counted(len(seeds), 'seed')})"
    )


def _pretraining_seed(result: Path) -> int:
    try:
        return int(json.loads(result.read_text(encoding="utf-8")).get("pretraining_seed") or 0)
    except (OSError, ValueError) as error:
        raise UserError(
            f"{result}: can't be read ({error}); do that run again, or name another study"
        ) from error


def _tables(
    found: Mapping[str, Mapping[tuple[int, int], Path]], seeds: Sequence[tuple[int, int]], study: Path
) -> list[BoolArray]:
    tables, ids = [], None
    for runs in found.values():
        predictions = [Predictions.load(runs[seed] / "predictions.npz") for seed in seeds]
        for each, seed in zip(predictions, seeds, strict=True):
            ids = each.ids if ids is None else ids
            if not np.array_equal(each.ids, ids):
                raise UserError(
                    f"--like {study}: {runs[seed].name} was tested on other images than the others"
                )
        tables.append(np.stack([each.correct for each in predictions]))
    return tables


def faster_precision(models: Sequence[str], input_size: Sequence[int], threads: int) -> str:
    """Times training steps of each network in both precisions, interleaved, and names the faster one.

    Returns:
        ``bfloat16`` if the steps of all networks together take at most 0.85 times as long, else ``float32``.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        seconds = dict.fromkeys(PRECISIONS, 0.0)
        for name in models:
            model = timm.create_model(name, in_chans=input_size[0], num_classes=10).train()
            model = model.to(memory_format=torch.channels_last)
            images = torch.rand(_BATCH, *input_size).contiguous(memory_format=torch.channels_last)
            rounds = [
                [_step_seconds(model, images, which) for which in PRECISIONS] for _ in range(_TRIALS + 1)
            ]
            for index, precision in enumerate(PRECISIONS):
                seconds[precision] += median(times[index] for times in rounds[1:])  # the first warms up
    finally:
        torch.set_num_threads(before)
    return "bfloat16" if seconds["bfloat16"] < _WORTHWHILE * seconds["float32"] else "float32"


def _step_seconds(model: nn.Module, images: torch.Tensor, precision: str) -> float:
    start = time.perf_counter()
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bfloat16"):
        loss = model(images).square().mean()
    loss.backward()
    return time.perf_counter() - start
