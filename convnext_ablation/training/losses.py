"""The training losses of an epoch."""

from __future__ import annotations

import math
import time

import torch

from convnext_ablation.training.distributed import Processes, SharedError


class Losses:
    """The losses of an epoch's batches, fetched from the device now and then, added up in one order always.

    Args:
        processes: Their losses are averaged.
        total: Sum over the batches before.
        seconds: Time that those took.
    """

    def __init__(
        self, processes: Processes, total: tuple[float, int] = (0.0, 0), seconds: float = 0.0
    ) -> None:
        self.processes = processes
        self.total = (float(total[0]), int(total[1]))
        self._seconds = seconds
        self._started: float | None = None
        self.pending: list[tuple[int, torch.Tensor]] = []

    def start_clock(self) -> None:
        """Begins to count the time."""
        self._started = time.perf_counter()

    def stop_clock(self) -> None:
        """Ends counting the time."""
        self._seconds, self._started = self.seconds, None

    @property
    def seconds(self) -> float:
        """Time that the batches took."""
        running = time.perf_counter() - self._started if self._started is not None else 0.0
        return self._seconds + running

    def add(self, step: int, loss: torch.Tensor) -> None:
        """Takes a batch's loss, a tensor on the device."""
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
            total, count = self.total
            for (step, _), value in zip(self.pending, self.processes.sum(values), strict=True):
                if not math.isfinite(value):
                    raise SharedError(
                        f"{run}: the loss is {value} at step {step}; the last checkpoint is from before; "
                        "a lower learning rate, warm-up or --clip-grad may help"
                    )
                total, count = total + value / self.processes.world_size, count + 1
            self.total = (total, count)
            self.pending = []
        return self.total[0] / max(1, self.total[1])
