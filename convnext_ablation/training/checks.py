"""Checks before training: a dry run of the arguments without data, and an inspection of sample images."""

from __future__ import annotations

import math
import os
import statistics
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import timm
import torch
from PIL import Image
from timm.data import resolve_data_config
from timm.data.transforms import RandomResizedCropAndInterpolation, str_to_interp_mode
from torch import nn

from convnext_ablation.data.pictures import as_seen, open_picture
from convnext_ablation.errors import UserError, in_one_line
from convnext_ablation.training.arguments import TrainingArguments
from convnext_ablation.training.images import EvaluatedImages, Images, TrainingImages
from convnext_ablation.training.loaders import evaluation_loader, training_loader
from convnext_ablation.training.network import (
    build_network,
    create_loss,
    create_optimizer,
    create_scheduler,
    freeze,
)

MOST_ENLARGED = 4 / 3  # enlarging by more means a recipe for other images
_SAMPLE = 32  # images inspected
_THUMBNAIL = 64  # pixels; enough to detect colour
_GREY = 8  # of 255; JPEG noise between the channels of a grey pixel
_CLASSES = 2  # of the network in the dry run, if num_classes is not given
_MOST_PIXELS = 512  # largest image side in the dry run


def dry_run(arguments: TrainingArguments, trains: bool = True) -> None:
    """Builds a run's parts without its data: the network on the ``meta`` device, and two blank images.

    Raises:
        UserError: timm or torch refuses a value.
    """
    with in_one_line(f"input_img_mode {arguments.image_mode}"):
        blank = Image.new("RGB", (_MOST_PIXELS, _MOST_PIXELS), "grey").convert(arguments.image_mode)
    if len(blank.getbands()) != arguments.channels:
        raise UserError(
            f"input_img_mode {arguments.image_mode} has not {arguments.channels} channels; give another one"
        )
    model = _network(arguments)
    with in_one_line("input_size, mean, std or interpolation"):
        for name, values in (("mean", arguments.mean), ("std", arguments.std)):
            if values and len(values) not in (1, arguments.channels):
                raise ValueError(f"{name} is {list(values)}; give one number, or {arguments.channels}")
        given = {"in_chans": arguments.channels, **arguments.preprocessing()}
        config = resolve_data_config(given, model=model)
        str_to_interp_mode(config["interpolation"])
    if config["input_size"][0] != arguments.channels:
        raise UserError(
            f"in_chans is {arguments.channels}, and where no size is given images have the "
            f"{config['input_size'][0]} channels of the network's own; give --input-size "
            f"{arguments.channels} HEIGHT WIDTH"
        )
    if model is not None:
        if trains and arguments.freeze:
            freeze(model, arguments.freeze)
        _check_logits(model, arguments, config, trains)
    if arguments.torchcompile:
        with in_one_line(f"torchcompile {arguments.torchcompile}"):
            torch.compile(nn.Identity(), backend=arguments.torchcompile, mode=arguments.torchcompile_mode)
    side = [min(side, _MOST_PIXELS) for side in config["input_size"][1:]]
    small = {**config, "input_size": (arguments.channels, *side)}
    two = replace(
        arguments, batch_size=2, validation_batch_size=2, workers=0, pin_mem=False, mixup_prob=1.0,
        mixup_switch_prob=1.0,
    )  # fmt: skip
    images = Images(_Blanks(), arguments.image_mode, "a blank image")
    with in_one_line("images can't be evaluated like this"):
        next(iter(evaluation_loader(EvaluatedImages(images, 0, 1), two, small, torch.device("cpu"))))
    if trains:
        _check_crops(arguments, blank)
        _try_training(two, images, small)


class _Blanks:
    """A reader of two grey images of two classes."""

    def __len__(self) -> int:
        return 2

    def __getitem__(self, number: int) -> tuple[Image.Image, int]:
        return Image.new("RGB", (_MOST_PIXELS, _MOST_PIXELS), "grey"), number


def _network(arguments: TrainingArguments, device: str = "meta") -> nn.Module | None:
    """The network, on the CPU if it can't be built on ``meta``; None if it would be downloaded."""
    if ":" in arguments.model:  # from a hub or a folder
        return None
    classes = _CLASSES if arguments.num_classes is None else arguments.num_classes
    try:
        with torch.device(device):
            return build_network(arguments, classes)
    except UserError as error:
        if "meta" in str(error.__cause__):
            return _network(arguments, "cpu")
        raise


def _check_logits(
    model: nn.Module | None, arguments: TrainingArguments, config: dict[str, Any], trains: bool
) -> None:
    """Checks that images of this size give logits ``(B, classes)`` and that training on them works."""
    try:
        logits = pass_images(model, arguments.model, config["input_size"])
    except UserError as error:
        if "meta" not in str(error.__cause__):
            raise
        model = _network(arguments, "cpu")
        logits = pass_images(model, arguments.model, config["input_size"])
    if not isinstance(logits, torch.Tensor) or logits.ndim != 2:
        raise UserError(f"{arguments.model} gives no logits for whole images; give another gp, such as avg")
    if trains and arguments.batch_size == 1 and not arguments.freeze:  # BatchNorm needs two values
        pass_images(model, arguments.model, config["input_size"], training=True)


def pass_images(model: Any, name: str, size: Sequence[int], training: bool = False) -> Any:
    """Runs a network on one image, usually on the ``meta`` device.

    Args:
        model: The network.
        name: Its name in messages.
        size: Shape of the image, ``(C, H, W)``.
        training: Whether to use training mode.

    Raises:
        UserError: The network can't take images of this size; the message names the smallest that works.
    """
    device = next((each.device for each in model.parameters()), None)
    model.train(training)

    def passed(*sides: int) -> Any:
        with torch.no_grad():
            return model(torch.empty(1, size[0], *sides, device=device))

    try:
        with in_one_line(f"{name}: can't take images of {size[1]} x {size[2]} px"):
            return passed(*size[1:])
    except UserError as error:
        too_small, enough = min(size[1:]), max((model.pretrained_cfg.get("input_size") or size)[1:])
        if too_small >= enough or "meta" in str(error.__cause__) or not _goes(passed, enough):
            raise
        least = bisect_left(range(enough), True, lo=too_small + 1, key=partial(_goes, passed))
        raise UserError(f"{error}; give at least {least} px") from error


def _goes(passed: Callable[..., Any], side: int) -> bool:
    with suppress(Exception):  # third-party networks raise anything
        passed(side, side)
        return True
    return False


def _check_crops(arguments: TrainingArguments, blank: Image.Image) -> None:
    """Refuses values of `scale` and `ratio` for which timm's crops are empty and images become black."""
    if not arguments.no_aug and arguments.train_crop_mode in (None, "", "rrc"):
        draw = RandomResizedCropAndInterpolation.get_params
        crops = [draw(blank, arguments.scale, arguments.ratio) for _ in range(10)]
        if not any(height and width for _, _, height, width in crops):
            raise UserError(
                f"scale is {list(arguments.scale)}, ratio {list(arguments.ratio)}: no crop of an image of "
                f"{_MOST_PIXELS} x {_MOST_PIXELS} has a pixel; give shares of its area such as 0.08 1"
            )


def _try_training(arguments: TrainingArguments, images: Images, config: dict[str, Any]) -> None:
    classes = max(_CLASSES, arguments.num_classes or 0)
    with in_one_line("the training images can't be augmented like this"):
        two = TrainingImages(images, 2, arguments.seed, 0, 1)
        _, targets = next(iter(training_loader(two, arguments, config, classes, torch.device("cpu"))))
        create_loss(arguments)(torch.zeros(2, classes), targets)
    parameters = nn.Linear(2, 2)
    # layer-wise decay needs the whole network
    optimizer = create_optimizer(replace(arguments, layer_decay=None), parameters)
    with in_one_line(f"opt {arguments.opt}"):
        parameters(torch.ones(1, 2)).sum().backward()
        optimizer.step()
    try:
        with in_one_line(f"sched {arguments.sched} (timm {timm.__version__})"):
            scheduler, epochs = create_scheduler(arguments, optimizer, updates=1)
            for epoch in (0, epochs // 2, epochs) if scheduler else ():
                scheduler.step(epoch, 1.0)
    except UserError as error:
        if "'verbose'" in str(error):  # an argument that torch has removed
            raise UserError(f"{error}; pip install 'timm>=1.0.23', or give another sched") from error
        raise
    if scheduler is None:
        raise UserError(f"sched {arguments.sched}: give step, decay_rate 1 and warmup_epochs 0 instead")
    if (arguments.start_epoch or 0) >= epochs:
        raise UserError(f"start_epoch is {arguments.start_epoch}, and there are {epochs} epochs")


@dataclass(frozen=True)
class Sample:
    """What a sample of a split's images looks like.

    Attributes:
        side: Median shorter side in pixels; 0 if no image could be read.
        needed: Shorter side in pixels below which evaluation enlarges images.
        remarks: One line for each conversion that users may not expect.
    """

    side: int
    needed: int
    remarks: tuple[str, ...]


def look_at(
    images: Images, arguments: TrainingArguments, data_config: Mapping[str, Any], option: str
) -> Sample:
    """Inspects a sample of the stored training images, evenly spaced over the split.

    Raises:
        UserError: Colour images would become grey, and `input_img_mode` is not given. `option` is the
            command-line option that sets it.
    """
    sides, coloured = [], []
    for index in range(0, len(images), math.ceil(len(images) / _SAMPLE)):
        with suppress(Exception):  # a decoder raises anything; training names the image
            file, _ = images.reader[index]
            with file, file if isinstance(file, Image.Image) else open_picture(file) as image:
                shorter = min(image.size)
                image.draft("RGB", (_THUMBNAIL, _THUMBNAIL))  # decodes JPEGs at a reduced size
                seen, _ = as_seen(image)
                seen.thumbnail((_THUMBNAIL, _THUMBNAIL))
                pixels = np.asarray(seen, dtype=np.int16)
            sides.append(shorter)
            coloured.append(bool((pixels.max(axis=2) - pixels.min(axis=2) > _GREY).any()))
    side, with_colour = int(statistics.median(sides or [0])), statistics.mean(coloured or [0.0])
    needed = math.floor(min(data_config["input_size"][-2:]) / data_config["crop_pct"])
    name, remarks = os.path.normpath(images.name), []
    if arguments.channels == 1 and not arguments.input_img_mode and with_colour > 0.5:
        raise UserError(
            f"{images.name}: the images have colour, and the network takes one channel; take a recipe of "
            f"three, or give {option} to turn them grey"
        )
    if 0 < side < needed:
        sizes = f"from {side} px of the shorter side (median) to {needed}"
        remarks.append(f"WARNING: {name}: the images are enlarged, {sizes}")
    if arguments.channels == 3 and not arguments.input_img_mode and side and not with_colour:
        remarks.append(f"{name}: the images are grey; the network takes them as three equal channels")
    return Sample(side, needed, tuple(remarks))
