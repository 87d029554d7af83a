"""Anyone's own photographs: folders, and data sets of the hub."""

import pytest
from official_archives import jpeg, refused, write_folder

from convnext_ablation.data.folder import read_manifest
from convnext_ablation.data.prepare import prepare
from convnext_ablation.errors import UserError


def plain(per_class=12):
    names = [f"{name}/{index}.jpg" for name in ("ash", "birch") for index in range(per_class)]
    return {name: jpeg(number, size=(12, 12)) for number, name in enumerate(names)}


def by_split(out):
    found = {}
    for record in read_manifest(out):
        found.setdefault(record.split, {})[record.source] = record.class_name
    return found


def test_folder_of_classes_is_split_evenly(tmp_path):
    files = plain()
    images = write_folder(tmp_path / "mine", files)
    summary = prepare("folder", tmp_path / "out", images=images, size=16, val=2)
    assert summary.classes == ["ash", "birch"]
    assert summary.counts == {"train": 18, "val": 4, "test": 2}  # test: a tenth, rounded
    found = by_split(tmp_path / "out")
    assert set().union(*found.values()) == set(files)
    for sources in found.values():
        assert all(source.startswith(f"{name}/") for source, name in sources.items())


@pytest.mark.parametrize("ending", ["jfif", "JPE", "tif", "pgm", "avif", "bmp", "gif"])
def test_a_class_of_any_picture_format_is_prepared(tmp_path, ending):
    files = {f"oak/{index}.{ending}": jpeg(index) for index in range(6)}
    images = write_folder(tmp_path / "mine", {**plain(), **files, "oak/drawing.eps": b"x", "oak/a.txt": b"x"})
    prepare("folder", tmp_path / "out", images=images, size=16)
    found = by_split(tmp_path / "out")
    assert set().union(*found.values()) == set(plain()) | set(files)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "has no image; it needs images to train on"),
        ({"a.jpg": jpeg(1), "b/c.jpg": jpeg(2)}, r"a\.jpg is not <class>/<image>"),
        (
            dict.fromkeys(["train/a/1.jpg", "val/a/1.jpg", "test/b/1.jpg"], b""),
            "class 'b' has images in test but none in train",
        ),
        ({"a/1.jpg": jpeg(1), "a/2.jpg": jpeg(2)}, "has too few images to hold any out for val"),
        (
            {f"{split}/{split}/{c}/1.jpg": b"" for split in ("train", "test") for c in "ab"},
            "'test' and 'train' each hold a split of their own",
        ),
        (
            {**{f"a/{index}.jpg": jpeg(index) for index in range(4)}, "b/1.HEIC": b"x"},
            "no picture beside b/1.HEIC is of a format that is read",
        ),
        ({"a.zip": b"x", "b.zip": b"x"}, "has no image but 2 .zip"),
        *(
            (dict.fromkeys(names, b""), message)
            for names, message in [
                (
                    ["val/a/1.jpg", "Validation/a/1.jpg", "train/a/1.jpg"],
                    "'Validation' and 'val' are both the split val",
                ),
                (["x/train/a/1.jpg", "y/train/a/1.jpg"], "'x' and 'y' both hold splits; put them into one"),
                (["x/a/1.jpg", "y/b/1.jpg"], "'x' and 'y' both hold classes; put them into one folder, or"),
                # genera of species: one of the genera has one only
                (["top/y/a/1.jpg", "top/y/b/1.jpg", "top/x/c/1.jpg"], "'top/x' and 'top/y' both hold cl"),
                (["x/a/1.jpg", "x/b/1.jpg", "y/a/1.jpg", "z/c/1.jpg"], "'x' and 'y' both hold classes"),
                (["Test/a/1.jpg"], "has only test; it needs images to train on"),
                (["train/1.jpg", "test/1.jpg"], r"train/1\.jpg is not <split>/<class>/<image>"),
                (["train/a/1.jpg", "train/a/b/1.jpg"], r"train/a/b/1\.jpg is not <split>/<class>/<image>"),
            ]
        ),
    ],
)
def test_folder_that_makes_no_set_is_refused(tmp_path, files, message):
    images = write_folder(tmp_path / "mine", files)
    images.mkdir(exist_ok=True)
    refused("folder", tmp_path, message, images=images)


def test_images_of_one_name_are_kept_apart(tmp_path, capsys):
    files = {f"{split}/a/1.{end}": jpeg(1) for split in ("train", "val", "test") for end in ("jpg", "PNG")}
    images = write_folder(tmp_path / "mine", {**files, "train/a/2.png": jpeg(2)})
    assert prepare("folder", tmp_path / "out", images=images, size=16).counts["train"] == 3
    found = {record.id: record.source for record in read_manifest(tmp_path / "out")}
    assert set(found.values()) == {*files, "train/a/2.png"}
    assert found["train/a/train_a_1.PNG.jpg"] == "train/a/1.PNG"
    assert found["train/a/2.jpg"] == "train/a/2.png"
    assert "stored under names made from their paths: 6, such as" in capsys.readouterr().out


@pytest.fixture
def datasets(tmp_path, monkeypatch):
    """The library, kept off the network and out of the user's cache."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    library = pytest.importorskip("datasets")
    monkeypatch.setattr(library.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    library.disable_progress_bars()
    return library


def test_data_set_of_the_hub_is_prepared(datasets, tmp_path):
    files = {f"{split}/{name}": data for split in ("train", "test") for name, data in plain(4).items()}
    folder = write_folder(tmp_path / "mine", files)
    summary = prepare("hfds", tmp_path / "out", source=str(folder), size=16)
    assert summary.classes == ["ash", "birch"]
    assert summary.counts == {"train": 6, "val": 2, "test": 8}
    assert len({record.sha256 for record in read_manifest(tmp_path / "out")}) == 8  # the splits are alike


def hub_folder(datasets, folder, labels, image="image", label="label", names=("ash", "oak")):
    folder.mkdir()
    features = datasets.Features({image: datasets.Image(), label: datasets.ClassLabel(names=list(names))})
    for split, numbers in labels.items():
        pictures = [{"bytes": jpeg(at), "path": None} for at in range(len(numbers))]
        table = datasets.Dataset.from_dict({image: pictures, label: numbers}, features=features)
        table.to_parquet(folder / f"{split}.parquet")
    return str(folder)


@pytest.mark.parametrize("nothing", [-1, None])
def test_unlabelled_rows_of_the_hub_are_left_out_by_name(datasets, tmp_path, capsys, nothing):
    labels = {"train": [0, 1] * 6, "test": [nothing] * 4, "validation": [0, nothing, 1]}
    source = hub_folder(datasets, tmp_path / "set", labels)
    summary = prepare("hfds", tmp_path / "out", source=source, size=16)
    assert summary.counts == {"train": 10, "val": 2, "test": 2}
    assert (
        "no label: 5 ('test[0]', 'test[1]', 'test[2]', 'test[3]', 'validation[1]')" in capsys.readouterr().out
    )
    skipped = (tmp_path / "out" / "skipped.csv").read_text().splitlines()
    assert (len(skipped), skipped[-1]) == (6, "validation[1],no label")
    found = {record.source: record.class_name for record in read_manifest(tmp_path / "out")}
    assert {name: found[name] for name in ("validation_0.jpg", "validation_2.jpg", "train_01.jpg")} == {
        "validation_0.jpg": "ash",
        "validation_2.jpg": "oak",
        "train_01.jpg": "oak",
    }


def test_columns_of_the_hub_are_guessed_and_said(datasets, tmp_path, capsys):
    source = hub_folder(datasets, tmp_path / "set", {"train": [0, 1] * 6}, image="img", label="fine_label")
    summary = prepare("hfds", tmp_path / "out", source=source, size=16)
    assert summary.classes == ["ash", "oak"]
    said = capsys.readouterr().out
    assert "images in column 'img'" in said
    assert "targets in column 'fine_label'" in said


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"source": "./nowhere"}, r"hfds: .*nowhere can't be loaded"),
        ({"target_key": "breed"}, "no column 'breed' but image, label; give --target-key"),
        ({"image_key": "photo"}, "no column 'photo' but image, label; give --image-key"),
        ({}, "'a/b' and 'a_b' would both become 'a_b'"),
    ],
)
def test_what_makes_no_set_is_refused(datasets, tmp_path, options, message):
    source = hub_folder(datasets, tmp_path / "set", {"train": [0, 1] * 6}, names=("a/b", "a_b"))
    with pytest.raises(UserError, match=message):
        prepare("hfds", tmp_path / "out", **{"source": source, **options})
