"""Unlabelled images from folders, archives, lists, glob patterns and single files."""

from __future__ import annotations

import glob
import io
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from convnext_ablation.data.folder import natural_key
from convnext_ablation.data.packed import is_archive, list_archive
from convnext_ablation.data.pictures import is_called_picture, is_picture
from convnext_ablation.data.walk import UNREAD, Piece, files_below, piece_of, why_skipped
from convnext_ablation.errors import UserError, shown


@dataclass(frozen=True)
class Picture:
    """An input image, readable or not."""

    name: str  # path, relative to the input if that is a single folder or archive
    place: Piece
    unread: str = ""  # reason why it can't be read, if known beforehand


@dataclass
class Unlabelled:
    """The images of some inputs, in input order, with the interface of timm's readers.

    Each image file and each line of a list is one entry. Folders and archives are in natural sort order.
    """

    pictures: list[Picture] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)  # reasons for skipping other files, by path

    def __len__(self) -> int:
        """Number of images."""
        return len(self.pictures)

    def __getitem__(self, index: int) -> tuple[BinaryIO, int]:
        """The open file of an image, and 0 as a dummy label; raises a `ValueError` if unreadable."""
        picture = self.pictures[index]
        if picture.unread:
            raise ValueError(picture.unread)
        return io.BytesIO(picture.place.read()), 0

    def filename(self, index: int) -> str:
        """The path of an image."""
        return self.pictures[index].name

    def add(self, files: Mapping[str, Piece], top: str) -> None:
        """Adds the images among the files of a folder or archive; `top` is prepended to their paths."""
        for below in sorted(files, key=natural_key):
            why, name = why_skipped(below, files[below]), os.path.join(top, below)
            if why in ("", UNREAD):
                self.pictures.append(Picture(name, files[below], why))
            else:
                self.skipped[name] = why


def find_pictures(inputs: Sequence[str], scratch: Path) -> Unlabelled:
    """Lists the images of some inputs without decoding them.

    Args:
        inputs: Folders; zips and tars; text files with a path per line, relative to the file's folder or the
            working directory; images; and glob patterns, where ``**`` matches any folders.
        scratch: Folder to which compressed tars are decompressed.

    Raises:
        UserError: An input is missing, of another kind or without images, or is refused by `walk` or
            `list_archive`.
    """
    found = Unlabelled()
    for given in inputs:
        before = len(found)
        for path in _matching(given):
            _add(found, path, "" if [path] == [*inputs] else path, path != given, scratch)
        if len(found) == before:
            raise UserError(f"{given}: there is no picture in it; give a folder, list or archive of some")
    return found


def _matching(given: str) -> Sequence[str]:
    """The paths that match an input, itself a path or a glob pattern."""
    if os.path.exists(given):
        return [given]
    found = sorted(sorted(glob.glob(given, recursive=True)), key=natural_key)
    # `**` matches folders as well as their files
    kept = [path for path in found if "**" not in given or not os.path.isdir(path)]
    if not kept:
        raise UserError(f"{shown(given)}: no such file or folder, and no file that matches it")
    return kept


def _add(found: Unlabelled, path: str, top: str, matched: bool, scratch: Path) -> None:
    """Adds the images of a path, which was given or `matched` by a pattern."""
    place, piece = Path(path), piece_of(Path(path))
    dangling = os.path.islink(path) and not os.path.exists(path)  # only for patterns
    if place.is_dir():
        found.add({name: piece_of(place / name) for name in files_below(place, dangling=True)}, top)
    elif not place.is_file() and not dangling:
        raise UserError(f"{path}: is neither a file nor a folder; save a list to a file")
    elif dangling or is_called_picture(path) or is_picture(piece.read):
        found.pictures.append(Picture(path, piece))
    elif is_archive(place):
        found.add(list_archive(place, scratch), top)
    elif matched or why_skipped(place.name, piece) == UNREAD:
        found.add({place.name: piece}, os.path.dirname(path))
    else:
        found.pictures += _listed(place)


def _listed(path: Path) -> Iterator[Picture]:
    """Yields the images of a list, including missing ones; a `UserError` if all are missing."""
    content = path.read_bytes()
    lines = content.decode("utf-8-sig", "surrogateescape").replace("\r\n", "\n").split("\n")
    named = [] if b"\0" in content else [_place(path.parent, line) for line in lines if line.strip()]
    names, places = [name for name, _ in named], [place for _, place in named]
    if not any(map(os.path.isfile, places)):
        what = "is no picture and no archive that can be read, and no list"
        raise UserError(f"{path}: {what}: no line is a file's path")
    for name, place in zip(names, places, strict=True):
        why = "" if os.path.isfile(place) else "is a folder" if os.path.isdir(place) else "no such file"
        yield Picture(name, piece_of(place), why)


def _place(folder: Path, line: str) -> tuple[str, Path]:
    """The name and file of a line, relative to the folder of the list or the working directory."""
    places = [(name, Path(base, name)) for name in (line, line.strip()) for base in (folder, Path())]
    return next((found for found in places if os.path.exists(found[1])), places[0])
