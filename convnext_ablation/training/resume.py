"""What a run's checkpoints hold, and how a run goes on from one: ours, or one of timm's script."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from timm.models import clean_state_dict
from torch import nn

from convnext_ablation.errors import UserError
from convnext_ablation.training.checkpoints import LAST, bring_along, load_checkpoint, newest_checkpoint
from convnext_ablation.training.history import SUMMARY, Epoch, best_of, read_summary
from convnext_ablation.training.losses import Losses

if TYPE_CHECKING:
    from convnext_ablation.training.loop import Trainer

# where a checkpoint keeps what timm's script has no place for
OURS = "convnext_ablation"
# arguments that may change between a run and its continuation without a word
_MAY_CHANGE = ("data_dir", "experiment", "lr", "num_classes", "output", "resume", "workers")


class Position(NamedTuple):
    """Where a run is: the epoch, how many of its batches are done, and their losses."""

    epoch: int
    step: int
    losses: Losses


def state_of(trainer: Trainer, epoch: int, step: int = 0, losses: Losses | None = None) -> dict[str, Any]:
    """What a checkpoint holds: the entries of timm's script, and what that has no place for under `OURS`.

    All processes must call this together: each saw other images, so its BatchNorm statistics are its own.

    Args:
        trainer: The run.
        epoch: The last epoch that is finished.
        step: Batches of the next one that are done.
        losses: Of those batches.
    """
    losses = losses or Losses(trainer.processes)
    state = {
        "epoch": epoch,
        "arch": trainer.arguments.model,
        "state_dict": trainer.model.state_dict(),
        "optimizer": trainer.optimizer.state_dict(),
        "version": 2,  # timm's: the number of the finished epoch, not of the next
        "args": trainer.arguments.to_dict(),
        OURS: {
            "history": [asdict(past) for past in trainer.history],
            "step": step,
            "losses": list(losses.total),
            "seconds": losses.seconds,
            "world_size": trainer.processes.world_size,
            "buffers": trainer.processes.gather(_buffers(trainer))
            if trainer.processes.world_size > 1
            else [],
        },
    }
    metric = trainer.history[-1].metric(trainer.metric) if trainer.history else None
    if metric is not None:
        state["metric"] = metric
    if trainer.scaler is not None:
        state[trainer.scaler.state_dict_key] = trainer.scaler.state_dict()
    if trainer.average is not None:
        state["state_dict_ema"] = trainer.average.module.state_dict()
    return state


def resume(trainer: Trainer) -> Position:
    """Puts the state that the arguments ask for into a run; returns where it goes on.

    Raises:
        UserError: The checkpoint is missing, damaged or another run's, or the folder holds a run that is not
            to be resumed.
    """
    arguments, folder, losses = trainer.arguments, trainer.folder, Losses(trainer.processes)
    if arguments.resume == "auto":
        path = newest_checkpoint(folder)
    else:
        path = Path(arguments.resume) if arguments.resume else None
    if path is None:
        if not arguments.resume and any((folder / name).is_file() for name in (LAST, SUMMARY)):
            raise UserError(
                f"{folder}: holds a run already; go on with --resume auto, "
                "or give another --output or --experiment"
            )
        return Position(arguments.start_epoch or 0, 0, losses)
    state = load_checkpoint(path)
    ours = state.get(OURS, {})
    _check_fits(trainer, path, state)
    _load(trainer, path, state)
    if ours.get("buffers"):
        _load_buffers(trainer, ours["buffers"][trainer.processes.rank])
    epoch = int(state.get("epoch", -1)) + (1 if state.get("version", 2) > 1 else 0)
    step = int(ours.get("step", 0))
    if arguments.start_epoch is not None:
        epoch, step = arguments.start_epoch, 0
    if step:
        losses = Losses(trainer.processes, tuple(ours["losses"]), ours["seconds"])
    _set_schedule(trainer, epoch, ours)
    trainer.processes.any(False)  # all have read before one writes
    if trainer.processes.is_first and ours and path != folder / LAST:
        best = best_of(trainer.history, trainer.metric, arguments.decreasing_metric)
        bring_along(path, folder, best.epoch if best else None)
    trainer.watcher.line(f"resumed from {path}: epoch {epoch}, batch {step}")
    return Position(epoch, step, losses)


def _check_fits(trainer: Trainer, path: Path, state: dict[str, Any]) -> None:
    arguments, processes = trainer.arguments, trainer.processes
    saved = state.get("args") or {}
    saved = saved if isinstance(saved, dict) else vars(saved)  # timm's script stores a namespace
    arch = state.get("arch")
    if isinstance(arch, str) and arch != arguments.model:
        raise UserError(f"{path}: is of {arch}, not of {arguments.model}")
    before = state.get(OURS, {}).get("world_size") or saved.get("world_size")
    if before and before != processes.world_size:
        raise UserError(
            f"{path}: was written by {before} processes, and now there are {processes.world_size}; "
            f"start {before}, or begin anew from its weights with --initial-checkpoint"
        )
    if "optimizer" not in state and not arguments.no_resume_opt:
        raise UserError(
            f"{path}: holds weights but no optimizer; begin anew from them with --initial-checkpoint, "
            "or add --no-resume-opt"
        )
    for name, value in arguments.to_dict().items():
        old = saved.get(name, value)
        old = list(old) if isinstance(old, tuple) else old
        if old != value and name not in _MAY_CHANGE:
            trainer.watcher.line(f"{name} was {old} and is {value} now")


def _load(trainer: Trainer, path: Path, state: dict[str, Any]) -> None:
    try:
        trainer.model.load_state_dict(clean_state_dict(state["state_dict"]))
        if trainer.average is not None:
            averaged = state.get("state_dict_ema", state["state_dict"])
            trainer.average.module.load_state_dict(clean_state_dict(averaged))
        if not trainer.arguments.no_resume_opt:
            trainer.optimizer.load_state_dict(state["optimizer"])
            if trainer.scaler is not None and trainer.scaler.state_dict_key in state:
                trainer.scaler.load_state_dict(state[trainer.scaler.state_dict_key])
    except (KeyError, RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split())[:300]
        raise UserError(f"{path}: doesn't fit this run: {reason}") from error


def _modules(trainer: Trainer) -> dict[str, nn.Module]:
    average = {"average": trainer.average.module} if trainer.average is not None else {}
    return {"model": trainer.model, **average}


def _buffers(trainer: Trainer) -> dict[str, torch.Tensor]:
    """The buffers of a process's network and of its average."""
    return {
        f"{which}.{name}": buffer.cpu()
        for which, module in _modules(trainer).items()
        for name, buffer in module.named_buffers()
    }


def _load_buffers(trainer: Trainer, saved: dict[str, torch.Tensor]) -> None:
    for which, module in _modules(trainer).items():
        for name, buffer in module.named_buffers():
            if f"{which}.{name}" in saved:
                buffer.copy_(saved[f"{which}.{name}"])


def _set_schedule(trainer: Trainer, epoch: int, ours: dict[str, Any]) -> None:
    """Brings history and schedule to the start of an epoch."""
    if "history" in ours:
        past = [Epoch(**values) for values in ours["history"]]
    else:
        past = read_summary(trainer.folder / SUMMARY)
    trainer.history = [each for each in past if each.epoch < epoch]
    rates = [group["lr"] for group in trainer.optimizer.param_groups]
    for each in trainer.history:  # a schedule may follow the metric
        trainer.scheduler.step(each.epoch + 1, each.metric(trainer.metric))
    if "history" in ours and not trainer.arguments.no_resume_opt and trainer.arguments.start_epoch is None:
        for group, rate in zip(trainer.optimizer.param_groups, rates, strict=True):
            group["lr"] = rate
    elif epoch > 0:  # as timm's script does
        trainer.scheduler.step_update(epoch * trainer.updates_per_epoch)
        trainer.scheduler.step(epoch)
