"""`train.py`: trains a network from the command line, alone or under torchrun."""

from __future__ import annotations

import importlib
import json
import signal
import sys
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path

import torch.distributed as dist
from timm.models import get_arch_pretrained_cfgs

from convnext_ablation.errors import UserError
from convnext_ablation.models import zoo  # noqa: F401  registers the networks
from convnext_ablation.training.arguments import TrainingArguments
from convnext_ablation.training.distributed import (
    Processes,
    SharedError,
    StopRequest,
    is_first_process,
    prepare_torch,
    start_processes,
)
from convnext_ablation.training.logs import Logs, Watcher
from convnext_ablation.training.loop import StoppedError, Trainer
from convnext_ablation.training.parser import parse_arguments


def main(argv: Sequence[str] | None = None) -> int:
    """Runs `train.py`; returns 0, 2 for what the user can mend, or 128 + n when signal n asked to stop."""
    return guarded("train.py", lambda: _train(parse_arguments(argv)))


def guarded(program: str, work: Callable[[], int]) -> int:
    """Does a program's work, which returns the exit code; a user's error becomes one line and exit code 2."""
    try:
        return work()
    except SharedError as error:
        if is_first_process():
            print(f"{program}: error: {error}", file=sys.stderr)
        return 2
    except UserError as error:
        who = "" if not dist.is_initialized() or is_first_process() else f" (process {dist.get_rank()})"
        if is_first_process() or dist.is_initialized():
            print(f"{program}: error{who}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"\n{program}: stopped", file=sys.stderr)
        return 128 + signal.SIGINT
    except RuntimeError as error:
        if not _lost_others(error):
            raise
        print(f"{program}: process {dist.get_rank()} ends: another process of the run did", file=sys.stderr)
        return 1
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()


def _lost_others(error: RuntimeError) -> bool:
    """Whether an error only says that another process has gone; that one says why itself."""
    return dist.is_initialized() and any(
        words in str(error) for words in ("Connection closed by peer", "Connection reset", "Broken pipe")
    )


def _train(arguments: TrainingArguments) -> int:
    for module in arguments.device_modules or ():
        _import(module)
    processes = start_processes(arguments.device)
    prepare_torch(processes.device)
    folder = _run_folder(arguments, processes)
    logs = Logs(arguments, folder) if processes.is_first else None
    watcher = logs or Watcher()
    try:
        with StopRequest() as stop:
            trainer: Trainer = processes.together(
                lambda: Trainer(arguments, folder, processes, watcher, stop)
            )
            watcher.line(_introduced(trainer))
            try:
                trainer.run()
            except StoppedError as stopped:
                if processes.is_first:
                    _say_how_to_go_on(stopped, trainer)
                return 128 + stop.signal
            finally:
                if processes.is_first:
                    trainer.list_unreadable()
            trainer.test()
        watcher.line(f"*** Best metric: {trainer.best.metric(trainer.metric)} (epoch {trainer.best.epoch})")
        watcher.line(f"--result\n{_results(trainer)}")
    finally:
        if logs is not None:
            logs.close()
    return 0


def _import(module: str) -> None:
    try:
        importlib.import_module(module)
    except ImportError as error:
        raise UserError(f"--device-modules {module}: can't be imported: {error}") from error


def _run_folder(arguments: TrainingArguments, processes: Processes) -> Path:
    """The run's folder; the first process names it."""
    name = arguments.experiment
    if not name:
        if arguments.resume == "auto":
            raise UserError("--resume auto needs the name of the run's folder; give --experiment")
        size = arguments.input_size[-1] if arguments.input_size else arguments.img_size
        if size is None:
            tagged = get_arch_pretrained_cfgs(arguments.model)  # not those of one's own releases
            config = tagged.get(arguments.model) or next(iter(tagged.values()), None)
            size = config.input_size[-1] if config else 224
        model = arguments.model.replace("/", "_").replace(":", "_")
        name = processes.gather(f"{datetime.now():%Y%m%d-%H%M%S}-{model}-{size}")[0]
    return Path(arguments.output or "output/train") / name


def _introduced(trainer: Trainer) -> str:
    arguments, processes = trainer.arguments, trainer.processes
    updates = arguments.batch_size * processes.world_size * arguments.grad_accum_steps
    parameters = sum(parameter.numel() for parameter in trainer.model.parameters())
    return (
        f"{arguments.model}, {parameters:,} parameters, {trainer.classes} classes; {trainer.epochs} epochs "
        f"of {trainer.steps} batches, {updates} images an update, learning rate {arguments.lr:g}; "
        f"{processes.world_size} x {processes.device.type}; files go to {trainer.folder}"
    )


def _say_how_to_go_on(stopped: StoppedError, trainer: Trainer) -> None:
    name = "" if trainer.arguments.experiment else f" --experiment {trainer.folder.name}"
    print(
        f"{stopped}, saved {stopped.checkpoint}; resume with the same command and{name} --resume auto",
        file=sys.stderr,
    )


def _results(trainer: Trainer) -> str:
    """The best epochs, as timm's script prints them."""
    results = []
    for epoch in trainer.best_epochs(10):
        result = {"epoch": epoch.epoch, "train": {"loss": epoch.train_loss}}
        if epoch.eval_loss is not None:
            result["validation"] = {name: epoch.metric(name) for name in ("loss", "top1", "top5")}
        results.append(result)
    return json.dumps(results, indent=4)
