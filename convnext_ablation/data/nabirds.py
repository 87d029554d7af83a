"""NABirds: 48,562 photographs of 555 visual categories of North American birds.

G. Van Horn et al.: "Building a bird recognition app and large scale dataset with citizen scientists", CVPR
2015; home: https://dl.allaboutbirds.org/nabirds, where one accepts the terms of use. The official split has
23,929 images to train on and 24,633 to test; validation images are held out of the former. The lists are
CUB-200-2011's, with the number of a class in four digits as its folder. ``classes.txt`` names all nodes of a
hierarchy, and some names twice: the 555 that have images are the classes, called by number and name, such as
``0817.Oak Titmouse``. The MD5 of the archive is that of several public repositories' ``NABirds``.

Whether its photographs are in ImageNet, too, is unknown.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from convnext_ablation.data.archives import Published
from convnext_ablation.data.cub200 import CUB200
from convnext_ablation.data.own import class_folder
from convnext_ablation.dataclass_options import option


@dataclass(frozen=True)
class NABirds(CUB200):
    """The set as its options give it."""

    name: ClassVar[str] = "nabirds"
    summary: ClassVar[str] = "NABirds: photographs of 555 visual categories of birds"
    home: ClassVar[str] = "https://dl.allaboutbirds.org/nabirds"
    published: ClassVar[Mapping[str, Published]] = {
        "archive": Published(
            "nabirds.tar.gz", "", "df21a9e4db349a14e2b08adfd45873bd", "md5", unpacked="nabirds"
        )
    }
    official: ClassVar[Mapping[str, int]] = {"train": 23_929, "test": 24_633}
    classes: ClassVar[int] = 555

    val: int = option(3, "validation images per class, held out of the official training images")
    archive: Path | None = option(None, "nabirds.tar.gz, or a folder where it is unpacked", identity=False)

    def folder_and_class(self, label: str, names: Mapping[str, str]) -> tuple[str, str]:
        """The folder that images of a class are in, and what the class is called; empty if it is unknown."""
        folder = f"{label:0>4}"
        return (folder, class_folder(f"{folder}.{names[label]}")) if label in names else ("", "")
