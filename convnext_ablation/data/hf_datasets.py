"""Photographs of a data set of the Hugging Face hub, or of a folder in one of its formats."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from convnext_ablation.data.own import SPLIT_NAMES, OwnPhotographs, class_folder
from convnext_ablation.data.photographs import Photograph
from convnext_ablation.dataclass_options import option
from convnext_ablation.errors import UserError

__all__ = ["HubPhotographs"]


@dataclass(frozen=True)
class _Row:
    """An image in a table."""

    table: Any
    number: int
    column: str

    def read(self) -> bytes:
        """Its file."""
        image = self.table[self.number][self.column]
        return image["bytes"] if image["bytes"] is not None else Path(image["path"]).read_bytes()


@dataclass(frozen=True)
class HubPhotographs(OwnPhotographs):
    """A data set that the library `datasets` loads."""

    name: ClassVar[str] = "hfds"
    summary: ClassVar[str] = "a data set of the Hugging Face hub, or a folder in one of its formats"

    source: str = option("", "its name on the hub, or the folder")
    config: str = option("", "which of its configurations")
    revision: str = option("", "commit, tag or branch; the newest if not given")
    image_key: str = option("image", "column of the images")
    target_key: str = option("label", "column of the labels")

    def __post_init__(self) -> None:
        """Checks the options."""
        super().__post_init__()
        if not self.source:
            raise UserError("hfds: name the data set with --source")

    def photographs(self, scratch: Path) -> list[Photograph]:
        """All originals of its splits."""
        return self.completed(self._rows(self._load()), self.source)

    def _load(self) -> dict[str, Any]:
        try:
            import datasets
        except ImportError as error:
            raise UserError(f"hfds: {error.name} is missing; pip install datasets") from error
        try:
            found = datasets.load_dataset(self.source, self.config or None, revision=self.revision or None)
            return {
                split: table.cast_column(self.image_key, datasets.Image(decode=False))
                for split, table in found.items()
            }
        except Exception as error:  # it raises anything
            reason = " ".join(str(error).split())[:300]
            raise UserError(f"hfds: {self.source} can't be loaded: {reason}") from error

    def _rows(self, tables: dict[str, Any]) -> Iterator[Photograph]:
        for name, table in tables.items():
            split = SPLIT_NAMES.get(name)
            if split is None:
                print(f"{self.source}: the split {name!r} is none of train, val and test; left out")
                continue
            if self.target_key not in table.column_names:
                known = ", ".join(table.column_names)
                raise UserError(
                    f"{self.source} has no column {self.target_key!r} but {known}; give --target-key"
                )
            names = getattr(table.features[self.target_key], "names", None)
            width = len(str(len(table)))
            for number, label in enumerate(table[self.target_key]):
                class_name = class_folder(names[label] if names else str(label))
                file = f"{name}_{number:0{width}d}.jpg"
                yield Photograph(file, file, class_name, split, _Row(table, number, self.image_key))
