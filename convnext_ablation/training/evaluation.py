"""Exact evaluation: every image once, in float32, with a prediction for each kept."""

from __future__ import annotations

import zipfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from convnext_ablation.errors import UserError
from convnext_ablation.files import written_whole


@dataclass(frozen=True)
class Predictions:
    """What a network said of each image of a split, in the order of the image folder.

    Attributes:
        ids: Path of each image below the split's folder, ``(N,)``.
        targets: Class index of each image, ``(N,)``.
        top5: The most probable classes, best first, ``(N, K)`` with K = 5, or all where there are fewer.
        probability: Probability of the first of them, ``(N,)``.
        loss: Mean cross-entropy in nats.
    """

    ids: NDArray[np.str_]
    targets: NDArray[np.int64]
    top5: NDArray[np.int64]
    probability: NDArray[np.float32]
    loss: float

    @property
    def correct(self) -> NDArray[np.bool_]:
        """Whether the most probable class is the target, ``(N,)``."""
        return self.top5[:, 0] == self.targets

    @property
    def top1(self) -> float:
        """Percentage of images whose most probable class is the target."""
        return 100.0 * float(self.correct.mean())

    @property
    def top5_accuracy(self) -> float:
        """Percentage of images whose target is among the five most probable classes."""
        return 100.0 * float((self.top5 == self.targets[:, None]).any(axis=1).mean())

    def save(self, path: Path) -> None:
        """Writes a compressed NumPy archive with one array an attribute."""
        with written_whole(path) as temporary, open(temporary, "wb") as file:
            np.savez_compressed(
                file,
                ids=self.ids,
                targets=self.targets,
                top5=self.top5,
                probability=self.probability,
                loss=self.loss,
            )

    @classmethod
    def load(cls, path: Path) -> Predictions:
        """Reads what `save` wrote.

        Raises:
            UserError: The file is missing or damaged.
        """
        try:
            with np.load(path, allow_pickle=False) as archive:
                return cls(
                    ids=archive["ids"],
                    targets=archive["targets"],
                    top5=archive["top5"],
                    probability=archive["probability"],
                    loss=float(archive["loss"]),
                )
        except (OSError, EOFError, KeyError, ValueError, zipfile.BadZipFile) as error:
            raise UserError(
                f"{path}: predictions can't be read ({error}); delete its run to do it again"
            ) from error


@torch.inference_mode()
def predict(
    model: nn.Module,
    batches: Iterable[tuple[torch.Tensor, torch.Tensor]],
    ids: Sequence[str],
    memory_format: torch.memory_format = torch.contiguous_format,
) -> Predictions:
    """Runs a network over a split in evaluation mode, in the precision of its weights.

    Args:
        model: Maps ``(B, C, H, W)`` to logits ``(B, classes)``.
        batches: Images ``(B, C, H, W)`` and targets ``(B,)``, in the order of `ids`.
        ids: Name of each image.
        memory_format: Layout that the images are given to the network in.

    Raises:
        UserError: The split held another number of images than `ids`.
    """
    training = model.training
    model.eval()
    logits, targets = [], []
    for images, labels in batches:
        logits.append(model(images.contiguous(memory_format=memory_format)).float().cpu())
        targets.append(labels.cpu())
    model.train(training)
    all_logits, all_targets = torch.cat(logits), torch.cat(targets)
    if len(all_targets) != len(ids):
        raise UserError(f"{len(ids)} images listed but {len(all_targets)} read; the folder changed meanwhile")
    probability, classes = all_logits.softmax(dim=1).topk(min(5, all_logits.shape[1]), dim=1)
    return Predictions(
        ids=np.array(ids, dtype=np.str_),
        targets=all_targets.numpy(),
        top5=classes.numpy(),
        probability=probability[:, 0].numpy(),
        loss=float(nn.functional.cross_entropy(all_logits, all_targets)),
    )
