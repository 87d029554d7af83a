"""Batches for training and evaluation, by timm's loader."""

from __future__ import annotations

import os
import signal
import threading
import warnings
from collections.abc import Mapping
from typing import Any

import torch
from timm.data import FastCollateMixup, create_loader
from torch.utils.data import IterableDataset

from convnext_ablation.training.arguments import TrainingArguments
from convnext_ablation.training.images import EvaluatedImages, TrainingImages

# well below the 30 seconds that torchrun waits before it kills
_SECONDS_TO_END = 10.0


def training_loader(
    dataset: TrainingImages | IterableDataset,
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
    return _loader(
        dataset,
        **_common(arguments, data_config, device),
        batch_size=arguments.batch_size,
        is_training=True,
        no_aug=arguments.no_aug,
        train_crop_mode=arguments.train_crop_mode,
        scale=arguments.scale,
        ratio=arguments.ratio,
        hflip=arguments.hflip,
        vflip=arguments.vflip,
        color_jitter=arguments.color_jitter,
        color_jitter_prob=arguments.color_jitter_prob,
        grayscale_prob=arguments.grayscale_prob,
        gaussian_blur_prob=arguments.gaussian_blur_prob,
        auto_augment=arguments.aa,
        interpolation=interpolation,
        collate_fn=_Mixing(arguments, num_classes, dataset) if arguments.mixes else None,
        persistent_workers=arguments.workers > 0,
    )


def evaluation_loader(
    dataset: EvaluatedImages | IterableDataset,
    arguments: TrainingArguments,
    data_config: Mapping[str, Any],
    device: torch.device,
) -> Any:
    """Makes timm's loader for evaluation.

    Returns:
        An iterable of images ``(B, C, H, W)``, normalised and on the device, and targets ``(B,)``.
    """
    return _loader(
        dataset,
        **_common(arguments, data_config, device),
        batch_size=arguments.validation_batch_size or arguments.batch_size,
        interpolation=data_config["interpolation"],
        crop_pct=data_config["crop_pct"],
        crop_mode=data_config.get("crop_mode"),
        persistent_workers=False,
    )


def _loader(dataset: Any, **options: Any) -> Any:
    with warnings.catch_warnings():
        # timm's default of 4 on a machine of fewer cores; it would break the bar
        warnings.filterwarnings("ignore", "This DataLoader will create", UserWarning)
        return create_loader(dataset, **options)


def _common(
    arguments: TrainingArguments, data_config: Mapping[str, Any], device: torch.device
) -> dict[str, Any]:
    return {
        "input_size": data_config["input_size"],
        "mean": data_config["mean"],
        "std": data_config["std"],
        "num_workers": arguments.workers,
        "pin_memory": arguments.pin_mem,
        "device": device,
        "img_dtype": getattr(torch, arguments.model_dtype or "float32"),
        "worker_seeding": _start_worker,
    }


def _start_worker(worker: Any) -> int:
    """Has a worker outlast the signals that ask the run to stop: the step at work may need its batch.

    Returns:
        The worker's seed, which timm's loader asks for here.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _end_soon)
    return int(worker.seed)


def _end_soon(*_: Any) -> None:
    timer = threading.Timer(_SECONDS_TO_END, os._exit, (0,))
    timer.daemon = True
    timer.start()


class _Mixing:
    """Mixes the images of a batch in the workers, up to the epoch that the arguments say."""

    def __init__(self, arguments: TrainingArguments, num_classes: int, dataset: Any) -> None:
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
