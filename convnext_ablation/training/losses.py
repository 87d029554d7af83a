"""The training loss, and the mean of an epoch's."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from functools import partial

import torch
from timm.loss import BinaryCrossEntropy, LabelSmoothingCrossEntropy, SoftTargetCrossEntropy
from torch import nn

from convnext_ablation.training.arguments import TrainingArguments
from convnext_ablation.training.distributed import Processes, SharedError


def create_loss(arguments: TrainingArguments) -> nn.Module:
    """The training loss; timm's script picks it by the same rules."""
    binary = partial(
        BinaryCrossEntropy,
        target_threshold=arguments.bce_target_thresh,
        sum_classes=arguments.bce_sum,
        pos_weight=arguments.bce_pos_weight,
    )
    if arguments.mixes:  # the targets are smoothed when they are mixed
        return binary() if arguments.bce_loss else SoftTargetCrossEntropy()
    if arguments.smoothing:
        if arguments.bce_loss:
            return binary(smoothing=arguments.smoothing)
        return LabelSmoothingCrossEntropy(arguments.smoothing)
    return nn.CrossEntropyLoss()


class Losses:
    """The losses of an epoch's batches, fetched from the device now and then, added up in one order always.

    Args:
        processes: Their losses are averaged.
        total: Sum over the batches before, and their number.
        seconds: Time that those took.
    """

    def __init__(self, processes: Processes, total: Sequence[float] = (0.0, 0), seconds: float = 0.0) -> None:
        self.processes = processes
        self.total, self.count = float(total[0]), int(total[1])
        self.seconds = seconds
        self.pending: list[tuple[int, torch.Tensor]] = []
        self._since = time.perf_counter()

    def add(self, step: int, loss: torch.Tensor) -> None:
        """Adds a batch's loss, a tensor on the device."""
        self.pending.append((step, loss))

    def mean(self, run: str) -> float:
        """Mean over all batches so far and all processes.

        Args:
            run: What is trained, for the message.

        Raises:
            SharedError: One isn't finite.
        """
        if self.pending:
            values = torch.stack([loss.double() for _, loss in self.pending]).cpu().tolist()
            for (step, _), value in zip(self.pending, self.processes.sum(values), strict=True):
                if not math.isfinite(value):
                    raise SharedError(
                        f"{run}: the loss is {value} at step {step}; the last checkpoint is from before; "
                        "a lower learning rate, warm-up or --clip-grad may help"
                    )
                self.total, self.count = self.total + value / self.processes.world_size, self.count + 1
            now = time.perf_counter()
            self.seconds, self._since, self.pending = self.seconds + now - self._since, now, []
        return self.total / max(1, self.count)
