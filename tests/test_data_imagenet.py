"""ImageNet-1K from archives in their official layout, and from a folder."""

import io

import numpy as np
import pytest
from official_archives import (
    DEVKIT,
    SYNSETS,
    VALIDATION_LABELS,
    imagenet_files,
    jpeg,
    refused,
    write_folder,
    write_imagenet,
)
from PIL import Image
from test_data_packed import write_zip

from convnext_ablation.data.folder import read_manifest
from convnext_ablation.data.prepare import prepare, verify
from convnext_ablation.data.walk import read_skipped as skipped


@pytest.fixture
def archives(tmp_path):
    folder = tmp_path / "archives"
    folder.mkdir()
    return write_imagenet(folder)


def test_images_get_their_synsets_by_name_and_by_number(archives, tmp_path):
    out = tmp_path / "out"
    summary = prepare("imagenet", out, archives=archives, unofficial=True, format="png", size=16)
    assert summary.classes == list(SYNSETS)
    assert summary.counts == {"train": 6, "val": 4}
    numbers = {number: synset for number, synset, _ in DEVKIT}
    records = {record.source: record for record in read_manifest(out)}
    for number, label in enumerate(VALIDATION_LABELS, start=1):
        source = f"val/ILSVRC2012_val_{number:08d}.JPEG"
        assert records[source].class_name == numbers[label]
        original = Image.open(io.BytesIO(jpeg(100 + number))).resize((16, 16), Image.Resampling.BILINEAR)
        with Image.open(out / records[source].id) as stored:
            assert np.array_equal(np.asarray(stored), np.asarray(original))
    for synset in SYNSETS:
        assert records[f"train/{synset}/{synset}_7.JPEG"].class_name == synset
    assert not (out / "test").exists()
    verify(out)


def test_folder_and_archives_give_the_same(archives, tmp_path):
    prepare("imagenet", tmp_path / "full", archives=archives, unofficial=True, size=None)
    prepare("imagenet", tmp_path / "a", archives=archives, unofficial=True, size=16)
    prepare("imagenet", tmp_path / "b", archives=tmp_path / "full", unofficial=True, size=16)
    hashes = [{(r.id, r.sha256) for r in read_manifest(tmp_path / name)} for name in "ab"]
    assert hashes[0] == hashes[1]
    kept = tmp_path / "full" / "train" / SYNSETS[0] / f"{SYNSETS[0]}_7.JPEG"
    assert kept.read_bytes() == jpeg(7)


def kaggle(labelled=(1, 2)):
    train = [f"train/{synset}/{synset}_{number}.JPEG" for synset in SYNSETS for number in range(3)]
    val = [f"val/ILSVRC2012_val_0000000{number}.JPEG" for number in (2, 1)]
    names = [*train, *val, "test/ILSVRC2012_test_00000001.JPEG"]
    rows = [f"ILSVRC2012_val_0000000{number},{SYNSETS[number - 1]} 1 2 3 4 " for number in labelled]
    return names, "\n".join(["ImageId,PredictionString", *rows])


@pytest.mark.parametrize("top", ["", "ILSVRC/Data/CLS-LOC/"])
@pytest.mark.parametrize("zipped", [False, True])
def test_imagenet_as_kaggle_has_it(tmp_path, top, zipped):
    names, solution = kaggle()
    files = {f"{top}{name}": jpeg(number) for number, name in enumerate(names)}
    files |= {"LOC_val_solution.csv": solution.encode(), f"{top}.DS_Store": b"", "ILSVRC/Annotations/a": b""}
    place = write_zip(tmp_path / "k.zip", files) if zipped else write_folder(tmp_path / "k", files)
    summary = prepare("imagenet", tmp_path / "out", archives=place, unofficial=True, size=16)
    assert summary.counts == {"train": 6, "val": 2}
    labels = {record.source: record.class_name for record in read_manifest(tmp_path / "out")}
    assert [labels[f"val/ILSVRC2012_val_0000000{number}.JPEG"] for number in (1, 2)] == list(SYNSETS)
    assert skipped(tmp_path / "out") == {
        f"{top}.DS_Store": "macOS metadata",
        f"{top}test/ILSVRC2012_test_00000001.JPEG": "no label",
        "ILSVRC/Annotations/a": "outside of train and val",
    }


@pytest.mark.parametrize(
    ("solution", "message"),
    [
        (kaggle([1])[1], r"val_00000002\.JPEG is in no folder <synset>, and no LOC_val_solution"),
        (
            "ILSVRC2012_val_00000001,n01440764 1 2 3 4 n01443537 1 2 3 4",
            "has the line 'ILSVRC2012_val_00000001",
        ),
        ("ILSVRC2012_val_00000001", "has the line 'ILSVRC2012_val_00000001'; get it again"),
    ],
)
def test_labels_of_kaggle_that_lack_one_or_contradict_are_refused(tmp_path, solution, message):
    files = {name: jpeg(1) for name in kaggle()[0]}
    place = write_folder(tmp_path / "k", {**files, "LOC_val_solution.csv": solution.encode()})
    refused("imagenet", tmp_path, message, archives=place, unofficial=True)


def test_archives_that_are_missing_or_other_are_refused(archives, tmp_path):
    message = r"is not the published ILSVRC2012_devkit_t12\.tar\.gz \(md5"
    refused("imagenet", tmp_path, message, archives=archives)
    (archives / "ILSVRC2012_img_val.tar").unlink()
    (archives / "ILSVRC2012_img_train.tar").unlink()
    message = r"archives has no ILSVRC2012_img_val\.tar and no ILSVRC2012_img_train\.tar; name the folder"
    refused("imagenet", tmp_path, message, archives=archives)
    refused("imagenet", tmp_path, r"name the folder of ILSVRC2012_devkit.*_img_train\.tar with --archives")


@pytest.mark.parametrize(
    ("which", "name", "data", "message"),
    [
        ("train", "n99999999.tar", b"", "is no synset of the devkit"),
        ("train", "n01440764.tar", b"text" * 200, "holds no files"),
        ("train", "n01440764.tar", imagenet_files()["train"]["n01440764.tar"][:1500], "cut short"),
        ("val", "other.JPEG", b"", "has no label for"),
        ("devkit", "ILSVRC2012_devkit_t12/data/meta.mat", b"text", r"meta\.mat can't be read"),
        (
            "devkit",
            "ILSVRC2012_devkit_t12/data/ILSVRC2012_validation_ground_truth.txt",
            b"one\n",
            "is not a list of numbers",
        ),
    ],
)
def test_broken_archive_is_refused(tmp_path, which, name, data, message):
    files = imagenet_files()
    files[which][name] = data
    folder = tmp_path / "archives"
    folder.mkdir()
    refused("imagenet", tmp_path, message, archives=write_imagenet(folder, files), unofficial=True)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda root: (root / "val" / "n01440764").rename(root / "val" / "fish"), "is not <split>/<synset>/"),
        (lambda root: None, "has 6 train images, not the official 1,281,167"),
    ],
)
def test_folder_that_is_not_the_official_set_is_refused(archives, tmp_path, change, message):
    prepare("imagenet", tmp_path / "full", archives=archives, unofficial=True, size=None)
    change(tmp_path / "full")
    refused("imagenet", tmp_path, message, archives=tmp_path / "full")
