"""Pictures of a folder for training: those that `data.walk` takes for pictures, in timm's order."""

from __future__ import annotations

import os
from collections.abc import Container
from pathlib import Path
from typing import BinaryIO

from convnext_ablation.data.folder import list_split, natural_key
from convnext_ablation.errors import UserError


class FolderReader:
    """Has the interface of timm's `ReaderImageFolder`, and its samples where all endings are timm's.

    A class is a folder with pictures in it. Classes and pictures stand in natural order: what is drawn for a
    picture depends on its place.

    Args:
        root: The split's folder.

    Attributes:
        samples: Path and class of each picture.
        class_to_idx: Number of each class.
        skipped: Why other files are not read, by their paths below the folder.

    Raises:
        UserError: What `data.walk.walk` refuses, or a picture in no class folder.
    """

    def __init__(self, root: Path) -> None:
        found = list_split(root, "")
        found.check_classes(root)
        self.root, self.skipped = str(root), found.skipped
        classes = sorted(sorted(set(found.images.values())), key=natural_key)
        self.class_to_idx = {name: number for number, name in enumerate(classes)}
        paths = {os.path.join(self.root, below): below for below in found.images}
        self.samples = [
            (path, self.class_to_idx[found.images[paths[path]]]) for path in sorted(paths, key=natural_key)
        ]
        if not self.samples:
            raise UserError(f"{root}: there is no image in it")

    def __getitem__(self, index: int) -> tuple[BinaryIO, int]:
        """The open file of a picture, and its class."""
        path, target = self.samples[index]
        return open(path, "rb"), target

    def __len__(self) -> int:
        """Number of pictures."""
        return len(self.samples)

    def leave_out(self, indices: Container[int]) -> None:
        """Leaves pictures out; the numbers of the others close up, those of classes stay."""
        self.samples = [sample for index, sample in enumerate(self.samples) if index not in indices]

    def filename(self, index: int) -> str:
        """Path of a picture below the folder."""
        return os.path.relpath(self.samples[index][0], self.root)
