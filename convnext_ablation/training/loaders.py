"""Batches for training and evaluation, from timm's loader."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import signal
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from timm.data import FastCollateMixup, create_loader
from torch.utils.data import get_worker_info

from convnext_ablation.errors import UserError
from convnext_ablation.machine import STOPPING
from convnext_ablation.training.arguments import TrainingArguments
from convnext_ablation.training.images import EvaluatedImages, TrainingImages, UnreadableImageError

# well below the 30 seconds after which torchrun kills
_SECONDS_TO_END = 10.0
# workers count as stalled if none has read an image for so long; a whole batch may take longer
_SECONDS_STALLED = 24.0
_SHARED_MEMORY = "/dev/shm"
_END = object()


def training_loader(
    dataset: TrainingImages,
    arguments: TrainingArguments,
    data_config: Mapping[str, Any],
    num_classes: int,
    device: torch.device,
) -> Any:
    """Makes timm's loader for training, without random erasing.

    timm's loader erases one batch ahead of training. Erasing in the training step instead makes it depend on
    the step alone, so that an epoch can be resumed midway.

    Returns:
        An iterable of normalised images ``(B, C, H, W)`` on the device and targets ``(B,)``, or
        ``(B, num_classes)`` with mixup or CutMix.
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
        # torch warns of timm's default of 4 workers on fewer cores, which breaks the progress bar
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
    if arguments.workers:
        with worker_errors():
            dataset.transform = counted = _Counted(dataset.transform)
        loader.loader.collate_fn = _Shared(loader.loader.collate_fn)
        loader.loader = _Watched(loader.loader, counted.read)
    return loader


class _Shared:
    """Moves a batch to shared memory in the worker's main thread; errors in other threads would be lost."""

    def __init__(self, collate: Callable[[Any], Any]) -> None:
        self.collate = collate

    def __call__(self, images: Any) -> Any:
        batch = self.collate(images)
        return [tensor.share_memory_() for tensor in batch] if get_worker_info() else batch


class _Counted:
    """Applies a transform and counts images in shared memory, as a heartbeat of the workers."""

    def __init__(self, prepare: Callable[[Any], Any]) -> None:
        self.prepare = prepare
        self.read = torch.zeros(1, dtype=torch.int64).share_memory_()

    def __call__(self, image: Any) -> Any:
        self.read += 1
        return self.prepare(image)


class _Watched:
    """torch's loader, with an error if its workers stall."""

    def __init__(self, loader: Any, read: torch.Tensor) -> None:
        self.loader, self.read = loader, read
        self.waiting = self.stalled = False

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[Any]:
        done = threading.Event()
        threading.Thread(target=self._watch, args=(done,), daemon=True).start()
        try:
            batches = self._wait(lambda: iter(self.loader))
            while (batch := self._wait(lambda: next(batches, _END))) is not _END:
                yield batch
        except (EOFError, OSError, RuntimeError) as error:  # raised by torch if workers are killed
            if not self.stalled:
                raise
            error.__traceback__ = None  # the traceback keeps workers alive
            raise UserError(
                f"the data workers hang: no image for {_SECONDS_STALLED:.0f} s; look at the "
                "disk and at its files, or load with --workers 0 to see which one it is"
            ) from None
        finally:
            done.set()

    def _wait(self, work: Callable[[], Any]) -> Any:
        self.waiting = True
        try:
            return work()
        finally:
            self.waiting = False

    def _watch(self, done: threading.Event) -> None:
        """Kills the workers if none has read an image for `_SECONDS_STALLED` while a batch is awaited.

        Nothing milder ends a wait for a worker that was stopped while handing over a batch.
        """
        read, since = -1, 0.0
        while not done.wait(_SECONDS_STALLED / 24):
            if not self.waiting or read != int(self.read):
                read, since = int(self.read), time.monotonic()
            elif time.monotonic() - since > _SECONDS_STALLED:
                self.stalled = True
                for worker in multiprocessing.active_children():
                    worker.kill()
                return


@contextmanager
def worker_errors() -> Iterator[None]:
    """Turns a worker's failure, which torch raises anywhere in the main process, into a one-line error.

    Raises:
        UserError: A worker failed, or an image can't be decoded.
    """
    try:
        yield
    except UnreadableImageError as error:  # torch puts the worker's traceback into the message
        error.__traceback__ = None  # the traceback keeps workers alive, waiting for work
        raise UserError(str(error.args[0]).rpartition(f"{type(error).__name__}: ")[2].strip()) from None
    except (OSError, RuntimeError) as error:
        text = str(error)
        if "killed by signal" in str(error.__cause__):  # torch reports "exited unexpectedly"
            text = str(error.__cause__)
        known = ("DataLoader worker", "with the workers", "shared memory", "torch_")
        if isinstance(error, UserError) or not any(words in text for words in known):
            raise
        error.__traceback__ = None  # the traceback keeps workers alive
        reason = text.strip().splitlines()[-1]
        hint = "give fewer --workers, or --workers 0 to see where it fails"
        if any(words in text for words in ("shared memory", "shm", "torch_", "Bus error")):
            size = shutil.disk_usage(_SHARED_MEMORY).total >> 20 if os.path.isdir(_SHARED_MEMORY) else 0
            hint = (
                f"shared memory ({_SHARED_MEMORY}, {size:,} MiB) is too small: start the container with a "
                "larger --shm-size, or load with --workers 0"
            )
        raise UserError(f"a worker that loads data failed: {reason[:200]}; {hint}") from None


def _start_worker(worker: Any) -> int:
    """Makes a worker survive stop signals, because the current step may need its batch.

    The worker ends with the process that it loads for. torch ensures that only for a worker's parent, which
    is another process under a fork server (the default from Python 3.14 on).
    """
    for number in STOPPING:
        signal.signal(number, _end_soon if number == signal.SIGTERM else signal.SIG_IGN)
    threading.Thread(target=_end_with, args=(multiprocessing.parent_process(),), daemon=True).start()
    return int(worker.seed)  # timm's loader seeds the worker with it


def _end_with(process: Any) -> None:
    process.join()
    os._exit(1)


def _end_soon(*_: Any) -> None:
    timer = threading.Timer(_SECONDS_TO_END, os._exit, (0,))
    timer.daemon = True
    timer.start()


class _Mixing:
    """Applies mixup and CutMix in the workers, up to `mixup_off_epoch`."""

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
