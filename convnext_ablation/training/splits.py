"""The splits of a data set: where they are, and that they have the same classes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from timm.data import create_dataset

from convnext_ablation.data.class_names import by_name, listed, numbers_of, read_class_map
from convnext_ablation.data.folder import CLASSES, SPLIT_OF, SYNONYMS
from convnext_ablation.data.pictures import open_picture
from convnext_ablation.errors import UserError, in_one_line
from convnext_ablation.training.arguments import TrainingArguments
from convnext_ablation.training.folder_reader import FolderReader
from convnext_ablation.training.images import Images, is_missing

# kinds of data sets besides folders of images whose images can be read in any order
_KINDS = ("hfds", "torch")


def open_splits(arguments: TrainingArguments) -> dict[str, Images]:
    """Opens all splits that the run will read, before anything long starts."""
    names = (arguments.train_split, *filter(None, (arguments.val_split, arguments.test_split)))
    splits = {name: open_split(arguments, name) for name in dict.fromkeys(names)}
    train = splits[arguments.train_split]
    for split in splits.values():
        if split.classes != train.classes and set(split.classes) == set(train.classes):
            split.number_by(numbers_of(train.classes), train.name, "mend the folders")
    if arguments.class_map and (unseen := train.unseen):
        raise UserError(
            f"{arguments.class_map}: of {listed(unseen)} there is no image in {train.name}; mend the map"
        )
    return splits


def open_split(arguments: TrainingArguments, split: str) -> Images:
    """Opens a split of the data set that the arguments name.

    Its classes are numbered by `class_map`, else by the folder's ``classes.txt``, else by the data set.
    """
    reader, called = _create_reader(arguments, split)
    images = Images(reader, arguments.image_mode, called)
    if not len(images):
        raise UserError(f"{images.name}: there is no image in it")
    labels = _labels(reader)
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
        raise UserError(f"{called}: its labels are words; number them with --class-map")
    return images


def _class_map(arguments: TrainingArguments, called: str) -> Path | None:
    """The file that numbers classes, so that one without images in a split shifts no label."""
    if arguments.class_map:
        given = Path(arguments.class_map)
        return given if given.is_file() else Path(called, given)  # where timm looks, too
    listed = Path(arguments.data_dir or "", CLASSES)
    return listed if not arguments.dataset and listed.is_file() else None


def _create_reader(arguments: TrainingArguments, split: str) -> tuple[Any, str]:
    """What lists and opens the images of a split, and what it is called in messages."""
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
        if not name and not input_key and place.is_dir():
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
    if hasattr(dataset, "loader"):  # torchvision's own opens any format
        dataset.loader = open_picture
    return getattr(dataset, "reader", dataset), called


def _labels(reader: Any) -> list[Any]:
    """The labels as they are stored, as far as they can be read without the images."""
    rows: Any = getattr(reader, "dataset", None)
    column = getattr(reader, "label_key", None)
    if column in getattr(rows, "column_names", ()):
        return list(rows.select_columns(column)[:][column])
    targets = getattr(reader, "targets", ())
    return list(targets.tolist() if hasattr(targets, "tolist") else targets)


def _split_folder(root: Path, split: str) -> Path:
    """The folder or tar of a split; never the folder above, which timm takes if there is none."""
    if not root.exists():
        raise UserError(f"{root}: no such folder; name that of the data with --data-dir")
    if not split or root.is_file():
        return root
    there = sorted(path.name for path in root.iterdir() if not path.name.startswith("."))
    folded = {name.lower(): name for name in there}
    synonyms = (split, *SYNONYMS.get(SPLIT_OF.get(split.lower(), ""), ()))
    names = [each for name in synonyms for each in (name, f"{name}.tar")]
    for name in (*names, *(folded.get(name.lower(), "") for name in names)):  # in any case if not in this
        if name and (root / name).exists():
            return root / name
    raise UserError(
        f"{root / split}: no such folder; the data need one for the split {split!r} "
        f"(there: {', '.join(there[:8]) or 'nothing'})"
    )


def count_classes(arguments: TrainingArguments, splits: dict[str, Images]) -> int:
    """How many classes the network gets."""
    train = splits[arguments.train_split]
    for name, split in splits.items():
        if split.classes and train.classes and split.classes != train.classes:
            odd = sorted(set(split.classes) ^ set(train.classes))[:3]
            raise UserError(
                f"{split.name}: its classes are not those of {train.name} (such as {', '.join(odd)}); each "
                f"split is numbered by itself, so the labels of {name} would be wrong; mend the folders or "
                "give --class-map"
            )
    known, given = len(train.classes), arguments.num_classes
    if given is None and not known:
        raise UserError(f"{arguments.dataset} doesn't tell its classes; give --num-classes")
    if given is not None and given < known:
        where = arguments.data_dir or arguments.dataset
        raise UserError(f"{where} has {known} classes, but num_classes is {given}")
    return known if given is None else given


def number_as_trained(images: Images, names: Sequence[str], head: int, class_map: str, whose: str) -> None:
    """Numbers the classes of a split as those of a trained network, by their names.

    Args:
        images: The split.
        names: The network's classes in the order of their numbers; empty if they aren't known.
        head: How many it has.
        class_map: The file that has numbered the split's classes, if one is given; it goes before `names`.
        whose: What the names are from, for messages.

    Raises:
        UserError: The network lacks a class, or only how many it has is known, and the split has others.
    """
    known, numbers = len(images.classes), numbers_of(names)
    if not class_map and names:
        images.number_by(numbers, whose, "rename the folder, or give --class-map")
        return
    odd = [name for number, name in enumerate(images.classes) if numbers.get(name, number) != number]
    if odd:
        raise UserError(f"{class_map}: {whose} numbers {listed(odd)} otherwise; leave --class-map out")
    if known > head or (0 < known < head and not class_map):
        raise UserError(
            f"{images.name}: has {known} classes and the network {head}, whose names aren't known; number "
            "them as in its training with --class-map"
        )
