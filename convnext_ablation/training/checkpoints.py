"""Checkpoints of a run under timm's file names, and resuming from them or from those of timm's script."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from convnext_ablation.data.class_names import numbers_of
from convnext_ablation.errors import UserError, in_one_line
from convnext_ablation.files import written_whole
from convnext_ablation.models.checkpoint_files import OURS, Checkpoint, read_checkpoint
from convnext_ablation.models.convert import fitted
from convnext_ablation.training.history import LAST, SUMMARY, Epoch, read_summary
from convnext_ablation.training.images import balanced_weights
from convnext_ablation.training.parts import Losses, Parts

_EPOCH, _RECOVERY = "checkpoint-{}.pth.tar", "recovery-{}-{}.pth.tar"
# arguments that may change on resume without a line in the log
_MAY_CHANGE = ("data_dir", "experiment", "lr", "num_classes", "output", "resume", "workers")


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Writes a checkpoint, atomically."""
    with written_whole(path) as temporary, open(temporary, "wb") as file:
        torch.save(state, file)


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Reads a checkpoint of ours or of timm's script without executing anything in it."""
    state = read_checkpoint(path).content
    if "state_dict" not in state:
        raise UserError(f"{path}: not a checkpoint of a training: it has no state_dict")
    return dict(state)


def copy_whole(source: Path, target: Path) -> None:
    """Gives a file a second name: a hard link where the file system supports it, else a copy."""
    with written_whole(target) as temporary:
        temporary.unlink(missing_ok=True)
        try:
            os.link(source, temporary)
        except OSError:
            shutil.copyfile(source, temporary)


def without_optimizer(path: Path, state: Mapping[str, Any] | None = None) -> None:
    """Removes the optimizer from a checkpoint, which leaves a third of its size; `state` saves reading it."""
    state = load_checkpoint(path) if state is None else state
    save_checkpoint(path, {name: value for name, value in state.items() if name != "optimizer"})


def _newest_checkpoint(folder: Path) -> Path | None:
    """The checkpoint that `--resume auto` picks; None if there is none."""
    recoveries, last = _recoveries(folder), folder / LAST
    if not recoveries:
        return last if last.is_file() else None
    newest = max(recoveries)
    # a mid-epoch checkpoint may be older than `last` if the run was killed before cleaning up
    if last.is_file() and load_checkpoint(last)["epoch"] >= newest[0]:
        return last
    return recoveries[newest]


def recovery_path(folder: Path, epoch: int, step: int) -> Path:
    """Path of a mid-epoch checkpoint, under timm's name."""
    return folder / _RECOVERY.format(epoch, step)


def remove_recoveries(folder: Path, but: Path | None = None) -> None:
    """Removes the mid-epoch checkpoints except `but`."""
    for path in set(_recoveries(folder).values()) - {but}:
        path.unlink(missing_ok=True)


def _recoveries(folder: Path) -> dict[tuple[int, int], Path]:
    """The mid-epoch checkpoints by epoch and batch."""
    named = re.compile(_RECOVERY.format(r"(\d+)", r"(\d+)"))
    found = [(named.fullmatch(path.name), path) for path in folder.glob(_RECOVERY.format("*", "*"))]
    return {(int(match[1]), int(match[2])): path for match, path in found if match}


def keep_epochs(folder: Path, last_epoch: int, kept: Sequence[int]) -> None:
    """Keeps only the checkpoints of the epochs in `kept`; the last one is linked from `last.pth.tar`."""
    if last_epoch in kept:
        copy_whole(folder / LAST, folder / _EPOCH.format(last_epoch))
    for epoch in set(range(last_epoch + 1)).difference(kept):
        (folder / _EPOCH.format(epoch)).unlink(missing_ok=True)


def state_of(run: Parts, epoch: int, step: int = 0, losses: Losses | None = None) -> dict[str, Any]:
    """The content of a checkpoint: the entries of timm's script, and our own under `OURS`.

    All processes must call this together, because each has its own BatchNorm statistics.
    `epoch` is the last finished one; `step` batches of the next epoch are done, with these `losses`.
    """
    losses = losses or Losses(run.processes)
    on_cpu = {name: buffer.cpu() for name, buffer in _buffers(run).items()}
    state = {
        "epoch": epoch,
        "arch": run.arguments.model,
        "state_dict": run.model.state_dict(),
        "optimizer": run.optimizer.state_dict(),
        "version": 2,  # timm's: `epoch` is the finished epoch, not the next
        "args": run.arguments.to_dict(),
        OURS: {
            "classes": run.splits[run.arguments.train_split].classes,
            "history": [asdict(past) for past in run.history],
            "step": step,
            "losses": [losses.total, losses.count],
            "seconds": losses.seconds,
            "world_size": run.processes.world_size,
            "buffers": run.processes.gather(on_cpu) if run.processes.world_size > 1 else [],
        },
    }
    metric = run.history[-1].metric(run.metric) if run.history else None
    if metric is not None:
        state["metric"] = metric
    if run.scaler is not None:
        state[run.scaler.state_dict_key] = run.scaler.state_dict()
    if run.average is not None:
        state["state_dict_ema"] = run.average.module.state_dict()
    return state


def resume(run: Parts) -> tuple[int, int, Losses, Path | None]:
    """Loads the state that `--resume` asks for into a run.

    Returns:
        Epoch, batch and losses to resume from, and the path of the checkpoint.
    """
    arguments, folder, losses = run.arguments, run.folder, Losses(run.processes)
    path = Path(arguments.resume) if arguments.resume else None
    if arguments.resume == "auto":
        path = _newest_checkpoint(folder)
    if path is None:
        if not arguments.resume and any((folder / name).is_file() for name in (LAST, SUMMARY)):
            raise UserError(
                f"{folder}: holds a run already; resume it with --resume auto, "
                "or give another --output or --experiment"
            )
        first = arguments.start_epoch or 0
        _set_schedule(run, first, [])
        return first, 0, losses, None
    checkpoint = read_checkpoint(path)
    state, ours = checkpoint.content, checkpoint.content.get(OURS, {})
    step = _check_fits(run, checkpoint)
    with in_one_line(f"{path}: its epoch can't be read"):
        epoch = int(state.get("epoch", -1)) + (1 if state.get("version", 2) > 1 else 0)
    if ours:
        past = [Epoch(**values) for values in ours["history"]]
    else:
        past = read_summary(folder / SUMMARY)
        epoch = epoch if arguments.start_epoch is None else arguments.start_epoch
    _set_schedule(run, epoch, past)
    rates = [group["lr"] for group in run.optimizer.param_groups]
    loaded = list(_load(run, checkpoint))
    if not ours:  # as timm's script does
        for group, rate in zip(run.optimizer.param_groups, rates, strict=True):
            group["lr"] = rate
    if len(ours.get("buffers", ())) == run.processes.world_size:  # else every process keeps rank 0's
        saved = ours["buffers"][run.processes.rank]
        for name, buffer in _buffers(run).items():
            buffer.copy_(saved.get(name, buffer))
    if step:
        total, count = ours["losses"]
        losses = Losses(run.processes, (total * (step / count), step), ours["seconds"])
    run.processes.any(False)  # barrier: all have read before one writes
    for line in loaded:
        run.log.line(line)
    run.log.line(f"resumed from {path}: epoch {epoch}, batch {step}")
    return epoch, step, losses, path


def _check_fits(run: Parts, checkpoint: Checkpoint) -> int:
    """Checks that a run can resume from a checkpoint; returns the batch of the epoch to resume at."""
    arguments, processes, path, state = run.arguments, run.processes, checkpoint.path, checkpoint.content
    saved = checkpoint.arguments
    if checkpoint.architecture not in (None, arguments.model):
        raise UserError(f"{path}: is of {checkpoint.architecture}, not of {arguments.model}")
    step = int(state.get(OURS, {}).get("step", 0))
    before = int(state.get(OURS, {}).get("world_size") or saved.get("world_size") or processes.world_size)
    if "batch_size" in saved and (before != processes.world_size or step):
        images = len(run.train_images.images)
        batch, *then = _cut(saved, before, images)
        batch_now, *now = _cut(arguments.to_dict(), processes.world_size, images)
        if then != now:
            raise UserError(
                f"{path}: an update had {then[0]} images and an epoch {then[1]}, and now they would have "
                f"{now[0]} and {now[1]} (processes: {before}, now {processes.world_size}); give --batch-size "
                "or --grad-accum-steps with which they are the same, or start again from its weights with "
                "--initial-checkpoint"
            )
        step = step * batch // batch_now
    if before != processes.world_size:
        run.log.line(
            f"{path}: processes: {before}, now {processes.world_size}; updates have the same images, and "
            "differ by rounding and what each process draws or normalizes by itself"
        )
    if "optimizer" not in state and not arguments.no_resume_opt:
        raise UserError(
            f"{path}: holds weights but no optimizer; start again from them with --initial-checkpoint, "
            "or add --no-resume-opt"
        )
    resumable = run.folder / LAST, *_recoveries(run.folder).values()
    if OURS in state and path.resolve() not in map(Path.resolve, resumable):
        raise UserError(
            f"{path}: a run resumes in its own folder, where it stopped, by --resume auto; "
            "start again from its weights with --initial-checkpoint"
        )
    if names := checkpoint.classes:
        for split in run.splits.values():
            split.number_by(numbers_of(names), str(path), "resume with the data that the run had")
        if arguments.class_weights:  # classes may have been renumbered
            labels = run.splits[arguments.train_split].labels()
            run.loss.weight.copy_(balanced_weights(labels, run.classes))  # type: ignore[operator]
    for name, value in arguments.to_dict().items():
        old = saved.get(name, value)
        old = list(old) if isinstance(old, tuple) else old
        if old != value and name not in _MAY_CHANGE:
            run.log.line(f"{name} was {old} and is {value} now")
    return step


def _cut(arguments: Mapping[str, Any], processes: int, images: int) -> tuple[int, int, int]:
    """Images per batch over all processes, per update and per epoch."""
    batch = arguments["batch_size"] * processes
    update = batch * arguments.get("grad_accum_steps", 1)
    whole = update if arguments.get("global_batch") else batch
    return batch, update, images // whole * whole


def _load(run: Parts, checkpoint: Checkpoint) -> Iterator[str]:
    """Loads weights and optimizer state into a run; yields one line for each load."""
    path, state = checkpoint.path, checkpoint.content
    with in_one_line(f"{path}: doesn't fit this run; --no-resume-opt leaves the optimizer out"):
        yield checkpoint.load(run.model, "plain")
        if run.average is not None:
            yield checkpoint.load(run.average.module)
        if not run.arguments.no_resume_opt:
            order = list(fitted(checkpoint.weights("plain"), run.model)[0])
            if order != list(run.model.state_dict()):  # optimizer state goes by parameter order
                raise UserError(f"{path}: has the parameters in another order; add --no-resume-opt")
            run.optimizer.load_state_dict(state["optimizer"])
            if run.scaler is not None and run.scaler.state_dict_key in state:
                run.scaler.load_state_dict(state[run.scaler.state_dict_key])


def _buffers(run: Parts) -> dict[str, torch.Tensor]:
    """The buffers of this process's network and EMA."""
    buffers = {f"model.{name}": buffer for name, buffer in run.model.named_buffers()}
    if run.average is not None:
        buffers |= {f"average.{name}": buffer for name, buffer in run.average.module.named_buffers()}
    return buffers


def _set_schedule(run: Parts, epoch: int, past: Sequence[Epoch]) -> None:
    """Moves history and schedule to the start of an epoch; the optimizer must be newly created."""
    run.history = [each for each in past if each.epoch < epoch]
    for each in run.history:  # plateau follows the metric
        run.scheduler.step(each.epoch + 1, each.metric(run.metric))
    if epoch > 0:
        run.scheduler.step_update(epoch * run.updates_per_epoch)
        run.scheduler.step(epoch)
