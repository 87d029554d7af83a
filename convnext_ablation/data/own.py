"""Anyone's own photographs: a folder of classes, and what lists and data sets of the hub share with it.

Splits that are there are kept; a val or test split that isn't is held out of train, so many images of each
class, always the same.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from convnext_ablation.data.archives import Source, open_source
from convnext_ablation.data.folder import SPLIT_OF
from convnext_ablation.data.groups import hold_out_groups
from convnext_ablation.data.photographs import Photograph, Photographs, hold_out
from convnext_ablation.data.pictures import is_called_picture
from convnext_ablation.dataclass_options import option
from convnext_ablation.errors import UserError


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
        if not self.is_named():
            raise UserError(f"{self.name}: say where the images are with --{self.required}")

    def is_named(self) -> bool:
        """Whether it is said where the images are."""
        return bool(getattr(self, self.required))

    def completed(self, originals: Iterable[Photograph], where: str) -> list[Photograph]:
        """Holds out the splits that aren't there."""
        found = list(originals)
        splits = {original.split for original in found}
        if "train" not in splits:
            there = f"only {', '.join(sorted(splits))}" if splits else "no image"
            raise UserError(f"{where} has {there}; it needs images to train on")
        hold = hold_out_groups if any(original.group for original in found) else hold_out
        for split in ("test", "val"):
            if split not in splits:
                found = hold(found, getattr(self, split), self.seed, split)
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
    names = [name for name in sorted(source) if is_called_picture(name)]
    names = [name for name in names if "/." not in f"/{name}"]  # none that is hidden
    tops = {name.split("/")[0] for name in names}
    has_splits = tops <= SPLIT_OF.keys()
    folders = class_folders({name.split("/")[-2] for name in names if "/" in name}, str(source.path))
    for name in names:
        if re.search("[\n\r\ud800-\udfff]", name):  # what Python makes of bytes that aren't UTF-8
            raise UserError(f"{source.path}: the name {name!r} is not UTF-8 in one line; change it")
        parts = name.split("/")
        if len(parts) != 2 + has_splits:
            expected = "<split>/<class>/<image>" if has_splits else "<class>/<image>"
            raise UserError(f"{source.path}: {name} is not {expected}; move or remove it")
        split = SPLIT_OF[parts[0]] if has_splits else "train"
        yield Photograph(name, name, folders[parts[-2]], split, source[name])


def _without_top(source: Source) -> Source:
    """Leaves out a folder that all is in, as tars have it, unless that is a split or the only class."""
    tops = {name.split("/")[0] for name in source}
    if len(tops) != 1 or tops <= SPLIT_OF.keys() or any(name.count("/") < 2 for name in source):
        return source
    top = f"{tops.pop()}/"
    return Source(source.path, {name.removeprefix(top): source[name] for name in source})


def class_folders(names: Iterable[str], where: str) -> dict[str, str]:
    """The folder of each class; a `UserError` if two classes would have the same."""
    folders: dict[str, str] = {}
    for name in names:
        folder = class_folder(name)
        if folders.setdefault(folder, name) != name:
            both = f"the classes {folders[folder]!r} and {name!r} would both become {folder!r}"
            raise UserError(f"{where}: {both}; rename one")
    return {name: folder for folder, name in folders.items()}


def class_folder(name: str) -> str:
    """The name of a class as that of a folder, in NFC."""
    name = unicodedata.normalize("NFC", name).strip()
    return re.sub(r"[/\\\x00-\x1f\x7f-\x9f\u2028\u2029]", "_", name).lstrip(".").rstrip(". ") or "_"
