"""What data sets of photographs have in common: originals with labels and splits, stored resized.

Validation images are held out of the official training images, so many of each class, chosen by a hash of
the seed and the image's own id: the same on every machine and with every version of every library, and
whatever the order of the lists.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO, ClassVar, Protocol

from convnext_ablation.data.archives import Published
from convnext_ablation.data.fitting import FITS, FORMATS, Box, Fitting, fitting_versions
from convnext_ablation.data.folder import SPLITS, Record
from convnext_ablation.dataclass_options import option
from convnext_ablation.errors import UserError

__all__ = ["Key", "Photograph", "Photographs", "Readable", "check_counts", "hold_out"]


class Readable(Protocol):
    """A file, or what stands for one."""

    def read(self) -> bytes:
        """Its bytes."""


Key = tuple[Readable, str, Box | None]


@dataclass(frozen=True)
class Photograph:
    """An original.

    Args:
        id: What names it in its data set.
        path: Where it stands there.
        class_name: Its class.
        split: One of `SPLITS`.
        piece: Its file.
        box: Its bounding box, if there is one.
    """

    id: str
    path: str
    class_name: str
    split: str
    piece: Readable
    box: Box | None = None


def pixels(text: str) -> int | None:
    """A size as the command line takes it: a number, or none."""
    return None if text == "none" else int(text)


@dataclass(frozen=True)
class Photographs:
    """Common options and the way from originals to stored images.

    Raises:
        UserError: An option is out of range.
    """

    name: ClassVar[str]
    summary: ClassVar[str]
    splits: ClassVar[tuple[str, ...]] = SPLITS
    in_threads: ClassVar[bool] = True  # Pillow lets go of the interpreter while it decodes and resizes
    published: ClassVar[Mapping[str, Published]] = {}

    size: int | None = option(
        256, "side in pixels that images are resized to, or none to keep the originals", parse=pixels
    )
    fit: str = option("squash", "whether that is both sides, or the shorter one", choices=FITS)
    format: str = option(
        "jpeg", "how they are stored: jpeg at quality 95, or lossless", choices=tuple(FORMATS)
    )

    def __post_init__(self) -> None:
        """Checks the options."""
        self.fitting  # noqa: B018  it checks itself

    @property
    def fitting(self) -> Fitting:
        """How images are stored."""
        return Fitting(self.size, self.fit, self.format)

    def photographs(self, scratch: Path) -> Iterable[Photograph]:
        """All originals with the split that each belongs to.

        Args:
            scratch: Folder for what has to be unpacked.
        """
        raise NotImplementedError

    def records(self, scratch: Path) -> Iterator[tuple[Record, Key]]:
        """All images of the set, each as its record and what `encode` needs."""
        for original in self.photographs(scratch):
            name = self.fitting.name(original.path, cropped=original.box is not None)
            id_ = f"{original.split}/{original.class_name}/{name}"
            record = Record(id_, original.split, original.class_name, original.path)
            yield record, (original.piece, original.path, original.box)

    def encode(self, key: Key, file: BinaryIO) -> None:
        """Writes the stored file of one image."""
        piece, path, box = key
        self.fitting.store(piece.read(), path, file, box)

    def versions(self) -> dict[str, str]:
        """Versions of all that has a say in the bytes."""
        return fitting_versions()


def hold_out(
    originals: Iterable[Photograph], per_class: int | None, seed: int, split: str = "val"
) -> list[Photograph]:
    """Moves so many training images of each class to another split; at least one stays.

    Args:
        originals: Images of any split.
        per_class: How many of each class; None for a tenth, but one at least.
        seed: Which ones.
        split: The split that they go to.
    """

    def rank(original: Photograph) -> bytes:
        return hashlib.sha256(f"{seed} {original.id}".encode()).digest()

    classes: dict[str, list[Photograph]] = defaultdict(list)
    for original in originals:
        classes[original.class_name if original.split == "train" else ""].append(original)
    done = classes.pop("", [])
    for members in classes.values():
        members.sort(key=rank)
        wanted = max(1, round(len(members) / 10)) if per_class is None else per_class
        count = min(wanted, len(members) - 1)
        done += [replace(original, split=split) for original in members[:count]]
        done += members[count:]
    return sorted(done, key=lambda original: original.path)


def check_counts(
    originals: Iterable[Photograph], official: Mapping[str, int], classes: int, where: str
) -> None:
    """Compares the numbers of images and classes with the official ones.

    Raises:
        UserError: They differ.
    """
    found = dict.fromkeys(official, 0)
    names = set()
    for original in originals:
        found[original.split] = found.get(original.split, 0) + 1
        names.add(original.class_name)
    for what, count, expected in [
        *((f"{split} images", found[split], count) for split, count in official.items()),
        ("classes", len(names), classes),
    ]:
        if count != expected:
            raise UserError(
                f"{where} has {count:,} {what}, not the official {expected:,}; get it from its home, or say "
                "--unofficial if you mean a part of it"
            )
