"""Which files a data set is made of, so that others with the same options are not taken for them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from convnext_ablation.console import Progress
from convnext_ablation.data.image_list import ImageList
from convnext_ablation.data.photographs import DataSet
from convnext_ablation.data.walk import walk
from convnext_ablation.errors import UserError
from convnext_ablation.files import sha256_of


def state_of(dataset: DataSet) -> dict[str, list[Any]]:
    """Place, size and times of a set's originals by the option that names them; on this machine, for now."""
    return {
        name: [
            str(path.resolve()),
            path.stat().st_size,
            path.stat().st_mtime_ns,
            _listing(path, times=True) if path.is_dir() else "",
        ]
        for name, path in _paths(dataset)
    }


def content_of(dataset: DataSet) -> dict[str, str]:
    """SHA-256 of a set's originals by the option that names them; wherever they lie.

    That of a file is its content's; that of a folder stands for the names and sizes of the files below it.
    Archives that are compared with the published ones are left out.
    """
    published = {} if getattr(dataset, "unofficial", False) else dataset.published
    return {
        name: _listing(path) if path.is_dir() else _hash(path)
        for name, path in _paths(dataset)
        if path.is_dir() or name not in published
    }


def check_place(dataset: DataSet, out: Path) -> None:
    """Raises a `UserError` if a set would be written below the folder of its own images."""
    for name, path in _paths(dataset):
        # a list names its images one by one
        if not isinstance(dataset, ImageList) and out.is_relative_to(path.resolve()):
            option = option_of(dataset, name)
            raise UserError(f"{out} is in {path}, the folder of {option}; choose a place outside of it")


def option_of(dataset: DataSet, name: str) -> str:
    """The option that an original was found by: its own, or that of the folder of all archives."""
    return f"--{name.replace('_', '-')}" if vars(dataset).get(name) is not None else "--archives"


def _paths(dataset: DataSet) -> Iterator[tuple[str, Path]]:
    for name, value in dataset.sources().items():
        path = Path(value) if name == "source" and value else value
        if isinstance(path, Path) and (path := path.expanduser()).exists():
            yield name, path


def _hash(path: Path) -> str:
    with Progress(f"hashing {path.name}", path.stat().st_size, "B") as progress:
        return sha256_of(path, progress.update)


def _listing(path: Path, times: bool = False) -> str:
    """Hash over what lies below a folder."""
    lines = []
    for below, _, names in walk(path, dangling=True):
        for name in names:
            try:
                stat = (path / below / name).stat()
            except OSError:  # a link to nothing
                continue
            lines.append(f"{below}/{name}\0{stat.st_size}\0{stat.st_mtime_ns if times else ''}\n")
    return hashlib.sha256("".join(lines).encode(errors="surrogateescape")).hexdigest()
