"""What a run tells: the console, and TensorBoard and Weights & Biases where they are asked for."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from convnext_ablation.errors import UserError
from convnext_ablation.training.arguments import TrainingArguments
from convnext_ablation.training.history import Epoch
from convnext_ablation.training.watcher import Watcher


class Logs(Watcher):
    """Passes on what a run tells.

    Args:
        arguments: Say what to log to.
        folder: The run's folder.
        console: Prints.

    Raises:
        UserError: What is asked for isn't installed.
    """

    def __init__(self, arguments: TrainingArguments, folder: Path, console: Watcher) -> None:
        self.arguments = arguments
        self.folder = folder
        self.console = console
        self.tensorboard = _tensorboard(folder) if arguments.log_tensorboard else None
        self.wandb = _wandb(arguments, folder) if arguments.log_wandb else None
        self.first = 0

    def started(self, epochs: int, steps: int, done: int) -> None:
        """Epochs of before an interruption are logged already."""
        self.first = done // steps
        self.console.started(epochs, steps, done)

    def trained(self, epoch: int, step: int, images: int) -> None:
        """Passes it on."""
        self.console.trained(epoch, step, images)

    def update(self, epoch: int, step: int, loss: float, learning_rate: float) -> None:
        """Passes it on."""
        self.console.update(epoch, step, loss, learning_rate)

    def evaluated(self, split: str, images: int, of: int) -> None:
        """Passes it on."""
        self.console.evaluated(split, images, of)

    def line(self, text: str) -> None:
        """Passes it on."""
        self.console.line(text)

    def epoch(self, epoch: Epoch) -> None:
        """Logs the row of `summary.csv`."""
        self.console.epoch(epoch)
        if epoch.epoch < self.first:
            return
        hidden = ("epoch", "train_seconds", "images")
        row = {
            name: value for name, value in asdict(epoch).items() if value is not None and name not in hidden
        }
        if self.tensorboard is not None:
            for name, value in row.items():
                self.tensorboard.add_scalar(name, value, epoch.epoch)
            self.tensorboard.flush()
        if self.wandb is not None:
            self.wandb.log({"epoch": epoch.epoch, **row})


def _tensorboard(folder: Path) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise UserError("log_tensorboard needs TensorBoard; pip install tensorboard") from error
    return SummaryWriter(str(folder))


def _wandb(arguments: TrainingArguments, folder: Path) -> Any:
    try:
        import wandb
    except ImportError as error:
        raise UserError("log_wandb needs Weights & Biases; pip install wandb") from error
    if arguments.wandb_resume_id and not arguments.resume:
        raise UserError("wandb_resume_id goes with --resume")
    return wandb.init(
        project=arguments.wandb_project,
        name=folder.name,
        config=arguments.to_dict(),
        tags=list(arguments.wandb_tags),
        resume="must" if arguments.wandb_resume_id else None,
        id=arguments.wandb_resume_id or None,
    )
