"""Small archives in the official layouts of CUB-200-2011, Stanford Dogs and ImageNet, odd cases included."""

from __future__ import annotations

import io
import json
import tarfile

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from convnext_ablation.data.prepare import prepare
from convnext_ablation.errors import UserError

# As in the official lists, the ids follow neither the order of the lines nor that of the files' names. One
# species has a single image in train, so none to hold out, and a name that isn't ASCII.
BIRDS = {
    # id: (class, file, training image, box)
    7: (1, "Black_Footed_Albatross_0046_18.jpg", True, "10.0 5.0 30.0 20.0"),
    3: (1, "Black_Footed_Albatross_0009_34.jpg", False, "0.0 0.0 48.0 36.0"),
    12: (1, "Black_Footed_Albatross_0002_55.jpg", True, "1.4 2.6 20.2 30.1"),
    1: (2, "Laysan_Albatross_0104_630.jpg", True, "4.0 4.0 10.0 10.0"),
    9: (2, "Laysan_Albatross_0003_1033.jpg", True, "4.0 4.0 10.0 10.0"),
    2: (2, "Laysan_Albatross_0082_524.jpg", False, "4.0 4.0 60.0 60.0"),
    10: (10, "Guêpier_0001_1.jpg", True, "4.0 4.0 10.0 10.0"),
    4: (10, "Guêpier_0002_2.jpg", False, "4.0 4.0 10.0 10.0"),
}
SPECIES = {1: "001.Black_footed_Albatross", 2: "002.Laysan_Albatross", 10: "010.Guêpier"}
MODES = {3: "L", 9: "CMYK"}
SIZE = (48, 36)

BREEDS = ("n02085620-Chihuahua", "n02085782-Japanese_spaniel")
DOGS = {  # in the order of the lists, which is not that of the names
    "train": [
        ("n02085782-Japanese_spaniel/n02085782_2874.jpg", 2),
        ("n02085620-Chihuahua/n02085620_5927.jpg", 1),
        ("n02085620-Chihuahua/n02085620_4441.jpg", 1),
        ("n02085782-Japanese_spaniel/n02085782_1.jpg", 2),
        ("n02085782-Japanese_spaniel/n02085782_17.jpg", 2),
    ],
    "test": [
        ("n02085620-Chihuahua/n02085620_2650.jpg", 1),
        ("n02085782-Japanese_spaniel/n02085782_962.jpg", 2),
        ("n02085620-Chihuahua/n02085620_10074.jpg", 1),
    ],
}


def jpeg(seed: int, mode: str = "RGB", size: tuple[int, int] = SIZE) -> bytes:
    """A photograph of its own for each seed."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (5, 6, 3), np.uint8))
    file = io.BytesIO()
    coarse.resize(size, Image.Resampling.BICUBIC).convert(mode).save(file, "jpeg", quality=90)
    return file.getvalue()


def bird_path(id_: int) -> str:
    label, name, _, _ = BIRDS[id_]
    return f"{SPECIES[label]}/{name}"


def bird_files() -> dict[str, bytes]:
    """Files of `CUB_200_2011.tgz` by their paths."""
    top = "CUB_200_2011"
    lists = {
        "images.txt": "".join(f"{id_} {bird_path(id_)}\n" for id_ in BIRDS),
        "image_class_labels.txt": "".join(f"{id_} {BIRDS[id_][0]}\n" for id_ in sorted(BIRDS)),
        "train_test_split.txt": "".join(f"{id_} {BIRDS[id_][2]:d}\n" for id_ in sorted(BIRDS, reverse=True)),
        "bounding_boxes.txt": "".join(f"{id_} {BIRDS[id_][3]}\n" for id_ in BIRDS),
        "classes.txt": "".join(f"{label} {name}\n" for label, name in SPECIES.items()),
        "attributes/class_attribute_labels_continuous.txt": "0.5 0.5\n" * 50,
    }
    files = {f"{top}/{name}": text.encode() for name, text in lists.items()}
    files["attributes.txt"] = b"1 has_bill_shape::curved\n"
    for id_ in BIRDS:
        files[f"{top}/images/{bird_path(id_)}"] = jpeg(id_, MODES.get(id_, "RGB"))
    return files


def dog_files() -> dict[str, dict[str, bytes]]:
    """Files of `images.tar`, `lists.tar` and `annotation.tar`."""
    paths = [path for split in DOGS.values() for path, _ in split]
    images = {f"Images/{path}": jpeg(index) for index, path in enumerate(paths)}
    lists = {f"{split}_list.mat": dog_list(rows) for split, rows in DOGS.items()}
    boxes = "".join(
        f"<object><bndbox><xmin>{x}</xmin><ymin>3</ymin><xmax>{x + 8}</xmax><ymax>30</ymax></bndbox></object>"
        for x in (5, 25)
    )
    annotation = f"<annotation>{boxes}</annotation>".encode()
    annotations = {f"Annotation/{path.removesuffix('.jpg')}": annotation for path in paths}
    return {"images": images, "lists": lists, "annotations": annotations}


def dog_list(rows) -> bytes:
    """A list as MATLAB writes it: cells of strings, and a column of labels."""
    cells = np.empty((len(rows), 1), object)
    cells[:, 0] = [path for path, _ in rows]
    file = io.BytesIO()
    savemat(file, {"file_list": cells, "labels": np.array([[label] for _, label in rows], np.uint8)})
    return file.getvalue()


def encoded(dataset, key) -> bytes:
    """What a data set would write for one image."""
    file = io.BytesIO()
    dataset.encode(key, file)
    return file.getvalue()


def contents(folder) -> dict[str, bytes]:
    """All files of a prepared folder, but for the note that it was checked."""
    paths = [path for path in sorted(folder.glob("**/*")) if path.is_file() and path.name != ".checked"]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


def but_for_originals(folder):
    """All that a prepared folder holds, but for which files its images were made from."""
    files = contents(folder)
    description = json.loads(files.pop("dataset.json"))
    description.pop("originals", None)
    return files, description


def refused(name, tmp_path, message, **options):
    """Checks that a data set is refused in one line, and that nothing is left or touched."""
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    with pytest.raises(UserError, match=message) as caught:
        prepare(name, tmp_path / "out", **options)
    assert "\n" not in str(caught.value)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


def write_tar(path, files, mode="w", extra=(), fileobj=None):
    """Writes a tar; `extra` are further members, as `tarfile` describes them, with their content."""
    with tarfile.open(path, mode, fileobj) as archive:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
        for info, data in extra:
            archive.addfile(info, io.BytesIO(data))
    return path


def write_folder(folder, files):
    """Writes what an archive unpacks to."""
    for name, data in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return folder


SYNSETS = ("n01440764", "n01443537")
# numbers of the devkit, which are not the order of the synsets; the third is no class
DEVKIT = [(1, "n01443537", 0), (2, "n01440764", 0), (1001, "n00001740", 2)]
VALIDATION_LABELS = (2, 1, 1, 2)


def imagenet_files() -> dict[str, dict[str, bytes]]:
    """Files of the three archives, a tar a synset in the first."""
    train = {}
    for index, synset in enumerate(SYNSETS):
        images = {f"{synset}_{number}.JPEG": jpeg(10 * index + number) for number in (10026, 4, 7)}
        file = io.BytesIO()
        write_tar(None, images, fileobj=file)
        train[f"{synset}.tar"] = file.getvalue()
    val = {f"ILSVRC2012_val_{number:08d}.JPEG": jpeg(100 + number) for number in (3, 1, 4, 2)}
    kinds = [("ILSVRC2012_ID", "float64"), ("WNID", "O"), ("num_children", "float64")]
    file = io.BytesIO()
    savemat(file, {"synsets": np.array(DEVKIT, kinds)})
    top = "ILSVRC2012_devkit_t12/data"
    labels = "".join(f"{label}\n" for label in VALIDATION_LABELS).encode()
    devkit = {f"{top}/meta.mat": file.getvalue(), f"{top}/ILSVRC2012_validation_ground_truth.txt": labels}
    return {"train": train, "val": val, "devkit": devkit}


def write_imagenet(folder, files=None):
    """Writes the three archives into a folder."""
    files = files or imagenet_files()
    write_tar(folder / "ILSVRC2012_img_train.tar", files["train"])
    write_tar(folder / "ILSVRC2012_img_val.tar", files["val"])
    write_tar(folder / "ILSVRC2012_devkit_t12.tar.gz", files["devkit"], "w:gz")
    return folder
