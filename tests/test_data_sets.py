"""Data sets from miniature archives in their official layout, compared with torchvision's parsers."""

import io
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from official_archives import (
    BIRDS,
    DOGS,
    bird_files,
    bird_path,
    but_for_originals,
    dog_files,
    dog_list,
    jpeg,
    refused,
    write_folder,
    write_tar,
)
from PIL import Image
from scipy.io import savemat
from torchvision import datasets

from convnext_ablation.data.folder import read_manifest
from convnext_ablation.data.prepare import DATASETS, as_published, prepare
from convnext_ablation.errors import UserError
from convnext_ablation.training.settings import read_recipe

DOCUMENTATION = Path(__file__).parents[1] / "docs" / "data.md"

# As in the official lists, neither lines nor ids are in the order of classes or files.


def aircraft():
    lists = {
        "train": {"1025794": "F/A-18", "0056978": "707-320", "0698580": "707-320"},
        "val": {"0450014": "F/A-18", "1042824": "707-320"},
        "test": {"0894380": "707-320", "0004380": "F/A-18"},
    }
    top = "fgvc-aircraft-2013b/data"
    files = {f"{top}/variants.txt": b"F/A-18\n707-320\n"}
    for split, rows in lists.items():
        text = "".join(f"{id_} {variant}\n" for id_, variant in rows.items())
        files[f"{top}/images_variant_{split}.txt"] = text.encode()
        files |= {f"{top}/images/{id_}.jpg": jpeg(int(id_)) for id_ in rows}
    return {"fgvc-aircraft-2013b.tar.gz": files}


def food():
    lists = {
        "train": {"waffles": [1005, 7, 12], "apple_pie": [88, 1005]},
        "test": {"apple_pie": [1011], "waffles": [3, 1000]},
    }
    files = {}
    for split, classes in lists.items():
        ids = {name: [f"{name}/{number}" for number in numbers] for name, numbers in classes.items()}
        files[f"food-101/meta/{split}.json"] = json.dumps(ids).encode()
        for at, id_ in enumerate(id_ for each in ids.values() for id_ in each):
            files[f"food-101/images/{id_}.jpg"] = jpeg(at)
    return {"food-101.tar.gz": files}


def mat(zipped=False, **variables):
    file = io.BytesIO()
    savemat(file, variables, do_compression=zipped)
    return file.getvalue()


def cells(values):
    """A row of MATLAB's cells."""
    row = np.empty((1, len(values)), object)
    row[0] = values
    return row


MODELS = ["AM General Hummer SUV 2000", "Ram C/V Cargo Van Minivan 2012"]
CARS = {
    "train": [("00003.jpg", 2), ("00001.jpg", 1), ("00002.jpg", 2), ("00004.jpg", 1)],
    "test": [("00002.jpg", 1), ("00001.jpg", 2)],
}


def cars():
    def rows(split):
        return np.array(
            [(30.0, 2.0, 40.0, 20.0, label, file) for file, label in CARS[split]],
            [
                *((f"bbox_{corner}", "f8") for corner in ("x1", "y1", "x2", "y2")),
                ("class", "u1"),
                ("fname", "O"),
            ],
        )

    devkit = {
        "devkit/cars_meta.mat": mat(class_names=cells(MODELS)),
        "devkit/cars_train_annos.mat": mat(annotations=rows("train")),
    }
    images = {
        f"cars_{split}.tgz": {f"cars_{split}/{file}": jpeg(at) for at, (file, _) in enumerate(listed)}
        for split, listed in CARS.items()
    }
    labels = "cars_test_annos_withlabels.mat"
    return {"car_devkit.tgz": devkit, labels: {labels: mat(annotations=rows("test"))}, **images}


def flowers():
    labels = {1: 77, 2: 5, 3: 5, 4: 77, 5: 77, 6: 5}
    images = {f"jpg/image_{number:05d}.jpg": jpeg(number) for number in labels}
    splits = mat(trnid=[[6, 1]], valid=[[4, 3]], tstid=[[5, 2]])
    return {
        "102flowers.tgz": images,
        "setid.mat": {"setid.mat": splits},
        "imagelabels.mat": {"imagelabels.mat": mat(labels=[list(labels.values())])},
    }


def pets():
    lists = {
        "trainval": {"great_pyrenees_103": "2 2 1", "Abyssinian_100": "1 1 1", "Abyssinian_7": "1 1 1",
                     "great_pyrenees_1": "2 2 1"},
        "test": {"Abyssinian_201": "1 1 1", "great_pyrenees_20": "2 2 1"},
    }  # fmt: skip
    names = {f"annotations/{name}.txt": rows for name, rows in lists.items()}
    annotations = {
        name: "".join(f"{id_} {numbers}\n" for id_, numbers in rows.items()).encode()
        for name, rows in names.items()
    }
    annotations["annotations/trimaps/Abyssinian_100.png"] = b"a mask"
    ids = ["Abyssinian_999", *(id_ for rows in lists.values() for id_ in rows)]  # the first is in no list
    images = {f"images/{id_}.jpg": jpeg(at) for at, id_ in enumerate(ids)}
    return {"annotations.tar.gz": annotations, "images.tar.gz": images}


NA_BIRDS = {  # id: class, training image
    "ff3a": (817, 1), "001b": (2, 0), "c03d": (817, 0), "0a4e": (2, 1), "77aa": (2, 1), "8eb0": (817, 1),
}  # fmt: skip


def nabirds():
    lists = {
        "images.txt": {id_: f"{label:04d}/{id_}.jpg" for id_, (label, _) in NA_BIRDS.items()},
        "image_class_labels.txt": {id_: label for id_, (label, _) in reversed(NA_BIRDS.items())},
        "train_test_split.txt": {id_: training for id_, (_, training) in sorted(NA_BIRDS.items())},
        "bounding_boxes.txt": dict.fromkeys(NA_BIRDS, "4 4 30 20"),
        "classes.txt": {0: "Birds", 2: "Oak Titmouse", 817: "Oak Titmouse"},
        "hierarchy.txt": {2: 0, 817: 0},
    }
    texts = {name: "".join(f"{id_} {value}\n" for id_, value in rows.items()) for name, rows in lists.items()}
    files = {f"nabirds/{name}": text.encode() for name, text in texts.items()}
    for at, path in enumerate(lists["images.txt"].values()):
        files[f"nabirds/images/{path}"] = jpeg(at)
    return {"nabirds.tar.gz": files}


def birds():
    return {"CUB_200_2011.tgz": bird_files()}


def dogs():
    files = dog_files()
    return {
        "images.tar": files["images"],
        "lists.tar": files["lists"],
        "annotation.tar": files["annotations"],
    }


def underscored(name):
    return name.replace("/", "_")


ARCHIVES = {
    "fgvc-aircraft": aircraft, "food101": food, "flowers102": flowers, "oxford-pets": pets,
    "stanford-cars": cars, "nabirds": nabirds, "cub200": birds, "stanford-dogs": dogs,
}  # fmt: skip


def write_archives(name, folder):
    folder.mkdir()
    for file, files in ARCHIVES[name]().items():
        if file in files:
            write_folder(folder, files)
        else:
            write_tar(folder / file, files, "w:gz")
    return folder


def unpack(name, folder):
    for files in ARCHIVES[name]().values():
        write_folder(folder, files)
    return folder


# torchvision's class, its folder, its splits, and how its class names become ours
TORCHVISION = {
    "fgvc-aircraft": (datasets.FGVCAircraft, "", ("train", "val", "test"), underscored),
    "food101": (datasets.Food101, "", ("train", "test"), str),
    "flowers102": (datasets.Flowers102, "flowers-102", ("train", "val", "test"), None),
    "oxford-pets": (datasets.OxfordIIITPet, "oxford-iiit-pet", ("trainval", "test"), None),
    "stanford-cars": (datasets.StanfordCars, "stanford_cars", ("train", "test"), underscored),
}


@pytest.mark.parametrize("name", TORCHVISION)
def test_labels_and_splits_are_those_of_torchvision(name, tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.Flowers102, "_file_dict", {**datasets.Flowers102._file_dict, **UNCHECKED})
    folder = write_archives(name, tmp_path / "archives")
    prepare(name, tmp_path / "out", archives=folder, unofficial=True, size=32, **fewest(name))
    found = {record.source: (record.split, record.class_name) for record in read_manifest(tmp_path / "out")}
    parser, below, splits, ours = TORCHVISION[name]
    unpack(name, tmp_path / "root" / below)
    expected = {}
    for split in splits:
        images = parser(tmp_path / "root", split=split)
        assert len(images) >= 2
        for path, label in samples(images):
            expected[path] = (split.removesuffix("val") or "val", label, ours and ours(images.classes[label]))
    assert len(found) == len(expected)
    numbers = {}
    for path, (split, label, class_name) in expected.items():
        [source] = [source for source in found if str(path).endswith(source)]
        allowed = {"train": {"train", "val"}} if "val" not in splits else {}
        assert found[source][0] in allowed.get(split, {split})
        assert numbers.setdefault(found[source][1], label) == label  # each class has its own number
        assert class_name in (found[source][1], None)
    assert len(set(numbers.values())) == len(numbers)


# its MD5 would be asked of the miniatures, too
UNCHECKED = {"label": ("imagelabels.mat", None), "setid": ("setid.mat", None)}


def samples(images):
    """Paths and labels of one of torchvision's data sets."""
    if isinstance(images, datasets.StanfordCars):
        return images._samples
    files = images._images if isinstance(images, datasets.OxfordIIITPet) else images._image_files
    return zip(files, images._labels, strict=True)


def fewest(name):
    return {"val": 1} if hasattr(DATASETS[name], "val") else {}


@pytest.mark.parametrize("name", ARCHIVES)
def test_archives_may_be_unpacked(name, tmp_path):
    options = {"unofficial": True, "size": 32, **fewest(name)}
    prepare(name, tmp_path / "a", archives=write_archives(name, tmp_path / "packed"), **options)
    folder = unpack(name, tmp_path / "unpacked")
    prepare(name, tmp_path / "b", archives=folder, **options)
    assert but_for_originals(tmp_path / "a") == but_for_originals(tmp_path / "b")
    shutil.rmtree(tmp_path / "packed")
    prepare(name, tmp_path / "a", archives=tmp_path / "packed", **options)  # it is there: nothing to do
    if len(tops := list(folder.iterdir())) == 1:
        prepare(name, tmp_path / "c", archives=tops[0], **options)
        assert but_for_originals(tmp_path / "a") == but_for_originals(tmp_path / "c")
    for top in filter(Path.is_dir, list(folder.iterdir())):
        (top / "more.txt").write_text("")
    with pytest.raises(UserError, match=r"made of other originals \(what --archives names has changed"):
        prepare(name, tmp_path / "b", archives=folder, **options)


@pytest.mark.parametrize("name", ARCHIVES)
def test_what_is_not_the_published_set_is_refused(name, tmp_path):
    needed = DATASETS[name].needed({"archives": None, "crop_to_box": False})
    files = [each.file for each in needed.values()]
    hint = "(, or --[a-z]+)*(, or --download|; get it from )"
    refused(name, tmp_path, f"name the folder of {' and '.join(files)} with --archives{hint}")
    (tmp_path / "empty").mkdir()
    file = files[0]
    if name == "stanford-dogs":  # whose lists have no folder of their own
        files.remove(file)
    message = f"empty has no {'.* and no '.join(files)}.*; get what is missing from "
    refused(name, tmp_path, message, archives=tmp_path / "empty")
    packed = write_archives(name, tmp_path / "packed")
    refused(name, tmp_path, f"is not the published {file}", archives=packed)


@pytest.mark.parametrize("name", ARCHIVES)
def test_a_part_of_the_set_is_refused(name, tmp_path, monkeypatch):
    for published in DATASETS[name].published.values():
        monkeypatch.setattr(type(published), "check", lambda self, path: None)
    total = DATASETS[name].official.train
    message = f"train images, not the official {total:,}; complete it, or prepare a part with --unofficial"
    refused(name, tmp_path, message, archives=write_archives(name, tmp_path / "archives"))


LIST = "fgvc-aircraft-2013b/data/images_variant_{}.txt".format
LABELS = "CUB_200_2011/image_class_labels.txt"
BIRD, DOG = f"CUB_200_2011/images/{bird_path(1)}", DOGS["test"][1][0]
_BIRDS = zip(sorted(BIRDS), BIRDS.values(), strict=True)
SHIFTED = "".join(f"{id_} {label}\n" for id_, (label, *_) in _BIRDS).encode()
# the set, the list, what of it (or all) is replaced by what (or nothing), and how that is refused
# the second box is wrong, and min() and max() would take the first
NAN_BOX = (
    b"<a>"
    + b"".join(
        b"<bndbox><xmin>%s</xmin><ymin>1</ymin><xmax>9</xmax><ymax>9</ymax></bndbox>" % left
        for left in (b"1", b"nan")
    )
    + b"</a>"
)
BROKEN = {
    "unknown variant": (
        "fgvc-aircraft", LIST("test"), b"707", b"717", "has '717-320', which variants.txt",
    ),
    "two splits": (
        "fgvc-aircraft", LIST("test"), b"0894380", b"1042824",
        r"1042824\.jpg is listed a second time \(for val, then for test\)",
    ),
    "no image": (
        "fgvc-aircraft", LIST("val"), b"0450014", b"0450015", r"no data/images/0450015\.jpg",
    ),
    "no JSON": ("food101", "food-101/meta/test.json", b"{", b"", "is no JSON of names by class"),
    "other class": (
        "food101", "food-101/meta/train.json", b"waffles/7", b"pizza/7", "has pizza/7 in waffles",
    ),
    "no number": ("flowers102", "imagelabels.mat", b"labels", b"lebals", "read as a MATLAB file with labels"),
    "label unknown": (
        "oxford-pets", "annotations/test.txt", b"201 1", b"201 2", "the label 2, that of great_pyrenees",
    ),
    "listed twice": (
        "oxford-pets", "annotations/test.txt", b"_201", b"_100", r"_100\.jpg is listed a second time",
    ),
    "other column": (
        "stanford-cars", "devkit/cars_train_annos.mat", b"fname", b"fnome", "has other columns .*fname",
    ),
    "other folder": ("nabirds", "nabirds/image_class_labels.txt", b"3a 817", b"3a 2", "class 2 is 0002.Oak"),
    "class unknown": ("nabirds", "nabirds/classes.txt", b"817 ", b"818 ", "its class 817 is unknown"),
    "id too many": ("cub200", LABELS, b"12 1\n", b"12 1\n13 1\n", r"txt has the id 13, images\.txt lacks it"),
    "id twice": (
        "cub200", "CUB_200_2011/train_test_split.txt", b"9 1\n", b"10 1\n", "line 3 has the id 10 a second",
    ),
    "no list": ("cub200", "CUB_200_2011/images.txt", None, None, r"has no images\.txt"),
    "listed image": ("cub200", BIRD, None, None, r"has no images/002\.Laysan.*images\.txt lists"),
    "labels by position": ("cub200", LABELS, None, SHIFTED, "image 7 is 001.*, but its class 2 is 002.Lay"),
    "no list of dogs": ("stanford-dogs", "test_list.mat", None, None, r"has no test_list\.mat"),
    "dogs twice": ("stanford-dogs", "test_list.mat", None, dog_list(DOGS["train"]), "a second time"),
    "label of two": ("stanford-dogs", "test_list.mat", None, dog_list([(DOG, 1)]), "label 1, that of n02"),
    "no path": ("stanford-dogs", "test_list.mat", None, dog_list([("1.jpg", 1)]), "is not <breed>/<file>"),
    "listed dog": ("stanford-dogs", f"Images/{DOG}", None, None, r"which test_list\.mat lists"),
    "no annotation": ("stanford-dogs", f"Annotation/{DOG[:-4]}", None, None, "has no Annotation/n0"),
    "no box": ("stanford-dogs", f"Annotation/{DOG[:-4]}", None, b"<a/>", "can't be read"),
    "box of NaN": ("stanford-dogs", f"Annotation/{DOG[:-4]}", None, NAN_BOX, "a side of a box is no number"),
}  # fmt: skip


@pytest.mark.parametrize("case", BROKEN)
def test_lists_that_contradict_are_refused(case, tmp_path):
    name, list_, old, new, message = BROKEN[case]
    folder = unpack(name, tmp_path / "archives")
    data = (folder / list_).read_bytes()
    assert old is None or old in data
    (folder / list_).unlink()
    if new is not None:
        (folder / list_).write_bytes(new if old is None else data.replace(old, new))
    options = {"crop_to_box": True} if "Annotation" in list_ else {}
    refused(name, tmp_path, message, archives=folder, unofficial=True, **options)


def test_birds_of_one_name_stay_two_classes(tmp_path):
    folder = write_archives("nabirds", tmp_path / "archives")
    summary = prepare("nabirds", tmp_path / "out", archives=folder, unofficial=True, size=32, val=1)
    assert summary.classes == ["0002.Oak Titmouse", "0817.Oak Titmouse"]
    for record in read_manifest(tmp_path / "out"):
        label, training = NA_BIRDS[Path(record.source).stem]
        assert record.class_name == f"{label:04d}.Oak Titmouse"
        assert (record.split == "test") == (not training)


def test_picture_in_no_list_is_skipped_by_name(tmp_path):
    folder = write_archives("oxford-pets", tmp_path / "archives")
    prepare("oxford-pets", tmp_path / "out", archives=folder, unofficial=True, size=32, val=1)
    assert (tmp_path / "out" / "skipped.csv").read_text() == "name,reason\nAbyssinian_999.jpg,in no list\n"


def test_list_that_declares_gigabytes_is_refused_unread(tmp_path):
    folder = unpack("flowers102", tmp_path / "archives")
    data = bytearray(mat(labels=np.ones((2, 3))))
    at = bytes(data).index(np.array([2, 3], "<i4").tobytes())
    data[at : at + 8] = np.array([1 << 16, 1 << 15], "<i4").tobytes()  # 16 GiB of float64
    (folder / "imagelabels.mat").write_bytes(data)
    refused("flowers102", tmp_path, "labels is too large", archives=folder, unofficial=True)
    (folder / "imagelabels.mat").write_bytes(mat(zipped=True, labels=cells([np.zeros(80 << 20, np.uint8)])))
    refused("flowers102", tmp_path, "a variable is too large", archives=folder, unofficial=True)
    (folder / "imagelabels.mat").write_bytes(bytes(5 << 20))
    refused("flowers102", tmp_path, "it has 5,242,880 bytes", archives=folder, unofficial=True)


@pytest.mark.parametrize("name", ARCHIVES)
def test_documentation_gives_the_sizes(name):
    published = as_published(name)
    sizes = ", ".join(f"{count:,} {split}" for split, count in published.counts.items())
    line = next(line for line in DOCUMENTATION.read_text().splitlines() if line.startswith(f"| `{name}` |"))
    assert sizes in line
    for size in (224, 448):
        recipe = read_recipe(f"{name.replace('-', '_')}_{size}")
        assert recipe["num_classes"] == len(published.classes)


def test_banner_of_aircraft_is_cut_off_unless_originals_are_kept(tmp_path):
    folder = write_archives("fgvc-aircraft", tmp_path / "archives")
    options = {"archives": folder, "unofficial": True, "format": "png"}
    prepare("fgvc-aircraft", tmp_path / "out", size=32, **options)
    prepare("fgvc-aircraft", tmp_path / "kept", size=None, **options)
    original = tmp_path / "kept" / "test" / "F_A-18" / "0004380.jpg"
    assert original.read_bytes() == jpeg(4380)
    with Image.open(original) as image, Image.open(tmp_path / "out/test/F_A-18/0004380.png") as stored:
        expected = image.crop((0, 0, 48, 16)).resize((32, 32), Image.Resampling.BILINEAR)
        assert stored.tobytes() == expected.tobytes()
