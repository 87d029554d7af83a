"""Data sets from miniature archives in their official layout, compared with torchvision's parsers."""

import json
from pathlib import Path

import pytest
from official_archives import but_for_originals, jpeg, refused, write_folder, write_tar
from PIL import Image
from torchvision import datasets

from convnext_ablation.data.folder import read_manifest
from convnext_ablation.data.prepare import DATASETS, as_published, prepare
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


def underscored(name):
    return name.replace("/", "_")


ARCHIVES = {"fgvc-aircraft": aircraft, "food101": food}


def write_archives(name, folder):
    folder.mkdir()
    for file, files in ARCHIVES[name]().items():
        write_tar(folder / file, files, "w:gz")
    return folder


def unpack(name, folder):
    for files in ARCHIVES[name]().values():
        write_folder(folder, files)
    return folder


# torchvision's class, its folder, its splits, and how its class names become ours
TORCHVISION = {
    "fgvc-aircraft": (
        datasets.FGVCAircraft,
        "",
        ("train", "val", "test"),
        underscored,
    ),
    "food101": (datasets.Food101, "", ("train", "test"), str),
}


@pytest.mark.parametrize("name", TORCHVISION)
def test_labels_and_splits_are_those_of_torchvision(name, tmp_path):
    folder = write_archives(name, tmp_path / "archives")
    prepare(name, tmp_path / "out", archives=folder, unofficial=True, size=32, **fewest(name))
    found = {record.source: (record.split, record.class_name) for record in read_manifest(tmp_path / "out")}
    parser, below, splits, ours = TORCHVISION[name]
    unpack(name, tmp_path / "root" / below)
    expected = {}
    for split in splits:
        images = parser(tmp_path / "root", split=split)
        assert len(images) >= 2
        for path, label in zip(images._image_files, images._labels, strict=True):
            expected[path] = (split, ours(images.classes[label]))
    assert len(found) == len(expected)
    for path, (split, class_name) in expected.items():
        [source] = [source for source in found if str(path).endswith(source)]
        allowed = {"train": {"train", "val"}} if "val" not in splits else {}
        assert found[source][0] in allowed.get(split, {split})
        assert found[source][1] == class_name


def fewest(name):
    return {"val": 1} if hasattr(DATASETS[name], "val") else {}


@pytest.mark.parametrize("name", ARCHIVES)
def test_archives_may_be_unpacked(name, tmp_path):
    options = {"unofficial": True, "size": 32, **fewest(name)}
    prepare(name, tmp_path / "a", archives=write_archives(name, tmp_path / "packed"), **options)
    folder = unpack(name, tmp_path / "unpacked")
    prepare(name, tmp_path / "b", archives=folder, **options)
    assert but_for_originals(tmp_path / "a") == but_for_originals(tmp_path / "b")
    tops = list(folder.iterdir())
    if len(tops) == 1:
        prepare(name, tmp_path / "c", archives=tops[0], **options)
        assert but_for_originals(tmp_path / "a") == but_for_originals(tmp_path / "c")


@pytest.mark.parametrize("name", ARCHIVES)
def test_what_is_not_the_published_set_is_refused(name, tmp_path):
    file = next(iter(DATASETS[name].published.values())).file
    refused(name, tmp_path, f"with --archives, the folder of {file}, (or --download it|get it from http)")
    (tmp_path / "empty").mkdir()
    refused(name, tmp_path, f"empty has no {file}.*; get it from http", archives=tmp_path / "empty")
    packed = write_archives(name, tmp_path / "packed")
    refused(name, tmp_path, f"is not the published {file}", archives=packed)


@pytest.mark.parametrize("name", ARCHIVES)
def test_a_part_of_the_set_is_refused(name, tmp_path, monkeypatch):
    for published in DATASETS[name].published.values():
        monkeypatch.setattr(type(published), "check", lambda self, path: None)
    total = DATASETS[name].official["train"]
    message = f"train images, not the official {total:,}; complete it, or prepare a part with --unofficial"
    refused(name, tmp_path, message, archives=write_archives(name, tmp_path / "archives"))


LIST = "fgvc-aircraft-2013b/data/images_variant_{}.txt".format
# the set, the list, what it has in place of what, and how that is refused
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
}  # fmt: skip


@pytest.mark.parametrize("case", BROKEN)
def test_lists_that_contradict_are_refused(case, tmp_path):
    name, list_, old, new, message = BROKEN[case]
    folder = unpack(name, tmp_path / "archives")
    data = (folder / list_).read_bytes()
    assert old in data
    (folder / list_).write_bytes(data.replace(old, new))
    refused(name, tmp_path, message, archives=folder, unofficial=True)


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
