"""CUB-200-2011 and Stanford Dogs from archives in their official layout."""

import io
import unicodedata

import numpy as np
import pytest
from official_archives import (
    BIRDS,
    BREEDS,
    DOGS,
    SPECIES,
    bird_files,
    bird_path,
    but_for_originals,
    dog_files,
    refused,
    write_folder,
    write_tar,
)
from PIL import Image
from torchvision.transforms import Resize

from convnext_ablation.data import packed
from convnext_ablation.data.folder import read_manifest
from convnext_ablation.data.prepare import prepare, verify
from convnext_ablation.training.arguments import TrainingArguments
from convnext_ablation.training.splits import open_split

TEST = {path for path, _ in DOGS["test"]}


@pytest.fixture
def birds(tmp_path):
    return write_tar(tmp_path / "CUB_200_2011.tgz", bird_files(), "w:gz")


@pytest.fixture
def dogs(tmp_path):
    names = {"images": "images.tar", "lists": "lists.tar", "annotations": "annotation.tar"}
    return {which: write_tar(tmp_path / names[which], files) for which, files in dog_files().items()}


def records_by_source(folder):
    return {
        record.source.removeprefix("images/").removeprefix("Images/"): record
        for record in read_manifest(folder)
    }


def test_birds_get_their_own_labels_and_splits_whatever_the_order(birds, tmp_path, capsys):
    summary = prepare("cub200", tmp_path / "out", archive=birds, val=1, unofficial=True, format="png")
    assert summary.classes == list(SPECIES.values())
    assert summary.counts == {"train": 3, "val": 2, "test": 3}
    records = records_by_source(tmp_path / "out")
    assert len(records) == len(BIRDS)
    for id_, (label, _, training, _) in BIRDS.items():
        record = records[bird_path(id_)]
        assert record.class_name == SPECIES[label]
        assert record.split in (("train", "val") if training else ("test",))
    # by SHA-256: on any machine, with any library
    assert {id_ for id_ in BIRDS if records[bird_path(id_)].split == "val"} == {7, 1}
    # its only training image stays in train, and training numbers the classes the same in val
    assert records[bird_path(10)].split == "train"
    assert "classes without an image in val: 1, such as 010.Guêpier" in capsys.readouterr().out
    for split in ("train", "val", "test"):
        images = open_split(TrainingArguments(data_dir=str(tmp_path / "out"), model="model_i_atto"), split)
        for index, name in enumerate(images.ids()):
            assert summary.classes[images.load(index)[1]] == name.split("/")[0]


def test_dogs_get_their_own_labels_and_splits_whatever_the_order(dogs, tmp_path):
    out = tmp_path / "out"
    summary = prepare(
        "stanford-dogs", out, images=dogs["images"], lists=dogs["lists"], val=1, unofficial=True
    )
    assert summary.classes == list(BREEDS)
    assert summary.counts == {"train": 3, "val": 2, "test": 3}
    records = records_by_source(out)
    for split, rows in DOGS.items():
        for path, label in rows:
            assert records[path].class_name == BREEDS[label - 1]
            assert (records[path].split == "test") == (split == "test")


def test_boxes_of_birds_crop_within_the_image(birds, tmp_path):
    out = tmp_path / "out"
    prepare("cub200", out, archive=birds, val=1, unofficial=True, size=None, crop_to_box=True, format="png")
    records = records_by_source(out)
    for id_, box in {7: (10, 5, 40, 25), 12: (1, 3, 22, 33), 2: (4, 4, 48, 36)}.items():
        original = Image.open(io.BytesIO(bird_files()[f"CUB_200_2011/images/{bird_path(id_)}"]))
        with Image.open(out / records[bird_path(id_)].id) as stored:
            assert np.array_equal(np.asarray(stored), np.asarray(original.convert("RGB").crop(box)))


@pytest.mark.parametrize(
    "box", ["nan 5.0 30.0 20.0", "10.0 5.0 inf 20.0", "60.0 5.0 9.0 9.0", "10.0 5.0 30.0"]
)
def test_boxes_that_hold_no_picture_are_refused(tmp_path, box):
    files = bird_files()
    lists = "CUB_200_2011/bounding_boxes.txt"
    files[lists] = files[lists].replace(b"10.0 5.0 30.0 20.0", box.encode())
    write_tar(path := tmp_path / "CUB_200_2011.tgz", files, "w:gz")
    refused("cub200", tmp_path, r"box", archive=path, unofficial=True, crop_to_box=True)


def test_box_of_dogs_is_around_all_of_them(dogs, tmp_path):
    out = tmp_path / "out"
    prepare("stanford-dogs", out, **dogs, val=1, unofficial=True, size=None, crop_to_box=True, format="png")
    record = records_by_source(out)[DOGS["test"][0][0]]
    original = Image.open(io.BytesIO(dog_files()["images"][f"Images/{DOGS['test'][0][0]}"]))
    with Image.open(out / record.id) as stored:
        assert np.array_equal(np.asarray(stored), np.asarray(original.crop((5, 3, 33, 30))))


@pytest.mark.parametrize("fit", ["squash", "short-side"])
@pytest.mark.parametrize("kind", ["png", "webp"])
def test_lossless_images_are_those_of_torchvision_to_the_bit(birds, tmp_path, kind, fit):
    out = tmp_path / "out"
    prepare("cub200", out, archive=birds, val=1, unofficial=True, format=kind, fit=fit, size=32)
    resize = Resize((32, 32) if fit == "squash" else 32)
    for path, record in records_by_source(out).items():
        original = Image.open(io.BytesIO(bird_files()[f"CUB_200_2011/images/{path}"])).convert("RGB")
        with Image.open(out / record.id) as stored:
            assert stored.mode == "RGB"
            assert np.array_equal(np.asarray(stored), np.asarray(resize(original))), path
    images = open_split(TrainingArguments(data_dir=str(out)), "test")
    assert images.load(0)[0].size[0 if fit == "squash" else 1] == 32


@pytest.mark.parametrize("top", ["", "deeper/CUB_200_2011"])
def test_unpacked_folder_gives_what_the_archive_gives(birds, tmp_path, top):
    files = {name.replace("CUB_200_2011", top or ".", 1): data for name, data in bird_files().items()}
    files = {unicodedata.normalize("NFD", name): data for name, data in files.items()}  # as on macOS
    folder = write_folder(tmp_path / "unpacked", files)
    prepare("cub200", tmp_path / "a", archive=birds, val=1, unofficial=True)
    prepare("cub200", tmp_path / "b", archive=folder, val=1, unofficial=True, workers=1)
    assert but_for_originals(tmp_path / "a") == but_for_originals(tmp_path / "b")
    verify(tmp_path / "b")


def test_bomb_is_refused_long_before_the_disk_is_full(tmp_path, monkeypatch):
    monkeypatch.setattr(packed, "_TABLES", 1 << 20)
    path = write_tar(tmp_path / "a.tgz", {**bird_files(), "zeros": bytes(50 << 20)}, "w:gz")
    refused("cub200", tmp_path, "unzips to more than 8 times its size", archive=path, unofficial=True)


def test_archive_that_is_not_there_is_refused(tmp_path):
    path = tmp_path / "nowhere.tgz"
    refused("cub200", tmp_path, r"nowhere\.tgz: no such file or folder", archive=path)
