"""Stanford Cars and Stanford Dogs, whose lists are MATLAB files; val is held out of the training images.

J. Krause, M. Stark, J. Deng, L. Fei-Fei: "3D Object Representations for Fine-Grained Categorization", 3dRR,
ICCV 2013. Its files exist in two layouts:

- ``cars_annos.mat`` with ``car_ims.tgz``, numbered across splits, as used in metric learning; the MD5 are
  those of several public repositories' ``Cars196``;
- torchvision's: ``car_devkit.tgz``, ``cars_train.tgz``, ``cars_test.tgz`` and, since the devkit has no test
  labels, ``cars_test_annos_withlabels.mat``; the SHA-256 are from TensorFlow Datasets
  (url_checksums/cars196.txt).

A. Khosla, N. Jayadevaprakash, B. Yao, L. Fei-Fei: "Novel Dataset for Fine-Grained Image Categorization",
First Workshop on Fine-Grained Visual Categorization, CVPR 2011. Its file names are ImageNet ids.
"""

from __future__ import annotations

import math
import unicodedata
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from convnext_ablation.data.archives import Published, Source, published_at
from convnext_ablation.data.official import HeldOut, Official, read_mat
from convnext_ablation.data.own import class_folder
from convnext_ablation.data.photographs import Box, Photograph
from convnext_ablation.dataclass_options import option
from convnext_ablation.errors import UserError, in_one_line

_LABELS = "cars_test_annos_withlabels.mat"
_NUMBERED_THROUGH = ("annotations", "images")


@dataclass(frozen=True)
class StanfordCars(HeldOut):
    """Stanford Cars with its options."""

    name = "stanford-cars"
    summary = "Stanford Cars: photographs of 196 models of cars"
    home = "others who have it: https://ai.stanford.edu/~jkrause/cars/car_dataset.html is gone"
    published = published_at(
        "",
        annotations=("cars_annos.mat", "b407c6086d669747186bd1d764ff9dbc"),
        images=("car_ims.tgz", "d5c8f0aa497503f355e17dc7886c3f14"),
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

    @classmethod
    def needed(cls, options: Mapping[str, Any]) -> dict[str, Published]:
        """The archives of the layout found in the folder."""
        folder = Path(options["archives"] or "").expanduser()
        images = cls.published["images"]
        through = (folder / images.file).exists() or (folder / images.unpacked).exists()
        return {
            which: each for which, each in cls.published.items() if (which in _NUMBERED_THROUGH) == through
        }

    def joined(self, **sources: Source) -> Iterator[Photograph]:
        """Yields all original images, by the file names in the lists."""
        through = "images" in sources
        meta = sources["annotations" if through else "devkit"]
        (names,) = read_mat(meta, "cars_annos.mat" if through else "cars_meta.mat", "class_names")
        lists = {"cars_annos.mat": meta}
        if not through:
            lists = {"cars_train_annos.mat": meta, _LABELS: sources["labels"]}
        for name, source in lists.items():
            (rows,) = read_mat(source, name, "annotations")
            for row in rows:
                with in_one_line(f"{source.path}: {name} has other columns (get it again)"):
                    label = int(row["class"])
                    split = ("train", "test")[int(row["test"]) if through else name == _LABELS]
                    path = str(row["relative_im_path"]) if through else f"cars_{split}/{row['fname']}"
                if not 1 <= label <= len(names):
                    raise UserError(f"{source.path}: {name} gives {path} the class {label} of {len(names)}")
                image = sources["images" if through else split].file(path.rpartition("/")[2], name)
                yield Photograph(path, path, class_folder(str(names[label - 1])), split, image)


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
