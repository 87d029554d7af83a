"""Anyone's own photographs: a folder of classes, a list in a CSV file, or a data set of the Hugging Face hub.

Splits that are there are kept; a val or test split that isn't is held out of train, so many images of each
class, always the same.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from convnext_ablation.data.archives import Piece, Source, open_source
from convnext_ablation.data.folder import SYNONYMS
from convnext_ablation.data.photographs import Photograph, Photographs, hold_out
from convnext_ablation.dataclass_options import option
from convnext_ablation.errors import UserError

__all__ = ["ImageFolder", "ImageList", "OwnPhotographs"]

# what splits are called
SPLIT_NAMES = {name: split for split, names in SYNONYMS.items() for name in names}
SPLIT_NAMES |= {"dev": "val", "testing": "test"}
_IMAGES = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp")


@dataclass(frozen=True)
class OwnPhotographs(Photographs):
    """What all of them have in common.

    Raises:
        UserError: An option is out of range.
    """

    seed: int = option(0, "seed of the choice of images that are held out")
    val: int | None = option(
        None, "validation images per class held out of train, where there is no such split; else a tenth",

    )  # fmt: skip
    test: int | None = option(None, "the same for test images")

    def __post_init__(self) -> None:
        """Checks the options."""
        super().__post_init__()
        for name in ("val", "test"):
            count = getattr(self, name)
            if count is not None and count < 1:
                raise UserError(f"{self.name}: {name} is {count}; give 1 or more")

    def completed(self, originals: Iterable[Photograph], where: str) -> list[Photograph]:
        """Holds out the splits that aren't there.

        Raises:
            UserError: There is no image, or none to train on, or none to hold out.
        """
        found = list(originals)
        splits = {original.split for original in found}
        if "train" not in splits:
            there = f"only {', '.join(sorted(splits))}" if splits else "no image"
            raise UserError(f"{where} has {there}; it needs images to train on")
        for split in ("test", "val"):
            if split not in splits:
                found = hold_out(found, getattr(self, split), self.seed, split)
                if all(original.split != split for original in found):
                    raise UserError(f"{where} has too few images to hold any out for {split}; add some")
        return found


@dataclass(frozen=True)
class ImageFolder(OwnPhotographs):
    """A folder or tar with ``<class>/<image>`` or ``<split>/<class>/<image>``."""

    name: ClassVar[str] = "folder"
    summary: ClassVar[str] = "your own images: <class>/<image> or <split>/<class>/<image>"

    images: Path | None = option(None, "the folder, or a tar of it", identity=False)

    def __post_init__(self) -> None:
        """Checks the options."""
        super().__post_init__()
        if self.images is None:
            raise UserError("folder: say where the images are with --images")

    def photographs(self, scratch: Path) -> list[Photograph]:
        """All originals, each in the class of its folder."""
        assert self.images is not None
        source = _without_top(open_source(self.images, scratch))
        names = [name for name in source if name.lower().endswith(_IMAGES) and not _hidden(name)]
        tops = {name.split("/")[0] for name in names}
        split = bool(tops) and tops <= SPLIT_NAMES.keys()
        return self.completed(
            (self._photograph(source, name, split) for name in sorted(names)), str(self.images)
        )

    def _photograph(self, source: Source, name: str, split: bool) -> Photograph:
        parts = name.split("/")
        if len(parts) != 2 + split:
            expected = "<split>/<class>/<image>" if split else "<class>/<image>"
            raise UserError(f"{source.path}: {name} is not {expected}; move or remove it")
        return Photograph(name, name, parts[-2], SPLIT_NAMES[parts[0]] if split else "train", source[name])


def _hidden(name: str) -> bool:
    return any(part.startswith(".") for part in name.split("/"))


def _without_top(source: Source) -> Source:
    """Leaves out a folder that all is in, as tars have it, unless that is a split or the only class."""
    tops = {name.split("/")[0] for name in source}
    if len(tops) != 1 or tops <= SPLIT_NAMES.keys() or any(name.count("/") < 2 for name in source):
        return source
    top = f"{tops.pop()}/"
    return Source(source.path, {name.removeprefix(top): source[name] for name in source})


@dataclass(frozen=True)
class ImageList(OwnPhotographs):
    """Images that a CSV file lists with the columns ``path`` and ``class``, and ``split`` if it says so."""

    name: ClassVar[str] = "csv"
    summary: ClassVar[str] = "your own images, listed in a CSV file: path, class and, if you like, split"

    file: Path | None = option(None, "the CSV file", identity=False)
    root: Path | None = option(
        None, "folder that the paths are below, if not that of the file", identity=False
    )

    def __post_init__(self) -> None:
        """Checks the options."""
        super().__post_init__()
        if self.file is None:
            raise UserError("csv: name the file with --file")

    def photographs(self, scratch: Path) -> list[Photograph]:
        """All originals in the class of their line."""
        assert self.file is not None
        return self.completed(self._listed(self.file), str(self.file))

    def _listed(self, path: Path) -> Iterator[Photograph]:
        root = self.root or path.parent
        seen = set()
        for number, row in _read_rows(path):
            where = f"{path} line {number}"
            name, label = row["path"] or "", row["class"] or ""
            split = SPLIT_NAMES.get((row.get("split") or "train").strip().lower(), "")
            if not name or not label:
                raise UserError(f"{where} has no {'class' if name else 'path'}; complete or remove it")
            if not split:
                raise UserError(f"{where} has the split {row['split']!r}; write train, val or test")
            if name in seen:
                raise UserError(f"{where} lists {name} a second time; remove one")
            seen.add(name)
            try:
                size = (root / name).stat().st_size
            except OSError as error:
                raise UserError(
                    f"{where}: {root / name} can't be read ({error.strerror}); mend the list"
                ) from error
            yield Photograph(name, name, class_folder(label), split, Piece(root / name, 0, size))


def _read_rows(path: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            rows = csv.DictReader(file, strict=True)
            if missing := sorted({"path", "class"} - set(rows.fieldnames or ())):
                raise UserError(f"{path} has no column {missing[0]!r} in its first line; add it")
            for row in rows:
                yield rows.line_num, row
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path} can't be read as CSV in UTF-8 ({error}); mend it") from error


def class_folder(name: str) -> str:
    """The name of a class as that of a folder."""
    return re.sub(r"[/\\\0\n]", "_", name.strip()).lstrip(".") or "_"
