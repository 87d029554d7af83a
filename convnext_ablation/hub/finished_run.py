"""Reads and checks the folder of a finished run: of our `train.py`, timm's, or a study."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from convnext_ablation.data.class_names import numbers_of
from convnext_ablation.data.folder import MANIFEST, data_set_name, manifest_hash
from convnext_ablation.data.layout import same_split
from convnext_ablation.data.walk import read_skipped
from convnext_ablation.errors import UserError
from convnext_ablation.models.checkpoint_files import OURS, read_checkpoint
from convnext_ablation.study.stats.effects import accuracy
from convnext_ablation.study.store import PREDICTIONS, RESULT, load_result
from convnext_ablation.training.arguments import ARGUMENTS, TrainingArguments
from convnext_ablation.training.history import BEST, SUMMARY, Epoch, best_of, read_summary, stops_early
from convnext_ablation.training.images import Images
from convnext_ablation.training.loop import ARGUMENTS_FILE, TEST_PREDICTIONS, TEST_RESULT
from convnext_ablation.training.predictions import Predictions
from convnext_ablation.training.splits import open_split
from convnext_ablation.yaml_files import mapping, read_yaml

# dataset types that are image folders; `cached`, from older runs, also kept decoded images
_FOLDERS = ("", "cached", "torch/image_folder", "torch/folder")


@dataclass(frozen=True)
class SplitResult:
    """Accuracy on a split, in percent."""

    split: str
    top1: float
    top5: float
    images: int | None  # number of images; None if unknown
    picked_on: bool  # whether the best epoch was selected on this split

    @property
    def correct(self) -> int | None:
        """Number of correctly classified images by top-1; None if unknown."""
        return None if self.images is None else round(self.top1 * self.images / 100)

    @property
    def percent(self) -> str:
        """Top-1 accuracy in percent, with its interval over images if their number is known."""
        if self.images is None or self.correct is None:
            return f"{self.top1:.2f}"
        # the interval depends only on the number of correct images
        interval = accuracy((np.arange(self.images) < self.correct)[None])
        return f"{self.top1:.2f} [{100 * interval.low:.2f}, {100 * interval.high:.2f}]"


@dataclass(frozen=True)
class DataFacts:
    """The data that a run was trained and evaluated on; unknown fields are empty."""

    name: str
    classes: tuple[str, ...] = ()
    fingerprint: str = ""  # SHA-256 of the manifest
    images: Mapping[str, list[str]] = field(default_factory=dict, repr=False)  # image ids by split


@dataclass(frozen=True)
class FinishedRun:
    """A finished run with the weights of its best epoch."""

    folder: Path
    arguments: TrainingArguments
    saved: Mapping[str, Any] = field(repr=False)  # content of its args.yaml
    data: DataFacts
    best: Epoch  # the epoch of the weights
    epochs: int
    results: tuple[SplitResult, ...]  # the test split first
    versions: Mapping[str, str]  # of the training software, as far as recorded
    processes: int | None  # None if not recorded
    by_timm: bool  # whether it was trained by timm's script
    left_out: int = 0  # images that could not be decoded

    @property
    def ema(self) -> bool:
        """Whether the weights are the EMA, which is evaluated if it exists."""
        return self.arguments.evaluates_average

    def load(self, model: nn.Module) -> str:
        """Loads the weights into a network, which may be on device `meta`; returns a line about them."""
        kind = "averaged" if self.ema else "plain"
        return read_checkpoint(self.folder / BEST).load(model, kind, assign=True)


def read_run(folder: Path, data: Path | None = None) -> FinishedRun:
    """Reads a finished run, its data from `data` if moved; a `UserError` if unfinished or inconsistent."""
    saved = _saved_arguments(folder)
    arguments = TrainingArguments(**{name: value for name, value in saved.items() if name in ARGUMENTS})
    history = read_summary(folder / SUMMARY)
    metric = arguments.eval_metric if arguments.val_split else "train_loss"
    best = best_of(history, metric, arguments.decreasing_metric)
    study = load_result(folder / RESULT) if (folder / RESULT).is_file() else {}
    tested = study.get("split", arguments.test_split) or ""
    # without a test split, a study evaluates the last epoch, so that no epoch is selected on that split
    if tests_last := bool(study) and same_split(tested, arguments.val_split):
        best = history[-1]
    if best is None:
        raise UserError(f"{folder}: {SUMMARY} has no epoch with a {metric}; this is no finished run")
    if history[-1].epoch + 1 < arguments.epochs and not stops_early(history, arguments):
        raise UserError(
            f"{folder}: only {history[-1].epoch + 1} of {arguments.epochs} epochs are done; "
            "finish it with --resume auto, then publish it"
        )
    checkpoint = read_checkpoint(folder / BEST)
    state = checkpoint.content
    if state.get("epoch") != best.epoch:
        raise UserError(
            f"{folder / BEST}: is of epoch {state.get('epoch')}, and the best of {SUMMARY} is {best.epoch}; "
            "the files are of different runs"
        )
    data_facts = _data_facts(arguments, data, tuple(checkpoint.classes), folder)
    return FinishedRun(
        folder=folder,
        arguments=arguments,
        saved=saved,
        data=data_facts,
        best=best,
        epochs=history[-1].epoch + 1,
        results=tuple(_results(folder, arguments, best, data_facts, study, tests_last)),
        versions=study.get("versions", {}),
        processes=(state.get(OURS) or {}).get("world_size"),
        by_timm="test_split" not in saved,
        left_out=len(read_skipped(folder)),
    )


def _saved_arguments(folder: Path) -> dict[str, Any]:
    """Reads the `args.yaml` of a finished run."""
    for name in (ARGUMENTS_FILE, SUMMARY, BEST):
        if not (folder / name).is_file():
            raise UserError(f"{folder}: has no {name}; name the output folder of a finished run of train.py")
    path = folder / ARGUMENTS_FILE
    saved = mapping(read_yaml(path), str(path))
    if not isinstance(saved.get("model"), str):
        raise UserError(f"{path}: names no model; it isn't the args.yaml of a run")
    # timm's script stores the positional data folder under another name
    return {**saved, "data_dir": saved.get("data_dir") or saved.get("data")}


def _results(
    folder: Path,
    arguments: TrainingArguments,
    best: Epoch,
    data: DataFacts,
    study: Mapping[str, Any],
    tests_last: bool,
) -> Iterator[SplitResult]:
    if test := _test(folder, arguments, best, study):
        split, predictions = test
        listed = data.images.get(split)
        if listed is not None and not set(predictions.ids.tolist()) <= set(listed):
            raise UserError(
                f"{folder}: the data have other images in the split {split!r} than the run was tested on; "
                "name the folder that it was with --data"
            )
        validates, images = same_split(split, arguments.val_split), len(predictions.targets)
        yield SplitResult(
            split, predictions.top1, predictions.top5_accuracy, images, picked_on=validates and not tests_last
        )
        if validates:
            return
    if best.eval_top1 is not None and best.eval_top5 is not None:
        # broken images that were left out may be in this split
        count = 0 if read_skipped(folder) else len(data.images.get(arguments.val_split, ()))
        correct = best.eval_top1 * count / 100
        counted = count > 0 and abs(correct - round(correct)) < 0.05  # timm accumulates in float32
        known = count if counted else None
        yield SplitResult(arguments.val_split, best.eval_top1, best.eval_top5, known, picked_on=True)


def _test(
    folder: Path, arguments: TrainingArguments, best: Epoch, study: Mapping[str, Any]
) -> tuple[str, Predictions] | None:
    """The split on which the best epoch was tested, and the predictions; None if it wasn't tested."""
    if (folder / TEST_RESULT).is_file():
        result, path = load_result(folder / TEST_RESULT), folder / TEST_PREDICTIONS
        split, epoch, top1 = result.get("split"), result.get("epoch"), result.get("top1_percent")
    elif "test_top1_percent" in study:
        path, split = folder / PREDICTIONS, study.get("split") or arguments.test_split or "test"
        epoch, top1 = study.get("best_epoch"), study["test_top1_percent"]
    else:
        return None
    predictions = Predictions.load(path)
    if epoch != best.epoch or top1 is None or abs(predictions.top1 - top1) > 1e-9:
        raise UserError(
            f"{folder}: the test was of epoch {epoch} with top-1 {top1}, the best epoch is {best.epoch} and "
            f"{path.name} gives {predictions.top1}; the files are of different runs"
        )
    return str(split), predictions


def _data_facts(
    arguments: TrainingArguments, data: Path | None, classes: tuple[str, ...], run: Path
) -> DataFacts:
    """Describes the data; if the folder is missing, only by what the run recorded."""
    if arguments.dataset not in _FOLDERS:
        return DataFacts(arguments.dataset.partition("/")[2], classes)
    root = data or Path(arguments.data_dir or "unknown")
    if data is not None and not data.is_dir():
        raise UserError(f"{data}: no such folder; name that of the data with --data")
    if not root.is_dir():
        return DataFacts(root.name, classes)
    there: dict[str, Images] = {}
    for split in filter(None, dict.fromkeys((arguments.val_split, arguments.test_split, "test"))):
        with suppress(UserError):  # the split no longer exists
            there[split] = open_split(replace(arguments, data_dir=str(root), dataset=""), split)
    if data is not None and not there:
        raise UserError(f"{data}: has none of the run's splits; name the folder of its data with --data")
    for images in there.values():
        if classes:
            remedy = "name the folder that the run was trained on with --data"
            images.number_by(numbers_of(classes), str(run), remedy)
    classes = classes or next((tuple(images.classes) for images in there.values()), ())
    if arguments.num_classes is not None and len(classes) != arguments.num_classes:
        classes = ()
    return DataFacts(
        name=data_set_name(root),
        classes=classes,
        fingerprint=manifest_hash(root) if (root / MANIFEST).is_file() else "",
        images={split: images.ids() for split, images in there.items()},
    )
