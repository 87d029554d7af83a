"""The images of a split decoded once, in one file that every process maps into its memory.

The file lies in ``.decoded`` beside the split's folder, or in the folder that `CONVNEXT_ABLATION_CACHE` names
where nothing may be written there. Its name holds a hash over the manifest, or where there is none over the
names, sizes and times of the images, so that another content is another file. It has four parts:

- a page that says where the others are;
- the pixels, image by image and channel by channel, as the network's batches have them;
- the index, a row an image: where its pixels are, its height, width and class, its path;
- a description in JSON: the classes' names, and why what can't be decoded can't.

It is written under another name and renamed when it is on the disk.
"""

from __future__ import annotations

import errno
import glob
import hashlib
import json
import mmap
import os
import shutil
import struct
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cached_property, partial
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from numpy.typing import NDArray

from convnext_ablation.data.manifest import MANIFEST
from convnext_ablation.errors import UserError
from convnext_ablation.files import written_whole
from convnext_ablation.machine import available_cores

__all__ = ["CACHE_VARIABLE", "FOLDER", "DecodedSplit", "open_decoded"]

FOLDER = ".decoded"
CACHE_VARIABLE = "CONVNEXT_ABLATION_CACHE"

_CHANNELS = {"RGB": 3, "L": 1}
_FORMAT = b"pixels1\n"  # of the file; another one whenever the same images come to give another file
_PREFIX = struct.Struct("<8sQQQ")  # the format; where the index begins, where the description, where it ends
_PAGE = 4096
_LOCK = ".lock"
_AT_A_TIME = 32  # images that a thread takes
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP)


def _row(id_bytes: int) -> np.dtype[np.void]:
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
            prefix = file.read(_PREFIX.size)
            kind, index, description, end = _PREFIX.unpack(prefix.ljust(_PREFIX.size, b"\0"))
            if kind != _FORMAT or end != os.fstat(file.fileno()).st_size:
                raise ValueError(f"{path} is not whole")
            memory = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        described = json.loads(memory[description:end])
        self.classes: list[str] = described["classes"]
        self.unreadable = {int(number): reason for number, reason in described["unreadable"].items()}
        self._channels = _CHANNELS[described["mode"]]
        self._index = np.frombuffer(memory, _row(described["id_bytes"]), described["images"], index)
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


def open_decoded(folder: Path, mode: str, input_key: str | None = None) -> DecodedSplit:
    """Opens a split's decoded images; decodes them first if nobody has.

    Processes that ask at the same time wait for the one that decodes. Images that can't be decoded keep their
    place and have no pixels.

    Args:
        folder: The split's folder, with a folder a class in it.
        mode: PIL mode that images are converted to, ``RGB`` or ``L``.
        input_key: Extensions of the images as timm takes them, separated by semicolons; timm's own if None.

    Raises:
        UserError: There is no place for the decoded images, or the folder isn't one of images.
        RuntimeError: timm finds no image in it.
    """
    if mode not in _CHANNELS:
        raise UserError(f"images of mode {mode} can't be kept decoded; leave --dataset cached out")
    if not folder.is_dir():
        raise UserError(f"{folder} is no folder; leave --dataset cached out, or unpack it")
    source = _Source(folder, mode, input_key)
    places = [folder.parent / FOLDER]
    if os.environ.get(CACHE_VARIABLE):
        places.append(Path(os.environ[CACHE_VARIABLE]))
    for place in places:
        if (found := _find(source, place)) is not None:
            return found
    place = _writable(places)
    with _alone(place) as alone:
        found = _find(source, place)
        if found is None:
            if alone:
                _remove_useless(source, place)
            _Build(source, place / source.name).run()
            found = DecodedSplit(place / source.name)
    return found


class _Source:
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
        parts = (_FORMAT, self._content(), self.folder.name, self.mode, self.input_key)
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


def _find(source: _Source, place: Path) -> DecodedSplit | None:
    """Opens the file if it is there and whole, and nothing in it has been mended since."""
    try:
        found = DecodedSplit(place / source.name)
    except (OSError, ValueError):
        return None
    for number in found.unreadable:
        reason, _ = _tried(source.image, source.folder / found.id(number))
        if not reason:
            return None
    return found


def _tried(read: Callable[[Any], Any], path: str | Path) -> tuple[str, Any]:
    """Reads an image: the reason why it can't be, or an empty one, and what was read."""
    try:
        return "", read(path)
    except Exception as error:  # decoders raise anything
        return " ".join(str(error).split()) or type(error).__name__, None


def _writable(places: Sequence[Path]) -> Path:
    """The first place that files can be written to."""
    reasons = {place: _why_not_writable(place) for place in places}
    for place, reason in reasons.items():
        if not reason:
            return place
    listed = ", ".join(f"{place} can't be written to ({reason})" for place, reason in reasons.items())
    raise UserError(f"{listed}; name a folder for decoded images in {CACHE_VARIABLE}")


def _why_not_writable(place: Path) -> str:
    try:
        place.mkdir(parents=True, exist_ok=True)
        with open(place / _LOCK, "a"):
            return ""
    except OSError as error:
        return error.strerror or type(error).__name__


@contextmanager
def _alone(place: Path) -> Iterator[bool]:
    """Waits until no other process decodes into a place; says whether that can be known there."""
    import fcntl  # not on every system

    with open(place / _LOCK, "a") as file:
        try:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if os.environ.get("RANK", "0") == "0":
                    print(f"another process decodes images into {place}; waiting for it", flush=True)
                fcntl.flock(file, fcntl.LOCK_EX)
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
            yield False
        else:
            yield True


def _remove_useless(source: _Source, place: Path) -> None:
    """Removes what killed processes have left, and what the folder held before it changed."""
    for path in place.glob(".*.pixels.*.tmp"):
        path.unlink(missing_ok=True)
    if place == source.folder.parent / FOLDER:  # elsewhere it may be another folder's
        for path in place.glob(f"{glob.escape(source.prefix)}{'[0-9a-f]' * 16}.pixels"):
            path.unlink(missing_ok=True)


class _Build:
    """Decodes a folder into a file."""

    def __init__(self, source: _Source, path: Path) -> None:
        self.source = source
        self.path = path
        self.samples = source.reader.samples
        ids = [os.fsencode(os.path.relpath(file, source.folder)) for file, _ in self.samples]
        self.id_bytes = max(map(len, ids))
        self.index = np.zeros(len(ids), _row(self.id_bytes))
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
            ends = _PAGE + np.cumsum(sizes * _CHANNELS[self.source.mode])
            self.index["offset"][0], self.index["offset"][1:] = _PAGE, ends[:-1]
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
        reason, size = _tried(self.source.size, self.samples[number][0])
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
        reason, pixels = _tried(self.source.image, path)
        if reason:
            self.unreadable[number] = reason
            row["height"] = row["width"] = 0
            return
        if len(pixels) != int(row["height"]) * int(row["width"]) * _CHANNELS[self.source.mode]:
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
            _PREFIX.pack(_FORMAT, index, index + self.index.nbytes, index + self.index.nbytes + len(text))
        )


def _amount(size: int) -> str:
    return f"{size / 1e9:.2f} GB" if size >= 1e8 else f"{size / 1e6:.1f} MB"
