"""What a run prints: a bar with the time left on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time

from tqdm import tqdm

from convnext_ablation.training.history import Epoch
from convnext_ablation.training.watcher import Watcher


class Console(Watcher):
    """Prints what a run does."""

    def __init__(self) -> None:
        self.steps = self.epochs = self.images = 0
        self.since = time.perf_counter()
        self.bar = tqdm(
            disable=not sys.stderr.isatty(),
            bar_format="{percentage:3.0f}%|{bar}| {elapsed} gone, {remaining} left{postfix}",
        )

    def started(self, epochs: int, steps: int, done: int) -> None:
        """Sets the bar to where the run begins."""
        self.epochs, self.steps = epochs, steps
        self.bar.reset(total=epochs * steps)
        self.bar.initial = self.bar.n = done
        self.since = self.begin = time.perf_counter()
        self.begun = done

    def trained(self, epoch: int, step: int, images: int) -> None:
        """Moves the bar."""
        self.images += images
        self.bar.update(1)

    def update(self, epoch: int, step: int, loss: float, learning_rate: float) -> None:
        """Prints loss, speed and learning rate."""
        now = time.perf_counter()
        speed, self.images, self.since = self.images / (now - self.since), 0, now
        if not self.bar.disable:
            self.bar.set_postfix_str(f"epoch {epoch}, loss {loss:.3f}, {speed:.0f} images/s")
            return
        done = epoch * self.steps + step + 1
        left = (now - self.begin) * (self.epochs * self.steps - done) / (done - self.begun)
        self.line(
            f"epoch {epoch} [{step + 1}/{self.steps}] loss {loss:.4f}, {speed:.1f} images/s, "
            f"learning rate {learning_rate:.3e}, about {_clock(left)} left"
        )

    def epoch(self, epoch: Epoch) -> None:
        """Prints what an epoch reached."""
        text = f"epoch {epoch.epoch}: training loss {epoch.train_loss:.4f}"
        if epoch.eval_loss is not None:
            text += (
                f", validation loss {epoch.eval_loss:.4f}, top-1 {epoch.eval_top1:.2f} %, "
                f"top-5 {epoch.eval_top5:.2f} %"
            )
        self.images, self.since = 0, time.perf_counter()
        self.line(text)

    def evaluated(self, split: str, images: int, of: int) -> None:
        """Shows how far an evaluation is."""
        if not self.bar.disable:
            self.bar.set_postfix_str(f"evaluating {split}: {images}/{of}")

    def progress(self, images: int, of: int) -> None:
        """Moves the bar of an evaluation that stands alone."""
        if self.bar.total != of:
            self.bar.reset(total=of)
        self.bar.update(images - self.bar.n)

    def line(self, text: str) -> None:
        """Prints a line, above the bar if there is one."""
        if self.bar.disable:
            print(text, flush=True)
        else:
            self.bar.write(text)

    def close(self) -> None:
        """Leaves the terminal as it was."""
        self.bar.close()


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}"
