"""Exact evaluation: every image once, with any number of processes, keeping each prediction."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from convnext_ablation.training.arguments import TrainingArguments
from convnext_ablation.training.distributed import Processes, SharedError
from convnext_ablation.training.images import EvaluatedImages, Images
from convnext_ablation.training.loaders import evaluation_loader, worker_errors
from convnext_ablation.training.network import Precision, memory_format
from convnext_ablation.training.predictions import Predictions


class EvaluationStoppedError(Exception):
    """An evaluation stopped on request."""


# One process's predictions, as in `Predictions` but with the probabilities of all top-5 classes, and one loss
# per image
Share = dict[str, NDArray[Any]]
_EMPTY: Share = {
    "targets": np.empty(0, np.int64),
    "top5": np.empty((0, 0), np.int64),
    "probability": np.empty((0, 0), np.float32),
    "losses": np.empty(0, np.float32),
}


@torch.inference_mode()
def predict(
    model: nn.Module,
    batches: Iterable[tuple[torch.Tensor, torch.Tensor]],
    memory_format: torch.memory_format = torch.contiguous_format,
    precision: Precision = nullcontext,
    on_batch: Callable[[int, int], None] = lambda batch, images: None,
    most: int = 5,
) -> Share:
    """Runs a network over one process's images in evaluation mode.

    Args:
        model: Maps ``(B, C, H, W)`` to logits ``(B, classes)``.
        batches: Images ``(B, C, H, W)`` and targets ``(B,)``; the loss of target -100 is 0.
        memory_format: Memory format of the images.
        precision: Context of the forward pass, such as autocast.
        on_batch: Called after each batch with its number and the images done so far; it may raise.
        most: Number of most probable classes to keep.
    """
    training, done = model.training, 0
    model.eval()
    parts: list[tuple[torch.Tensor, ...]] = []
    try:
        for number, (images, targets) in enumerate(batches):
            with precision():
                logits = model(images.contiguous(memory_format=memory_format)).float()
            probability, classes = logits.softmax(dim=1).topk(min(most, logits.shape[1]), dim=1)
            losses = nn.functional.cross_entropy(logits, targets, reduction="none")
            # copies: a worker's targets are in shared memory, which takes a file descriptor per batch
            kept = (targets.clone(), classes, probability, losses)
            parts.append(tuple(each.cpu() for each in kept))
            done += len(targets)
            on_batch(number, done)
    finally:
        model.train(training)
    if not parts:  # more processes than images
        return _EMPTY
    return {
        name: torch.cat(each).numpy() for name, each in zip(_EMPTY, zip(*parts, strict=True), strict=True)
    }


def merge(parts: Sequence[Share], ids: Sequence[str]) -> Predictions:
    """Merges the predictions of n processes; process r has the images r, r + n, ... of `ids`."""
    read = sum(len(part["targets"]) for part in parts)
    if read != len(ids):
        raise SharedError(f"{len(ids)} images listed but {read} read; the folder changed meanwhile")
    whole = {}
    for name in _EMPTY:
        values = [part[name] for part in parts]
        whole[name] = np.empty((read, *values[0].shape[1:]), values[0].dtype)
        for rank, value in enumerate(values):
            if len(value):
                whole[name][rank :: len(parts)] = value
    losses, whole["probability"] = whole.pop("losses"), whole["probability"][:, 0]
    if len(wrong := np.flatnonzero(~np.isfinite(losses + whole["probability"]))):
        raise SharedError(
            f"{ids[wrong[0]]}: the network's logits aren't finite, as for {len(wrong)} of {read} images; "
            "evaluate other weights, or in float32"
        )
    loss = float(losses.mean(dtype=np.float64))
    return Predictions(ids=np.array(ids, dtype=np.str_), **whole, loss=loss)


def evaluate(
    model: nn.Module,
    images: Images,
    arguments: TrainingArguments,
    data_config: dict[str, Any],
    processes: Processes,
    precision: Precision = nullcontext,
    on_progress: Callable[[int, int], None] = lambda images, of: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> Predictions:
    """Predicts every image of a split once, shared by all processes.

    `on_progress` is called with the images done by all processes, and their total.

    Raises:
        EvaluationStoppedError: `should_stop`, called after each batch, returned True in some process.
    """
    dataset = EvaluatedImages(images, processes.rank, processes.world_size)
    batch_size = arguments.validation_batch_size or arguments.batch_size
    common = -(-(len(images) // processes.world_size) // batch_size)

    def counted(number: int, done: int) -> None:
        on_progress(min(done * processes.world_size, len(images)), len(images))
        if number < common and processes.any(should_stop()):  # some processes have one batch more
            raise EvaluationStoppedError

    loader = evaluation_loader(dataset, arguments, data_config, processes.device)
    with worker_errors():
        part = predict(model, loader, memory_format(arguments), precision, counted)
    return merge(processes.gather(part), images.ids())
