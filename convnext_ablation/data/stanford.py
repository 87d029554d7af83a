"""Stanford Cars and Stanford Dogs, whose lists are MATLAB files; val is held out of the training images.

J. Krause, M. Stark, J. Deng, L. Fei-Fei: "3D Object Representations for Fine-Grained Categorization", 3dRR,
ICCV 2013. The layout is that of torchvision's ``StanfordCars``, with test labels in a file of their own.
The SHA-256 are from TensorFlow Datasets (url_checksums/cars196.txt).

A. Khosla, N. Jayadevaprakash, B. Yao, L. Fei-Fei: "Novel Dataset for Fine-Grained Image Categorization",
First Workshop on Fine-Grained Visual Categorization, CVPR 2011. Its file names are ImageNet ids.
"""

from __future__ import annotations

import math
import unicodedata
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from convnext_ablation.data.archives import Source, published_at
from convnext_ablation.data.official import HeldOut, Official, read_mat
from convnext_ablation.data.own import class_folder
from convnext_ablation.data.photographs import Box, Photograph
from convnext_ablation.dataclass_options import option
from convnext_ablation.errors import UserError, in_one_line

_LABELS = "cars_test_annos_withlabels.mat"


@dataclass(frozen=True)
class StanfordCars(HeldOut):
    """Stanford Cars with its options."""

    name = "stanford-cars"
    summary = "Stanford Cars: photographs of 196 models of cars"
    home = "others who have it: https://ai.stanford.edu/~jkrause/cars/car_dataset.html is gone"
    published = published_at(
        "",
        labels=(_LABELS, "790f75be8ea34eeded134cc559332baf23e30e91367e9ddca97d26ed9b895f05"),
        devkit=(
            "car_devkit.tgz",
            "b97deb463af7d58b6bfaa18b2a4de9829f0f79e8ce663dfa9261bf7810e9accd",
            "devkit",
        ),
        train=("cars_train.tgz", "512b227b30e2f0a8aab9e09485786ab4479582073a144998da74d64b801fd288"),
        test=("cars_test.tgz", "bffea656d6f425cba3c91c6d83336e4c5f86c6cffd8975b0f375d3a10da8e243"),
    )
    official = Official(196, train=8144, test=8041)

    val: int = option(8, "validation images per class, held out of the official training images")

    def joined(self, devkit: Source, labels: Source, train: Source, test: Source) -> Iterator[Photograph]:
        """Yields all original images, by the file names in the lists."""
        (names,) = read_mat(devkit, "cars_meta.mat", "class_names")
        lists = (("train", devkit, "cars_train_annos.mat", train), ("test", labels, _LABELS, test))
        for split, source, name, images in lists:
            (rows,) = read_mat(source, name, "annotations")
            for row in rows:
                with in_one_line(f"{source.path}: {name} has other columns (get it again)"):
                    label, file = int(row["class"]), str(row["fname"])
                path = f"cars_{split}/{file}"
                if not 1 <= label <= len(names):
                    raise UserError(f"{source.path}: {name} gives {path} the class {label} of {len(names)}")
                class_name = class_folder(str(names[label - 1]))
                yield Photograph(path, path, class_name, split, images.file(file, name))


@dataclass(frozen=True)
class StanfordDogs(HeldOut):
    """Stanford Dogs with its options."""

    name = "stanford-dogs"
    summary = "Stanford Dogs: photographs of 120 dog breeds, from ImageNet"
    home = "http://vision.stanford.edu/aditya86/ImageNetDogs"
    published = published_at(
        f"{home}/",
        lists=("lists.tar", "34b47cacd9a98b5d150e084f24d29391c084c55272295ec65c85651bc35f4d6c"),
        images=("images.tar", "a443fc2f9a851aa1a7b8e4fa4af94b8459fce2c9f5a2f4dd4669cf9673a4ec58", "Images"),
        annotations=(
            "annotation.tar",
            "662ed36f707be6b195c2fda392d8e153e83af28cedc8e2134a649f198def30fd",
            "Annotation",
            "crop_to_box",
        ),
    )
    official = Official(120, train=12000, test=8580)

    val: int = option(20, "validation images per class, held out of the official training images")
    crop_to_box: bool = option(False, "crop to the box that encloses all bounding boxes first")
    images: Path | None = option(None, "images.tar, or a folder where it is unpacked", identity=False)
    lists: Path | None = option(None, "lists.tar, or a folder where it is unpacked", identity=False)
    annotations: Path | None = option(
        None, "annotation.tar, or a folder where it is unpacked, for --crop-to-box", identity=False
    )

    def joined(
        self, images: Source, lists: Source, annotations: Source | None = None
    ) -> Iterator[Photograph]:
        """Yields all original images, by the file names in the lists."""
        images = images.below(_read_list(lists, "train_list.mat")[0][0])
        breeds: dict[int, str] = {}
        for split in self.official.images:
            name = f"{split}_list.mat"
            for path, label in _read_list(lists, name):
                breed = path.split("/")[0]
                if (other := breeds.setdefault(label, breed)) != breed:
                    raise UserError(f"{lists.path}: {name} gives {path} the label {label}, that of {other}")
                image = images.file(path, name)
                box = None if annotations is None else _read_box(annotations, path.removesuffix(".jpg"))
                yield Photograph(path, f"Images/{path}", breed, split, image, box)


def _read_list(lists: Source, name: str) -> list[tuple[str, int]]:
    """Reads paths and labels (from 1) of a MATLAB list."""
    paths, labels = read_mat(lists, name, "file_list", "labels")
    with in_one_line(f"{lists.path}: {name} has another form than the official list (get it again)"):
        names = [unicodedata.normalize("NFC", str(path)) for path in paths]
        if odd := [name for name in names if name.count("/") != 1]:
            raise ValueError(f"{odd[0]!r} is not <breed>/<file>")
        return list(zip(names, map(int, labels), strict=True))


def _read_box(annotations: Source, path: str) -> Box:
    """The bounding box of all dogs in an image; the annotations have a box per dog."""
    name = path if path in annotations else f"Annotation/{path}"
    data = annotations.file(name).read()
    try:
        tree = ElementTree.fromstring(data)
        boxes = [
            [float(box.findtext(side, "")) for side in ("xmin", "ymin", "xmax", "ymax")]
            for box in tree.iter("bndbox")
        ]
        if not all(math.isfinite(side) for box in boxes for side in box):
            raise ValueError("a side of a box is no number")
        lefts, tops, rights, bottoms = zip(*boxes, strict=True)
    except (ElementTree.ParseError, ValueError) as error:
        raise UserError(f"{annotations.path}: {name} can't be read ({error}); get it again") from error
    return min(lefts), min(tops), max(rights), max(bottoms)
