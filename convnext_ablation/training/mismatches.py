"""What images and recipe don't have in common: size and colour, by a look at some of the images."""

from __future__ import annotations

import math
import os
import statistics
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from convnext_ablation.data.pictures import as_seen, open_picture
from convnext_ablation.errors import UserError
from convnext_ablation.training.arguments import TrainingArguments
from convnext_ablation.training.images import Images

MOST_ENLARGED = 4 / 3  # more of it is no rounding of sizes, but a recipe for other images
_SAMPLE = 32  # images that are looked at
_THUMBNAIL = 64  # pixels; enough to see whether there is colour
_GREY = 8  # of 255: as far as the channels of a grey pixel are apart in a JPEG


@dataclass(frozen=True)
class Sample:
    """What some images of a split are like.

    Attributes:
        side: Median of their shorter sides, in pixels; 0 if none could be read.
        coloured: Share of them that have colour.
    """

    side: int
    coloured: float


def look_at(images: Images) -> Sample:
    """Looks at some of a split's images, spread over all of it, as they are stored."""
    sides, coloured = [], []
    for index in range(0, len(images), math.ceil(len(images) / _SAMPLE)):
        with suppress(Exception):  # a decoder raises anything; training names the image
            file, _ = images.reader[index]
            with file, file if isinstance(file, Image.Image) else open_picture(file) as image:
                side = min(image.size)
                image.draft("RGB", (_THUMBNAIL, _THUMBNAIL))  # what a JPEG can be decoded small by
                seen, _ = as_seen(image)
                seen.thumbnail((_THUMBNAIL, _THUMBNAIL))
                pixels = np.asarray(seen, dtype=np.int16)
            sides.append(side)
            coloured.append(bool((pixels.max(axis=2) - pixels.min(axis=2) > _GREY).any()))
    return Sample(int(statistics.median(sides or [0])), statistics.mean(coloured or [0.0]))


def needed_side(data_config: Mapping[str, Any]) -> int:
    """The shorter side, in pixels, below which images are enlarged: that of evaluation's resizing."""
    return math.floor(min(data_config["input_size"][-2:]) / data_config["crop_pct"])


def check_colour(images: Images, sample: Sample, arguments: TrainingArguments, option: str) -> None:
    """Refuses to turn photographs grey unless the recipe names the mode of the images.

    Args:
        images: What is trained on.
        sample: Some of them.
        arguments: How.
        option: How a command sets `input_img_mode`, for the message.
    """
    if arguments.channels == 1 and not arguments.input_img_mode and sample.coloured > 0.5:
        raise UserError(
            f"{images.name}: the images have colour, and the network takes one channel; take a recipe of "
            f"three, or give {option} to turn them grey"
        )


def remarks(images: Images, sample: Sample, arguments: TrainingArguments, needed: int) -> list[str]:
    """What is done to the images that one may not expect, a line each.

    Args:
        images: What is trained on.
        sample: Some of them.
        arguments: How.
        needed: From `needed_side`.
    """
    lines, name = [], os.path.normpath(images.name)
    if 0 < sample.side < needed:
        sizes = f"from {sample.side} px of the shorter side (median) to {needed}"
        lines.append(f"WARNING: {name}: the images are enlarged, {sizes}")
    if arguments.channels == 3 and not arguments.input_img_mode and sample.side and not sample.coloured:
        lines.append(f"{name}: the images are grey; the network takes them as three equal channels")
    return lines
