"""The parts of a run: images, network, loss, optimizer, schedule and EMA."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import timm
import torch
from timm.data import resolve_data_config
from timm.data.random_erasing import RandomErasing
from timm.models import model_parameters
from timm.utils import ModelEmaV3
from torch import nn

from convnext_ablation.data.class_names import listed
from convnext_ablation.errors import UserError
from convnext_ablation.models.zoo import has_weights
from convnext_ablation.training.arguments import TrainingArguments
from convnext_ablation.training.checks import dry_run
from convnext_ablation.training.cpu_convs import make_depthwise_fast, make_gradients_right
from convnext_ablation.training.distributed import Processes, SharedError, seed_stream
from convnext_ablation.training.history import Epoch
from convnext_ablation.training.images import TrainingImages, balanced_weights
from convnext_ablation.training.loaders import training_loader
from convnext_ablation.training.logs import Log
from convnext_ablation.training.network import (
    create_loss,
    create_network,
    create_optimizer,
    create_precision,
    create_scheduler,
    freeze,
    wrap_network,
)
from convnext_ablation.training.splits import count_classes, leave_out_broken, open_splits


class Parts:
    """Everything that a run reads or changes; it stops after an update if `should_stop` returns True."""

    def __init__(
        self,
        arguments: TrainingArguments,
        folder: Path,
        processes: Processes | None = None,
        log: Log | None = None,
        should_stop: Callable[[], bool] = lambda: False,
    ) -> None:
        self.folder, self.should_stop = folder, should_stop
        self.processes = processes or Processes(torch.device(arguments.device))
        self.log = log or Log()
        dry_run(arguments)
        self.splits = self.processes.together(lambda: open_splits(arguments))
        self.left_out = leave_out_broken(self.splits.values(), arguments, self.processes)
        self.classes = count_classes(arguments, self.splits)
        arguments = arguments.accumulated(self.processes.world_size)
        _check_start(arguments)
        self.images_an_update = arguments.images_an_update(self.processes.world_size)
        rate = arguments.learning_rate(self.images_an_update)
        self.arguments = arguments = replace(arguments, num_classes=self.classes, lr=rate)
        seed_stream(arguments.seed, "weights")
        for split in self.splits.values():
            if split.unseen:
                self.log.line(f"{split.name}: has no image of {listed(split.unseen)}")
            for line in split.skipped:
                self.log.line(f"{split.name}: skipped, {line}")
        names = self.splits[arguments.train_split].classes
        self.model = create_network(arguments, self.classes, self.processes, names, self.log.line)
        self.frozen = freeze(self.model, arguments.freeze) if arguments.freeze else []
        if self.processes.device.type == "cpu":
            make_depthwise_fast(self.model)
            make_gradients_right(self.model)
        self.data_config = resolve_data_config(arguments.preprocessing(), model=self.model)
        train = self.splits[arguments.train_split]
        of_classes, of_images = None, None
        if arguments.class_weights or arguments.sampler:
            labels = train.labels()
            of_classes = balanced_weights(labels, self.classes)
            of_images = of_classes[labels]
        self.train_images = TrainingImages(
            train,
            arguments.batch_size,
            arguments.seed,
            self.processes.rank,
            self.processes.world_size,
            # makes updates the same for any number of processes
            whole_updates_of=arguments.grad_accum_steps if arguments.global_batch else 1,
            chances=of_images if arguments.sampler else None,
        )
        self.steps = self.train_images.steps
        if not self.steps:
            name = "global_batch" if arguments.global_batch else "batch_size"
            batch = f"{name.replace('_', ' ')} {getattr(arguments, name)}"
            if not arguments.global_batch:
                batch += f" x {self.processes.world_size} processes"
            raise UserError(f"{batch} is larger than the {len(train)} training images; give a smaller {name}")
        self.train_batches = training_loader(
            self.train_images, arguments, self.data_config, self.classes, self.processes.device
        )
        loss = create_loss(arguments, None if arguments.sampler else of_classes)
        self.loss = loss.to(self.processes.device)
        # mixed images aren't weighted here: torch's loss applies the class weights
        self.image_weights = None if arguments.sampler or arguments.mixes else of_images
        self.updates_per_epoch = math.ceil(self.steps / arguments.grad_accum_steps)
        self.erase: Callable[[torch.Tensor], torch.Tensor] = nn.Identity()
        if arguments.reprob and not arguments.no_aug:
            self.erase = RandomErasing(
                arguments.reprob,
                mode=arguments.remode,
                max_count=arguments.recount,
                device=self.processes.device,
            )
        self.precision, self.scaler = create_precision(arguments, self.processes.device)
        self.optimizer = create_optimizer(arguments, self.model)
        self.average: ModelEmaV3 | None = None
        if arguments.model_ema:
            on = torch.device("cpu") if arguments.model_ema_force_cpu else None
            decay, warmup = arguments.model_ema_decay, arguments.model_ema_warmup
            self.average = ModelEmaV3(self.model, decay, use_warmup=warmup, device=on)
        # listed once, as it takes 1 % of a small network's step
        self.clipped = list(model_parameters(self.model, exclude_head="agc" in arguments.clip_mode))
        self.wrapped = wrap_network(self.model, arguments, self.processes)
        self.metric = arguments.eval_metric if arguments.val_split else "train_loss"
        self.scheduler, self.epochs = create_scheduler(arguments, self.optimizer, self.updates_per_epoch)
        self.history: list[Epoch] = []


def _check_start(arguments: TrainingArguments) -> None:
    """Raises `UserError` if pretrained weights are asked for and none are published."""
    name = arguments.model
    given = arguments.pretrained_path or arguments.initial_checkpoint
    if arguments.pretrained and not given and timm.is_model(name) and not has_weights(name):
        raise UserError(
            f"{name} would start from pretrained weights, and none are published; give --pretrained-path "
            "FILE, or --from-scratch"
        )


class Losses:
    """Running mean of an epoch's losses, copied from the device as needed and summed in a fixed order.

    Args:
        processes: Those that losses are averaged over.
        total: Sum and number of the losses so far.
        seconds: Training time so far.
    """

    def __init__(self, processes: Processes, total: Sequence[float] = (0.0, 0), seconds: float = 0.0) -> None:
        self.processes = processes
        self.total, self.count = float(total[0]), int(total[1])
        self.seconds = seconds
        self.pending: list[tuple[int, torch.Tensor]] = []
        self._since = time.perf_counter()

    def add(self, step: int, loss: torch.Tensor) -> None:
        """Adds a batch's loss, a tensor on the device."""
        self.pending.append((step, loss))

    def mean(self, run: str) -> float:
        """Mean over all batches so far and all processes; `run` describes the run in messages.

        Raises:
            SharedError: A loss isn't finite.
        """
        if self.pending:
            values = torch.stack([loss.float() for _, loss in self.pending]).tolist()
            for (step, _), value in zip(self.pending, self.processes.sum(values), strict=True):
                if not math.isfinite(value):
                    raise SharedError(
                        f"{run}: the loss is {value} at step {step}; the last checkpoint is from before; "
                        "a lower learning rate, warm-up or --clip-grad may help"
                    )
                self.total, self.count = self.total + value / self.processes.world_size, self.count + 1
            now = time.perf_counter()
            self.seconds, self._since, self.pending = self.seconds + now - self._since, now, []
        return self.total / max(1, self.count)
