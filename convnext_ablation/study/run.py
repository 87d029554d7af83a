"""Doing one run of a study: training, the test of the best epoch's weights, and the result."""

from __future__ import annotations

import json
import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import timm
import torch
import torchvision

from convnext_ablation.errors import UserError
from convnext_ablation.files import write_text
from convnext_ablation.machine import device_name
from convnext_ablation.models.cost import count_gmacs, count_parameters
from convnext_ablation.study.claims import Claim
from convnext_ablation.study.experiment import TEST_SPLIT, Run
from convnext_ablation.study.external import train_with_script
from convnext_ablation.study.run_files import PREDICTIONS, RESULT, SUMMARY
from convnext_ablation.training.checkpoints import BEST, LAST, load_checkpoint, without_optimizer
from convnext_ablation.training.distributed import make_deterministic
from convnext_ablation.training.history import Epoch, best_of, read_summary
from convnext_ablation.training.logs import Watcher
from convnext_ablation.training.loop import Trainer
from convnext_ablation.version import __version__

_DIVERGED = "the loss is"  # how training says that its loss is not finite


def versions() -> dict[str, str]:
    """Versions of what a result depends on."""
    return {
        "convnext_ablation": __version__,
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
        "timm": timm.__version__,
        "python": platform.python_version(),
    }


def execute(
    run: Run,
    study_folder: Path,
    claim: Claim | None = None,
    should_stop: Callable[[], bool] = lambda: False,
) -> None:
    """Trains one run to its end, tests the best epoch's weights once, and writes down the result.

    Args:
        run: What to train.
        study_folder: The study's folder; an interrupted run goes on from where it was.
        claim: What says that the run is this process's.
        should_stop: Whether to stop, to go on another time.

    Raises:
        UserError: The run can't be done as asked.
        LostClaimError: Another process has taken the run over.
        StoppedError: It was asked to stop while it trained.
        EvaluationStoppedError: It was asked to stop while it tested.
    """
    folder = run.folder(study_folder)
    _prepare_torch(run)
    watcher = _Guard(claim)
    start, trained = time.monotonic(), len(read_summary(folder / SUMMARY))
    trainer = Trainer(run.arguments, folder, watcher=watcher, should_stop=should_stop)
    try:
        if run.script:
            seconds = train_with_script(run, trainer, folder, claim, should_stop)
            history = read_summary(folder / SUMMARY)
            images = trainer.steps * run.arguments.batch_size * (len(history) - trained)
        else:
            history = trainer.run()
            seconds = sum(epoch.train_seconds for epoch in history)
            images = sum(epoch.images for epoch in history)
    except UserError as error:
        if not run.tuning or _DIVERGED not in str(error):
            raise
        history, images, seconds = [], 0, 0.0  # a learning rate that is too high is a finding
    best = best_of(history, trainer.metric, run.arguments.decreasing_metric)
    result = {
        "identity": run.identity,
        "network": run.point.key,
        "model": run.point.model,
        "seed": run.arguments.seed,
        "pretraining_seed": run.pretraining_seed,
        "learning_rate": run.arguments.lr,
        "best_epoch": best.epoch if best else None,
        "val_top1": best.eval_top1 if best else None,
        "val_loss": best.eval_loss if best else None,
        **({} if run.tuning else _tested(trainer, folder, best)),
        "parameters": count_parameters(trainer.model),
        "gmacs": count_gmacs(trainer.model, trainer.data_config["input_size"]),
        "train_images_per_second": images / seconds if seconds else None,
        "train_seconds": seconds,
        # of what this process did of the run, with validation: for telling the time that others will take
        "elapsed_seconds": time.monotonic() - start,
        "elapsed_epochs": len(history) - trained,
        "host": platform.node(),
        "device": device_name(run.arguments.device),
        "versions": versions(),
    }
    if (folder / BEST).is_file():
        watcher.check(now=True)
        without_optimizer(folder / BEST)
    watcher.check(now=True)
    write_text(folder / RESULT, json.dumps(result, indent=2) + "\n")
    remove_what_resumes(folder)


def remove_what_resumes(folder: Path) -> None:
    """Removes what a finished run would go on from."""
    (folder / LAST).unlink(missing_ok=True)


def _tested(trainer: Trainer, folder: Path, best: Epoch | None) -> dict[str, Any]:
    """Predicts the test images with the best epoch's weights.

    Raises:
        UserError: The weights are another epoch's.
    """
    if best is None:
        raise UserError(f"{folder}: no epoch of this run has been evaluated")
    held = load_checkpoint(folder / BEST)["epoch"]
    if held != best.epoch:
        raise UserError(
            f"{folder / BEST}: is of epoch {held}, and the best was {best.epoch}; two processes wrote to "
            "this folder; delete it to do the run again"
        )
    trainer.load_best()
    test = trainer.evaluate(TEST_SPLIT)
    trainer.watcher.line("tested")
    test.save(folder / PREDICTIONS)
    return {
        "test_top1": test.top1,
        "test_top5": test.top5_accuracy,
        "test_loss": test.loss,
        "test_images": len(test.targets),
    }


def _prepare_torch(run: Run) -> None:
    """On a CPU, has equal runs give equal bits; on a GPU, sets what timm's script sets."""
    if torch.device(run.arguments.device).type == "cpu":
        make_deterministic(run.threads)
        return
    torch.set_num_threads(run.threads)
    torch.set_float32_matmul_precision("high")
    torch.backends.cudnn.benchmark = True


class _Guard(Watcher):
    """Ends a run that isn't this process's any more, in the middle of an epoch, before it writes."""

    def __init__(self, claim: Claim | None) -> None:
        self.claim = claim

    def check(self, now: bool = False) -> None:
        """Looks whether the run is still this process's."""
        if self.claim is not None:
            self.claim.check(now)

    def started(self, epochs: int, steps: int, done: int) -> None:
        """Looks."""
        self.check(now=True)

    def trained(self, epoch: int, step: int, images: int) -> None:
        """Looks, before the step's checkpoint may be written."""
        self.check()

    def evaluated(self, split: str, images: int, of: int) -> None:
        """Looks, in any case behind the last batch: then the epoch is written down."""
        self.check(now=images == of)

    def line(self, text: str) -> None:
        """Looks, where a run says that it goes on or was tested."""
        self.check()
