"""Batches for training and evaluation, by timm's loader."""

from __future__ import annotations

import os
import signal
import threading
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from timm.data import FastCollateMixup, create_loader

from convnext_ablation.errors import UserError
from convnext_ablation.training.arguments import TrainingArguments
from convnext_ablation.training.images import EvaluatedImages, TrainingImages, UnreadableImageError

# well below the 30 seconds that torchrun waits before it kills
_SECONDS_TO_END = 10.0


def training_loader(
    dataset: TrainingImages,
    arguments: TrainingArguments,
    data_config: Mapping[str, Any],
    num_classes: int,
    device: torch.device,
) -> Any:
    """Makes timm's loader for training, without random erasing.

    timm's loader erases a batch ahead of the one that is trained on. Done in the training step instead, what
    is erased depends on the step alone, and an epoch can be resumed in its middle.

    Returns:
        An iterable of images ``(B, C, H, W)``, normalised and on the device, and targets ``(B,)`` or, where
        images are mixed, ``(B, num_classes)``.
    """
    interpolation = arguments.train_interpolation
    if arguments.no_aug or not interpolation:
        interpolation = data_config["interpolation"]
    same_name = (
        "batch_size", "no_aug", "train_crop_mode", "scale", "ratio", "hflip", "vflip", "color_jitter",
        "color_jitter_prob", "grayscale_prob", "gaussian_blur_prob",
    )  # fmt: skip
    return _loader(
        dataset,
        arguments,
        data_config,
        device,
        is_training=True,
        auto_augment=arguments.aa,
        interpolation=interpolation,
        collate_fn=_Mixing(arguments, num_classes, dataset) if arguments.mixes else None,
        persistent_workers=arguments.workers > 0,
        **{name: getattr(arguments, name) for name in same_name},
    )


def evaluation_loader(
    dataset: EvaluatedImages,
    arguments: TrainingArguments,
    data_config: Mapping[str, Any],
    device: torch.device,
) -> Any:
    """Makes timm's loader for evaluation: images ``(B, C, H, W)``, normalised, and targets ``(B,)``."""
    return _loader(
        dataset,
        arguments,
        data_config,
        device,
        batch_size=arguments.validation_batch_size or arguments.batch_size,
        interpolation=data_config["interpolation"],
        crop_pct=data_config["crop_pct"],
        crop_mode=data_config.get("crop_mode"),
        persistent_workers=False,
    )


def _loader(
    dataset: Any,
    arguments: TrainingArguments,
    data_config: Mapping[str, Any],
    device: torch.device,
    **options: Any,
) -> Any:
    with warnings.catch_warnings():
        # timm's default of 4 on a machine of fewer cores; it would break the bar
        warnings.filterwarnings("ignore", "This DataLoader will create", UserWarning)
        loader = create_loader(
            dataset,
            input_size=data_config["input_size"],
            mean=data_config["mean"],
            std=data_config["std"],
            num_workers=arguments.workers,
            pin_memory=arguments.pin_mem,
            device=device,
            img_dtype=getattr(torch, arguments.model_dtype or "float32"),
            worker_seeding=_start_worker,
            **options,
        )
    return _Batches(loader)


class _Batches:
    """timm's loader, with one line for an image that can't be decoded; torch's has the worker's traceback."""

    def __init__(self, loader: Any) -> None:
        self.loader = loader

    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        try:
            yield from self.loader
        except UnreadableImageError as error:
            error.__traceback__ = None  # it keeps workers alive, which then wait for work
            raise UserError(str(error).rpartition(f"{type(error).__name__}: ")[2].strip()) from None


def _start_worker(worker: Any) -> int:
    """Has a worker outlast the signals that ask the run to stop: the step at work may need its batch."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _end_soon)
    return int(worker.seed)  # timm's loader asks for it here


def _end_soon(*_: Any) -> None:
    timer = threading.Timer(_SECONDS_TO_END, os._exit, (0,))
    timer.daemon = True
    timer.start()


class _Mixing:
    """Mixes the images of a batch in the workers, up to the epoch that the arguments say."""

    def __init__(self, arguments: TrainingArguments, num_classes: int, dataset: TrainingImages) -> None:
        self.dataset = dataset
        self.off_epoch = arguments.mixup_off_epoch
        self.mix = FastCollateMixup(
            mixup_alpha=arguments.mixup,
            cutmix_alpha=arguments.cutmix,
            cutmix_minmax=arguments.cutmix_minmax,
            prob=arguments.mixup_prob,
            switch_prob=arguments.mixup_switch_prob,
            mode=arguments.mixup_mode,
            label_smoothing=arguments.smoothing,
            num_classes=num_classes,
        )

    def __call__(self, batch: Any) -> Any:
        self.mix.mixup_enabled = not self.off_epoch or self.dataset.epoch < self.off_epoch
        return self.mix(batch)
