"""Measures each image of a folder once, on all cores, and keeps what it found for the next time.

What was measured of an image is kept under its name, size and time of change. An interrupted run goes on, and
a second one reads no image that hasn't changed.
"""

from __future__ import annotations

import csv
import io
import sys
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

from convnext_ablation.files import told_of_full_disk

__all__ = ["kept", "progress", "remembered", "state_of"]

_AT_A_TIME = 64  # images that a thread measures before they are written down
_LONGEST_LINE = 1 << 16  # bytes
_SOON = 5.0  # seconds that need no line in a log


def remembered(
    root: Path,
    names: Sequence[str],
    measure: Callable[[Path], Sequence[str]],
    columns: Sequence[str],
    cache: Path,
    workers: int,
) -> Iterator[tuple[int, Sequence[str]]]:
    """Measures files by threads, as reading, decoding and hashing let go of the interpreter.

    Args:
        root: Folder that the files are in.
        names: Paths of the files below it.
        measure: What to do with each.
        columns: Names of the values that it returns.
        cache: CSV file that keeps them; it grows while this runs, so that nothing done is lost.
        workers: Number of threads.

    Yields:
        The index of a file, and its values, in no order.

    Raises:
        UserError: The disk is full.
    """
    states = [state_of(root / name) for name in names]

    def measured(index: int) -> Sequence[str]:
        return measure(root / names[index])

    yield from kept(names, states, measured, columns, cache, workers, f"measuring images of {root}")


def kept(
    names: Sequence[str],
    states: Sequence[str],
    measure: Callable[[int], Sequence[str]],
    columns: Sequence[str],
    cache: Path,
    workers: int,
    what: str,
) -> Iterator[tuple[int, Sequence[str]]]:
    """Measures things by threads, in their order, and none that the cache has.

    Args:
        names: What the cache keeps each under.
        states: What must be the same for it to hold still.
        measure: What to do with each, told its index; an empty first value isn't kept.
        columns: Names of the values that it returns.
        cache: CSV file that keeps them.
        workers: Number of threads.
        what: What is being done, for people.

    Yields:
        The index of a thing, and its values, in no order.

    Raises:
        UserError: The disk is full.
    """
    with told_of_full_disk(cache):
        _begin(cache, columns)
        left = set(range(len(names)))
        for index, row in _read_cache(cache, names, states, columns):
            if index in left:
                left.remove(index)
                yield index, row
        order = sorted(left)
        chunks = [order[start : start + _AT_A_TIME] for start in range(0, len(order), _AT_A_TIME)]
        pool = ThreadPoolExecutor(workers)
        with (
            warnings.catch_warnings(),
            open(cache, "a", encoding="utf-8", errors="surrogateescape", newline="") as file,
        ):
            warnings.simplefilter("ignore")  # Pillow's, of what it could mend
            writer = csv.writer(file, lineterminator="\n")
            try:
                for done in progress(pool.map(partial(_measure_chunk, measure), chunks), len(order), what):
                    # without what could not be read: it is tried again the next time
                    writer.writerows((names[index], states[index], *row) for index, row in done if row[0])
                    file.flush()
                    yield from done
            finally:
                pool.shutdown(wait=True, cancel_futures=True)


def _measure_chunk(
    measure: Callable[[int], Sequence[str]], indices: Sequence[int]
) -> list[tuple[int, Sequence[str]]]:
    return [(index, measure(index)) for index in indices]


def state_of(path: Path) -> str:
    """Size and time of change of a file, which tell whether it is still the one that was measured."""
    try:
        stat = path.stat()
    except OSError:  # a link to nothing
        return ""
    return f"{stat.st_size}:{stat.st_mtime_ns}"


def _read_cache(
    cache: Path, names: Sequence[str], states: Sequence[str], columns: Sequence[str]
) -> Iterator[tuple[int, Sequence[str]]]:
    """What was measured of files that are the same still."""
    indices = {name: index for index, name in enumerate(names)}
    with open(cache, encoding="utf-8", errors="surrogateescape", newline="") as file:
        for row in csv.reader(file):
            index = indices.get(row[0], -1) if len(row) == len(columns) + 2 else -1
            if index >= 0 and row[1] == states[index] != "":
                yield index, row[2:]


def _begin(cache: Path, columns: Sequence[str]) -> None:
    """Sees to it that lines can be added, after a header that says what they are.

    A line that a killed run has cut off is removed; what was kept under another header is of no use.
    """
    header = ",".join(("name", "state", *columns)) + "\n"
    cache.parent.mkdir(parents=True, exist_ok=True)
    with open(cache, "a+b") as file:
        file.seek(0)
        if file.readline().decode(errors="replace") != header:
            file.truncate(0)
            file.write(header.encode())
        size = file.seek(0, io.SEEK_END)
        file.seek(max(0, size - _LONGEST_LINE))
        file.truncate(size - len(file.read().rpartition(b"\n")[2]))


def progress(chunks: Iterable[Any], total: int, what: str) -> Iterator[Any]:
    """Passes on lists: with a bar and the time left on a terminal, a line at every quarter elsewhere.

    Args:
        chunks: The lists.
        total: Length of all of them together.
        what: What is being done.
    """
    from tqdm import tqdm

    start, done, quarter = time.monotonic(), 0, 1
    with tqdm(total=total, desc=what, delay=1, disable=None) as bar:
        for chunk in chunks:
            yield chunk
            done += len(chunk)
            bar.update(len(chunk))
            if done * 4 >= quarter * total:
                quarter = done * 4 // total + 1
                passed = time.monotonic() - start
                if passed > _SOON and done < total and not sys.stderr.isatty():
                    left = passed / done * (total - done)
                    print(f"{what}: {done} of {total}, {left:.0f} s left", flush=True)
