"""Progress of a run, on the terminal and in Weights & Biases."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from convnext_ablation.console import Progress, duration
from convnext_ablation.errors import UserError, first_line
from convnext_ablation.files import write_text
from convnext_ablation.training.arguments import TrainingArguments
from convnext_ablation.training.history import Epoch

_WANDB_ID = "wandb_id.txt"  # in the folder of a run


class Log:
    """Reports a run's progress; after `start_wandb`, epochs also go to Weights & Biases."""

    def __init__(self, quiet: bool = True) -> None:
        self.steps = self.first = self.images = 0
        self.since = time.perf_counter()
        self.wandb: Any = None
        self.progress = Progress("training", unit="batches", quiet=quiet)

    def started(self, epochs: int, steps: int, done: int) -> None:
        """Starts a run of `epochs` epochs of `steps` batches, `done` of which were finished before."""
        self.steps, self.first = steps, done // steps
        self.progress.begin(epochs * steps, done)
        self.since = time.perf_counter()

    def trained(self, epoch: int, step: int, images: int) -> None:
        """Counts a batch of `images` images over all processes."""
        self.images += images
        self.progress.update()

    def update(self, epoch: int, step: int, loss: float, learning_rate: float) -> None:
        """Reports the mean training loss of the epoch so far, every `log_interval` updates."""
        now = time.perf_counter()
        speed, self.images, self.since = self.images / (now - self.since), 0, now
        if self.progress.on_terminal:
            self.progress.note(f"epoch {epoch}, loss {loss:.3f}, {speed:.0f} images/s")
            return
        self.line(
            f"epoch {epoch} [{step + 1}/{self.steps}] loss {loss:.4f}, {speed:.1f} images/s, "
            f"learning rate {learning_rate:.3e}, about {duration(self.progress.seconds_left() or 0)} left"
        )

    def evaluated(self, split: str, images: int, of: int) -> None:
        """Reports the progress of an evaluation."""
        self.progress.note(f"evaluating {split}: {images}/{of}")

    def epoch(self, epoch: Epoch) -> None:
        """Reports a finished epoch, including those from before an interruption."""
        text = f"epoch {epoch.epoch}: training loss {epoch.train_loss:.4f}"
        if epoch.eval_loss is not None:
            text += (
                f", validation loss {epoch.eval_loss:.4f}, top-1 {epoch.eval_top1:.2f} %, "
                f"top-5 {epoch.eval_top5:.2f} %"
            )
        self.images, self.since = 0, time.perf_counter()
        self.line(text)
        if self.wandb is not None and epoch.epoch >= self.first:
            hidden = ("train_seconds", "images")
            row = {name: value for name, value in asdict(epoch).items() if name not in hidden}
            self._by_wandb(self.wandb.log, {name: value for name, value in row.items() if value is not None})

    def line(self, text: str) -> None:
        """Prints any other line."""
        self.progress.line(text)

    def start_wandb(self, arguments: TrainingArguments, folder: Path) -> None:
        """Logs epochs to the folder's run in Weights & Biases, which is created if there is none.

        Raises:
            UserError: The package isn't installed.
        """
        try:
            import wandb
        except ImportError as error:
            raise UserError("log_wandb needs Weights & Biases; pip install wandb") from error
        except Exception as error:  # an incompatible version
            self._without_wandb(error)
            return
        path = folder / _WANDB_ID
        known = path.read_text(encoding="utf-8").strip() if path.is_file() else ""
        id_ = arguments.wandb_resume_id or known or secrets.token_hex(8)
        write_text(path, id_)
        self.wandb = self._by_wandb(
            wandb.init,
            project=arguments.wandb_project,
            name=folder.name,
            config=arguments.to_dict(),
            tags=list(arguments.wandb_tags),
            resume="allow",
            id=id_,
        )

    def _by_wandb(self, call: Callable[..., Any], *values: Any, **options: Any) -> Any:
        """Calls Weights & Biases; an error turns logging off instead of ending the run, and gives None."""
        try:
            return call(*values, **options)
        except Exception as error:  # no login, no network, or its own errors
            self._without_wandb(error)
            return None

    def _without_wandb(self, error: Exception) -> None:
        self.wandb = None
        self.line(f"WARNING: nothing is logged to Weights & Biases: {first_line(error)}")
