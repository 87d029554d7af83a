"""Executes one run of a study: training, a test of the best epoch's weights, and the result file.

Every engine calls `python -m convnext_ablation.study.run FOLDER`, which begins or resumes the run of
STUDY/runs/NAME or STUDY/tuning/NAME. NAME may omit the identity at its end.
"""

from __future__ import annotations

import gc
import json
import os
import platform
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import timm
import torch
import torchvision

from convnext_ablation.data.folder import check_folder, listing
from convnext_ablation.errors import UserError
from convnext_ablation.files import write_text
from convnext_ablation.machine import device_name
from convnext_ablation.models.cost import count_gmacs, count_parameters
from convnext_ablation.study import store
from convnext_ablation.study.experiment import Run, splits_of
from convnext_ablation.study.external import train_elsewhere
from convnext_ablation.study.pretrained import weights_hash
from convnext_ablation.study.tuning import as_known
from convnext_ablation.training.checkpoints import copy_whole, without_optimizer
from convnext_ablation.training.distributed import StopRequest, prepare_torch
from convnext_ablation.training.evaluation import EvaluationStoppedError
from convnext_ablation.training.history import BEST, LAST, SUMMARY, Epoch, best_of, read_summary
from convnext_ablation.training.loop import StoppedError, Trainer
from convnext_ablation.version import __version__

FAILED, STOPPED = 1, 75  # exit codes
_DIVERGED = "the loss is"  # from the error message for a non-finite loss
_SECONDS_FOR_OTHERS = 60.0  # to wait for an earlier process that is still shutting down


def main(argv: Sequence[str] | None = None) -> int:
    """Executes the run of a folder; returns 0, `FAILED` (the folder holds the reason), or `STOPPED`.

    A second argument is the file descriptor of a connection to the driver. After each successful CPU run,
    the worker sends a message and receives the folder and log of the next run. A GPU run ends its worker, so
    that the next one starts with all of the memory.
    """
    words = sys.argv[1:] if argv is None else argv
    code, stays = _do(Path(words[0]).absolute())
    if not words[1:]:
        return code
    with Connection(int(words[1])) as driver, suppress(EOFError):
        while stays and not code:
            gc.collect()
            sys.stdout.flush()
            driver.send(code)
            folder, log = driver.recv()
            with open(log, "ab") as file:
                os.dup2(file.fileno(), 1)
                os.dup2(file.fileno(), 2)
            code, stays = _do(Path(folder))
    return code


def _do(asked: Path) -> tuple[int, bool]:
    """Executes a run; returns its exit code, and whether this process can take another run."""
    try:
        run = _find(asked)
        folder = run.folder(asked.parents[1])
        with StopRequest() as stop, store.held(folder, _SECONDS_FOR_OTHERS, store.finished_epochs(folder)[0]):
            try:
                if not (folder / store.RESULT).is_file():
                    execute(run, asked.parents[1], stop)
                store.remove_what_resumes(folder)
            except (StoppedError, EvaluationStoppedError):
                return STOPPED, False
            except Exception as error:
                reason = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
                store.note_failure(folder, reason, traceback.format_exc())
                return FAILED, False
    except (UserError, store.HeldError) as error:
        print(error, file=sys.stderr)  # the driver reads it from the log
        return FAILED, False
    return 0, run.arguments.device == "cpu"


def _find(folder: Path) -> Run:
    study = as_known(store.read_study(folder.parents[1]), folder.parents[1])
    for run in filter(study.is_known, study.all_runs()):
        # the name has a hash, which takes milliseconds
        if folder.name == run.task or (folder.name.startswith(run.point.key) and folder.name == run.name):
            return run
    raise UserError(f"{folder}: no run of the study, or what it needs of other runs is not there yet")


def execute(run: Run, study_folder: Path, should_stop: Callable[[], bool] = lambda: False) -> None:
    """Trains or resumes a run, tests the best epoch's weights once, and writes the result.

    Raises:
        UserError: The run can't be executed as planned.
        StoppedError, EvaluationStoppedError: `should_stop` became true.
    """
    folder = run.folder(study_folder)
    torch.set_num_threads(run.threads)
    prepare_torch(torch.device(run.arguments.device))
    data = _Data(run)
    if run.published and weights_hash(run.point.model) != run.published:
        raise UserError(
            f"the published weights of {run.point.model} are not those that the study began with; put them "
            "back into the hub's cache, or give another --output"
        )
    start, trained = time.monotonic(), len(read_summary(folder / SUMMARY))
    trainer = Trainer(run.arguments, folder, should_stop=should_stop)
    images = trainer.steps * run.arguments.batch_size
    try:
        if run.script or run.processes > 1:
            seconds = train_elsewhere(run, trainer, folder, should_stop)
            history = read_summary(folder / SUMMARY)
            timed = len(history) - trained
        else:
            history = trainer.run()
            seconds, timed = sum(epoch.train_seconds for epoch in history), len(history)
    except UserError as error:
        if not run.tuning or _DIVERGED not in str(error):
            raise
        history, timed, seconds = [], 0, 0.0  # divergence is a valid tuning result
    best = best_of(history, trainer.metric, run.arguments.decreasing_metric)
    if run.tests_last:
        best = history[-1]
        copy_whole(folder / LAST, folder / BEST)
    state, tested = (None, {}) if run.tuning else _tested(run, trainer, folder, best)
    result = {
        "identity": run.identity,
        "network": run.point.key,
        "model": run.point.model,
        "seed": run.arguments.seed,
        "processes": run.processes,
        "script": "timm" if run.script else "",
        "pretraining_seed": run.pretraining_seed,
        "learning_rate": run.arguments.lr,
        "best_epoch": best.epoch if best else None,
        "val_top1_percent": best.eval_top1 if best else None,
        "val_loss": best.eval_loss if best else None,
        **tested,
        "parameters": count_parameters(trainer.model),
        "gmacs": count_gmacs(trainer.model, trainer.data_config["input_size"]),
        "train_images_per_second": images * timed / seconds if seconds else None,
        "train_seconds": seconds,
        # this process's share of the run, with validation; used to estimate the time left
        "elapsed_seconds": time.monotonic() - start,
        "elapsed_epochs": len(history) - trained,
        "host": platform.node(),
        "device": device_name(run.arguments.device),
        "versions": {
            "convnext_ablation": __version__,
            **{module.__name__: module.__version__ for module in (torch, torchvision, timm)},
            "python": platform.python_version(),
        },
    }
    if (folder / BEST).is_file():
        without_optimizer(folder / BEST, state)
    data.check_again(folder)
    write_text(folder / store.RESULT, json.dumps(result, indent=2) + "\n")


class _Data:
    """Checks that a run's images are those that the study was planned with, before and after training."""

    def __init__(self, run: Run) -> None:
        self.root = Path(str(run.arguments.data_dir))
        self.splits = splits_of(self.root)
        self.found = listing(self.root, self.splits)
        if not os.access(self.root, os.W_OK):  # no cache: the check would read every image
            return
        if check_folder(self.root, self.splits).fingerprint != run.data_fingerprint:
            last = max(self.found, key=lambda name: max(self.found[name][1:]))
            raise UserError(
                f"{self.root}: its images are not those that the study began with (the newest file is "
                f"{last}); put the images back, or give another --output"
            )

    def check_again(self, folder: Path) -> None:
        """Checks again after training.

        Raises:
            UserError: The images have changed; the run's files are deleted.
        """
        now = listing(self.root, self.splits)
        changed = [name for name in {**self.found, **now} if self.found.get(name) != now.get(name)]
        if changed:
            for path in folder.iterdir():
                if path.is_file() and path.name != store.LOCK:
                    path.unlink()
            raise UserError(
                f"{self.root / changed[0]}: changed while a run was at work, so nothing of the run is kept; "
                "put the images back and give --retry-failed, or give another --output"
            )


def _tested(
    run: Run, trainer: Trainer, folder: Path, best: Epoch | None
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Evaluates the best epoch's weights on the test split, and saves the predictions.

    Returns:
        The checkpoint of the best epoch without its optimizer, and entries of the result.
    """
    state = trainer.load_best()
    state.pop("optimizer", None)  # twice as large as the weights
    kept, best_epoch = state["epoch"], best.epoch if best else None
    if kept != best_epoch:
        raise UserError(
            f"{folder / BEST}: is of epoch {kept}, and the best was {best_epoch}; two processes wrote to "
            "this folder; delete it to do the run again"
        )
    test = trainer.evaluate(str(run.arguments.test_split))
    test.save(folder / store.PREDICTIONS)
    return state, {
        "split": run.arguments.test_split,
        "test_top1_percent": test.top1,
        "test_top5_percent": test.top5_accuracy,
        "test_loss": test.loss,
        "test_images": len(test.targets),
    }


if __name__ == "__main__":
    sys.exit(main())
