"""Images are written: many at a time, each whole or not at all, and those that are there not again."""

from __future__ import annotations

import functools
import hashlib
import itertools
import multiprocessing
import os
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO, ClassVar, Protocol

from convnext_ablation.console import track
from convnext_ablation.data.archives import Published
from convnext_ablation.data.folder import Record
from convnext_ablation.data.photographs import decode
from convnext_ablation.errors import UserError
from convnext_ablation.machine import available_cores, end_with_parent

_WORTH_A_PROCESS = 10_000  # images; fewer are written sooner than another process has started
_AT_A_TIME = 32  # images that a process takes


class DataSet(Protocol):
    """What a data set's module provides: a frozen dataclass, as its objects travel to other processes.

    Fields that `convnext_ablation.dataclass_options.option` made become options of the command line.
    """

    name: ClassVar[str]
    summary: ClassVar[str]
    splits: ClassVar[tuple[str, ...]]
    in_threads: ClassVar[bool]  # whether `encode` lets go of the interpreter, so that it needs no processes
    published: ClassVar[Mapping[str, Published]]  # its archives, by the fields that name them

    def records(self, scratch: Path) -> Iterable[tuple[Record, Any]]:
        """All images, each as its record, still without a hash, and whatever `encode` needs.

        Args:
            scratch: Folder for what has to be downloaded or unpacked; it needn't be there.
        """

    def encode(self, key: Any, file: BinaryIO, /) -> None:
        """Writes the file of one image, the same bytes for the same key; by any worker, in any order."""

    def versions(self) -> dict[str, str]:
        """Versions of the software that has a say in the bytes."""


def write_images(
    dataset: DataSet, folder: Path, images: Sequence[tuple[Record, Any]], workers: int | None = None
) -> list[Record]:
    """Writes all images below a folder, each the same whoever writes it, but for those that are there.

    Args:
        dataset: Gives the file of each.
        folder: Where they go, by their ids.
        images: Their records, still without a hash, and what its `encode` needs.
        workers: Threads or processes; by default up to one per core.

    Returns:
        The records with the hashes of the files.

    Raises:
        UserError: Two images would get the same file, or one can't be encoded.
    """
    seen: dict[str, Record] = {}
    for record, _ in images:  # files whose names differ only in case are one on many file systems
        other = seen.setdefault(record.id.casefold(), record)
        if other is not record:
            raise UserError(f"{record.source} and {other.source} would both become {record.id}; rename one")
    for parent in sorted({os.path.dirname(record.id) for record, _ in images}):
        (folder / parent).mkdir(parents=True, exist_ok=True)
    cores = available_cores()
    if workers is None:
        workers = cores + 1 if dataset.in_threads else min(cores, 1 + len(images) // _WORTH_A_PROCESS)
    kind, plural = ("thread", "threads") if dataset.in_threads else ("process", "processes")
    kind = plural if workers > 1 else kind
    print(f"{dataset.name}: writing {len(images)} images with {workers} {kind}", flush=True)
    write = functools.partial(_write_lot, dataset, str(folder), any(folder.glob("*/*/*")))
    lots = [images[start : start + _AT_A_TIME] for start in range(0, len(images), _AT_A_TIME)]
    if workers == 1:
        return _followed(map(write, lots), len(images))
    pool = _pool(dataset, workers)
    try:
        return _followed(pool.map(write, lots), len(images))
    finally:
        pool.shutdown(cancel_futures=True)


def _followed(written: Iterable[list[Record]], total: int) -> list[Record]:
    return list(track(itertools.chain.from_iterable(written), "writing images", total))


def _pool(dataset: DataSet, workers: int) -> Executor:
    if dataset.in_threads:
        return ThreadPoolExecutor(workers)
    # Processes start afresh rather than by fork, which may hang where torch has started threads.
    spawn = multiprocessing.get_context("spawn")
    return ProcessPoolExecutor(workers, spawn, initializer=end_with_parent)


def _write_lot(
    dataset: DataSet, folder: str, resumed: bool, lot: Sequence[tuple[Record, Any]]
) -> list[Record]:
    written = []
    for record, key in lot:
        path = f"{folder}/{record.id}"
        data = _written_before(path) if resumed else None
        if data is None:
            with open(f"{path}.tmp", "w+b") as file:
                dataset.encode(key, file)
                file.seek(0)
                data = file.read()
            os.replace(f"{path}.tmp", path)
        written.append(replace(record, sha256=hashlib.sha256(data).hexdigest()))
    return written


def _written_before(path: str) -> bytes | None:
    """The file that an interrupted run has left; after a power failure it may be there and empty."""
    try:
        data = Path(path).read_bytes()
        decode(data, path)
    except (FileNotFoundError, UserError):
        return None
    return data
