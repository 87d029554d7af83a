"""Photographs that a CSV file lists."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from convnext_ablation.data.archives import Piece
from convnext_ablation.data.folder import SPLIT_OF
from convnext_ablation.data.own import OwnPhotographs, class_folder
from convnext_ablation.data.photographs import Photograph
from convnext_ablation.dataclass_options import option
from convnext_ablation.errors import UserError, in_one_line


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
