"""Data sets of Oxford's Visual Geometry Group: FGVC-Aircraft, Oxford 102 Flowers and Oxford-IIIT Pets.

The layouts are those of torchvision's ``FGVCAircraft``, ``Flowers102`` and ``OxfordIIITPet``. The SHA-256 are
from TensorFlow Datasets (url_checksums), the MD5 from mlverse/torchvision (R/dataset-fgvc.R).

S. Maji, J. Kannala, E. Rahtu, M. Blaschko, A. Vedaldi: "Fine-Grained Visual Classification of Aircraft",
arXiv:1306.5151. A slash in a variant, such as ``F/A-18``, becomes an underscore.

M.-E. Nilsback, A. Zisserman: "Automated Flower Classification over a Large Number of Classes", ICVGIP 2008.
Classes are named 001 to 102 after the labels in ``imagelabels.mat``; entry n labels ``image_<n>.jpg``.

O. M. Parkhi, A. Vedaldi, A. Zisserman, C. V. Jawahar: "Cats and Dogs", CVPR 2012. File names give the breed,
and lists a label from 1 to 37; the two must agree.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from PIL import Image

from convnext_ablation.data.archives import Source, published_at
from convnext_ablation.data.official import HeldOut, Official, OfficialPhotographs, read_mat, read_table
from convnext_ablation.data.own import class_folder
from convnext_ablation.data.photographs import Photograph
from convnext_ablation.dataclass_options import option
from convnext_ablation.errors import UserError

_HOME = "https://www.robots.ox.ac.uk/~vgg/data"
BANNER = 20  # pixel rows of the copyright banner at the bottom, cropped off


@dataclass(frozen=True)
class FGVCAircraft(OfficialPhotographs):
    """FGVC-Aircraft with its options."""

    name = "fgvc-aircraft"
    summary = "FGVC-Aircraft: photographs of 100 aircraft variants"
    home = f"{_HOME}/fgvc-aircraft/"
    published = published_at(
        f"{home}archives/",
        archive=("fgvc-aircraft-2013b.tar.gz", "d4acdd33327262359767eeaa97a4f732"),
    )
    official = Official(100, train=3334, val=3333, test=3333)

    def joined(self, archive: Source) -> Iterator[Photograph]:
        """Yields all original images, by the ids in ``images_variant_<split>.txt``."""
        variants = set(archive.text("data/variants.txt").splitlines())
        for split in self.official.images:
            name = f"data/images_variant_{split}.txt"
            for id_, variant in read_table(archive, name).items():
                if variant not in variants:
                    raise UserError(f"{archive.path}: {name} has {variant!r}, which variants.txt lacks")
                path = f"data/images/{id_}.jpg"
                yield Photograph(id_, path, class_folder(variant), split, archive.file(path, name))

    def _resized(self, image: Image.Image) -> Image.Image:
        return super()._resized(image.crop((0, 0, image.width, max(1, image.height - BANNER))))


@dataclass(frozen=True)
class Flowers102(OfficialPhotographs):
    """Oxford 102 Flowers with its options."""

    name = "flowers102"
    summary = "Oxford 102 Flowers: photographs of 102 flowers"
    home = f"{_HOME}/flowers/102/"
    published = published_at(
        home,
        setid=("setid.mat", "46b8678f91fd95d3c8f4feab80d271a6c834a1dd896fe29fd3e6ad9ce5c8dccd"),
        labels=("imagelabels.mat", "4903e94206bac23bf772aadf06451916df56b58fc483a62db32a97b82656651d"),
        images=("102flowers.tgz", "2d01ecc807db462958cfe3d92f57a8c252b4abd240eb955770201e45f783b246", "jpg"),
    )
    official = Official(102, train=1020, val=1020, test=6149)

    def joined(self, setid: Source, labels: Source, images: Source) -> Iterator[Photograph]:
        """Yields all original images, by the image numbers in ``setid.mat``."""
        (label_of,) = read_mat(labels, "imagelabels.mat", "labels")
        numbers_of = read_mat(setid, "setid.mat", "trnid", "valid", "tstid")
        for split, numbers in zip(self.official.images, numbers_of, strict=True):
            for number in map(int, numbers):
                if not 1 <= number <= len(label_of):
                    raise UserError(f"{setid.path}: setid.mat has {number}, which imagelabels.mat lacks")
                file, class_name = f"image_{number:05d}.jpg", f"{int(label_of[number - 1]):03d}"
                yield Photograph(file, f"jpg/{file}", class_name, split, images.file(file, "setid.mat"))


@dataclass(frozen=True)
class OxfordPets(HeldOut):
    """Oxford-IIIT Pets with its options."""

    name = "oxford-pets"
    summary = "Oxford-IIIT Pets: photographs of 37 breeds of cats and dogs"
    home = f"{_HOME}/pets/"
    published = published_at(
        f"{home}data/",
        annotations=(
            "annotations.tar.gz",
            "52425fb6de5c424942b7626b428656fcbd798db970a937df61750c0f1d358e91",
        ),
        images=("images.tar.gz", "67195c5e1c01f1ab5f9b6a5d22b8c27a580d896ece458917e61d459337fa318d"),
    )
    official = Official(37, train=3680, test=3669)

    val: int = option(20, "validation images per class, held out of the official training images")

    def joined(self, annotations: Source, images: Source) -> Iterator[Photograph]:
        """Yields all original images, by the names in the lists."""
        breeds: dict[str, str] = {}
        for split, name in {"train": "trainval.txt", "test": "test.txt"}.items():
            for id_, numbers in read_table(annotations, name).items():
                breed, label = id_.rpartition("_")[0], numbers.split(" ")[0]  # the species follows
                if not breed or breeds.setdefault(label, breed) != breed:
                    what = f"gives {id_} the label {label}, that of {breeds.get(label)}"
                    raise UserError(f"{annotations.path}: {name} {what}; get it again")
                file = f"{id_}.jpg"
                yield Photograph(id_, f"images/{file}", breed, split, images.file(file, name))
