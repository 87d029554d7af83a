"""The file of a split's decoded images, which every process maps into its memory.

It has four parts:

- a page that says where the others are;
- the pixels, image by image and channel by channel, as the network's batches have them;
- the index, a row an image: where its pixels are, its height, width and class, its path;
- a description in JSON: the classes' names, and why what can't be decoded can't.
"""

from __future__ import annotations

import json
import mmap
import os
import struct
import warnings
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

CHANNELS = {"RGB": 3, "L": 1}
FORMAT = b"pixels1\n"  # of the file; another one whenever the same images come to give another file
PREFIX = struct.Struct("<8sQQQ")  # the format; where the index begins, where the description, where it ends
PAGE = 4096


def row_type(id_bytes: int) -> np.dtype[np.void]:
    """Type of a row of the index."""
    numbers = [("offset", "<i8"), ("height", "<i4"), ("width", "<i4"), ("label", "<i4")]
    return np.dtype([*numbers, ("id", f"S{id_bytes}")])


class DecodedSplit:
    """A split's decoded images. Processes that open the same share its memory, and so do forked ones.

    Args:
        path: The file.

    Attributes:
        classes: Names of the classes of the images, in the order in which timm numbers them.
        unreadable: Why the images that can't be decoded can't, by their number.

    Raises:
        ValueError: The file isn't whole.
        OSError: It can't be read.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with open(path, "rb") as file:
            prefix = file.read(PREFIX.size)
            kind, index, description, end = PREFIX.unpack(prefix.ljust(PREFIX.size, b"\0"))
            if kind != FORMAT or end != os.fstat(file.fileno()).st_size:
                raise ValueError(f"{path} is not whole")
            memory = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        described = json.loads(memory[description:end])
        self.classes: list[str] = described["classes"]
        self.unreadable = {int(number): reason for number, reason in described["unreadable"].items()}
        self._channels = CHANNELS[described["mode"]]
        self._index = np.frombuffer(memory, row_type(described["id_bytes"]), described["images"], index)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that writing there would be wrong, which nobody does
            self._bytes = torch.frombuffer(memory, dtype=torch.uint8)

    def __len__(self) -> int:
        """Number of images."""
        return len(self._index)

    @property
    def labels(self) -> NDArray[np.int32]:
        """Class of each image as an index into `classes`, ``(N,)``."""
        return self._index["label"]

    def id(self, number: int) -> str:
        """Path of an image below the split's folder."""
        return os.fsdecode(self._index["id"][number].item())

    def pixels(self, number: int) -> torch.Tensor:
        """An image's pixels where they are in memory, uint8 ``(C, H, W)``; they must not be written to."""
        offset, height, width, *_ = self._index[number].item()
        size = self._channels * height * width
        return self._bytes[offset : offset + size].view(self._channels, height, width)

    def __getstate__(self) -> Path:
        """What another process needs to open the same file."""
        return self.path

    def __setstate__(self, path: Path) -> None:
        """Opens the file in another process."""
        self.__init__(path)  # type: ignore[misc]
