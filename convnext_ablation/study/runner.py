"""Doing a study's runs: several side by side, each one once, whatever is killed in between."""

from __future__ import annotations

import json
import multiprocessing
import os
import platform
import signal
from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.queues import SimpleQueue
from pathlib import Path
from typing import Any

import timm
import torch
import torchvision

from convnext_ablation.cost import count_gmacs, count_parameters
from convnext_ablation.errors import UserError
from convnext_ablation.files import write_text
from convnext_ablation.machine import end_with_parent
from convnext_ablation.study.plan import TEST_SPLIT, Run
from convnext_ablation.study.progress import Progress
from convnext_ablation.training.checkpoints import BEST, LAST, without_optimizer
from convnext_ablation.training.history import Epoch
from convnext_ablation.training.loop import Trainer
from convnext_ablation.training.reproducibility import make_deterministic
from convnext_ablation.training.watcher import Watcher
from convnext_ablation.version import __version__

RESULT, PREDICTIONS = "result.json", "predictions.npz"
# glibc gives memory back to the system after every step and takes it again page by page; told to keep it, a
# training step is up to 1.4 times as fast
KEEP_MEMORY = {"MALLOC_TRIM_THRESHOLD_": "1000000000", "MALLOC_MMAP_THRESHOLD_": "1000000000"}

_epochs: SimpleQueue[tuple[str, int]]


def versions() -> dict[str, str]:
    """Versions of what a result depends on."""
    return {
        "convnext_ablation": __version__,
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
        "timm": timm.__version__,
        "python": platform.python_version(),
    }


def is_done(run: Run, study_folder: Path) -> bool:
    """Whether a run has finished; its result is the last thing that it writes."""
    return (run.folder(study_folder) / RESULT).is_file()


def read_result(run: Run, study_folder: Path) -> dict[str, Any]:
    """Reads a finished run's `result.json`.

    Raises:
        UserError: It is missing or damaged.
    """
    path = run.folder(study_folder) / RESULT
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: can't be read ({error}); delete the folder to do the run again") from error


def execute(run: Run, study_folder: Path, watcher: Watcher | None = None) -> None:
    """Trains one run to its end, tests the best epoch's weights once, and writes down the result.

    Args:
        run: What to train.
        study_folder: The study's folder; an interrupted run goes on from its last epoch.
        watcher: Is told what the run does.
    """
    folder = run.folder(study_folder)
    make_deterministic(run.threads)
    trainer = Trainer(run.arguments, folder, watcher=watcher)
    history = trainer.run()
    trainer.load_best()
    test = trainer.evaluate(TEST_SPLIT)
    test.save(folder / PREDICTIONS)
    train_seconds = sum(epoch.train_seconds for epoch in history)
    result = {
        "identity": run.identity,
        "model": run.point.model,
        "seed": run.arguments.seed,
        "learning_rate": run.arguments.lr,
        "best_epoch": trainer.best.epoch,
        "val_top1": trainer.best.eval_top1,
        "test_top1": test.top1,
        "test_top5": test.top5_accuracy,
        "test_loss": test.loss,
        "test_images": len(test.targets),
        "parameters": count_parameters(trainer.model),
        "gmacs": count_gmacs(trainer.model, trainer.data_config["input_size"]),
        "train_images_per_second": sum(epoch.images for epoch in history) / train_seconds,
        "train_seconds": train_seconds,
        "versions": versions(),
    }
    write_text(folder / RESULT, json.dumps(result, indent=2) + "\n")
    (folder / LAST).unlink()  # a finished run has nothing left to resume
    without_optimizer(folder / BEST)


def execute_all(runs: Sequence[Run], study_folder: Path, jobs: int, progress: Progress) -> None:
    """Does all runs that aren't done, `jobs` at a time, each in a process of its own.

    Args:
        runs: The runs, in the order in which they are started.
        study_folder: The study's folder.
        jobs: Runs at the same time.
        progress: Is told of each epoch and each finished run.

    Raises:
        UserError: Runs failed; the others are done.
    """
    left = [run for run in runs if not is_done(run, study_folder)]
    if not left:
        return
    os.environ.update({name: os.environ.get(name, value) for name, value in KEEP_MEMORY.items()})
    context = multiprocessing.get_context("spawn")
    epochs: SimpleQueue[tuple[str, int]] = context.SimpleQueue()
    failures: dict[str, str] = {}
    with ProcessPoolExecutor(min(jobs, len(left)), context, _start_worker, (epochs,)) as pool:
        futures = {pool.submit(_work, run, study_folder): run for run in left}
        try:
            _collect(futures, study_folder, epochs, progress, failures)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            for process in multiprocessing.active_children():
                process.terminate()
            raise
    if failures:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in failures.items())
        raise UserError(f"{len(failures)} of {len(runs)} runs failed ({reasons})")


def _collect(
    futures: dict[Future[None], Run],
    study_folder: Path,
    epochs: SimpleQueue[tuple[str, int]],
    progress: Progress,
    failures: dict[str, str],
) -> None:
    """Waits for all runs and reports what they do; notes down the failures that a user can mend."""
    pending = set(futures)
    while pending:
        finished, pending = wait(pending, timeout=0.5, return_when=FIRST_COMPLETED)
        while not epochs.empty():
            progress.epoch(*epochs.get())
        for future in finished:
            run = futures[future]
            name = run.folder(study_folder).name
            try:
                future.result()
            except UserError as error:
                failures[name] = str(error)
                progress.failed(name, str(error))
            except BrokenProcessPool as error:
                raise UserError(
                    f"a process that trained was killed, about {name} (out of memory?); "
                    "what was finished stays valid: run the same command again, with fewer --jobs"
                ) from error
            else:
                progress.finished(name, read_result(run, study_folder))


def _start_worker(epochs: SimpleQueue[tuple[str, int]]) -> None:
    """Readies a process: it reports epochs, and it ends when the study's process does."""
    global _epochs
    _epochs = epochs
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes; the study ends this one
    end_with_parent()  # another study may already do a killed one's runs again


def _work(run: Run, study_folder: Path) -> None:
    execute(run, study_folder, _Reporter(run.folder(study_folder).name))


class _Reporter(Watcher):
    """Tells the study of a run's epochs."""

    def __init__(self, run: str) -> None:
        self.run = run

    def epoch(self, epoch: Epoch) -> None:
        _epochs.put((self.run, epoch.epoch))
