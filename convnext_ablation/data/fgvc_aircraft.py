"""FGVC-Aircraft: 10,000 photographs of 100 aircraft variants.

S. Maji, J. Kannala, E. Rahtu, M. Blaschko, A. Vedaldi: "Fine-Grained Visual Classification of Aircraft",
arXiv:1306.5151; home: https://www.robots.ox.ac.uk/~vgg/data/fgvc-aircraft/. The official splits have 3,334
images to train on, 3,333 to validate and 3,333 to test; papers often train on the first two together. The
lowest 20 rows of each image are a banner with its copyright, which the authors say to remove: what is resized
lacks it, and ``--size none`` keeps it. A slash in a variant, such as ``F/A-18``, becomes an underscore. The
layout is that of torchvision's ``FGVCAircraft``; the MD5 is that of mlverse/torchvision (R/dataset-fgvc.R).

The photographs are for non-commercial research only. Whether any are in ImageNet, too, is unknown.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import ClassVar

from PIL import Image

from convnext_ablation.data.archives import Published, Source
from convnext_ablation.data.official import OfficialPhotographs, read_table
from convnext_ablation.data.own import class_folder
from convnext_ablation.data.photographs import Photograph
from convnext_ablation.errors import UserError

BANNER = 20  # rows


@dataclass(frozen=True)
class FGVCAircraft(OfficialPhotographs):
    """The set as its options give it."""

    name: ClassVar[str] = "fgvc-aircraft"
    summary: ClassVar[str] = "FGVC-Aircraft: photographs of 100 aircraft variants"
    home: ClassVar[str] = "https://www.robots.ox.ac.uk/~vgg/data/fgvc-aircraft/"
    published: ClassVar[Mapping[str, Published]] = {
        "archive": Published(
            "fgvc-aircraft-2013b.tar.gz",
            f"{home}archives/fgvc-aircraft-2013b.tar.gz",
            "d4acdd33327262359767eeaa97a4f732",
            "md5",
            unpacked="fgvc-aircraft-2013b",
        )
    }
    official: ClassVar[Mapping[str, int]] = {"train": 3334, "val": 3333, "test": 3333}
    classes: ClassVar[int] = 100

    def joined(self, archive: Source) -> Iterator[Photograph]:  # type: ignore[override]
        """All originals, by the ids of ``images_variant_<split>.txt``."""
        variants = set(archive.text("data/variants.txt").splitlines())
        for split in self.official:
            name = f"data/images_variant_{split}.txt"
            for id_, variant in read_table(archive, name).items():
                if variant not in variants:
                    raise UserError(f"{archive.path}: {name} has {variant!r}, which variants.txt lacks")
                path = f"data/images/{id_}.jpg"
                yield Photograph(id_, path, class_folder(variant), split, archive.file(path, name))

    def _resized(self, image: Image.Image) -> Image.Image:
        return super()._resized(image.crop((0, 0, image.width, max(1, image.height - BANNER))))
