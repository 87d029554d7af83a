"""What a run tells of itself to whoever listens."""

from __future__ import annotations

from convnext_ablation.training.history import Epoch


class Watcher:
    """Is told what a run does; this one does nothing with it."""

    def started(self, epochs: int, steps: int, done: int) -> None:
        """Hears of the epochs of the run, the batches of an epoch, and those that were done before."""

    def update(self, epoch: int, step: int, loss: float, learning_rate: float) -> None:
        """Hears of the mean training loss so far in an epoch, every `log_interval` updates."""

    def trained(self, epoch: int, step: int, images: int) -> None:
        """Hears of each batch that was trained on, with its images in all processes."""

    def evaluated(self, split: str, images: int, of: int) -> None:
        """Hears of each batch that was evaluated."""

    def epoch(self, epoch: Epoch) -> None:
        """Hears of each finished epoch, those of before an interruption too."""

    def line(self, text: str) -> None:
        """Hears of anything else."""
