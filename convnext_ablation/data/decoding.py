"""Decodes a split's folder into one file, all cores at work."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property, partial
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from convnext_ablation.data.folder import MANIFEST
from convnext_ablation.data.pixel_file import CHANNELS, FORMAT, PAGE, PREFIX, row_type
from convnext_ablation.errors import UserError
from convnext_ablation.files import written_whole
from convnext_ablation.machine import available_cores

_AT_A_TIME = 32  # images that a thread takes


class SplitFolder:
    """The folder that is decoded."""

    def __init__(self, folder: Path, mode: str, input_key: str | None) -> None:
        self.folder = folder
        self.mode = mode
        self.input_key = input_key

    @cached_property
    def reader(self) -> Any:
        """Timm's reader, which says what is an image, in which order and of which class."""
        from timm.data import create_dataset

        key = {"input_key": self.input_key} if self.input_key else {}
        return create_dataset("", root=str(self.folder), search_split=False, **key).reader

    @cached_property
    def name(self) -> str:
        """Name of the file for what the folder holds now."""
        parts = (FORMAT, self._content(), self.folder.name, self.mode, self.input_key)
        return f"{self.prefix}{hashlib.sha256(repr(parts).encode()).hexdigest()[:16]}.pixels"

    @property
    def prefix(self) -> str:
        """How the names of its files begin, whatever it holds."""
        return f"{self.folder.name}-{self.mode}-"

    def _content(self) -> str:
        manifest = self.folder.parent / MANIFEST
        if manifest.is_file():
            data = manifest.read_bytes()
            if b"\n" + os.fsencode(self.folder.name) + b"/" in data:
                return hashlib.sha256(data).hexdigest()
        digest = hashlib.sha256()
        for path, _ in self.reader.samples:
            stat = os.stat(path)
            below = os.path.relpath(path, self.folder)
            digest.update(repr((below, stat.st_size, stat.st_mtime_ns)).encode(errors="surrogateescape"))
        return digest.hexdigest()

    def image(self, path: str | Path) -> bytes:
        """Decodes an image, channel by channel."""
        from PIL import Image

        with open(path, "rb") as file, Image.open(file) as image:
            return b"".join(band.tobytes() for band in image.convert(self.mode).split())

    def size(self, path: str | Path) -> tuple[int, int]:
        """Height and width of an image, from the head of its file."""
        from PIL import Image

        with open(path, "rb") as file, Image.open(file) as image:
            return image.height, image.width


def tried(read: Callable[[Any], Any], path: str | Path) -> tuple[str, Any]:
    """Reads an image: the reason why it can't be, or an empty one, and what was read."""
    try:
        return "", read(path)
    except Exception as error:  # decoders raise anything
        return " ".join(str(error).split()) or type(error).__name__, None


class Build:
    """Decodes a folder into a file."""

    def __init__(self, source: SplitFolder, path: Path) -> None:
        self.source = source
        self.path = path
        self.samples = source.reader.samples
        ids = [os.fsencode(os.path.relpath(file, source.folder)) for file, _ in self.samples]
        self.id_bytes = max(map(len, ids))
        self.index = np.zeros(len(ids), row_type(self.id_bytes))
        self.index["id"] = ids
        self.index["label"] = [label for _, label in self.samples]
        self.unreadable: dict[int, str] = {}

    def run(self) -> None:
        """Decodes all images by as many threads as there are cores: decoding lets go of the interpreter.

        Raises:
            UserError: There is too little room.
        """
        start = time.monotonic()
        with ThreadPoolExecutor(available_cores()) as pool:
            self._each(pool, self._measure, "sizes")
            sizes = self.index["height"].astype(np.int64) * self.index["width"]
            ends = PAGE + np.cumsum(sizes * CHANNELS[self.source.mode])
            self.index["offset"][0], self.index["offset"][1:] = PAGE, ends[:-1]
            self._check_room(int(ends[-1]) + self.index.nbytes)
            with written_whole(self.path) as temporary, open(temporary, "wb") as file:
                self._each(pool, partial(self._decode, file.fileno()), "decoding")
                self._finish(file, int(ends[-1]))
        size, seconds = self.path.stat().st_size, time.monotonic() - start
        print(
            f"{self.path}: {len(self.samples)} images decoded, {_amount(size)}, {seconds:.1f} s", flush=True
        )

    def _each(self, pool: ThreadPoolExecutor, work: Callable[[int], None], what: str) -> None:
        """Does something for every image, with a bar on a terminal and a line every quarter in a log."""
        from tqdm import tqdm

        def some(first: int) -> int:
            numbers = range(first, min(first + _AT_A_TIME, len(self.samples)))
            for number in numbers:
                work(number)
            return len(numbers)

        of, done, start = len(self.samples), 0, time.monotonic()
        bar = tqdm(total=of, desc=f"{what} of {self.source.folder}", unit=" images", delay=1, disable=None)
        with bar:
            for count in pool.map(some, range(0, of, _AT_A_TIME)):
                bar.update(count)
                quarter, done = 4 * done // of, done + count
                taken = time.monotonic() - start
                if 4 * done // of > quarter and taken > 10 and not sys.stderr.isatty():
                    left = taken / done * (of - done)
                    print(f"{what}: {done} of {of} images, {left:.0f} s left", flush=True)

    def _measure(self, number: int) -> None:
        reason, size = tried(self.source.size, self.samples[number][0])
        if reason:
            self.unreadable[number] = reason
        else:
            self.index["height"][number], self.index["width"][number] = size

    def _check_room(self, needed: int) -> None:
        free = shutil.disk_usage(self.path.parent).free
        if needed > free:
            raise UserError(
                f"{self.path.parent}: decoded, {self.source.folder} takes {_amount(needed)}, but "
                f"{_amount(free)} are free; make room, or leave --dataset cached out"
            )

    def _decode(self, file: int, number: int) -> None:
        if number in self.unreadable:
            return
        path, row = self.samples[number][0], self.index[number]
        reason, pixels = tried(self.source.image, path)
        if reason:
            self.unreadable[number] = reason
            row["height"] = row["width"] = 0
            return
        if len(pixels) != int(row["height"]) * int(row["width"]) * CHANNELS[self.source.mode]:
            raise UserError(f"{path} changed while it was read; leave the folder alone and start again")
        os.pwrite(file, pixels, int(row["offset"]))

    def _finish(self, file: BinaryIO, index: int) -> None:
        """Adds the index and the description, and says where they are."""
        classes = self.source.reader.class_to_idx
        description = {
            "mode": self.source.mode,
            "images": len(self.samples),
            "id_bytes": self.id_bytes,
            "classes": sorted(classes, key=classes.__getitem__),
            "unreadable": dict(sorted(self.unreadable.items())),
        }
        text = json.dumps(description).encode()
        file.seek(index)
        file.write(self.index.tobytes() + text)
        file.seek(0)
        file.write(
            PREFIX.pack(FORMAT, index, index + self.index.nbytes, index + self.index.nbytes + len(text))
        )


def _amount(size: int) -> str:
    return f"{size / 1e9:.2f} GB" if size >= 1e8 else f"{size / 1e6:.1f} MB"
