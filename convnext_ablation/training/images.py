"""Images of a split, and the order in which training and evaluation read them.

An image's augmentation depends on the run's seed, the epoch and the image alone, not on the process or on the
images read before. So results don't depend on the number of workers and processes, and an epoch can be
resumed midway.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image
from torch.utils.data import Dataset, IterableDataset, get_worker_info

from convnext_ablation.console import printable
from convnext_ablation.data.class_names import by_name, check_known, names_of
from convnext_ablation.data.pictures import as_seen, open_picture
from convnext_ablation.data.walk import skipped_lines
from convnext_ablation.errors import UserError
from convnext_ablation.training.distributed import seed_stream


class UnreadableImageError(UserError):
    """An image can't be decoded, or prepared for the network."""


class Images(Dataset):
    """A split of a data set.

    Args:
        reader: A timm reader or torchvision data set; it determines the classes.
        mode: PIL mode that images are converted to.
        name: The split's folder or tar, or its name in messages.

    Attributes:
        classes: Class names in the order of their numbers; empty if the data set has none.
        found: The reader's label of each class in the split, by class name.
        skipped: Files of the folder that are not read, one line per reason.
        left_out: Number of images left out because they can't be decoded.
    """

    def __init__(self, reader: Any, mode: str, name: str) -> None:
        self.reader = reader
        self.mode = mode
        self.name = name
        self.found = _named_labels(reader, name)
        self.skipped = skipped_lines(getattr(reader, "skipped", {}))
        self.left_out = 0
        self.classes = list(self.found)
        self._numbers: dict[Any, int] = {}  # class numbers by label; empty if labels are class numbers

    def __len__(self) -> int:
        """Number of images."""
        return len(self.reader)

    def number_by(self, numbers: Mapping[str, int], whose: str, remedy: str) -> None:
        """Renumbers classes by name; `numbers` must have all of them, and `whose` is its source."""
        if self.classes == names_of(numbers):
            return
        check_known(self.found, numbers, whose, self.name, remedy)
        self.classes = names_of(numbers)
        self._numbers = {label: numbers[name] for name, label in self.found.items()}

    @property
    def unseen(self) -> list[str]:
        """Classes without images in the split."""
        seen = {self._numbers.get(label, label) for label in self.found.values()}
        return [name for number, name in enumerate(self.classes) if number not in seen]

    def id(self, index: int) -> str:
        """Path of an image relative to the split's folder, or its index if it has no path."""
        filename = getattr(self.reader, "filename", None)
        return str((callable(filename) and filename(index)) or index)

    def labels(self) -> torch.Tensor:
        """The class of each image, ``(N,)``, without reading the images.

        Raises:
            UserError: The data set doesn't list them.
        """
        labels = stored_labels(self.reader) or [label for _, label in getattr(self.reader, "samples", ())]
        if len(labels) != len(self):
            raise UserError(
                f"{self.name}: doesn't tell the classes of its images before they are read; leave "
                "class_weights and sampler out"
            )
        return torch.tensor([self._numbers.get(label, label) for label in labels])

    def ids(self) -> list[str]:
        """Paths of all images."""
        return [self.id(index) for index in range(len(self))]

    def leave_out(self, broken: Mapping[int, str]) -> None:
        """Leaves out images of a folder that can't be decoded, given as index and reason."""
        if not broken:
            return
        self.left_out = len(broken)
        self.skipped.append(f"{len(broken)} of {len(self)} images, which can't be decoded:")
        self.skipped += [printable(f"{self.id(index)}: {why}") for index, why in broken.items()]
        self.reader.leave_out(broken)
        there = {label for _, label in self.reader.samples}
        self.found = {name: label for name, label in self.found.items() if label in there}

    def load(self, index: int) -> tuple[Image.Image, int]:
        """Decodes an image with `pictures.as_seen`.

        Returns:
            The image in the split's `mode`, and its class number.
        """
        try:
            file, target = self.reader[index]  # torchvision has opened it
            with file, file if isinstance(file, Image.Image) else open_picture(file) as image:
                decoded = as_seen(image, self.mode)[0]
        except Exception as error:  # decoders raise anything
            raise self._unreadable(index, "decoded", error) from error
        try:
            number = self._numbers[target] if self._numbers else int(target)
        except (LookupError, TypeError, ValueError):
            number = -1
        if number < 0:
            raise UserError(f"{self.name}: {self.id(index)} has the label {target!r}, which is no class")
        return decoded, number

    def prepare(self, index: int, image: Image.Image, transform: Any) -> Any:
        """Applies a timm transform; raises `UnreadableImageError` if that fails."""
        try:
            return transform(image)
        except Exception as error:  # such as for extreme aspect ratios
            what = f"prepared ({image.width} x {image.height} pixels)"
            raise self._unreadable(index, what, error) from error

    def _unreadable(self, index: int, what: str, error: Exception) -> UnreadableImageError:
        path = os.path.join(self.name, self.id(index))
        reason = " ".join(str(error).split()) or type(error).__name__
        return UnreadableImageError(f"{path}: can't be {what}: {reason}; fix or remove it")


def is_missing(label: Any) -> bool:
    """Whether a label is missing: None, negative or NaN."""
    return label is None or (not isinstance(label, (str, list)) and not label >= 0)  # nor NaN


def _named_labels(reader: Any, where: str) -> dict[str, Any]:
    """The reader's labels by class name, in their order; empty if the reader has none."""
    for name in ("wnid_to_idx", "class_to_idx", "class_name_to_idx"):  # ImageNet's; of others; of a tar
        if numbers := getattr(reader, name, None):
            return by_name(sorted(numbers.items(), key=lambda named: named[1]), where)
    return by_name(((name, label) for label, name in enumerate(getattr(reader, "classes", ()))), where)


def stored_labels(reader: Any) -> list[Any]:
    """The labels that a data set stores apart from its images; empty if there are none."""
    rows: Any = getattr(reader, "dataset", None)
    column = getattr(reader, "label_key", None)
    if column in getattr(rows, "column_names", ()):
        return list(rows.select_columns(column)[:][column])
    targets = getattr(reader, "targets", ())
    return list(targets.tolist() if hasattr(targets, "tolist") else targets)


def balanced_weights(labels: torch.Tensor, classes: int) -> torch.Tensor:
    """Class weights, ``(classes,)``: classes with images weigh the same in total, and an image 1 on average.

    Equals scikit-learn's ``class_weight="balanced"``.
    """
    counts = torch.bincount(labels, minlength=classes).double()
    weights = len(labels) / ((counts > 0).sum() * counts)
    return torch.where(counts > 0, weights, 0.0)


@dataclass(eq=False)
class TrainingImages(IterableDataset):
    """What one process trains on: its part of each batch, starting at any batch of any epoch.

    Each epoch shuffles all images and cuts them into batches over all processes: two processes with 32
    images each see the same as one with 64. Incomplete batches are dropped, and so are batches beyond a
    multiple of `whole_updates_of`. With `chances`, ``(N,)``, an epoch draws N images with replacement,
    weighted by these values.
    """

    images: Images
    batch_size: int
    seed: int
    rank: int
    world_size: int
    whole_updates_of: int = 1
    chances: torch.Tensor | None = None
    transform: Any = None  # set by timm's loader

    def __post_init__(self) -> None:
        """Starts at the first epoch."""
        # in shared memory, so that persistent workers see it change
        self._position = torch.zeros(2, dtype=torch.int64).share_memory_()

    @property
    def steps(self) -> int:
        """Batches per epoch."""
        at_once = self.batch_size * self.world_size
        return len(self.images) // (at_once * self.whole_updates_of) * self.whole_updates_of

    @property
    def epoch(self) -> int:
        """The current epoch."""
        return int(self._position[0])

    def start_at(self, epoch: int, step: int) -> None:
        """Makes the next iteration start at a batch of an epoch."""
        self._position.copy_(torch.tensor([epoch, step]))

    def order(self, epoch: int) -> torch.Tensor:
        """Image indices of an epoch in training order, ``(N,)``."""
        digest = hashlib.sha256(repr((self.seed, "order", epoch)).encode()).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(digest[:7], "little"))
        if self.chances is not None:
            return torch.multinomial(self.chances, len(self.images), replacement=True, generator=generator)
        return torch.randperm(len(self.images), generator=generator)

    def __iter__(self) -> Iterator[tuple[Any, int]]:
        """Yields this process's (and worker's) images in the rest of the epoch, with their class numbers."""
        worker = get_worker_info()
        number, workers = (worker.id, worker.num_workers) if worker else (0, 1)
        epoch, first = self._position.tolist()
        order = self.order(epoch)
        # the loader takes batches from its workers in turn
        for step in range(first + number, self.steps, workers):
            start = (step * self.world_size + self.rank) * self.batch_size
            for place, index in enumerate(order[start : start + self.batch_size].tolist(), start):
                image, target = self.images.load(index)
                # an image that is drawn twice gets two augmentations
                seed_stream(self.seed, "image", epoch, index, *(() if self.chances is None else (place,)))
                yield self.images.prepare(index, image, self.transform), target


class EvaluatedImages(Dataset):
    """What one of `world_size` processes evaluates: every `world_size`-th image, so that each counts once."""

    def __init__(self, images: Images, rank: int, world_size: int) -> None:
        self.images = images
        self.transform: Any = None  # set by timm's loader
        self.indices = range(rank, len(images), world_size)

    def __len__(self) -> int:
        """Images of this process."""
        return len(self.indices)

    def __getitem__(self, number: int) -> tuple[Any, int]:
        """A preprocessed image and its class number."""
        index = self.indices[number]
        image, target = self.images.load(index)
        return self.images.prepare(index, image, self.transform), target
