"""Images of a data set on the Hugging Face hub, or of a folder in one of its formats."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from convnext_ablation.data.class_names import listed
from convnext_ablation.data.image_list import CLASS_COLUMNS
from convnext_ablation.data.layout import SPLIT_OF
from convnext_ablation.data.own import OwnPhotographs, class_folders
from convnext_ablation.data.photographs import Photograph
from convnext_ablation.dataclass_options import option
from convnext_ablation.errors import UserError
from convnext_ablation.files import below


@dataclass(frozen=True)
class HubPhotographs(OwnPhotographs):
    """A data set on the Hugging Face hub, or a folder in one of its formats, loaded by `datasets`."""

    name = "hfds"
    summary = "a data set on the Hugging Face hub, or a folder in one of its formats"
    required = ("source",)

    source: str = option("", "name on the hub, or folder")
    config: str = option("", "configuration name")
    revision: str = option("", "commit, tag or branch; the latest if not given")
    image_key: str = option("image", "image column, or the only one with images")
    target_key: str = option("label", "label column, or the only one with classes")

    def photographs(self, scratch: Path) -> list[Photograph]:
        """Returns all labelled images of the train, val and test splits."""
        try:
            import datasets
        except ImportError as error:
            raise UserError(f"hfds: {error.name} is missing; pip install datasets") from error
        try:
            found = datasets.load_dataset(self.source, self.config or None, revision=self.revision or None)
        except Exception as error:  # `datasets` raises many kinds
            raise self._not_loaded(error) from error
        tables = {split: table for split, table in found.items() if split in SPLIT_OF}
        for split in found.keys() - tables.keys():
            rows = (f"{split}[{number}]" for number in range(len(found[split])))
            self.skipped.update(dict.fromkeys(rows, "in no split train, val or test"))
        if not tables:
            raise UserError(f"hfds: {self.source} has no train split; it needs images to train on")
        columns = next(iter(tables.values())).features
        pictures = [name for name, kind in columns.items() if isinstance(kind, datasets.Image)]
        classes = [name for name, kind in columns.items() if isinstance(kind, datasets.ClassLabel)]
        image = self._column("image_key", columns, pictures)
        classes = classes or [name for name in columns if name.lower() in CLASS_COLUMNS]
        target = self._column("target_key", columns, classes)
        try:
            undecoded = datasets.Image(decode=False)
            tables = {split: table.cast_column(image, undecoded) for split, table in tables.items()}
        except Exception as error:
            raise self._not_loaded(error) from error
        return self.completed(self._rows(tables, image, target), self.source)

    def _not_loaded(self, error: Exception) -> UserError:
        reason = " ".join(str(error).split())[:300]
        return UserError(f"hfds: {self.source} can't be loaded: {reason}")

    def _column(self, key: str, columns: Iterable[str], likely: Sequence[str]) -> str:
        """The column named by option `key`; if the option is at its default, the only likely column."""
        asked = getattr(self, key)
        if asked in columns:
            return asked
        if asked == getattr(type(self), key) and len(likely) == 1:
            print(f"{self.source}: {key.partition('_')[0]}s in column {likely[0]!r}")
            return likely[0]
        known, option_name = ", ".join(columns), key.replace("_", "-")
        raise UserError(f"hfds: there is no column {asked!r} but {known}; give --{option_name}")

    def _rows(self, tables: Mapping[str, Any], image: str, target: str) -> Iterator[Photograph]:
        labels = {name: list(table[target]) for name, table in tables.items()}
        # class names of all splits, to detect names that would share a folder
        names = {name: getattr(table.features[target], "names", None) for name, table in tables.items()}
        unused = {str(each) for found in names.values() for each in found or ()}
        plain = [label for name, found in labels.items() if not names[name] for label in found]
        written = unused | {str(label) for label in plain if _is_label(label)}
        folders = class_folders(sorted(written), self.source)
        for name, table in tables.items():
            known = names[name]
            width = len(str(len(table)))
            for number, label in enumerate(labels[name]):
                if not _is_label(label):
                    self.skipped[f"{name}[{number}]"] = "no label"
                    continue
                if not isinstance(label, (int, str)) or (known and int(label) >= len(known)):
                    what = f"row {number} of {name!r} has {str(label)[:50]!r} in {target!r}"
                    raise UserError(f"hfds: {what}, which is no class; give --target-key")
                file = f"{name}_{number:0{width}d}.jpg"
                unused.discard(class_name := str(known[label] if known else label))
                folder = folders[class_name]
                row = _Row(table, number, image, self.source)
                yield Photograph(file, file, folder, SPLIT_OF[name], row)
        if unused:
            print(f"{self.source}: classes without an image are left out: {listed(sorted(unused))}")


def _is_label(label: Any) -> bool:
    """Whether a value is a label; None, blank text and negative numbers mean unlabelled."""
    if isinstance(label, (int, float)):
        return label >= 0
    return label is not None and (not isinstance(label, str) or bool(label.strip()))


@dataclass(frozen=True)
class _Row:
    """A row of a `datasets` table, as the source of an image."""

    table: Any
    number: int
    column: str
    source: str

    def read(self) -> bytes:
        """Reads the image file from the table, the data set's folder or the cache of `datasets`."""
        import datasets
        from huggingface_hub import constants

        image, where = self.table[self.number][self.column], f"hfds: row {self.number}"
        if image is None or (image["bytes"] is None and not image["path"]):
            raise UserError(f"{where} has no image in {self.column!r}; give --image-key")
        if image["bytes"] is not None:
            return bytes(image["bytes"])
        path = Path(image["path"])
        own = map(Path, (self.source, datasets.config.HF_DATASETS_CACHE, constants.HF_HUB_CACHE))
        for top in (each for folder in own for each in (folder.absolute(), folder.resolve())):
            if path.is_relative_to(top):
                return below(top, path.relative_to(top).as_posix(), where).read_bytes()
        raise UserError(f"{where} names a file outside of the data set, {str(path)[:80]!r}; have it fixed")
