"""timm's transforms on images that are tensors already, with the same draws and the same results.

Where timm's transform only crops and flips, torchvision does that on a tensor as on a PIL image, much faster.
Only resampling comes out otherwise, so that is left to Pillow.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from PIL import Image
from timm.data.transforms import MaybePILToTensor, RandomResizedCropAndInterpolation
from torchvision import transforms
from torchvision.transforms import functional


def on_tensors(transform: Callable[[Image.Image], Any]) -> Callable[[torch.Tensor], Any]:
    """Makes the transform for tensors of a transform for PIL images.

    Args:
        transform: A composition of timm's, or anything else that takes a PIL image.

    Returns:
        What takes an image as uint8 ``(C, H, W)`` and gives what `transform` gives, perhaps as a view of it.
    """
    parts = getattr(transform, "transforms", ())
    if parts and all(type(part) in _PARTS for part in parts) and type(parts[-1]) is MaybePILToTensor:
        return transforms.Compose([_PARTS[type(part)](part) for part in parts])
    return _OnImage(transform)


def to_image(pixels: torch.Tensor) -> Image.Image:
    """Makes a PIL image, of mode L or RGB, of uint8 ``(C, H, W)``."""
    bands = [Image.fromarray(np.ascontiguousarray(band)) for band in pixels.numpy()]
    return bands[0] if len(bands) == 1 else Image.merge("RGB", bands)


class _OnImage:
    def __init__(self, transform: Callable[[Image.Image], Any]) -> None:
        self.transform = transform

    def __call__(self, pixels: torch.Tensor) -> Any:
        return self.transform(to_image(pixels))


class _Crop:
    """timm's random crop, which resamples unless what it crops has the size that is asked for."""

    def __init__(self, crop: RandomResizedCropAndInterpolation) -> None:
        self.crop = crop

    def __call__(self, pixels: torch.Tensor) -> torch.Tensor:
        crop = self.crop
        top, left, height, width = crop.get_params(pixels, crop.scale, crop.ratio)
        interpolation = crop.interpolation
        if isinstance(interpolation, (tuple, list)):
            interpolation = random.choice(interpolation)
        cropped = pixels[:, top : top + height, left : left + width]
        if (height, width) == tuple(crop.size):
            return cropped
        image = functional.resize(to_image(cropped), list(crop.size), interpolation)
        return functional.pil_to_tensor(image)


class _Resize:
    """torchvision's resizing, which leaves an image alone that has the size already."""

    def __init__(self, resize: transforms.Resize) -> None:
        self.resize = resize

    def __call__(self, pixels: torch.Tensor) -> torch.Tensor:
        size, shape = self.resize.size, tuple(pixels.shape[-2:])
        fits = min(shape) == size if isinstance(size, int) else shape == tuple(size)
        return pixels if fits else functional.pil_to_tensor(self.resize(to_image(pixels)))


def _as_it_is(part: Any) -> Any:
    return part


_PARTS: dict[type, Callable[[Any], Callable[[torch.Tensor], torch.Tensor]]] = {
    RandomResizedCropAndInterpolation: _Crop,
    transforms.Resize: _Resize,
    transforms.CenterCrop: _as_it_is,
    transforms.RandomHorizontalFlip: _as_it_is,
    transforms.RandomVerticalFlip: _as_it_is,
    MaybePILToTensor: _as_it_is,
}
