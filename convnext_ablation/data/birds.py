"""CUB-200-2011 and NABirds, whose lists have one form: an id and a value a line.

The lists name images by an id; they are in no order that a folder's listing has, so images, labels, splits
and boxes are joined by it. Validation images are held out of the official training images.

C. Wah, S. Branson, P. Welinder, P. Perona, S. Belongie: "The Caltech-UCSD Birds-200-2011 Dataset", Technical
Report CNS-TR-2011-001, California Institute of Technology, 2011; home: https://data.caltech.edu, record
65de6-vp158. About twenty of its test images are in ImageNet too, and at least 4 % of its labels are wrong, as
the authors of NABirds found.

G. Van Horn et al.: "Building a bird recognition app and large scale dataset with citizen scientists", CVPR
2015; home: https://dl.allaboutbirds.org/nabirds, where one accepts the terms of use. The folder of a class is
its number in four digits. ``classes.txt`` names all nodes of a hierarchy, and some names twice: the 555 that
have images are the classes, called by number and name, such as ``0817.Oak Titmouse``. The MD5 of the archive
is that of several public repositories' ``NABirds``. Whether its photographs are in ImageNet, too, is unknown.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from convnext_ablation.data.archives import Published, Source
from convnext_ablation.data.official import HeldOut, read_table
from convnext_ablation.data.own import class_folder
from convnext_ablation.data.photographs import Box, Photograph
from convnext_ablation.dataclass_options import option
from convnext_ablation.errors import UserError, in_one_line


@dataclass(frozen=True)
class CUB200(HeldOut):
    """The set as its options give it."""

    name: ClassVar[str] = "cub200"
    summary: ClassVar[str] = "CUB-200-2011: photographs of 200 bird species"
    home: ClassVar[str] = "https://data.caltech.edu/records/65de6-vp158"
    published: ClassVar[Mapping[str, Published]] = {
        "archive": Published(
            "CUB_200_2011.tgz",
            "https://data.caltech.edu/records/65de6-vp158/files/CUB_200_2011.tgz",
            "0c685df5597a8b24909f6a7c9db6d11e008733779a671760afef78feb49bf081",
            unpacked="CUB_200_2011",
        )
    }

    official: ClassVar[Mapping[str, int]] = {"train": 5994, "test": 5794}
    classes: ClassVar[int] = 200

    val: int = option(6, "validation images per class, held out of the official training images")
    crop_to_box: bool = option(False, "crop to the bounding box first")
    archive: Path | None = option(None, "CUB_200_2011.tgz, or a folder where it is unpacked", identity=False)

    def joined(self, archive: Source) -> Iterator[Photograph]:  # type: ignore[override]
        """All originals, by the ids of ``images.txt``."""
        source = archive.below("images.txt")
        paths = read_table(source, "images.txt")
        labels = read_table(source, "image_class_labels.txt", like=paths)
        training = read_table(source, "train_test_split.txt", like=paths)
        boxes = read_table(source, "bounding_boxes.txt", like=paths) if self.crop_to_box else {}
        names = read_table(source, "classes.txt")
        for id_, path in paths.items():
            folder, class_name = self.folder_and_class(labels[id_], names)
            where = f"{source.path}: image {id_}"
            if path.split("/")[0] != folder or path.count("/") != 1:
                raise UserError(
                    f"{where} is {path}, but its class {labels[id_]} is {class_name or 'unknown'}"
                )
            if training[id_] not in ("0", "1"):
                raise UserError(f"{where} has {training[id_]!r}, not 0 or 1, in train_test_split.txt")
            split = "train" if training[id_] == "1" else "test"
            box = _box(boxes[id_], id_, source) if boxes else None
            image = source.file(f"images/{path}", "images.txt")
            yield Photograph(id_, f"images/{path}", class_name, split, image, box)

    def folder_and_class(self, label: str, names: Mapping[str, str]) -> tuple[str, str]:
        """The folder that images of a class are in, and what the class is called; empty if it is unknown."""
        return names.get(label, ""), names.get(label, "")


def _box(text: str, id_: str, source: Source) -> Box:
    with in_one_line(f"{source.path}: bounding_boxes.txt has no box for image {id_}"):
        left, top, width, height = map(float, text.split())
    return left, top, left + width, top + height


@dataclass(frozen=True)
class NABirds(CUB200):
    """The set as its options give it."""

    name: ClassVar[str] = "nabirds"
    summary: ClassVar[str] = "NABirds: photographs of 555 visual categories of birds"
    home: ClassVar[str] = "https://dl.allaboutbirds.org/nabirds"
    published: ClassVar[Mapping[str, Published]] = {
        "archive": Published(
            "nabirds.tar.gz", "", "df21a9e4db349a14e2b08adfd45873bd", "md5", unpacked="nabirds"
        )
    }
    official: ClassVar[Mapping[str, int]] = {"train": 23_929, "test": 24_633}
    classes: ClassVar[int] = 555

    val: int = option(3, "validation images per class, held out of the official training images")
    archive: Path | None = option(None, "nabirds.tar.gz, or a folder where it is unpacked", identity=False)

    def folder_and_class(self, label: str, names: Mapping[str, str]) -> tuple[str, str]:
        """The folder that images of a class are in, and what the class is called; empty if it is unknown."""
        folder = f"{label:0>4}"
        return (folder, class_folder(f"{folder}.{names[label]}")) if label in names else ("", "")
