"""A split whose images are decoded already: the same images, ids, order and classes as in its folder."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from PIL import Image

from convnext_ablation.data.decoded import DecodedSplit
from convnext_ablation.training.images import Images, UnreadableImageError
from convnext_ablation.training.tensor_transforms import on_tensors

_NO_CLASS = -1


class DecodedImages(Images):
    """A split that is decoded already.

    Args:
        split: The images, in the order of the folder.
        mode: PIL mode that they were converted to.
        name: What the split is called in messages.
        class_map: Numbers of the classes; images of other classes are left out. All classes in timm's order
            if not given.
    """

    def __init__(
        self, split: DecodedSplit, mode: str, name: str, class_map: Mapping[str, int] | None
    ) -> None:
        super().__init__(split, mode, name)
        self.split = split
        self.class_to_idx = class_map or {label: number for number, label in enumerate(split.classes)}
        self._targets = [self.class_to_idx.get(label, _NO_CLASS) for label in split.classes]
        left_out = [label for label, target in enumerate(self._targets) if target == _NO_CLASS]
        # workers must share what grows with the split: an array, and none where it would say nothing
        self._numbers = np.flatnonzero(~np.isin(split.labels, left_out)) if left_out else None

    def __len__(self) -> int:
        """Number of images."""
        return len(self.split) if self._numbers is None else len(self._numbers)

    @property
    def classes(self) -> list[str]:
        """Names of the classes in the order of their numbers."""
        return sorted(self.class_to_idx, key=self.class_to_idx.__getitem__)

    def id(self, index: int) -> str:
        """Path of an image below the split's folder."""
        return self.split.id(self._number(index))

    def load(self, index: int) -> tuple[Any, int]:
        """Finds an image's pixels.

        Returns:
            The pixels where they are in memory, uint8 ``(C, H, W)``, and the number of the image's class.

        Raises:
            UnreadableImageError: The image could not be decoded.
        """
        number = self._number(index)
        if number in self.split.unreadable:
            raise UnreadableImageError(self.id(index), self.split.unreadable[number])
        return self.split.pixels(number), self._targets[self.split.labels[number]]

    def black(self) -> Any:
        """What `load` might give, where there is nothing to load."""
        return torch.zeros((len(self.mode), 32, 32), dtype=torch.uint8)

    def fitted(self, transform: Callable[[Image.Image], Any]) -> Callable[[Any], Any]:
        """Makes a transform for what `load` gives of one for PIL images."""
        return on_tensors(transform)

    def unreadable(self) -> dict[str, str]:
        """Why the images that could not be decoded could not be, by their paths."""
        return {
            self.split.id(number): reason
            for number, reason in self.split.unreadable.items()
            if self._targets[self.split.labels[number]] != _NO_CLASS
        }

    def _number(self, index: int) -> int:
        return index if self._numbers is None else int(self._numbers[index])
