"""From the name of a data set to an image folder, whole or not at all.

A data set is a frozen dataclass, one module each: its fields are its parameters, and it gives its images one
by one (see `DataSet`). What is common to all stands here: drawing in parallel, the manifest, progress, and a
folder that appears under its name only when it is complete and checked. Beside the ``manifest.csv`` stands a
``dataset.json`` that says what the folder holds and what made it.
"""

from __future__ import annotations

import argparse
import errno
import functools
import hashlib
import itertools
import json
import multiprocessing
import os
import shutil
import sys
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any, ClassVar, Protocol

from convnext_ablation.data.fashion_mnist import FashionMNIST
from convnext_ablation.data.manifest import FolderSummary, Record, check_folder, write_manifest
from convnext_ablation.data.typefaces import Typefaces
from convnext_ablation.errors import UserError, unknown_name
from convnext_ablation.machine import available_cores, end_with_parent

__all__ = ["DATASETS", "DESCRIPTION", "DataSet", "add_arguments", "prepare", "run"]

DESCRIPTION = "dataset.json"
FORMAT = 1  # of the folder; one more whenever the same parameters come to give other images
_WORTH_A_PROCESS = 10_000  # images; fewer are written sooner than another process has started


class DataSet(Protocol):
    """What a data set's module provides: a frozen dataclass, as its objects travel to other processes.

    Fields with ``metadata={"help": ...}`` become options of the command line.
    """

    name: ClassVar[str]
    summary: ClassVar[str]

    def images(self) -> Iterable[tuple[Record, Any]]:
        """All images, each as its record, still without a hash, and whatever `encode` needs."""

    def encode(self, key: Any, /) -> bytes:
        """The file of one image, the same bytes for the same key; called in any process, in any order."""

    def versions(self) -> dict[str, str]:
        """Versions of the software that has a say in the bytes."""


DATASETS: dict[str, type[Any]] = {dataset.name: dataset for dataset in (FashionMNIST, Typefaces)}


def prepare(
    name: str,
    out: str | os.PathLike[str],
    *,
    workers: int | None = None,
    **parameters: Any,
) -> FolderSummary:
    """Writes a data set as an image folder, unless it is there already.

    Args:
        name: One of `DATASETS`.
        out: Folder to make. While it is being made it is called ``<out>.partial``.
        workers: Number of processes, by default up to one per core; the files are the same for any.
        parameters: Fields of the data set's class, such as ``seed``.

    Raises:
        UserError: The name or a parameter is wrong, `out` holds something else, or it can't be written.
    """
    if name not in DATASETS:
        raise unknown_name("data set", name, DATASETS)
    if workers is not None and workers < 1:
        raise UserError(f"workers is {workers}; give 1 or more")
    dataset = DATASETS[name](**parameters)
    out = Path(out).resolve()
    try:
        if not _is_there(out, dataset):
            return _make(dataset, out, workers)
    except OSError as error:
        if error.errno not in _REASONS:
            raise
        raise UserError(f"cannot write {out}: {_REASONS[error.errno]}") from error
    print(f"{out} already holds {name} with these parameters; nothing to do")
    return check_folder(out)


_REASONS = {
    errno.ENOSPC: "the disk is full; free some space or choose another place",
    errno.EDQUOT: "your disk quota is used up; free some space or choose another place",
    errno.EACCES: "you may not write there; choose another place",
    errno.EPERM: "you may not write there; choose another place",
    errno.EROFS: "the file system is read-only; choose another place",
    errno.EBUSY: "it is a mount point; choose a folder below it",
    errno.ENOTDIR: "a part of the path is a file; choose another place",
}


def _is_there(out: Path, dataset: DataSet) -> bool:
    """Whether the folder holds this very set; False if there is nothing, an error if something else."""
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return False
    found, wanted = _read_description(out), _describe(dataset)
    if not found:
        raise UserError(f"{out} exists and is no prepared data set; remove it or choose another place")
    for key, value in _identity(wanted).items():
        there = _identity(found).get(key)
        if there != value:
            what = f"{out} holds another data set ({key} is {there}, not {value})"
            raise UserError(f"{what}; remove it or choose another place")
    return True


def _describe(dataset: Any) -> dict[str, Any]:
    """What ``dataset.json`` says of a data set, in JSON's own types."""
    parameters = json.loads(json.dumps(asdict(dataset)))
    return {"format": FORMAT, "name": dataset.name, "parameters": parameters, "versions": dataset.versions()}


def _identity(description: dict[str, Any]) -> dict[str, Any]:
    """What makes two prepared folders the same; versions don't, or an upgrade would undo every folder."""
    parameters = description.get("parameters") or {}
    return {"format": description.get("format"), "name": description.get("name"), **parameters}


def _read_description(folder: Path) -> dict[str, Any]:
    """Reads ``dataset.json``; empty if there is none that makes sense."""
    try:
        found = json.loads((folder / DESCRIPTION).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _make(dataset: DataSet, out: Path, workers: int | None) -> FolderSummary:
    partial = out.with_name(f"{out.name}.partial")
    _remove_leftovers(partial)
    try:
        partial.mkdir(parents=True)
        (partial / DESCRIPTION).write_text(json.dumps(_describe(dataset), indent=2) + "\n", encoding="utf-8")
        write_manifest(partial, _write_images(dataset, partial, workers))
        summary = check_folder(partial)
        partial.replace(out)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    classes, images = len(summary.classes), sum(summary.counts.values())
    print(f"{out}: {images} images of {classes} classes, manifest {summary.fingerprint[:12]}")
    return replace(summary, root=out)


def _remove_leftovers(partial: Path) -> None:
    """Removes what a killed run has left, and nothing that someone else has put there."""
    if not partial.exists():
        return
    if not partial.is_dir() or (any(partial.iterdir()) and not _read_description(partial)):
        raise UserError(f"{partial} is in the way and not from an earlier `prepare`; move it")
    shutil.rmtree(partial)


def _write_images(dataset: DataSet, folder: Path, workers: int | None) -> list[Record]:
    """Writes all images, each the same whichever process writes it, and returns their records."""
    images = list(dataset.images())
    workers = workers or min(available_cores(), 1 + len(images) // _WORTH_A_PROCESS)
    for parent in sorted({f"{record.split}/{record.class_name}" for record, _ in images}):
        (folder / parent).mkdir(parents=True)
    print(
        f"{dataset.name}: writing {len(images)} images with {workers} process{'es' * (workers > 1)}",
        flush=True,
    )
    write = functools.partial(_write_image, dataset, folder)
    if workers == 1:
        return list(_with_progress(itertools.starmap(write, images), len(images)))
    # Processes start afresh rather than by fork, which may hang where torch has started threads.
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, spawn, initializer=end_with_parent) as pool:
        records = pool.map(write, *zip(*images, strict=True), chunksize=64)
        return list(_with_progress(records, len(images)))


def _write_image(dataset: DataSet, folder: Path, record: Record, key: Any) -> Record:
    data = dataset.encode(key)
    (folder / record.id).write_bytes(data)
    return replace(record, sha256=hashlib.sha256(data).hexdigest())


def _with_progress(records: Iterable[Record], total: int) -> Iterator[Record]:
    """A bar with the time left on a terminal; a line every quarter in a log."""
    if sys.stderr.isatty():
        from tqdm import tqdm

        yield from tqdm(records, total=total, unit=" images")
        return
    start = time.monotonic()
    quarters = {total * quarter // 4 for quarter in (1, 2, 3)}
    for count, record in enumerate(records, start=1):
        yield record
        if count in quarters:
            left = (time.monotonic() - start) / count * (total - count)
            print(f"{count} of {total} images, {left:.0f} s left", flush=True)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of ``convnext-ablation prepare``, a sub-command for every data set."""
    commands = parser.add_subparsers(dest="dataset", metavar="DATASET", required=True)
    for name, dataset in DATASETS.items():
        command = commands.add_parser(
            name,
            help=dataset.summary,
            description=dataset.summary,
            formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        )
        command.add_argument("out", metavar="OUT", help="folder to make")
        for option in _options(dataset):
            command.add_argument(
                f"--{option.name}",
                type=type(option.default),
                metavar="N",
                default=option.default,
                help=option.metadata["help"],
            )
        command.add_argument(
            "--workers", type=int, metavar="N", help="processes; up to one per core if not given"
        )


def _options(dataset: type) -> list[Any]:
    return [field for field in fields(dataset) if "help" in field.metadata]


def run(args: argparse.Namespace) -> None:
    """Does what the arguments of `add_arguments` say."""
    parameters = {option.name: getattr(args, option.name) for option in _options(DATASETS[args.dataset])}
    prepare(args.dataset, args.out, workers=args.workers, **parameters)
