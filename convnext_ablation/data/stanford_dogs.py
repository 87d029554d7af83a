"""Stanford Dogs: 20,580 photographs of 120 breeds.

A. Khosla, N. Jayadevaprakash, B. Yao, L. Fei-Fei: "Novel Dataset for Fine-Grained Image Categorization",
First Workshop on Fine-Grained Visual Categorization, CVPR 2011; home:
http://vision.stanford.edu/aditya86/ImageNetDogs/. The official split has 100 images of each breed to train on
and 8,580 in all to test; validation images are held out of the former.

What is known to be wrong with the set: it is made from ImageNet. All breeds are classes of ILSVRC, and the
file names are ImageNet's ids, so that a network pre-trained there may have seen test images with their
labels; ``convnext-ablation data-report --against`` counts them.
"""

from __future__ import annotations

import unicodedata
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from convnext_ablation.data.archives import Published, Source
from convnext_ablation.data.official import HeldOut, read_mat
from convnext_ablation.data.photographs import Box, Photograph
from convnext_ablation.dataclass_options import option
from convnext_ablation.errors import UserError, in_one_line


@dataclass(frozen=True)
class StanfordDogs(HeldOut):
    """The set as its options give it."""

    name: ClassVar[str] = "stanford-dogs"
    summary: ClassVar[str] = "Stanford Dogs: photographs of 120 breeds, out of ImageNet"
    home: ClassVar[str] = "http://vision.stanford.edu/aditya86/ImageNetDogs"
    published: ClassVar[Mapping[str, Published]] = {
        "lists": Published(
            "lists.tar",
            f"{home}/lists.tar",
            "34b47cacd9a98b5d150e084f24d29391c084c55272295ec65c85651bc35f4d6c",
        ),
        "images": Published(
            "images.tar",
            f"{home}/images.tar",
            "a443fc2f9a851aa1a7b8e4fa4af94b8459fce2c9f5a2f4dd4669cf9673a4ec58",
            unpacked="Images",
        ),
        "annotations": Published(
            "annotation.tar",
            f"{home}/annotation.tar",
            "662ed36f707be6b195c2fda392d8e153e83af28cedc8e2134a649f198def30fd",
            only_for="crop_to_box",
            unpacked="Annotation",
        ),
    }
    official: ClassVar[Mapping[str, int]] = {"train": 12000, "test": 8580}
    classes: ClassVar[int] = 120

    val: int = option(20, "validation images per class, held out of the official training images")
    crop_to_box: bool = option(False, "crop to the bounding box first, one around all of an image")
    images: Path | None = option(None, "images.tar, or a folder where it is unpacked", identity=False)
    lists: Path | None = option(None, "lists.tar, or a folder where it is unpacked", identity=False)
    annotations: Path | None = option(
        None, "annotation.tar, or a folder where it is unpacked, for --crop-to-box", identity=False
    )

    def joined(  # type: ignore[override]
        self, images: Source, lists: Source, annotations: Source | None = None
    ) -> Iterator[Photograph]:
        """All originals, by the names that the lists give them."""
        images = images.below(_read_list(lists, "train_list.mat")[0][0])
        breeds: dict[int, str] = {}
        for split in self.official:
            name = f"{split}_list.mat"
            for path, label in _read_list(lists, name):
                breed = path.split("/")[0]
                if (other := breeds.setdefault(label, breed)) != breed:
                    raise UserError(f"{lists.path}: {name} gives {path} the label {label}, that of {other}")
                image = images.file(path, name)
                box = None if annotations is None else _read_box(annotations, path.removesuffix(".jpg"))
                yield Photograph(path, f"Images/{path}", breed, split, image, box)


def _read_list(lists: Source, name: str) -> list[tuple[str, int]]:
    """Paths and labels (from 1) of a list, a MATLAB file."""
    paths, labels = read_mat(lists, name, "file_list", "labels")
    with in_one_line(f"{lists.path}: {name} has another form than the official list (get it again)"):
        rows = [
            (unicodedata.normalize("NFC", str(path)), int(label))
            for path, label in zip(paths, labels, strict=True)
        ]
        if odd := [path for path, _ in rows if path.count("/") != 1]:
            raise ValueError(f"{odd[0]!r} is not <breed>/<file>")
    return rows


def _read_box(annotations: Source, path: str) -> Box:
    """The box around all dogs of a photograph: an image may show several, and then has a box for each."""
    name = path if path in annotations else f"Annotation/{path}"
    data = annotations.file(name).read()
    try:
        tree = ElementTree.fromstring(data)
        boxes = [
            [float(box.findtext(side, "")) for side in ("xmin", "ymin", "xmax", "ymax")]
            for box in tree.iter("bndbox")
        ]
        lefts, tops, rights, bottoms = zip(*boxes, strict=True)
    except (ElementTree.ParseError, ValueError) as error:
        raise UserError(f"{annotations.path}: {name} can't be read ({error}); get it again") from error
    return min(lefts), min(tops), max(rights), max(bottoms)
