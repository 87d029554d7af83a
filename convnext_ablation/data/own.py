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
from convnext_ablation.data.folder import SPLIT_OF
from convnext_ablation.data.photographs import Photograph, Photographs, hold_out
from convnext_ablation.dataclass_options import option
from convnext_ablation.errors import UserError, in_one_line

_IMAGES = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp")


@dataclass(frozen=True)
class OwnPhotographs(Photographs):
    """What all of them have in common."""

    required: ClassVar[str]  # the option that names the images

    seed: int = option(0, "seed of the choice of images that are held out")
    val: int | None = option(
        None, "validation images per class held out of train, where there is no such split; else a tenth"
    )
    test: int | None = option(None, "the same for test images")

    def __post_init__(self) -> None:
        """Checks the options."""
        super().__post_init__()
        self.check_least(val=1, test=1)
        if not getattr(self, self.required):
            raise UserError(f"{self.name}: say where the images are with --{self.required}")

    def completed(self, originals: Iterable[Photograph], where: str) -> list[Photograph]:
        """Holds out the splits that aren't there."""
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
    required: ClassVar[str] = "images"

    images: Path | None = option(None, "the folder, or a tar of it", identity=False)

    def photographs(self, scratch: Path) -> list[Photograph]:
        """All originals, each in the class of its folder."""
        assert self.images is not None
        source = _without_top(open_source(self.images, scratch))
        return self.completed(_in_folders(source), str(self.images))


def _in_folders(source: Source) -> Iterator[Photograph]:
    names = [name for name in sorted(source) if name.lower().endswith(_IMAGES)]
    names = [name for name in names if "/." not in f"/{name}"]  # none that is hidden
    tops = {name.split("/")[0] for name in names}
    has_splits = tops <= SPLIT_OF.keys()
    for name in names:
        if re.search("[\n\r\ud800-\udfff]", name):  # what Python makes of bytes that aren't UTF-8
            raise UserError(f"{source.path}: the name {name!r} is not UTF-8 in one line; change it")
        parts = name.split("/")
        if len(parts) != 2 + has_splits:
            expected = "<split>/<class>/<image>" if has_splits else "<class>/<image>"
            raise UserError(f"{source.path}: {name} is not {expected}; move or remove it")
        split = SPLIT_OF[parts[0]] if has_splits else "train"
        yield Photograph(name, name, parts[-2], split, source[name])


def _without_top(source: Source) -> Source:
    """Leaves out a folder that all is in, as tars have it, unless that is a split or the only class."""
    tops = {name.split("/")[0] for name in source}
    if len(tops) != 1 or tops <= SPLIT_OF.keys() or any(name.count("/") < 2 for name in source):
        return source
    top = f"{tops.pop()}/"
    return Source(source.path, {name.removeprefix(top): source[name] for name in source})


@dataclass(frozen=True)
class ImageList(OwnPhotographs):
    """Images that a CSV file lists with the columns ``path`` and ``class``, and ``split`` if it says so."""

    name: ClassVar[str] = "csv"
    summary: ClassVar[str] = "your own images, listed in a CSV file: path, class and, if you like, split"
    required: ClassVar[str] = "file"

    file: Path | None = option(None, "the CSV file", identity=False)
    root: Path | None = option(
        None, "folder that the paths are below, if not that of the file", identity=False
    )

    def photographs(self, scratch: Path) -> list[Photograph]:
        """All originals in the class of their line."""
        assert self.file is not None
        return self.completed(_listed(self.file, self.root or self.file.parent), str(self.file))


def _listed(path: Path, root: Path) -> Iterator[Photograph]:
    seen = set()
    for where, row in _read_rows(path):
        name, label = row["path"] or "", row["class"] or ""
        split = SPLIT_OF.get((row.get("split") or "train").strip().lower(), "")
        if not name or not label:
            raise UserError(f"{where} has no {'class' if name else 'path'}; complete or remove it")
        if not split:
            raise UserError(f"{where} has the split {row['split']!r}; write train, val or test")
        if name in seen:
            raise UserError(f"{where} lists {name} a second time; remove one")
        seen.add(name)
        with in_one_line(f"{where}: {root / name} can't be read"):
            size = (root / name).stat().st_size
        yield Photograph(name, name, class_folder(label), split, Piece(root / name, 0, size))


def _read_rows(path: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            rows = csv.DictReader(file, strict=True)
            if missing := sorted({"path", "class"} - set(rows.fieldnames or ())):
                raise UserError(f"{path} has no column {missing[0]!r} in its first line; add it")
            for row in rows:
                yield f"{path} line {rows.line_num}", row
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path} can't be read as CSV in UTF-8 ({error}); mend it") from error


def class_folder(name: str) -> str:
    """The name of a class as that of a folder."""
    return re.sub(r"[/\\\0\n]", "_", name.strip()).lstrip(".") or "_"


@dataclass(frozen=True)
class HubPhotographs(OwnPhotographs):
    """A data set of the Hugging Face hub, or a folder in one of its formats, loaded by `datasets`."""

    name: ClassVar[str] = "hfds"
    summary: ClassVar[str] = "a data set of the Hugging Face hub, or a folder in one of its formats"
    required: ClassVar[str] = "source"

    source: str = option("", "its name on the hub, or the folder")
    config: str = option("", "which of its configurations")
    revision: str = option("", "commit, tag or branch; the newest if not given")
    image_key: str = option("image", "column of the images")
    target_key: str = option("label", "column of the labels")

    def photographs(self, scratch: Path) -> list[Photograph]:
        """All originals of its splits."""
        try:
            import datasets
        except ImportError as error:
            raise UserError(f"hfds: {error.name} is missing; pip install datasets") from error
        try:
            found = datasets.load_dataset(self.source, self.config or None, revision=self.revision or None)
            image = datasets.Image(decode=False)
            tables = {split: table.cast_column(self.image_key, image) for split, table in found.items()}
        except Exception as error:  # it raises anything
            reason = " ".join(str(error).split())[:300]
            raise UserError(f"hfds: {self.source} can't be loaded: {reason}") from error
        return self.completed(self._rows(tables), self.source)

    def _rows(self, tables: Mapping[str, Any]) -> Iterator[Photograph]:
        for name, table in tables.items():
            split = SPLIT_OF.get(name)
            if split is None:
                print(f"{self.source}: the split {name!r} is none of train, val and test; left out")
                continue
            if self.target_key not in table.column_names:
                known = ", ".join(table.column_names)
                raise UserError(
                    f"hfds: there is no column {self.target_key!r} but {known}; give --target-key"
                )
            names = getattr(table.features[self.target_key], "names", None)
            width = len(str(len(table)))
            for number, label in enumerate(table[self.target_key]):
                class_name = class_folder(names[label] if names else str(label))
                file = f"{name}_{number:0{width}d}.jpg"
                yield Photograph(file, file, class_name, split, _Row(table, number, self.image_key))


@dataclass(frozen=True)
class _Row:
    """An image in a table."""

    table: Any
    number: int
    column: str

    def read(self) -> bytes:
        """Its file."""
        image = self.table[self.number][self.column]
        if image is None:
            raise UserError(f"hfds: row {self.number} has no image in {self.column!r}; give --image-key")
        return image["bytes"] if image["bytes"] is not None else Path(image["path"]).read_bytes()
