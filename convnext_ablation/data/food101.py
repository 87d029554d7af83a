"""Food-101: 101,000 photographs of 101 dishes.

L. Bossard, M. Guillaumin, L. Van Gool: "Food-101 - Mining Discriminative Components with Random Forests",
ECCV 2014. The official split has 750 training and 250 test images per class; only the test images were
reviewed. The layout is that of torchvision's ``Food101``. The SHA-256 is from TensorFlow Datasets
(url_checksums/food101.txt).
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass

from convnext_ablation.data.archives import Source, published_at
from convnext_ablation.data.official import HeldOut, Official
from convnext_ablation.data.photographs import Photograph
from convnext_ablation.dataclass_options import option
from convnext_ablation.errors import UserError, in_one_line


@dataclass(frozen=True)
class Food101(HeldOut):
    """Food-101 with its options."""

    name = "food101"
    summary = "Food-101: photographs of 101 dishes"
    home = "https://data.vision.ee.ethz.ch/cvl/datasets_extra/food-101/"
    published = published_at(
        "http://data.vision.ee.ethz.ch/cvl/",
        archive=("food-101.tar.gz", "d97d15e438b7f4498f96086a4f7e2fa42a32f2712e87d3295441b2b6314053a4"),
    )
    official = Official(101, train=75_750, test=25_250)

    val: int = option(75, "validation images per class, held out of the official training images")

    def joined(self, archive: Source) -> Iterator[Photograph]:
        """Yields all original images, by the names in ``meta/<split>.json``."""
        for split in self.official.images:
            name = f"meta/{split}.json"
            text = archive.text(name)
            with in_one_line(f"{archive.path}: {name} is no JSON of names by class (get it again)"):
                listed = dict(json.loads(text)).items()
                rows = [(class_name, str(id_)) for class_name, ids in listed for id_ in ids]
            for class_name, id_ in rows:
                if id_.rpartition("/")[0] != class_name:
                    raise UserError(f"{archive.path}: {name} has {id_} in {class_name}; get it again")
                path = f"images/{id_}.jpg"
                yield Photograph(id_, path, class_name, split, archive.file(path, name))
