"""The splits of a data set: where they are, and that they have the same classes."""

from __future__ import annotations

from pathlib import Path

from timm.data import create_reader, get_img_extensions

from convnext_ablation.data.folder import CLASSES, IMAGE_EXTENSIONS, SPLIT_OF, SYNONYMS
from convnext_ablation.errors import UserError, in_one_line
from convnext_ablation.training.arguments import TrainingArguments
from convnext_ablation.training.images import Images


def open_splits(arguments: TrainingArguments) -> dict[str, Images]:
    """Opens all splits that the run will read, before anything long starts."""
    names = (arguments.train_split, *filter(None, (arguments.val_split, arguments.test_split)))
    return {name: open_split(arguments, name) for name in dict.fromkeys(names)}


def open_split(arguments: TrainingArguments, split: str) -> Images:
    """Opens a split of the data set that the arguments name."""
    if arguments.data_dir is None:
        raise UserError("no data are given; name their folder with --data-dir")
    root = Path(arguments.data_dir)
    place = _split_folder(root, split)
    # timm's own endings of images leave .webp out; in a tar there is no choice
    endings = ";".join(dict.fromkeys((*get_img_extensions(), *IMAGE_EXTENSIONS)))
    options = {"input_key": endings} if place.is_dir() else {}
    class_map = arguments.class_map or _class_list(root, place)
    with in_one_line(f"{place}: can't be read as the split {split!r}"):
        reader = create_reader("", root=str(place), class_map=class_map, **options)
    images = Images(reader, "RGB" if arguments.channels == 3 else "L", str(place))
    if not len(images):
        raise UserError(f"{images.name}: there is no image in it")
    return images


def _class_list(root: Path, folder: Path) -> str:
    """The data set's file of all classes, so that one without images in a split shifts no label; or ''."""
    path = root / CLASSES
    if not path.is_file() or not folder.is_dir():
        return ""
    listed = {line.strip() for line in path.read_text(encoding="utf-8").splitlines()}
    for entry in sorted(folder.iterdir()):
        if entry.is_dir() and not entry.name.startswith(".") and entry.name not in listed:
            raise UserError(
                f"{path}: lacks the class {entry.name!r}, whose images are in {folder}; add it, or give "
                "--class-map"
            )
    return str(path)


def _split_folder(root: Path, split: str) -> Path:
    """The folder or tar of a split; never the folder above, which timm takes if there is none."""
    if not root.exists():
        raise UserError(f"{root}: no such folder; name that of the data with --data-dir")
    if not split or root.is_file():
        return root
    for name in (split, *SYNONYMS.get(SPLIT_OF.get(split, ""), ())):
        for path in (root / name, root / f"{name}.tar"):
            if path.exists():
                return path
    there = sorted(path.name for path in root.iterdir() if not path.name.startswith("."))
    raise UserError(
        f"{root / split}: no such folder; the data need one for the split {split!r} "
        f"(there: {', '.join(there[:8]) or 'nothing'})"
    )


def count_classes(arguments: TrainingArguments, splits: dict[str, Images]) -> int:
    """How many classes the network gets."""
    train = splits[arguments.train_split]
    for name, split in splits.items():
        if split.classes != train.classes:
            odd = sorted(set(split.classes) ^ set(train.classes))[:3]
            raise UserError(
                f"{split.name}: its classes are not those of {train.name} (such as {', '.join(odd)}); each "
                f"split is numbered by itself, so the labels of {name} would be wrong; mend the folders or "
                "give --class-map"
            )
    known, given = len(train.classes), arguments.num_classes
    if given is not None and given < known:
        raise UserError(f"{arguments.data_dir} has {known} classes, but num_classes is {given}")
    return known if given is None else given
