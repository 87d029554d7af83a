"""User-supplied images: class folders, and the base class shared with lists and hub data sets.

Existing splits are kept. A missing val or test split is held out of train, stratified by class and
reproducibly.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import ClassVar

from convnext_ablation.data.archives import open_source
from convnext_ablation.data.class_names import listed
from convnext_ablation.data.folder import Record
from convnext_ablation.data.groups import hold_out
from convnext_ablation.data.layout import arrange, check_read
from convnext_ablation.data.photographs import Photograph, Photographs
from convnext_ablation.data.walk import skipped_by_name, why_skipped
from convnext_ablation.dataclass_options import option
from convnext_ablation.errors import UserError
from convnext_ablation.files import CONTROLS


@dataclass(frozen=True)
class OwnPhotographs(Photographs):
    """Base class of user-supplied image sets."""

    required: ClassVar[Sequence[str]]  # options that locate the images; at least one must be given

    seed: int = option(0, "seed for choosing held-out images")
    val: int | None = option(
        None, "validation images per class held out of train if there is no val split; a tenth if not given"
    )
    test: int | None = option(None, "same as --val, for test images")

    def __post_init__(self) -> None:
        """Validates the options."""
        super().__post_init__()
        self.check_least(val=1, test=1)
        if not any(getattr(self, each) for each in self.required):
            raise UserError(f"{self.name}: say where the images are with --{self.required[0]}")

    def records(self, scratch: Path) -> Iterator[tuple[Record, Photograph]]:
        """Yields all images; images that would share a name are renamed after their paths."""
        records = list(super().records(scratch))
        same = Counter(record.id.casefold() for record, _ in records)
        renamed = []
        for record, original in records:
            if same[record.id.casefold()] > 1:
                folder, _, name = record.id.rpartition("/")
                suffix = PurePosixPath(name).suffix
                joined = "_".join(PurePosixPath(original.path).parts).removesuffix(suffix)
                record = replace(record, id=f"{folder}/{joined}{suffix}")
                renamed.append(f"{original.path!r} as {record.id!r}")
            yield record, original
        if renamed:
            what = "images with the same name are stored under names made from their paths"
            print(f"{self.name}: {what}: {len(renamed)}, such as {renamed[0]}")

    def completed(self, originals: Iterable[Photograph], where: str) -> list[Photograph]:
        """Holds out missing splits; raises a `UserError` if there are too few images."""
        found = list(originals)
        splits = {original.split for original in found}
        if "train" not in splits:
            there = f"only {', '.join(sorted(splits))}" if splits else "no image"
            if self.skipped and not splits:
                endings = Counter(PurePosixPath(name).suffix.lower() or name for name in self.skipped)
                there += f" but {', '.join(f'{count} {ending}' for ending, count in endings.most_common(3))}"
            raise UserError(f"{where} has {there}; it needs images to train on")
        for split in ("test", "val"):
            if split not in splits:
                found = hold_out(found, getattr(self, split), self.seed, split)
                if all(original.split != split for original in found):
                    raise UserError(f"{where} has too few images to hold any out for {split}; add some")
        return found


@dataclass(frozen=True)
class ImageFolder(OwnPhotographs):
    """A folder or archive with ``<class>/<image>`` or ``<split>/<class>/<image>``."""

    name = "folder"
    summary = "your own images: <class>/<image> or <split>/<class>/<image>"
    required = ("images",)

    images: Path | None = option(None, "image folder, or a zip or tar of it", identity=False)
    names_encoding: str | None = option(
        None, "encoding of file names in archives that declare none, e.g. cp932; UTF-8 if not given"
    )

    def photographs(self, scratch: Path) -> list[Photograph]:
        """Returns all original images; an image's class is its folder."""
        assert self.images is not None
        where = str(self.images)
        source = open_source(self.images, scratch, dangling=False, encoding=self.names_encoding)
        reasons = {name: why_skipped(name, source[name]) for name in sorted(source)}
        self.skipped.update({name: reason for name, reason in reasons.items() if reason})
        placed = list(arrange([name for name, why in reasons.items() if not why], where, self.skipped))
        check_read([each.name for each in placed], self.skipped, where)
        self._say_lost({each.class_name for each in placed}, {each.name for each in placed})
        folders = class_folders(sorted({each.class_name for each in placed}), where)
        originals = [
            Photograph(below, below, folders[class_name], split, source[name], name=name)
            for name, below, split, class_name in placed
        ]
        return self.completed(originals, where)

    def _say_lost(self, classes: Collection[str], used: Iterable[str]) -> None:
        """Prints which folders beside the class folders hold no usable image."""
        assert self.images is not None
        around = {PurePosixPath(name).parent.parent for name in used}
        beside = (path for place in sorted(around) for path in (self.images / place).glob("*/"))
        lost = [path.name for path in beside if path.name not in classes and not skipped_by_name(path.name)]
        if lost:
            print(f"{self.images}: folders next to the classes without images: {listed(lost)}")


def class_folders(names: Iterable[str], where: str) -> dict[str, str]:
    """The folder name of each class; raises a `UserError` if two classes would share one."""
    folders: dict[str, str] = {}
    for name in names:
        folder = class_folder(name)
        if folders.setdefault(folder, name) != name:
            both = f"the classes {folders[folder]!r} and {name!r} would both become {folder!r}"
            raise UserError(f"{where}: {both}; rename one")
    if changed := [f"{name!r} is called {folder!r}" for folder, name in folders.items() if folder != name]:
        print(f"{where}: renamed classes: {len(changed)}, such as {changed[0]}")
    return {name: folder for folder, name in folders.items()}


def class_folder(name: str) -> str:
    """Converts a class name to a valid folder name, in NFC."""
    name = unicodedata.normalize("NFC", name).strip()
    return re.sub(rf"[/\\{CONTROLS}]", "_", name).lstrip(".").rstrip(". ") or "_"
