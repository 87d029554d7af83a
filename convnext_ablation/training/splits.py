"""The splits of a data set: where they are, and that they have the same classes."""

from __future__ import annotations

from pathlib import Path

from PIL import ImageMode
from timm.data import create_dataset, get_img_extensions

from convnext_ablation.data.folder import CLASSES, IMAGE_EXTENSIONS, SPLIT_OF, SYNONYMS
from convnext_ablation.data.pictures import open_picture
from convnext_ablation.errors import UserError, in_one_line
from convnext_ablation.training.arguments import TrainingArguments
from convnext_ablation.training.images import Images

# kinds of data sets besides folders of images whose images can be read in any order
_KINDS = ("hfds", "torch")


def open_splits(arguments: TrainingArguments) -> dict[str, Images]:
    """Opens all splits that the run will read, before anything long starts."""
    names = (arguments.train_split, *filter(None, (arguments.val_split, arguments.test_split)))
    return {name: open_split(arguments, name) for name in dict.fromkeys(names)}


def open_split(arguments: TrainingArguments, split: str) -> Images:
    """Opens a split of the data set that the arguments name."""
    root, name = arguments.data_dir, arguments.dataset
    kind = name.partition("/")[0].lower()
    if name and kind not in _KINDS:
        raise UserError(
            f"dataset is {name!r}; leave it out for a folder, or begin it with {'/ or '.join(_KINDS)}/; "
            "iterable data sets are for timm's train.py"
        )
    if root is None and kind != "hfds":
        raise UserError("no data are given; name their folder with --data-dir")
    class_map, input_key, called = arguments.class_map, arguments.input_key, f"{name} {split}"
    if root is not None and name in ("", "torch/image_folder", "torch/folder"):
        place = _split_folder(Path(root), split)
        if not name:
            class_map = class_map or _class_list(Path(root), place)
        if not name and not input_key and place.is_dir():
            # timm's own endings of images leave .webp out; in a tar there is no choice
            input_key = ";".join(dict.fromkeys((*get_img_extensions(), *IMAGE_EXTENSIONS)))
        root = called = str(place)
    with in_one_line(f"{name or root}: can't be read as the split {split!r}"):
        if len(ImageMode.getmode(mode := arguments.image_mode).bands) != arguments.channels:
            raise ValueError(f"input_img_mode {mode} has not {arguments.channels} channels; give another one")
        dataset = create_dataset(
            name,
            root=root,
            split=split,
            search_split=False,
            class_map=class_map,
            download=arguments.dataset_download,
            input_key=input_key,
            target_key=arguments.target_key,
            trust_remote_code=arguments.dataset_trust_remote_code,
        )
    if hasattr(dataset, "loader"):  # torchvision's own opens any format
        dataset.loader = open_picture
    images = Images(getattr(dataset, "reader", dataset), mode, called)
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
