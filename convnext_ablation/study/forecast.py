"""Estimates an experiment's compute time, disk use, and detectable effects and differences."""

from __future__ import annotations

import functools
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean

import numpy as np
import timm
import torch

from convnext_ablation.console import counted, track
from convnext_ablation.data.folder import FolderSummary
from convnext_ablation.errors import UserError
from convnext_ablation.models.cost import count_gmacs
from convnext_ablation.study.designs.contrasts import Contrast, Design
from convnext_ablation.study.experiment import Study
from convnext_ablation.study.results import read_results
from convnext_ablation.study.stats.effects import mean_squares
from convnext_ablation.study.stats.power import Asked, PlannedSet, level_of
from convnext_ablation.study.stats.variance import Scatter, measured_scatter, scatter_of_single_runs
from convnext_ablation.study.store import STUDY_FILE, read_study
from convnext_ablation.training.arguments import TrainingArguments
from convnext_ablation.training.loop import Trainer

_SECONDS = 30.0  # budget for timing all networks, approximate
_FEW_IMAGES = 4  # BatchNorm needs two
_FORWARD = 1 / 3  # of a training step's time
_LOADING_SECONDS = 3.0
# bytes on disk per test image's prediction, per epoch's row, per log line
_PREDICTION, _EPOCH, _LOG_LINE = 25, 150, 120
# a running run stores the last and best epoch, each with weights and two optimizer moments
_AT_WORK = 2 * 3


@dataclass(frozen=True)
class Timing:
    """Seconds per training step and per run, by network's key."""

    steps: Mapping[str, float]  # a training step on a full batch, images in memory
    runs: Mapping[str, float]  # training, validation and test, including data loading
    loading: float  # per image, to read and preprocess; 0 if not measured


@dataclass(frozen=True)
class PlannedPhase:
    """A phase or single study, with its images and the assumed variance of its results."""

    study: Study
    data: FolderSummary
    scatter: Scatter

    @property
    def images(self) -> int:
        """Number of test images."""
        return self.data.counts[self.study.test_split]

    @property
    def counts(self) -> dict[str, int]:
        """Number of images by split; ``test`` is the split on which accuracy is reported."""
        return {**self.data.counts, "test": self.images}

    @property
    def units(self) -> int:
        """Sample size of an effect: pre-trainings if there are several, else seeds (see `effects`)."""
        pretrainings = len(self.study.pretraining_seeds)
        return pretrainings if pretrainings > 1 else len(self.study.seeds)


@dataclass(frozen=True)
class PlannedEffect:
    """An effect, or its difference between data sets, and its planned sample size (`draws`)."""

    contrast: Contrast
    asked: Asked
    draws: int


def effects_of(phase: PlannedPhase) -> list[PlannedEffect]:
    """The effects of a phase's design on one data set."""
    return _planned([PlannedSet(1.0, phase.scatter, phase.images)], phase.study.design, phase.units)


def differences(phases: Sequence[PlannedPhase]) -> dict[str, list[PlannedEffect]]:
    """Differences of each effect between a phase and those that start from it, by comparison's name.

    Each phase is compared with its starting phase, and so is the mean over phases with the same start. Holm's
    correction covers all of these differences, as in `report.across`.
    """
    found = {}
    for general in phases:
        tuned = [
            each for each in phases if each.study.start and each.study.start.phase == general.study.phase
        ]
        tuned = [each for each in tuned if each.study.design.contrasts]
        asked = tuple(
            contrast
            for contrast in general.study.design.contrasts
            if tuned and all(contrast in each.study.design.contrasts for each in tuned)
        )
        design, several = replace(general.study.design, contrasts=asked), len(general.study.seeds) > 1
        choices = [[each] for each in tuned] + ([tuned] if len(tuned) > 1 else [])
        for chosen in choices if asked else []:
            sets = [PlannedSet(-1.0, general.scatter, general.images, drawn=several)]
            sets += [PlannedSet(1 / len(chosen), each.scatter, each.images) for each in chosen]
            name = chosen[0].study.phase if len(chosen) == 1 else "mean"
            draws = min(each.units for each in chosen)
            found[f"{name} - {general.study.phase}"] = _planned(sets, design, draws, len(choices), several)
    return found


def _seed_variance(sets: Sequence[PlannedSet]) -> float | None:
    """Variance between pre-trainings of the weighted sum of accuracies over sets; None if not measured."""
    shared = set.intersection(*(set(each.scatter.by_start) for each in sets))
    networks, starts = sorted({key for key, _ in shared}), sorted({start for _, start in shared})
    if min(len(networks), len(starts)) < 2 or len(shared) < len(networks) * len(starts):
        return None
    top1 = [[[each.scatter.by_start[key, start] for start in starts] for key in networks] for each in sets]
    return mean_squares(np.tensordot([each.weight for each in sets], top1, 1))[2]


def _planned(
    sets: Sequence[PlannedSet], design: Design, draws: int, comparisons: int = 1, shared: bool = True
) -> list[PlannedEffect]:
    """The contrasts of a design on these sets; Holm's family is the design's times `comparisons`."""
    family, together = comparisons * design.family, _seed_variance(sets) if shared and sets[1:] else None
    found = []
    for contrast in design.contrasts:
        weights, level = list(contrast.weights.values()), level_of(contrast.primary, family)
        found.append(PlannedEffect(contrast, Asked(sets, weights, level, shared, together), draws))
    return found


@dataclass(frozen=True)
class NetworkCost:
    """Compute and size of a network, from its architecture alone."""

    gmacs: float  # 10^9 multiply-accumulates per image at the recipe's resolution
    size: int  # bytes of parameters and buffers


@functools.cache
def _network_cost(model: str, kwargs: str, classes: int, input_size: tuple[int, ...]) -> NetworkCost:
    network = timm.create_model(
        model, num_classes=classes, in_chans=input_size[0], device="meta", **json.loads(kwargs)
    )
    size = sum(value.numel() * value.element_size() for value in network.state_dict().values())
    return NetworkCost(count_gmacs(network, input_size), size)


def network_costs(phase: PlannedPhase) -> dict[str, NetworkCost]:
    """The cost of each of a phase's networks, by key; needs no images."""
    costs = {}
    for run in phase.study.one_run_each():
        arguments = run.arguments
        kwargs = json.dumps(dict(arguments.model_kwargs), sort_keys=True)
        costs[run.point.key] = _network_cost(arguments.model, kwargs, len(phase.data.classes), run.input_size)
    return costs


def reckoned(phases: Sequence[PlannedPhase], seconds: Mapping[str, float]) -> tuple[list[Timing], list[str]]:
    """Estimates run times from given seconds per image of a training step.

    Step time is taken as proportional to multiply-accumulates, which holds within a factor of about two
    across architectures. Data loading is not included.

    Args:
        phases: The planned phases.
        seconds: Seconds per image by phase, for its network with the most multiply-accumulates. The key ""
            covers all other phases, and refers to the largest network among them.

    Returns:
        The timing of each phase, and the network to which each given number was applied.

    Raises:
        UserError: No number covers a phase.
    """
    costs = [network_costs(phase) for phase in phases]
    most = [max(each, key=lambda key: each[key].gmacs) for each in costs]
    names = [phase.study.phase for phase in phases]
    unnamed = [place for place, name in enumerate(names) if not name or name not in seconds]
    if unnamed and "" not in seconds:
        missing = ", ".join(names[place] for place in unnamed)
        raise UserError(f"--seconds-per-image: no value for {missing}; add one, or give one for all phases")
    largest = max(unnamed, key=lambda place: costs[place][most[place]].gmacs, default=0)
    timings, said = [], []
    for place, (phase, cost) in enumerate(zip(phases, costs, strict=True)):
        of = largest if place in unnamed else place
        given, reference = seconds["" if place in unnamed else names[place]], costs[of][most[of]].gmacs
        if place == of:
            where = f" in {names[place]}" if names[place] else ""
            said.append(f"{given:g} s an image of {most[place]}{where}")
        steps, runs = {}, {}
        for run in phase.study.one_run_each():
            key, arguments = run.point.key, run.arguments
            steps[key] = given * cost[key].gmacs / reference * arguments.batch_size
            runs[key] = run_seconds(arguments, steps[key], 0.0, phase.counts)
        timings.append(Timing(steps, runs, 0.0))
    return timings, said


@dataclass(frozen=True)
class Disk:
    """Disk use in bytes, after all runs and during one."""

    checkpoints: int
    predictions: int
    logs: int
    at_work: int  # temporary, at most, per running run

    @property
    def total(self) -> int:
        """Bytes that remain after all runs."""
        return self.checkpoints + self.predictions + self.logs


def disk_needed(phases: Sequence[PlannedPhase]) -> Disk:
    """Estimates the runs' disk use from parameters, test images and epochs; excludes reports."""
    checkpoints = predictions = logs = at_work = 0
    for phase in phases:
        costs, study = network_costs(phase), phase.study
        for run in study.one_run_each():
            arguments = run.arguments
            weights = costs[run.point.key].size * (2 if arguments.model_ema else 1)
            updates = phase.data.counts["train"] // (arguments.global_batch or arguments.batch_size)
            lines = arguments.epochs_in_all * (2 + updates // max(1, arguments.log_interval))
            runs = study.runs_of(run.point)
            checkpoints += runs * weights
            predictions += study.tested_runs(run.point) * phase.images * _PREDICTION
            logs += runs * (arguments.epochs_in_all * _EPOCH + lines * _LOG_LINE)
            at_work = max(at_work, _AT_WORK * weights)
    return Disk(checkpoints, predictions, logs, at_work)


def time_networks(phase: PlannedPhase) -> Timing:
    """Times training steps of each network, and estimates the duration of its runs."""
    arguments = {run.point.key: run.arguments for run in phase.study.one_run_each()}
    steps, runs, before = {}, {}, torch.get_num_threads()
    torch.set_num_threads(phase.study.threads)
    try:
        images, targets, loading = _load(_trainer(next(iter(arguments.values()))))
        for key, each in track(arguments.items(), "timing", len(arguments), "networks"):
            steps[key] = _step_seconds(_trainer(each), images, targets, _SECONDS / len(arguments))
            runs[key] = run_seconds(each, steps[key], loading, phase.counts)
    finally:
        torch.set_num_threads(before)
    return Timing(steps, runs, loading)


def _trainer(arguments: TrainingArguments) -> Trainer:
    # random weights take as long; a Trainer writes nothing until it runs
    fresh = replace(arguments, pretrained=False, pretrained_path=None, initial_checkpoint="", resume="")
    return Trainer(fresh, Path())


def _load(trainer: Trainer) -> tuple[torch.Tensor, torch.Tensor, float]:
    """Returns images and targets of a training batch, and the seconds to load and preprocess an image."""
    trainer.train_images.start_at(0, 0)
    start, loaded = time.perf_counter(), 0
    for batch in trainer.train_batches:
        loaded += len(batch[0])
        if time.perf_counter() - start > _LOADING_SECONDS:
            break
    return batch[0], batch[1], (time.perf_counter() - start) / loaded


def _step_seconds(trainer: Trainer, images: torch.Tensor, targets: torch.Tensor, seconds: float) -> float:
    """Seconds per step of a full batch, extrapolated from fewer images if it would exceed `seconds`."""
    _step(trainer, images[:_FEW_IMAGES], targets[:_FEW_IMAGES])  # warm-up
    image = _step(trainer, images[:_FEW_IMAGES], targets[:_FEW_IMAGES]) / min(_FEW_IMAGES, len(images))
    size = min(len(images), max(_FEW_IMAGES, int(seconds / image / 2)))
    step = min(_step(trainer, images[:size], targets[:size]) for _ in range(2))
    return step * trainer.arguments.batch_size / size


def _step(trainer: Trainer, images: torch.Tensor, targets: torch.Tensor) -> float:
    start = time.perf_counter()
    trainer.step(images, targets, share=1, updates=True).item()  # synchronises a GPU
    return time.perf_counter() - start


def run_seconds(
    arguments: TrainingArguments, step: float, loading: float, counts: Mapping[str, int]
) -> float:
    """Estimates a run's seconds from those of a training step and of loading an image."""
    steps, epochs = counts["train"] // arguments.batch_size, arguments.epochs_in_all
    training = steps * (step + arguments.batch_size * loading)
    evaluated = step * _FORWARD / arguments.batch_size + loading  # per image
    validations = -(-epochs // arguments.val_interval)
    return epochs * training + (validations * counts["val"] + counts["test"]) * evaluated


def read_scatter(folder: Path, phase: str = "", single: bool = False) -> Scatter:
    """Estimates the variance between seeds and images from the finished runs of a study.

    Args:
        folder: Folder of the study or experiment.
        phase: Name of the phase; empty for a single study.
        single: Whether one seed is planned; one finished seed then gives the image variance alone.
    """
    several = bool(phase) and (folder / phase / STUDY_FILE).is_file()
    folder = folder / phase if several else folder
    networks = read_results(read_study(folder), folder).networks()
    correct = [{run.seeds: run.correct for run in network.runs} for network in networks]
    shared = sorted(set.intersection(*(set(each) for each in correct)))
    tables = [np.stack([each[seeds] for seeds in shared]) for each in correct if shared]
    source = f"measured in {folder} ({counted(len(networks), 'network')}, {counted(len(shared), 'seed')})"
    if single and len(shared) == 1:
        return scatter_of_single_runs([table[0] for table in tables], source)
    top1: dict[tuple[str, int], list[float]] = {}
    for run in (run for network in networks for run in network.runs if several):
        start = run.seed if run.pretraining_seed is None else run.pretraining_seed
        top1.setdefault((run.network, start), []).append(float(run.correct.mean()))
    by_start = {key: fmean(values) for key, values in top1.items()}
    return replace(measured_scatter(tables, source), by_start=by_start)
