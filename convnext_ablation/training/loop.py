"""The training loop, built from timm's parts: dataset, loader, optimizer, schedule, loss."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timm
import torch
import yaml
from timm.data import create_dataset, create_loader, resolve_data_config
from timm.loss import LabelSmoothingCrossEntropy
from timm.optim import create_optimizer_v2, optimizer_kwargs
from timm.scheduler import create_scheduler_v2, scheduler_kwargs
from timm.utils import dispatch_clip_grad
from torch import nn

from convnext_ablation.errors import UserError
from convnext_ablation.files import write_text
from convnext_ablation.training.arguments import TrainingArguments
from convnext_ablation.training.checkpoints import load_checkpoint, save_checkpoint
from convnext_ablation.training.evaluation import Predictions, predict
from convnext_ablation.training.reproducibility import seed_stream

LAST, BEST, SUMMARY = "last.pth.tar", "model_best.pth.tar", "summary.csv"


@dataclass(frozen=True)
class Epoch:
    """One finished epoch, a row of `summary.csv`.

    Attributes:
        epoch: Its number, from 0.
        train_loss: Mean training loss in nats.
        eval_loss: Mean cross-entropy on the validation split.
        eval_top1: Top-1 on the validation split, in percent.
        eval_top5: Top-5 on the validation split, in percent.
        lr: Learning rate of its last step.
        train_seconds: Time that training took, without validation.
        images: Images that it trained on.
    """

    epoch: int
    train_loss: float
    eval_loss: float
    eval_top1: float
    eval_top5: float
    lr: float
    train_seconds: float
    images: int


class Trainer:
    """One run: a network, its data, and the folder that its files go to.

    A run whose folder holds a checkpoint goes on behind it, with the weights and the random numbers of a run
    that was never interrupted.

    Args:
        arguments: What determines the run.
        folder: Where `args.yaml`, `summary.csv` and the checkpoints go.
    """

    def __init__(self, arguments: TrainingArguments, folder: Path) -> None:
        self.arguments = arguments
        self.folder = folder
        self.device = torch.device(arguments.device)
        self.memory_format = torch.channels_last if arguments.channels_last else torch.contiguous_format
        seed_stream(arguments.seed, "weights")
        self.train_set = self._dataset(arguments.train_split)
        self.model = self._create_model()
        self.data_config = resolve_data_config(_data_arguments(arguments), model=self.model)
        self.train_batches = self._train_loader()
        self.steps_per_epoch = len(self.train_batches)
        if not self.steps_per_epoch:
            raise UserError(
                f"batch size {arguments.batch_size} is larger than the {len(self.train_set)} training "
                "images; give a smaller batch_size"
            )
        self.optimizer = create_optimizer_v2(
            self.model, **optimizer_kwargs(arguments), **arguments.opt_kwargs
        )
        self.scheduler, self.epochs = create_scheduler_v2(
            self.optimizer, **scheduler_kwargs(arguments), updates_per_epoch=self.steps_per_epoch
        )
        self.loss = LabelSmoothingCrossEntropy(arguments.smoothing)
        self.history: list[Epoch] = []

    def run(self, on_epoch: Callable[[Epoch], None] = lambda epoch: None) -> list[Epoch]:
        """Trains to the end, from the start or from the last checkpoint.

        Args:
            on_epoch: Called with each epoch, those of before an interruption too.

        Raises:
            UserError: The loss is not finite.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        write_text(self.folder / "args.yaml", yaml.safe_dump(self.arguments.to_dict()))
        self._resume()
        for epoch in self.history:
            on_epoch(epoch)
        for number in range(len(self.history), self.epochs):
            seed_stream(self.arguments.seed, "epoch", number)
            train_loss, seconds = self._train_epoch(number)
            validation = self.evaluate(self.arguments.val_split)
            epoch = Epoch(
                epoch=number,
                train_loss=train_loss,
                eval_loss=validation.loss,
                eval_top1=validation.top1,
                eval_top5=validation.top5_accuracy,
                lr=self.optimizer.param_groups[0]["lr"],
                train_seconds=seconds,
                images=self.steps_per_epoch * self.arguments.batch_size,
            )
            self.scheduler.step(number + 1, epoch.eval_top1)
            self.history.append(epoch)
            self._save()
            on_epoch(epoch)
        return self.history

    @property
    def best(self) -> Epoch:
        """The epoch with the highest validation top-1, the first of equals."""
        return max(self.history, key=lambda epoch: epoch.eval_top1)

    def load_best(self) -> None:
        """Puts the weights of the best epoch into the model."""
        self.model.load_state_dict(load_checkpoint(self.folder / BEST)["state_dict"])

    def evaluate(self, split: str) -> Predictions:
        """Predicts every image of a split with the weights as they are, in float32."""
        dataset = self._dataset(split)
        loader = create_loader(
            dataset,
            **self._loader_arguments(),
            batch_size=self.arguments.validation_batch_size or self.arguments.batch_size,
            interpolation=self.data_config["interpolation"],
            crop_pct=self.data_config["crop_pct"],
        )
        return predict(self.model, loader, dataset.filenames(), self.memory_format)

    def _dataset(self, split: str) -> Any:
        folder = Path(self.arguments.data_dir) / split
        if not folder.is_dir():  # timm would read the folder above instead
            raise UserError(f"{folder}: no such folder; the data need one for the split {split!r}")
        channels = (self.arguments.input_size or (3,))[0]
        mode = "RGB" if channels == 3 else "L"
        return create_dataset("", root=str(folder), split=split, search_split=False, input_img_mode=mode)

    def _create_model(self) -> nn.Module:
        arguments = self.arguments
        classes = len(self.train_set.reader.class_to_idx)
        if arguments.num_classes is not None and arguments.num_classes < classes:
            raise UserError(
                f"{arguments.data_dir} has {classes} classes, but num_classes is {arguments.num_classes}"
            )
        model = timm.create_model(
            arguments.model,
            num_classes=classes if arguments.num_classes is None else arguments.num_classes,
            in_chans=(arguments.input_size or (3,))[0],
            drop_rate=arguments.drop,
            drop_path_rate=arguments.drop_path,
            **arguments.model_kwargs,
        )
        return model.to(self.device, memory_format=self.memory_format)

    def _loader_arguments(self) -> dict[str, Any]:
        return {
            "input_size": self.data_config["input_size"],
            "mean": self.data_config["mean"],
            "std": self.data_config["std"],
            "num_workers": self.arguments.workers,
            "persistent_workers": False,
            "device": self.device,
        }

    def _train_loader(self) -> Any:
        arguments = self.arguments
        return create_loader(
            self.train_set,
            **self._loader_arguments(),
            batch_size=arguments.batch_size,
            is_training=True,
            no_aug=arguments.no_aug,
            scale=arguments.scale,
            ratio=arguments.ratio,
            hflip=arguments.hflip,
            vflip=arguments.vflip,
            color_jitter=arguments.color_jitter,
            auto_augment=arguments.aa,
            re_prob=arguments.reprob,
            re_mode=arguments.remode,
            re_count=arguments.recount,
            interpolation=arguments.train_interpolation,
        )

    def _autocast(self) -> Any:
        if not self.arguments.amp:
            return nullcontext()
        return torch.autocast(self.device.type, getattr(torch, self.arguments.amp_dtype))

    def _train_epoch(self, number: int) -> tuple[float, float]:
        """Trains one epoch; returns the mean loss in nats and the time in seconds."""
        start = time.perf_counter()
        arguments = self.arguments
        self.model.train()
        total = 0.0
        for step, (images, targets) in enumerate(self.train_batches):
            with self._autocast():
                loss = self.loss(self.model(images.contiguous(memory_format=self.memory_format)), targets)
            value = loss.item()
            if not math.isfinite(value):
                raise UserError(
                    f"{arguments.model}: the loss is {value} at step {step} of epoch {number}; "
                    f"a learning rate below {arguments.lr:g} may help"
                )
            self.optimizer.zero_grad()
            loss.backward()
            if arguments.clip_grad is not None:
                dispatch_clip_grad(self.model.parameters(), arguments.clip_grad, mode=arguments.clip_mode)
            self.optimizer.step()
            self.scheduler.step_update(number * self.steps_per_epoch + step + 1)
            total += value
        return total / self.steps_per_epoch, time.perf_counter() - start

    def _resume(self) -> None:
        last = self.folder / LAST
        if not last.is_file():
            return
        state = load_checkpoint(last)
        self.model.load_state_dict(state["state_dict"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.history = [Epoch(**epoch) for epoch in state["history"]]
        self.scheduler.step_update(len(self.history) * self.steps_per_epoch)
        self.scheduler.step(len(self.history), self.history[-1].eval_top1)

    def _save(self) -> None:
        state = {
            "epoch": len(self.history) - 1,
            "arch": self.arguments.model,
            "state_dict": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "version": 2,
            "args": self.arguments.to_dict(),
            "metric": self.best.eval_top1,
            "history": [vars(epoch) for epoch in self.history],
        }
        # the best first: a run killed in between does its last epoch again, and comes out the same
        if self.best is self.history[-1]:
            save_checkpoint(self.folder / BEST, {key: state[key] for key in state if key != "optimizer"})
        save_checkpoint(self.folder / LAST, state)
        columns = ("epoch", "train_loss", "eval_loss", "eval_top1", "eval_top5", "lr")
        rows = [",".join(str(getattr(epoch, column)) for column in columns) for epoch in self.history]
        write_text(self.folder / SUMMARY, "\n".join([",".join(columns), *rows]) + "\n")


def _data_arguments(arguments: TrainingArguments) -> dict[str, Any]:
    names = ("input_size", "mean", "std", "crop_pct", "interpolation")
    return {name: getattr(arguments, name) for name in names if getattr(arguments, name)}
