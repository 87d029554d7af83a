"""Photographs of a data set of the Hugging Face hub, or of a folder in one of its formats."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from convnext_ablation.data.folder import SPLIT_OF
from convnext_ablation.data.own import OwnPhotographs, class_folder
from convnext_ablation.data.photographs import Photograph
from convnext_ablation.dataclass_options import option
from convnext_ablation.errors import UserError


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
