"""ImageNet-1K (ILSVRC 2012): 1,281,167 training and 50,000 validation images of 1000 synsets.

O. Russakovsky et al.: "ImageNet Large Scale Visual Recognition Challenge", IJCV 2015. The test labels were
never published. Line n of the devkit's list is the label of validation image n.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from convnext_ablation.data.archives import Source, open_source, published_at
from convnext_ablation.data.official import Official, OfficialPhotographs, read_mat
from convnext_ablation.data.packed import find_pieces
from convnext_ablation.data.photographs import Photograph
from convnext_ablation.data.walk import skipped_by_name
from convnext_ablation.dataclass_options import option
from convnext_ablation.errors import UserError, in_one_line

# Kaggle's layout of ILSVRC: the folder of the splits, and the labels of its flat validation folder
_KAGGLE = "ILSVRC/Data/CLS-LOC"
_SOLUTION = "LOC_val_solution.csv"
_TRAINING = re.compile(r"(|.*/)train/n\d{8}/[^/]+$")
_SYNSET = re.compile(r"n\d{8}")
_VALIDATION = re.compile(r"ILSVRC2012_val_(\d{8})\.JPEG")


@dataclass(frozen=True)
class ImageNet(OfficialPhotographs):
    """ImageNet-1K with its options."""

    name = "imagenet"
    summary = "ImageNet-1K: photographs of 1000 synsets; train and val only"
    home = "https://image-net.org"
    splits = ("train", "val")
    # MD5 from torchvision.datasets.imagenet; the smallest archive first
    published = published_at(
        "",
        devkit=("ILSVRC2012_devkit_t12.tar.gz", "fa75699e90414af021442c21a62c3abf"),
        val=("ILSVRC2012_img_val.tar", "29b22e2961454d5413ddabcf34fc5622"),
        train=("ILSVRC2012_img_train.tar", "1d675b47d978889d74fa0da5fadfb00e"),
    )
    official = Official(1000, train=1_281_167, val=50_000)

    archives: Path | None = option(
        None,
        "folder of ILSVRC2012_img_train.tar, ILSVRC2012_img_val.tar and ILSVRC2012_devkit_t12.tar.gz; or of "
        "train/<synset> and val/<synset>; or Kaggle's download, with LOC_val_solution.csv",
        identity=False,
    )

    def sources(self) -> dict[str, Any]:
        """The folder of the archives or images."""
        return {"archives": self.archives}

    def listed(self, scratch: Path) -> list[Photograph]:
        """Returns all original images; their synsets come from the archives or folders."""
        assert self.archives is not None
        place = self.archives.expanduser()
        if place.is_file() or any((place / top / "train").is_dir() for top in ("", _KAGGLE)):
            return list(self._from_folder(open_source(place, scratch)))
        return list(_from_archives(self._find_archives(self.archives), scratch))

    def _find_archives(self, folder: Path) -> dict[str, Path]:
        found = {which: folder / published.file for which, published in self.published.items()}
        if missing := [path.name for path in found.values() if not path.is_file()]:
            what = f"{folder} has no {' and no '.join(missing)}"
            raise UserError(f"imagenet: {what}; name the folder of all with --archives")
        if not self.unofficial:
            for which, path in found.items():
                self.published[which].check(path)
        return found

    def _from_folder(self, source: Source) -> Iterator[Photograph]:
        tops = {match[1] for name in source if (match := _TRAINING.match(name))}
        top = min(tops, key=lambda each: (len(each), each), default="")
        solutions = (name for name in source if PurePosixPath(name).name == _SOLUTION)
        solution = min(solutions, key=len, default="")
        labels = _read_solution(source, solution) if solution else {}
        for name, piece in source.items():
            if name == solution:
                continue
            path = name.removeprefix(top)
            split, _, rest = path.partition("/")
            reason = skipped_by_name(name)
            if not reason and (not name.startswith(top) or split not in self.official.images):
                reason = "no label" if path.startswith("test/") else "outside of train and val"
            if reason:
                self.skipped[name] = reason
                continue
            synset, _, file = rest.rpartition("/")
            if not synset and split == "val":
                synset = labels.get(PurePosixPath(file).stem, "")
                if not synset:
                    what = f"{source.path / name} is in no folder <synset>, and no {_SOLUTION} has its label"
                    raise UserError(f"{what}; add that file, or sort the images into folders")
            if not _SYNSET.fullmatch(synset) or not file:
                raise UserError(f"{source.path / name} is not <split>/<synset>/<image>; move or remove it")
            yield Photograph(file, path, synset, split, piece)


def _from_archives(paths: dict[str, Path], scratch: Path) -> Iterator[Photograph]:
    devkit = open_source(paths["devkit"], scratch).below("data/meta.mat")
    synsets, labels = _read_synsets(devkit), _read_labels(devkit)
    for name, piece in find_pieces(paths["train"]).items():
        synset = name.removesuffix(".tar")
        if synset not in synsets.values():
            raise UserError(f"{paths['train']} holds {name}, which is no synset of the devkit; get it again")
        for file, image in find_pieces(paths["train"], within=piece).items():
            yield Photograph(file, f"train/{synset}/{file}", synset, "train", image)
    for file, image in find_pieces(paths["val"]).items():
        match = _VALIDATION.fullmatch(file)
        if match is None or not 1 <= int(match[1]) <= len(labels):
            raise UserError(f"{paths['val']} holds {file}, which the devkit has no label for; get it again")
        yield Photograph(file, f"val/{file}", synsets[labels[int(match[1]) - 1]], "val", image)


def _read_solution(source: Source, solution: str) -> dict[str, str]:
    """Reads the synset of each validation image, by id, from Kaggle's file."""
    labels: dict[str, str] = {}
    for row in csv.reader(source.text(solution).splitlines()):
        if row[:1] != ["ImageId"]:
            # a synset and a box per object; all objects share the synset
            synsets = set(row[1].split()[::5]) if len(row) == 2 else set()
            if len(synsets) != 1 or labels.setdefault(row[0], *synsets) not in synsets:
                line = ",".join(row)[:60]
                raise UserError(f"{source.path}: {solution} has the line {line!r}; get it again")
    return labels


def _read_synsets(devkit: Source) -> dict[int, str]:
    """Reads the synsets that are classes, by the devkit's ids."""
    (table,) = read_mat(devkit, "data/meta.mat", "synsets")
    with in_one_line(f"{devkit.path}: data/meta.mat has other columns (get it again)"):
        rows = zip(table["ILSVRC2012_ID"], table["WNID"], table["num_children"], strict=True)
        return {int(number): str(synset) for number, synset, children in rows if not children}


def _read_labels(devkit: Source) -> list[int]:
    name = "data/ILSVRC2012_validation_ground_truth.txt"
    with in_one_line(f"{devkit.path}: {name} is not a list of numbers (get it again)"):
        return list(map(int, devkit.text(name).split()))
