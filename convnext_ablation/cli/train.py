"""`train.py`: trains a network from the command line, alone or under torchrun."""

from __future__ import annotations

import importlib
import json
import signal
import sys
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from timm.models import get_arch_pretrained_cfgs

from convnext_ablation.errors import UserError
from convnext_ablation.files import write_text
from convnext_ablation.machine import keep_memory
from convnext_ablation.models import zoo  # noqa: F401  registers the networks
from convnext_ablation.training.arguments import TrainingArguments
from convnext_ablation.training.console import Console
from convnext_ablation.training.distributed import Processes, SharedError, is_first_process, start_processes
from convnext_ablation.training.logs import Logs
from convnext_ablation.training.loop import StoppedError, Trainer
from convnext_ablation.training.parser import parse_arguments
from convnext_ablation.training.reproducibility import make_deterministic
from convnext_ablation.training.stop import StopRequest
from convnext_ablation.training.watcher import Watcher

TEST_RESULT, TEST_PREDICTIONS, UNREADABLE = "test.json", "test_predictions.npz", "unreadable_images.txt"


def main(argv: Sequence[str] | None = None) -> int:
    """Runs `train.py`.

    Args:
        argv: Its arguments, those of the process if None.

    Returns:
        The exit code: 0; 2 for what the user can mend; 128 + n when signal n asked to stop.
    """
    return guarded("train.py", lambda: _train(parse_arguments(argv)))


def guarded(program: str, work: Callable[[], int]) -> int:
    """Does a program's work; a user's error becomes one line and exit code 2.

    Args:
        program: Its name, for the line.
        work: Returns the exit code.
    """
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
    console = Console() if processes.is_first else None
    watcher: Watcher = Logs(arguments, folder, console) if console is not None else Watcher()
    try:
        with StopRequest() as stop:
            trainer = together(processes, lambda: Trainer(arguments, folder, processes, watcher, stop))
            if processes.is_first:
                watcher.line(_introduced(trainer))
            try:
                trainer.run()
            except StoppedError as stopped:
                if processes.is_first:
                    _say_how_to_go_on(stopped, trainer)
                return 128 + stop.signal
            finally:
                if processes.is_first:
                    _list_unreadable(trainer)
            _finish(trainer, watcher)
    finally:
        if console is not None:
            console.close()
    return 0


def together(processes: Processes, make: Callable[[], Any]) -> Any:
    """Makes something in every process, and raises in all what went wrong in any.

    Raises:
        SharedError: It could not be made.
    """
    made, wrong = None, None
    try:
        made = make()
    except UserError as error:
        wrong = str(error)
    reasons = [reason for reason in processes.gather(wrong) if reason]
    if reasons:
        raise SharedError("; ".join(dict.fromkeys(reasons)))
    return made


def prepare_torch(device: torch.device) -> None:
    """Sets what timm's script sets on a GPU; on a CPU, has equal runs give equal bits.

    Memory is kept, which spares a step on a CPU its page faults: benchmarks/training_step.py measures it.
    """
    keep_memory()
    if device.type == "cuda":
        torch.set_float32_matmul_precision("high")
        torch.backends.cudnn.benchmark = True
    else:
        make_deterministic(torch.get_num_threads())


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
        f"{stopped}, saved {stopped.checkpoint}; go on with the same command and{name} --resume auto",
        file=sys.stderr,
    )


def _list_unreadable(trainer: Trainer) -> None:
    lines = [f"{image}: {reason}" for image, reason in trainer.unreadable.reasons.items()]
    if lines and trainer.folder.is_dir():
        write_text(trainer.folder / UNREADABLE, "\n".join(lines) + "\n")
        trainer.watcher.line(f"{len(lines)} images could not be decoded: {trainer.folder / UNREADABLE}")


def _finish(trainer: Trainer, watcher: Watcher) -> None:
    """Tests the best epoch's weights if asked to, once, and prints the results as timm's script does."""
    split, folder, best = trainer.arguments.test_split, trainer.folder, trainer.best
    if split and not (folder / TEST_RESULT).is_file():
        trainer.load_best()
        test = trainer.evaluate(split)
        if trainer.processes.is_first:
            test.save(folder / TEST_PREDICTIONS)
            result = {
                "split": split,
                "epoch": best.epoch,
                "images": len(test.targets),
                "top1": test.top1,
                "top5": test.top5_accuracy,
                "loss": test.loss,
            }
            write_text(folder / TEST_RESULT, json.dumps(result, indent=2) + "\n")
            watcher.line(
                f"test, epoch {best.epoch}: top-1 {test.top1:.2f} %, top-5 {test.top5_accuracy:.2f} %, "
                f"{len(test.targets)} images"
            )
    if trainer.processes.is_first:
        watcher.line(f"*** Best metric: {best.metric(trainer.metric)} (epoch {best.epoch})")
        results = [
            {
                "epoch": epoch.epoch,
                "train": {"loss": epoch.train_loss},
                **(
                    {"validation": {name: epoch.metric(name) for name in ("loss", "top1", "top5")}}
                    if epoch.eval_loss is not None
                    else {}
                ),
            }
            for epoch in trainer.best_epochs(10)
        ]
        watcher.line(f"--result\n{json.dumps(results, indent=4)}")
