"""Oxford 102 Flowers: 8,189 photographs of 102 flowers.

M.-E. Nilsback, A. Zisserman: "Automated Flower Classification over a Large Number of Classes", ICVGIP 2008;
home: https://www.robots.ox.ac.uk/~vgg/data/flowers/102/. The official splits are ``trnid``, 1,020 images to
train on, ``valid``, 1,020, and ``tstid``, 6,149 to test, as torchvision's ``Flowers102`` has it. Some code
trains on ``tstid``: its figures don't compare. The archives name no classes: they are 001 to 102 here, the
numbers of ``imagelabels.mat``, whose n-th label is that of ``image_<n>.jpg``. The SHA-256 are those of
TensorFlow Datasets (url_checksums/oxford_flowers102.txt).

Whether its photographs are in ImageNet, too, is unknown.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import ClassVar

from convnext_ablation.data.archives import Published, Source
from convnext_ablation.data.official import OfficialPhotographs, read_mat
from convnext_ablation.data.photographs import Photograph
from convnext_ablation.errors import UserError

_VARIABLES = {"train": "trnid", "val": "valid", "test": "tstid"}


@dataclass(frozen=True)
class Flowers102(OfficialPhotographs):
    """The set as its options give it."""

    name: ClassVar[str] = "flowers102"
    summary: ClassVar[str] = "Oxford 102 Flowers: photographs of 102 flowers"
    home: ClassVar[str] = "https://www.robots.ox.ac.uk/~vgg/data/flowers/102/"
    published: ClassVar[Mapping[str, Published]] = {
        "setid": Published(
            "setid.mat",
            f"{home}setid.mat",
            "46b8678f91fd95d3c8f4feab80d271a6c834a1dd896fe29fd3e6ad9ce5c8dccd",
        ),
        "labels": Published(
            "imagelabels.mat",
            f"{home}imagelabels.mat",
            "4903e94206bac23bf772aadf06451916df56b58fc483a62db32a97b82656651d",
        ),
        "images": Published(
            "102flowers.tgz",
            f"{home}102flowers.tgz",
            "2d01ecc807db462958cfe3d92f57a8c252b4abd240eb955770201e45f783b246",
            unpacked="jpg",
        ),
    }
    official: ClassVar[Mapping[str, int]] = {"train": 1020, "val": 1020, "test": 6149}
    classes: ClassVar[int] = 102

    def joined(  # type: ignore[override]
        self, setid: Source, labels: Source, images: Source
    ) -> Iterator[Photograph]:
        """All originals, by the numbers of ``setid.mat``."""
        (label_of,) = read_mat(labels, "imagelabels.mat", "labels")
        numbers_of = read_mat(setid, "setid.mat", *_VARIABLES.values())
        for split, numbers in zip(_VARIABLES, numbers_of, strict=True):
            for number in map(int, numbers):
                if not 1 <= number <= len(label_of):
                    raise UserError(f"{setid.path}: setid.mat has {number}, which imagelabels.mat lacks")
                file, class_name = f"image_{number:05d}.jpg", f"{int(label_of[number - 1]):03d}"
                yield Photograph(file, f"jpg/{file}", class_name, split, images.file(file, "setid.mat"))
