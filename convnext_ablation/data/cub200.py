"""CUB-200-2011: 11,788 photographs of 200 bird species.

C. Wah, S. Branson, P. Welinder, P. Perona, S. Belongie: "The Caltech-UCSD Birds-200-2011 Dataset", Technical
Report CNS-TR-2011-001, California Institute of Technology, 2011; home: https://data.caltech.edu, record
65de6-vp158. The lists name images by an id; they are in no order that a folder's listing has, so images,
labels, splits and boxes are joined by it. The official split has 5,994 images to train on and 5,794 to test;
validation images are held out of the former.

What is known to be wrong with the set: about twenty test images are in ImageNet too, at least 4 % of the
labels are wrong (Van Horn et al., "Building a bird recognition app and large scale dataset with citizen
scientists", CVPR 2015).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from convnext_ablation.data.archives import Published, Source
from convnext_ablation.data.official import HeldOut, read_table
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
