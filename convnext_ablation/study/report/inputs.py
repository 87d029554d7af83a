"""What the page is made from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from convnext_ablation.training.evaluation import Predictions

__all__ = ["Labels", "PageExtras", "PageRun"]

Labels = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class PageRun:
    """One finished run.

    Attributes:
        network: Name of its network, as `NetworkResult.name`.
        seed: Its seed.
        folder: Its folder.
        predicted: Most probable class of each test image, ``(N,)``.
        pretraining_seed: That of the weights it started from, if there are several.
    """

    network: str
    seed: int
    folder: Path
    predicted: Labels
    pretraining_seed: int = 0

    @property
    def seeds(self) -> tuple[int, int]:
        """Both of its seeds, by which runs of different networks are paired."""
        return self.pretraining_seed, self.seed

    @classmethod
    def of(
        cls, network: str, seed: int, folder: Path, predictions: Predictions, pretraining_seed: int = 0
    ) -> PageRun:
        """A run with what it predicted; the rest of the predictions need not stay in memory."""
        return cls(network, seed, folder, predictions.top5[:, 0].copy(), pretraining_seed)


@dataclass(frozen=True, eq=False)
class PageExtras:
    """What the page shows besides results and effects.

    Attributes:
        answer: The study's answer in words.
        caveats: What a reader must bear in mind.
        runs: The finished runs, all tested on the same images in the same order.
        ids: Path of each test image below the split's folder, ``(N,)``.
        targets: Class of each test image, ``(N,)``.
        classes: Names of the classes in the order of their numbers; one without test images may be left out
            at the end.
        data_folder: Folder of the data set; None if it isn't known.
        split: The split that was tested on.
        roadmap: The roadmap figure (SVG), to be shown first; None for none.
        warnings: What must stand beneath every figure of accuracy, such as contamination of the test images
            by pre-training, or networks pre-trained in different ways.
    """

    answer: str
    caveats: Sequence[str]
    runs: Sequence[PageRun]
    ids: NDArray[np.str_]
    targets: Labels
    classes: Sequence[str]
    data_folder: Path | None = None
    split: str = "test"
    roadmap: Path | None = None
    warnings: Sequence[str] = ()

    def class_name(self, number: int) -> str:
        """Name of a class, or its number where the name isn't known."""
        return self.classes[number] if number < len(self.classes) else str(number)

    def image(self, index: int) -> Path | None:
        """The file of a test image, None if it isn't there (any more)."""
        if self.data_folder is None:
            return None
        name = str(self.ids[index])
        places = (self.data_folder / self.split / name, self.data_folder / name)
        return next((path for path in places if path.is_file()), None)
