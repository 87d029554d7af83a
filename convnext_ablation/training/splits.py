"""The splits of a data set: opening them, leaving out broken images, and matching their classes."""

from __future__ import annotations

import io
import itertools
import os
from collections.abc import Container, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from timm.data import create_dataset

from convnext_ablation.data.class_names import by_name, listed, numbers_of, read_class_map
from convnext_ablation.data.folder import CLASSES, in_threads, natural_key
from convnext_ablation.data.layout import find_split, list_split, list_tar
from convnext_ablation.data.pictures import open_picture
from convnext_ablation.data.walk import Piece
from convnext_ablation.errors import UserError, in_one_line
from convnext_ablation.training.arguments import TrainingArguments
from convnext_ablation.training.distributed import Processes, SharedError
from convnext_ablation.training.images import Images, UnreadableImageError, is_missing, stored_labels

# data sets with random access, besides folders of images
_KINDS = ("hfds", "torch")
_NAMED = 3  # images named in the error of `leave_out_broken`


class FolderReader:
    """Images of a folder or tar, as found by `data.walk`, in timm's order.

    It has the interface of timm's readers, and the same samples where timm knows all extensions. Each folder
    with images is a class. Classes and images are in natural order, because augmentation depends on the
    index of an image.

    Args:
        root: The split's folder or tar.

    Attributes:
        samples: Path and class number of each image.
        class_to_idx: Number of each class.
        skipped: Reasons why other files are not read, by path relative to the folder.

    Raises:
        UserError: `walk` or `find_pieces` of `data` fails, or an image is in no class folder.
    """

    def __init__(self, root: Path) -> None:
        pieces: Mapping[str, Piece] = {}
        if root.is_dir():
            found = list_split(root, "")
        else:
            found, pieces = list_tar(root)
        found.check_classes(root)
        self.root, self.skipped, self._pieces = str(root), found.skipped, pieces
        classes = sorted(sorted(set(found.images.values())), key=natural_key)
        self.class_to_idx = {name: number for number, name in enumerate(classes)}
        paths = {os.path.join(self.root, below): below for below in found.images}
        self.samples = [
            (path, self.class_to_idx[found.images[paths[path]]]) for path in sorted(paths, key=natural_key)
        ]
        if not self.samples:
            raise UserError(f"{root}: there is no image in it")

    def __getitem__(self, index: int) -> tuple[BinaryIO, int]:
        """The open file of an image, and its class number."""
        path, target = self.samples[index]
        if self._pieces:
            return io.BytesIO(self._pieces[self.filename(index)].read()), target
        return open(path, "rb"), target

    def __len__(self) -> int:
        """Number of images."""
        return len(self.samples)

    def leave_out(self, indices: Container[int]) -> None:
        """Removes images; later ones move up, and class numbers stay."""
        self.samples = [sample for index, sample in enumerate(self.samples) if index not in indices]

    def filename(self, index: int) -> str:
        """Path of an image relative to the folder."""
        return os.path.relpath(self.samples[index][0], self.root)


def open_splits(arguments: TrainingArguments) -> dict[str, Images]:
    """Opens all splits of a run, so that errors appear early."""
    names = (arguments.train_split, *filter(None, (arguments.val_split, arguments.test_split)))
    splits = {name: open_split(arguments, name) for name in dict.fromkeys(names)}
    train = splits[arguments.train_split]
    for split in splits.values():
        if split.classes != train.classes and set(split.classes) == set(train.classes):
            split.number_by(numbers_of(train.classes), train.name, "fix the folders")
    if arguments.class_map and (unseen := train.unseen):
        raise UserError(
            f"{arguments.class_map}: of {listed(unseen)} there is no image in {train.name}; fix the map"
        )
    return splits


def open_split(arguments: TrainingArguments, split: str) -> Images:
    """Opens a split of the data set that the arguments name.

    Classes are numbered by `class_map` if given, else by the folder's ``classes.txt``, else by the data set.
    """
    reader, called = _create_reader(arguments, split)
    images = Images(reader, arguments.image_mode, called)
    if not len(images):
        raise UserError(f"{images.name}: there is no image in it")
    labels = stored_labels(reader)
    if missing := [number for number, label in enumerate(labels) if is_missing(label)]:
        raise UserError(
            f"{called}: {len(missing)} of {len(labels)} images have no label, such as number {missing[0]}; "
            "take a split with labels, or leave them out"
        )
    if path := _class_map(arguments, called):
        if not images.found:
            with in_one_line(f"{called}: its labels aren't those of classes"):
                images.found = by_name(((str(label), label) for label in set(labels)), called)
        images.number_by(read_class_map(path), str(path), "add them, or give another --class-map")
    elif not images.found and any(isinstance(label, str) for label in labels):
        raise UserError(f"{called}: its labels are strings; number them with --class-map")
    return images


def _class_map(arguments: TrainingArguments, called: str) -> Path | None:
    """The file that numbers classes, which keeps labels right if a split lacks a class."""
    if arguments.class_map:
        given = Path(arguments.class_map)
        return given if given.is_file() else Path(called, given)  # as in timm
    listed = Path(arguments.data_dir or "", CLASSES)
    return listed if not arguments.dataset and listed.is_file() else None


def _create_reader(arguments: TrainingArguments, split: str) -> tuple[Any, str]:
    """The reader of a split, and the split's name in messages."""
    root, name = arguments.data_dir, arguments.dataset
    kind = name.partition("/")[0].lower()
    if name and kind not in _KINDS:
        raise UserError(
            f"dataset is {name!r}; leave it out for a folder, or begin it with {'/ or '.join(_KINDS)}/; "
            "iterable data sets are for timm's train.py"
        )
    if root is None and kind != "hfds":
        raise UserError("no data are given; name their folder with --data-dir")
    input_key, called = arguments.input_key, f"{name} {split}"
    if root is not None and name in ("", "torch/image_folder", "torch/folder"):
        place = _split_folder(Path(root), split)
        root = called = str(place)
        if not name and not input_key and (place.is_dir() or place.suffix == ".tar"):
            return FolderReader(place), called
    with in_one_line(f"{name or root}: can't be read as the split {split!r}"):
        dataset = create_dataset(
            name,
            root=root,
            split=split,
            search_split=False,
            download=arguments.dataset_download,
            input_key=input_key,
            target_key=arguments.target_key,
            trust_remote_code=arguments.dataset_trust_remote_code,
        )
    if hasattr(dataset, "loader"):  # torchvision's own loader opens any format
        dataset.loader = open_picture
    return getattr(dataset, "reader", dataset), called


def _split_folder(root: Path, split: str) -> Path:
    """The folder or tar of a split; never its parent, which timm falls back to."""
    if not root.exists():
        raise UserError(f"{root}: no such folder; name that of the data with --data-dir")
    if not split or root.is_file():
        return root
    if place := find_split(root, split):
        return place
    there = sorted(path.name for path in root.iterdir() if not path.name.startswith("."))
    raise UserError(
        f"{root / split}: no such folder; the data need one for the split {split!r} "
        f"(there: {', '.join(there[:8]) or 'nothing'})"
    )


def count_classes(arguments: TrainingArguments, splits: dict[str, Images]) -> int:
    """Number of classes of the network; refuses splits with different classes."""
    train = splits[arguments.train_split]
    for name, split in splits.items():
        if split.classes and train.classes and split.classes != train.classes:
            odd = sorted(set(split.classes) ^ set(train.classes))[:3]
            raise UserError(
                f"{split.name}: its classes are not those of {train.name} (such as {', '.join(odd)}); each "
                f"split is numbered by itself, so the labels of {name} would be wrong; fix the folders or "
                "give --class-map"
            )
    known, given = len(train.classes), arguments.num_classes
    if given is None and not known:
        raise UserError(f"{arguments.dataset} doesn't say its number of classes; give --num-classes")
    if known and given not in (None, known):
        where = arguments.data_dir or arguments.dataset
        raise UserError(
            f"{where} has {known} classes, but num_classes is {given}; give --num-classes {known}"
        )
    return given or known


def number_as_trained(images: Images, names: Sequence[str], head: int, class_map: str, whose: str) -> None:
    """Numbers a split's classes by name, as in a trained network.

    Args:
        images: The split.
        names: The network's class names in the order of their numbers; empty if unknown.
        head: Number of the network's classes.
        class_map: The file that numbered the split's classes, if given; it overrides `names`.
        whose: Source of the names, for messages.

    Raises:
        UserError: The network lacks a class, or its names are unknown and it has fewer or more classes.
    """
    known, numbers = len(images.classes), numbers_of(names)
    if not class_map and names:
        images.number_by(numbers, whose, "rename the folder, or give --class-map")
        return
    odd = [name for number, name in enumerate(images.classes) if numbers.get(name, number) != number]
    if odd:
        raise UserError(f"{class_map}: {whose} numbers {listed(odd)} differently; leave --class-map out")
    if known > head or (0 < known < head and not class_map):
        raise UserError(
            f"{images.name}: has {known} classes and the network {head}, whose names aren't known; number "
            "them as in its training with --class-map"
        )


def leave_out_broken(
    splits: Iterable[Images], arguments: TrainingArguments, processes: Processes
) -> dict[str, str]:
    """Leaves out images that can't be decoded, up to `skip_bad_images` over all splits.

    All processes must call this together; they share the decoding of all images. Results are as if the folder
    had never held the broken images, except that class numbers stay.

    Returns:
        Reasons by path relative to `data_dir`. If `skip_bad_images` is 0, empty, and nothing is decoded.

    Raises:
        SharedError: There are more, a split isn't a folder of images, or all its images are broken.
    """
    most = arguments.skip_bad_images
    if not most:
        return {}
    splits = list(splits)
    for images in splits:
        if not isinstance(images.reader, FolderReader):
            raise SharedError(
                f"skip_bad_images is {most}, and {images.name} is not a folder of images; leave it out"
            )
    every = [(images, index) for images in splits for index in range(len(images))]
    mine = range(processes.rank, len(every), processes.world_size)

    def why_broken(position: int) -> str:
        images, index = every[position]
        try:
            images.load(index)
        except UnreadableImageError as error:
            cause = error.__cause__
            return " ".join(str(cause).split()) or type(cause).__name__
        return ""

    def look() -> dict[int, str]:
        threads, quiet = max(1, arguments.workers), not processes.is_first
        reasons = in_threads(why_broken, mine, "decoding images", threads, quiet)
        broken = ((position, why) for position, why in zip(mine, reasons, strict=True) if why)
        return dict(itertools.islice(broken, most + 1))  # enough to report the first of all

    found = itertools.chain.from_iterable(part.items() for part in processes.gather(processes.together(look)))
    broken = [(*every[position], why) for position, why in sorted(found)]
    root = arguments.data_dir or ""
    paths = {
        os.path.relpath(os.path.join(images.name, images.id(index)), root): why
        for images, index, why in broken
    }
    if len(broken) > most:
        first = ", ".join(f"{path} ({why})" for path, why in itertools.islice(paths.items(), _NAMED))
        more = ", ..." if len(paths) > _NAMED else ""
        raise SharedError(
            f"{root}: more than {most} of {len(every)} images can't be decoded: {first}{more}; fix or "
            "remove them, or give a larger --skip-bad-images"
        )
    for images in splits:
        images.leave_out({index: why for whose, index, why in broken if whose is images})
        if not len(images):
            raise SharedError(f"{images.name}: none of its images can be decoded; fix them")
    return paths
