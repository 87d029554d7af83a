"""CUB-200-2011 and NABirds, whose lists share one format: an id and a value per line.

C. Wah, S. Branson, P. Welinder, P. Perona, S. Belongie: "The Caltech-UCSD Birds-200-2011 Dataset", Technical
Report CNS-TR-2011-001, California Institute of Technology, 2011.

G. Van Horn et al.: "Building a bird recognition app and large scale dataset with citizen scientists", CVPR
2015. Its ``classes.txt`` lists all nodes of a hierarchy, with some names repeated. The 555 nodes with images
are the classes, named by number and name, such as ``0817.Oak Titmouse``. The MD5 of the archive is the one in
several public repositories' ``NABirds``.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from convnext_ablation.data.archives import Source, published_at
from convnext_ablation.data.official import HeldOut, Official, read_table
from convnext_ablation.data.own import class_folder
from convnext_ablation.data.photographs import Box, Photograph
from convnext_ablation.dataclass_options import option
from convnext_ablation.errors import UserError, in_one_line


@dataclass(frozen=True)
class CUB200(HeldOut):
    """CUB-200-2011 with its options."""

    name = "cub200"
    summary = "CUB-200-2011: photographs of 200 bird species"
    home = "https://data.caltech.edu/records/65de6-vp158"
    published = published_at(
        f"{home}/files/",
        archive=("CUB_200_2011.tgz", "0c685df5597a8b24909f6a7c9db6d11e008733779a671760afef78feb49bf081"),
    )
    official = Official(200, train=5994, test=5794)
    folder = "{name}"  # image folder of a class
    class_name = "{name}"

    val: int = option(6, "validation images per class, held out of the official training images")
    crop_to_box: bool = option(False, "crop to the bounding box first")
    archive: Path | None = option(None, "CUB_200_2011.tgz, or a folder where it is unpacked", identity=False)

    def joined(self, archive: Source) -> Iterator[Photograph]:
        """Yields all original images, joined by the ids of ``images.txt``."""
        source = archive.below("images.txt")
        paths = read_table(source, "images.txt")
        labels = read_table(source, "image_class_labels.txt", like=paths)
        training = read_table(source, "train_test_split.txt", like=paths)
        boxes = read_table(source, "bounding_boxes.txt", like=paths) if self.crop_to_box else {}
        names = read_table(source, "classes.txt")
        for id_, path in paths.items():
            label = labels[id_]
            folder, class_name = (
                form.format(label=label, name=names[label]) if label in names else ""
                for form in (self.folder, self.class_name)
            )
            where = f"{source.path}: image {id_}"
            if path.split("/")[0] != folder or path.count("/") != 1:
                raise UserError(f"{where} is {path}, but its class {label} is {class_name or 'unknown'}")
            if training[id_] not in ("0", "1"):
                raise UserError(f"{where} has {training[id_]!r}, not 0 or 1, in train_test_split.txt")
            split = "train" if training[id_] == "1" else "test"
            box = _box(boxes[id_], id_, source) if boxes else None
            image = source.file(f"images/{path}", "images.txt")
            yield Photograph(id_, f"images/{path}", class_folder(class_name), split, image, box)


def _box(text: str, id_: str, source: Source) -> Box:
    with in_one_line(f"{source.path}: bounding_boxes.txt has no box for image {id_}"):
        left, top, width, height = map(float, text.split())
    return left, top, left + width, top + height


@dataclass(frozen=True)
class NABirds(CUB200):
    """NABirds with its options."""

    name = "nabirds"
    summary = "NABirds: photographs of 555 visual categories of birds"
    home = "https://dl.allaboutbirds.org/nabirds"
    published = published_at("", archive=("nabirds.tar.gz", "df21a9e4db349a14e2b08adfd45873bd"))
    official = Official(555, train=23_929, test=24_633)
    folder = "{label:0>4}"
    class_name = "{label:0>4}.{name}"

    val: int = option(3, "validation images per class, held out of the official training images")
    archive: Path | None = option(None, "nabirds.tar.gz, or a folder where it is unpacked", identity=False)
