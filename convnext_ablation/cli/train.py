"""`train.py`: trains a network from the command line, in one process or under torchrun."""

from __future__ import annotations

import argparse
import importlib
import json
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from datetime import datetime
from functools import partial
from pathlib import Path

import torch.distributed as dist

from convnext_ablation.cli import main as command_line
from convnext_ablation.console import counted
from convnext_ablation.errors import UserError, exit_code_of, in_one_line
from convnext_ablation.files import check_path, locked
from convnext_ablation.machine import is_first_process
from convnext_ablation.training.arguments import TrainingArguments
from convnext_ablation.training.checks import Sample, look_at
from convnext_ablation.training.distributed import (
    Processes,
    SharedError,
    StopRequest,
    prepare_torch,
    start_processes,
)
from convnext_ablation.training.logs import Log
from convnext_ablation.training.loop import StoppedError, Trainer

_LOCK = ".train.lock"


# exit code: 0, 2 for errors that the user can fix, or 128 + n after stopping on signal n
main = partial(command_line.main, script="train.py")


def run(args: argparse.Namespace) -> int:
    """Runs the command with the `TrainingArguments` in `args.asked`; returns the exit code."""
    return guarded(args.program, lambda: _train(args.asked))


def guarded(program: str, work: Callable[[], int]) -> int:
    """Runs `work` with errors handled as in `exit_code_of`, also under torchrun; returns the exit code."""
    try:
        return exit_code_of(program, lambda: _told_once(program, work))
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()


def _told_once(program: str, work: Callable[[], int]) -> int:
    """Lets only the first process report an error that all processes share."""
    try:
        return work()
    except UserError as error:
        if is_first_process():
            raise
        if dist.is_initialized() and not isinstance(error, SharedError):
            raise UserError(f"process {dist.get_rank()}: {error}") from error
        return 2
    except RuntimeError as error:
        if not _lost_others(error):
            raise
        print(f"{program}: process {dist.get_rank()} ends: another process of the run did", file=sys.stderr)
        return 1


def _lost_others(error: RuntimeError) -> bool:
    """Whether an error only reflects another process's exit; that process reports the cause."""
    return dist.is_initialized() and any(
        words in str(error) for words in ("Connection closed by peer", "Connection reset", "Broken pipe")
    )


def _train(arguments: TrainingArguments) -> int:
    for module in arguments.device_modules or ():
        with in_one_line(f"--device-modules {module}: can't be imported"):
            importlib.import_module(module)
    processes = start_processes(arguments.device)
    prepare_torch(processes.device)
    folder = _run_folder(arguments, processes)
    log = Log(quiet=not processes.is_first)
    with log.progress, StopRequest() as stop, ExitStack() as until_done:
        # lock before reading: two writers would mix two runs
        processes.together(lambda: processes.is_first and until_done.enter_context(_alone_in(folder)))
        trainer: Trainer = processes.together(lambda: Trainer(arguments, folder, processes, log, stop))
        if arguments.log_wandb:
            start = partial(log.start_wandb, arguments, folder)
            processes.together(start if processes.is_first else lambda: None)
        images, config = trainer.splits[trainer.arguments.train_split], trainer.data_config
        sample: Sample = processes.together(
            lambda: look_at(images, trainer.arguments, config, "--input-img-mode L")
        )
        log.line("\n".join([_introduced(trainer), *sample.remarks]))
        starts = arguments.pretrained, arguments.pretrained_path, arguments.initial_checkpoint
        if arguments.freeze and not any(starts) and arguments.resume in ("", "auto"):
            log.line("WARNING: the frozen layers have random weights; give others with --pretrained-path")
        if arguments.precision == "float16" and processes.device.type == "cpu":
            instead = "--model-dtype" if arguments.model_dtype else "--amp-dtype"
            log.line(
                f"WARNING: float16 is slow on a CPU, and gradients aren't scaled; {instead} bfloat16 is fast"
            )
        try:
            trainer.run()
            trainer.test()
        except StoppedError as stopped:
            if processes.is_first:
                _say_how_to_resume(stopped, trainer)
            return 128 + stop.signal
    log.line(f"*** Best metric: {trainer.best.metric(trainer.metric)} (epoch {trainer.best.epoch})")
    log.line(f"--result\n{_results(trainer)}")
    return 0


@contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    """Locks a run's folder.

    Raises:
        UserError: Another process trains there.
    """
    busy = f"{folder}: another train.py works there; wait for it, or give another --experiment"
    try:
        with locked(folder / _LOCK, busy):
            yield
    finally:
        with suppress(OSError):
            folder.rmdir()  # removes only an empty folder


def _run_folder(arguments: TrainingArguments, processes: Processes) -> Path:
    """The run's folder; by default, the first process names it after time and model."""
    name = arguments.experiment
    if not name:
        if arguments.resume == "auto":
            raise UserError("--resume auto needs the name of the run's folder; give --experiment")
        model = arguments.model.replace("/", "_").replace(":", "_")
        name = processes.gather(f"{datetime.now():%Y%m%d-%H%M%S}-{model}")[0]
    return Path(arguments.output or "output/train") / check_path(name, "--experiment")


def _introduced(trainer: Trainer) -> str:
    arguments, processes = trainer.arguments, trainer.processes
    parameters = sum(parameter.numel() for parameter in trainer.model.parameters())
    trained = sum(each.numel() for each in trainer.model.parameters() if each.requires_grad)
    size = f"{parameters:,} parameters" + (f", {trained:,} of them trained" if arguments.freeze else "")
    return (
        f"{arguments.model}, {size}, {trainer.classes} classes; {_epochs(trainer)} "
        f"of {trainer.steps} batches, {trainer.images_an_update} images an update, learning rate "
        f"{arguments.lr:g}; {processes.world_size} x {processes.device.type}; files go to {trainer.folder}"
    )


def _epochs(trainer: Trainer) -> str:
    """The number of epochs, with the warm-up and cooldown that timm adds to `epochs`."""
    arguments = trainer.arguments
    text = f"{'up to ' if arguments.early_stopping else ''}{counted(trainer.epochs, 'epoch')}"
    warmup, cooldown = arguments.warmup_epochs * arguments.warmup_prefix, arguments.cooldown_epochs
    added = [f"{warmup} of warm-up before them"] if warmup else []
    added += [f"{cooldown} of cooldown"] if cooldown else []
    if not added or trainer.epochs != arguments.epochs + warmup + cooldown:
        return text
    return f"{text} ({' + '.join([str(arguments.epochs), *added])})"


def _say_how_to_resume(stopped: StoppedError, trainer: Trainer) -> None:
    name = "" if trainer.arguments.experiment else f" --experiment {trainer.folder.name}"
    print(
        f"{stopped}, saved {stopped.checkpoint}; resume with the same command and{name} --resume auto",
        file=sys.stderr,
    )


def _results(trainer: Trainer) -> str:
    """The ten best epochs as JSON, in the format of timm's script."""
    results = []
    for epoch in trainer.best_epochs(10):
        result = {"epoch": epoch.epoch, "train": {"loss": epoch.train_loss}}
        if epoch.eval_loss is not None:
            result["validation"] = {name: epoch.metric(name) for name in ("loss", "top1", "top5")}
        results.append(result)
    return json.dumps(results, indent=4)


if __name__ == "__main__":
    sys.exit(main())
