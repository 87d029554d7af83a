"""Oxford-IIIT Pets: 7,349 photographs of 37 breeds of cats and dogs.

O. M. Parkhi, A. Vedaldi, A. Zisserman, C. V. Jawahar: "Cats and Dogs", CVPR 2012; home:
https://www.robots.ox.ac.uk/~vgg/data/pets/. The official split has 3,680 images to train on, those of
``trainval.txt``, and 3,669 to test; validation images are held out of the former. The layout is that of
torchvision's ``OxfordIIITPet``. Breeds are named by the file names and numbered 1 to 37 by the lists; the two
must agree. The SHA-256 are those of TensorFlow Datasets (url_checksums/oxford_iiit_pet.txt).

Many of the breeds are classes of ImageNet; whether its photographs are there, too, is unknown.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import ClassVar

from convnext_ablation.data.archives import Published, Source
from convnext_ablation.data.official import HeldOut, read_table
from convnext_ablation.data.photographs import Photograph
from convnext_ablation.dataclass_options import option
from convnext_ablation.errors import UserError


@dataclass(frozen=True)
class OxfordPets(HeldOut):
    """The set as its options give it."""

    name: ClassVar[str] = "oxford-pets"
    summary: ClassVar[str] = "Oxford-IIIT Pets: photographs of 37 breeds of cats and dogs"
    home: ClassVar[str] = "https://www.robots.ox.ac.uk/~vgg/data/pets/"
    published: ClassVar[Mapping[str, Published]] = {
        "annotations": Published(
            "annotations.tar.gz",
            f"{home}data/annotations.tar.gz",
            "52425fb6de5c424942b7626b428656fcbd798db970a937df61750c0f1d358e91",
            unpacked="annotations",
        ),
        "images": Published(
            "images.tar.gz",
            f"{home}data/images.tar.gz",
            "67195c5e1c01f1ab5f9b6a5d22b8c27a580d896ece458917e61d459337fa318d",
            unpacked="images",
        ),
    }
    official: ClassVar[Mapping[str, int]] = {"train": 3680, "test": 3669}
    classes: ClassVar[int] = 37

    val: int = option(20, "validation images per class, held out of the official training images")

    def joined(self, annotations: Source, images: Source) -> Iterator[Photograph]:  # type: ignore[override]
        """All originals, by the names that the lists give them."""
        breeds: dict[str, str] = {}
        for split, name in {"train": "trainval.txt", "test": "test.txt"}.items():
            for id_, numbers in read_table(annotations, name).items():
                breed, label = id_.rpartition("_")[0], numbers.split(" ")[0]  # then its species
                if not breed or breeds.setdefault(label, breed) != breed:
                    what = f"gives {id_} the label {label}, that of {breeds.get(label)}"
                    raise UserError(f"{annotations.path}: {name} {what}; get it again")
                image = images.file(f"{id_}.jpg", name)
                yield Photograph(id_, f"images/{id_}.jpg", breed, split, image)
