"""Pictures without labels: of folders, archives and lists, by a pattern, or one by one."""

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
    """A picture, or what is given for one."""

    name: str  # its path: below the input if that is a single folder or archive
    place: Piece
    unread: str = ""  # why it can't be read, if that is known before it is tried


@dataclass
class Unlabelled:
    """All pictures of some inputs in their order, with the interface of timm's readers.

    There is one for each file and each line of a list; those of a folder or archive stand in natural order.
    """

    pictures: list[Picture] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)  # why other files are not read, by their paths

    def __len__(self) -> int:
        """Number of pictures."""
        return len(self.pictures)

    def __getitem__(self, index: int) -> tuple[BinaryIO, int]:
        """The open file of a picture, and a class in the place of the one that isn't known."""
        picture = self.pictures[index]
        if picture.unread:
            raise ValueError(picture.unread)
        return io.BytesIO(picture.place.read()), 0

    def filename(self, index: int) -> str:
        """The path of a picture."""
        return self.pictures[index].name

    def add(self, files: Mapping[str, Piece], top: str) -> None:
        """Adds the pictures among the files of a folder or archive; `top` stands before their paths."""
        for below in sorted(files, key=natural_key):
            why, name = why_skipped(below, files[below]), os.path.join(top, below)
            if why in ("", UNREAD):
                self.pictures.append(Picture(name, files[below], why))
            else:
                self.skipped[name] = why


def find_pictures(inputs: Sequence[str], scratch: Path) -> Unlabelled:
    """Lists the pictures of some inputs; what can't be read of them is found out later.

    Args:
        inputs: Folders; zips and tars; text files with a path a line, from the file's folder or the working
            directory; pictures; and patterns, in which ``**`` stands for any folders.
        scratch: A folder that packed tars are unpacked to.

    Raises:
        UserError: An input isn't there, is none of these, or has no picture; or `walk` or `list_archive`
            refuses it.
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
    """The paths that an input stands for."""
    if os.path.exists(given):
        return [given]
    found = sorted(sorted(glob.glob(given, recursive=True)), key=natural_key)
    # `**` matches folders and what is in them
    kept = [path for path in found if "**" not in given or not os.path.isdir(path)]
    if not kept:
        raise UserError(f"{shown(given)}: no such file or folder, and no file that matches it")
    return kept


def _add(found: Unlabelled, path: str, top: str, matched: bool, scratch: Path) -> None:
    """Adds the pictures of a path, which was given or has `matched` a pattern."""
    place, piece = Path(path), piece_of(Path(path))
    dangling = os.path.islink(path) and not os.path.exists(path)  # of a pattern
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
    """The pictures of a list; those that aren't there, too, unless none is."""
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
    """The name and the file of a line, from the folder of the list or the working directory."""
    places = [(name, Path(base, name)) for name in (line, line.strip()) for base in (folder, Path())]
    return next((found for found in places if os.path.exists(found[1])), places[0])
