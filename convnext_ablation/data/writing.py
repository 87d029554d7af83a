"""Images are written: many at a time, each whole or not at all, and those that are there not again."""

from __future__ import annotations

import functools
import hashlib
import itertools
import multiprocessing
import os
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

from tqdm import tqdm

from convnext_ablation.data.dataset import DataSet
from convnext_ablation.data.fitting import decode
from convnext_ablation.data.folder import Record
from convnext_ablation.errors import UserError
from convnext_ablation.machine import available_cores, end_with_parent

__all__ = ["write_images"]

_WORTH_A_PROCESS = 10_000  # images; fewer are written sooner than another process has started
_AT_A_TIME = 32  # images that a process takes
_AHEAD = 4  # such lots for each process to come


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
    _check_names(record for record, _ in images)
    for parent in sorted({os.path.dirname(record.id) for record, _ in images}):
        (folder / parent).mkdir(parents=True, exist_ok=True)
    cores = available_cores()
    workers = workers or (
        cores + 1 if dataset.in_threads else min(cores, 1 + len(images) // _WORTH_A_PROCESS)
    )
    kind = "thread" if dataset.in_threads else "process"
    print(
        f"{dataset.name}: writing {len(images)} images with {workers} {kind}"
        f"{('s' if dataset.in_threads else 'es') * (workers > 1)}",
        flush=True,
    )
    resumed = any(folder.glob("*/*/*"))
    write = functools.partial(_write_lot, dataset, str(folder), resumed)
    lots = (images[start : start + _AT_A_TIME] for start in range(0, len(images), _AT_A_TIME))
    if workers == 1:
        return list(_with_progress(itertools.chain.from_iterable(map(write, lots)), len(images)))
    with _pool(dataset, workers) as pool:
        written = _in_order(pool, write, lots, ahead=_AHEAD * workers)
        return list(_with_progress(itertools.chain.from_iterable(written), len(images)))


def _check_names(records: Iterable[Record]) -> None:
    """Two files whose names differ only in case are one on many file systems."""
    seen: dict[str, Record] = {}
    for record in records:
        other = seen.setdefault(record.id.casefold(), record)
        if other is not record:
            raise UserError(f"{record.source} and {other.source} would both become {record.id}; rename one")


def _pool(dataset: DataSet, workers: int) -> Executor:
    if dataset.in_threads:
        return ThreadPoolExecutor(workers)
    # Processes start afresh rather than by fork, which may hang where torch has started threads.
    spawn = multiprocessing.get_context("spawn")
    return ProcessPoolExecutor(workers, spawn, initializer=end_with_parent)


def _in_order(
    pool: Executor, write: Callable[[Any], list[Record]], lots: Iterator[Any], ahead: int
) -> Iterator[list[Record]]:
    """As the pool's own `map`, but without queueing millions of images at once."""
    futures = deque(pool.submit(write, lot) for lot in itertools.islice(lots, ahead))
    try:
        while futures:
            yield futures.popleft().result()
            futures.extend(pool.submit(write, lot) for lot in itertools.islice(lots, 1))
    finally:
        for future in futures:
            future.cancel()


def _write_lot(
    dataset: DataSet, folder: str, resumed: bool, lot: Sequence[tuple[Record, Any]]
) -> list[Record]:
    written = []
    for record, key in lot:
        path = f"{folder}/{record.id}"
        data = _written_before(path) if resumed else None
        if data is None:
            data = _write(path, dataset, key)
        written.append(replace(record, sha256=hashlib.sha256(data).hexdigest()))
    return written


def _write(path: str, dataset: DataSet, key: Any) -> bytes:
    with open(f"{path}.tmp", "w+b") as file:
        dataset.encode(key, file)
        file.seek(0)
        data = file.read()
    os.replace(f"{path}.tmp", path)
    return data


def _written_before(path: str) -> bytes | None:
    """The file that an interrupted run has left; after a power failure it may be there and empty."""
    try:
        with open(path, "rb") as file:
            data = file.read()
        decode(data, path)
    except (FileNotFoundError, UserError):
        return None
    return data


def _with_progress(records: Iterable[Record], total: int) -> Iterator[Record]:
    """A bar with the time left on a terminal; a line every quarter in a log."""
    if sys.stderr.isatty():
        yield from tqdm(records, total=total, unit=" images")
        return
    start = time.monotonic()
    quarters = {total * quarter // 4 for quarter in (1, 2, 3)}
    for count, record in enumerate(records, start=1):
        yield record
        if count in quarters:
            left = (time.monotonic() - start) / count * (total - count)
            print(f"{count} of {total} images, {left:.0f} s left", flush=True)
