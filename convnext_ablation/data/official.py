"""Base classes of data sets from official archives: archives, lists of ids, splits and image counts.

Each data set defines its archives, its counts and `joined`, which reads its lists; `food101` is a short
example. Images, labels, splits and boxes are joined by the ids in the lists, never by position.
"""

from __future__ import annotations

import io
import math
import struct
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np

from convnext_ablation.data.archives import Published, Source, open_source
from convnext_ablation.data.groups import hold_out
from convnext_ablation.data.layout import SPLITS
from convnext_ablation.data.photographs import Photograph, Photographs
from convnext_ablation.data.pictures import is_called_picture
from convnext_ablation.data.walk import Piece
from convnext_ablation.dataclass_options import option
from convnext_ablation.errors import UserError, in_one_line

_MAT_BYTES = 4 << 20  # maximum size of a MATLAB file; the largest official one has 0.4 MB
_MAT_UNZIPPED = 64 << 20
_MAT_ROWS = 1_000_000


class Official(NamedTuple):
    """The official numbers of classes and of images per split."""

    classes: int
    train: int
    val: int = 0
    test: int = 0

    @property
    def images(self) -> dict[str, int]:
        """Images per split, without empty splits."""
        return {split: count for split, count in zip(SPLITS, self[1:], strict=True) if count}


@dataclass(frozen=True)
class OfficialPhotographs(Photographs):
    """A data set whose official lists give the id, class and split of each image.

    The folder `archives` holds its archives under their published names, or unpacked. A subclass may add a
    field named as in `published` for an archive elsewhere. Sets without official validation images derive
    from `HeldOut`. Images not listed are skipped.
    """

    home: ClassVar[str]  # where to get archives that can't be downloaded
    official: ClassVar[Official]
    # yields all original images of the needed archives, in their official splits
    joined: ClassVar[Callable[..., Iterator[Photograph]]]

    archives: Path | None = option(None, "folder of the archives, packed or unpacked", identity=False)
    unofficial: bool = option(False, "accept archives that differ from the published ones, or a subset")

    @classmethod
    def published_size(cls) -> tuple[dict[str, int], int]:
        """Images per split, and number of classes, with the default options."""
        return cls.official.images, cls.official.classes

    def __post_init__(self) -> None:
        """Validates the options."""
        super().__post_init__()
        self.check_least(val=1)
        needed = self.needed(vars(self))
        missing = [which for which in needed if self.archives is None and getattr(self, which, None) is None]
        if missing:
            files = " and ".join(needed[which].file for which in missing)
            own = "".join(f", or --{which}" for which in missing if hasattr(self, which))
            hint = ", or --download" if needed[missing[0]].url else f"; get it from {self.home}"
            raise UserError(f"{self.name}: name the folder of {files} with --archives{own}{hint}")

    def photographs(self, scratch: Path) -> list[Photograph]:
        """Returns all original images; raises a `UserError` for repeats or, if official, wrong counts."""
        originals, where = self.listed(scratch), self.archives or next(iter(self.sources().values()))
        splits: dict[str, str] = {}
        for each in originals:
            if other := splits.get(each.path):
                both = f"for {other}, then for {each.split}"
                raise UserError(f"{where}: {each.path} is listed a second time ({both}); get the lists again")
            splits[each.path] = each.split
        found = Counter(f"{split} images" for split in splits.values())
        found["classes"] = len({each.class_name for each in originals})
        expected = {f"{split} images": count for split, count in self.official.images.items()}
        for what, count in (expected | {"classes": self.official.classes}).items():
            if found[what] != count and not self.unofficial:
                hint = "complete it, or prepare a part with --unofficial"
                raise UserError(f"{where} has {found[what]:,} {what}, not the official {count:,}; {hint}")
        return originals

    def listed(self, scratch: Path) -> list[Photograph]:
        """Returns all original images, joined by their ids."""
        paths = self.sources()
        if self.archives and (missing := [which for which, path in paths.items() if not path.exists()]):
            found = (self.published[which] for which in missing)
            files = (f"{each.file}{f' or {each.unpacked}/' if each.unpacked else ''}" for each in found)
            what = f"{self.archives} has no {' and no '.join(files)}"
            raise UserError(f"{self.name}: {what}; get what is missing from {self.home}")
        sources = {which: self._open(which, path, scratch) for which, path in paths.items()}
        originals = list(self.joined(**sources))
        used = {original.piece for original in originals}
        for source in sources.values():
            if not used.isdisjoint(source.values()):
                left = (name for name, piece in source.items() if piece not in used)
                self.skipped.update(dict.fromkeys(filter(is_called_picture, left), "in no list"))
        return originals

    def sources(self) -> dict[str, Any]:
        """Paths of the needed archives, packed or unpacked."""
        return {which: self._place(which, each) for which, each in self.needed(vars(self)).items()}

    def _place(self, which: str, published: Published) -> Path:
        if own := getattr(self, which, None):
            return own
        assert self.archives is not None
        folder = self.archives.expanduser()
        packed, unpacked = folder / published.file, folder / published.unpacked
        for path in (packed, unpacked, folder):
            if path.is_file() or (path.is_dir() and path.name == unpacked.name and packed.suffix != ".mat"):
                return path
        return packed  # missing

    def _open(self, which: str, path: Path, scratch: Path) -> Source:
        """The files of an archive by path below its top-level folder."""
        published = self.published[which]
        known = None if self.unofficial else published
        if path.suffix == ".mat":  # a list, not an archive
            if known:
                known.check(path)
            return Source(path.parent, {path.name: Piece(path, 0, path.stat().st_size)})
        source, top = open_source(path, scratch, known), f"{published.unpacked}/"
        below = {name.removeprefix(top): piece for name, piece in source.items() if name.startswith(top)}
        return Source(path, below) if below else source


@dataclass(frozen=True)
class HeldOut(OfficialPhotographs):
    """A data set whose validation split is held out of the official training images."""

    seed: int = option(0, "seed for choosing validation images")
    val: int = option(1, "validation images per class, held out of the official training images")

    @classmethod
    def published_size(cls) -> tuple[dict[str, int], int]:
        """Images per split, and number of classes, with the default options."""
        held_out = cls.val * cls.official.classes
        sizes = cls.official._replace(train=cls.official.train - held_out, val=held_out)
        return sizes.images, sizes.classes

    def photographs(self, scratch: Path) -> list[Photograph]:
        """Returns all original images, joined by their ids, with validation images held out."""
        return hold_out(super().photographs(scratch), self.val, self.seed)


def read_table(source: Source, name: str, like: Mapping[str, str] | None = None) -> dict[str, str]:
    """Reads lines ``<id> <value>``; raises a `UserError` for repeated ids or ids that differ from `like`."""
    table: dict[str, str] = {}
    for number, line in enumerate(source.text(name).splitlines(), start=1):
        key, _, value = line.strip().partition(" ")
        if key in table:
            raise UserError(f"{source.path}: {name} line {number} has the id {key} a second time")
        if key:
            table[key] = value.strip()
    if like is not None and (odd := sorted(table.keys() ^ like.keys(), key=lambda key: (len(key), key))):
        having, lacking = (name, "images.txt") if odd[0] in table else ("images.txt", name)
        raise UserError(f"{source.path}: {having} has the id {odd[0]}, {lacking} lacks it; get it again")
    return table


def read_mat(source: Source, name: str, *variables: str) -> list[Any]:
    """Reads variables of a MATLAB file as flat arrays; raises a `UserError` if too large or unreadable."""
    piece = source.file(name)
    with in_one_line(f"{name} needs scipy, of `pip install '.[study]'`"):
        from scipy.io import loadmat, whosmat
    try:
        if piece.size > _MAT_BYTES:
            raise ValueError(f"it has {piece.size:,} bytes")
        data = piece.read()
        _check_unzipped(data)
        if odd := [each for each, shape, _ in whosmat(io.BytesIO(data)) if math.prod(shape) > _MAT_ROWS]:
            raise ValueError(f"{odd[0]} is too large")
        content = loadmat(io.BytesIO(data), variable_names=variables, squeeze_me=True)
        return [np.atleast_1d(content[variable]).ravel() for variable in variables]
    except Exception as error:  # for broken files scipy raises many kinds
        what = f"{name} can't be read as a MATLAB file with {' and '.join(variables)}"
        raise UserError(f"{source.path}: {what} ({error}); get it again") from error


def _check_unzipped(data: bytes) -> None:
    """Raises a `ValueError` if a compressed variable of a MATLAB file exceeds `_MAT_UNZIPPED` bytes."""
    order = {b"IM": "<", b"MI": ">"}.get(data[126:128])
    at = 128
    while order and at + 8 <= len(data):
        kind, size = struct.unpack_from(f"{order}II", data, at)
        element = data[at + 8 : at + 8 + size]
        if kind == 15 and len(zlib.decompressobj().decompress(element, _MAT_UNZIPPED)) == _MAT_UNZIPPED:
            raise ValueError("a variable is too large")
        at += 8 + size
