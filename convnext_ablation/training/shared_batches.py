"""Training batches that workers hand over in memory that is used again and again.

A DataLoader's worker puts each batch into new shared memory, which the system clears and both processes map
page by page; where images are only copied, that takes most of the time. Here each worker has a few places
that both know from the start, and hands over the number of the place.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch.utils.data import DataLoader, default_collate, get_worker_info

# a worker of a DataLoader is at most two batches ahead, and one is being used
_PLACES = 3


class SharedBatches:
    """The places of all workers; as a collate function, it fills one.

    Whoever iterates over batches must be done with one when asking for the next, as timm's `PrefetchLoader`
    is, which has made floats of it.

    Args:
        workers: Number of workers, which must be the same processes in every epoch.
        batch_size: Images of a batch.
        shape: Channels, height and width of an image.
    """

    def __init__(self, workers: int, batch_size: int, shape: tuple[int, ...]) -> None:
        self.shape = (batch_size, *shape)
        self.images = torch.empty((workers * _PLACES, *self.shape), dtype=torch.uint8).share_memory_()
        self.taken = torch.zeros(workers * _PLACES, dtype=torch.bool).share_memory_()

    def __call__(self, batch: list[tuple[torch.Tensor, int]]) -> tuple[Any, Any]:
        """Puts a worker's images ``(C, H, W)`` into a free place of it.

        Returns:
            The number of the place, and a list of the targets; where no place is free or the images don't
            fit, tensors ``(B, C, H, W)`` and ``(B,)``.
        """
        place = self._free()
        images = [image for image, _ in batch]
        if place is None or (len(images), *images[0].shape) != self.shape:
            return tuple(default_collate(batch))
        self.taken[place] = True
        torch.stack(images, out=self.images[place])
        return place, [target for _, target in batch]

    def _free(self) -> int | None:
        worker = get_worker_info()
        own = range(worker.id * _PLACES, (worker.id + 1) * _PLACES) if worker else ()
        return next((place for place in own if not self.taken[place]), None)


class FromShared:
    """A DataLoader whose workers fill `SharedBatches`, with tensors in place of numbers.

    Args:
        loader: The loader, whose workers persist.
        batches: Its collate function.
        copy: Whether to give copies, for a device that may still read a batch when the next is asked for.
    """

    def __init__(self, loader: DataLoader, batches: SharedBatches, copy: bool) -> None:
        self.loader = loader
        self.batches = batches
        self.copy = copy

    def __len__(self) -> int:
        """Number of batches."""
        return len(self.loader)

    def __getattr__(self, name: str) -> Any:
        """What else is asked of a DataLoader."""
        return getattr(self.loader, name)

    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Images ``(B, C, H, W)``, which the next step may change unless copied, and targets ``(B,)``."""
        self.batches.taken.zero_()  # what was read ahead when the last epoch was broken off is thrown away
        for images, targets in self.loader:
            if isinstance(images, torch.Tensor):
                yield images, targets
                continue
            try:
                batch = self.batches.images[images]
                yield batch.clone() if self.copy else batch, torch.tensor(targets)
            finally:
                self.batches.taken[images] = False
