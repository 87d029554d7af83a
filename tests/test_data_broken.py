"""Pictures that are broken, very large, or changed when they are prepared: counted, listed, named."""

import csv
import itertools
import json

import numpy as np
import pytest
from official_archives import jpeg, refused, write_folder
from PIL import Image

from convnext_ablation.cli.main import main
from convnext_ablation.data import prepare as module
from convnext_ablation.data.audit import data_report
from convnext_ablation.data.folder import read_manifest
from convnext_ablation.data.pictures import open_picture
from convnext_ablation.data.prepare import prepare
from convnext_ablation.errors import UserError

PLACES = itertools.product(("train", "val", "test"), ("ash", "oak"), range(3))
SOUND = {f"{split}/{name}/{at}.jpg": jpeg(at, size=(12, 12)) for split, name, at in PLACES}
BROKEN = {"train/ash/8.jpg": jpeg(8)[:-200], "train/oak/empty.png": b"", "val/ash/text.jpg": b"no picture"}


def test_broken_pictures_are_left_out_and_listed(tmp_path, capsys):
    images = write_folder(tmp_path / "mine", {**SOUND, **BROKEN})
    words = ["prepare", "folder", str(tmp_path / "out"), "--images", str(images), "--size", "16"]
    assert main([*words, "--skip-bad-images", "3"]) == 0
    assert "used 18, skipped 3" in capsys.readouterr().out
    with open(tmp_path / "out" / "skipped.csv", newline="", encoding="utf-8") as file:
        reasons = {row["name"]: row["reason"] for row in csv.DictReader(file)}
    assert reasons.keys() == BROKEN.keys()
    assert all(reason.startswith("can't be decoded: ") for reason in reasons.values())
    assert "truncated" in reasons["train/ash/8.jpg"]
    assert {record.source for record in read_manifest(tmp_path / "out")} == SOUND.keys()
    module.verify(tmp_path / "out")
    assert not list((tmp_path / "out").rglob("*.tmp"))
    data_report(tmp_path / "out")
    assert "`prepare` skipped: can't be decoded: 2 .jpg, 1 .png" in capsys.readouterr().out
    assert main(words) == 0  # is there already, and says so
    assert "skipped: can't be decoded: 2 .jpg, 1 .png" in capsys.readouterr().out


@pytest.mark.parametrize(("allowed", "more"), [(0, ""), (2, "more than 2 such images: ")])
def test_more_broken_pictures_than_allowed_end_it_with_the_first(tmp_path, allowed, more):
    images = write_folder(tmp_path / "mine", {**SOUND, **BROKEN})
    message = rf"^train/ash/8\.jpg is not .*truncated.*; {more}--skip-bad-images N leaves out up to N$"
    refused("folder", tmp_path, message, images=images, size=16, skip_bad_images=allowed)


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        ("train/oak", "class 'oak' has images in val but none in train"),
        ("test", "there is no image for test"),
        ("yew", "class 'yew': no image of it in train can be decoded; fix or remove it"),
    ],
)
def test_what_is_lost_with_all_its_pictures_is_named(tmp_path, broken, message):
    yew = {f"{split}/yew/0.jpg": jpeg(0) for split in ("train", "val", "test")}
    files = {name: b"x" if broken in name else data for name, data in {**SOUND, **yew}.items()}
    images = write_folder(tmp_path / "mine", files)
    refused("folder", tmp_path, message, images=images, size=16, skip_bad_images=9)


def test_a_class_may_lose_all_pictures_of_validation(tmp_path):
    files = {name: b"x" if "val/oak" in name else data for name, data in SOUND.items()}
    images = write_folder(tmp_path / "mine", files)
    summary = prepare("folder", tmp_path / "out", images=images, size=16, skip_bad_images=3)
    assert (summary.classes, summary.counts["val"]) == (["ash", "oak"], 3)
    module.check_folder(tmp_path / "out", anew=True)


def test_what_is_changed_is_counted_by_kind_even_if_it_is_interrupted(tmp_path, capsys, monkeypatch):
    images = write_folder(tmp_path / "mine", SOUND)
    wide = Image.fromarray(np.arange(256, dtype=np.uint16).reshape(16, 16) * 257)
    for split in ("train", "val"):
        wide.save(images / split / "ash" / "wide.png")
    exif = Image.Exif()
    exif[0x0112] = 3
    Image.open(images / "train/ash/0.jpg").save(images / "train/ash/turned.jpg", exif=exif)
    with monkeypatch.context() as patch:
        patch.setattr(module, "write_manifest", lambda *args: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            prepare("folder", tmp_path / "out", images=images, size=16)
    prepare("folder", tmp_path / "out", images=images, size=16)
    line = "changed: 16-bit greyscale scaled: 2, turned upright by EXIF: 1"
    assert line in capsys.readouterr().out
    changed = json.loads((tmp_path / "out" / "dataset.json").read_text())["changed"]
    assert changed == {"16-bit greyscale scaled": 2, "turned upright by EXIF": 1}
    data_report(tmp_path / "out")
    assert f"`prepare` {line}" in capsys.readouterr().out
    data_report(images)
    assert "16-bit greyscale scaled: 2\n  turned upright by EXIF: 1" in capsys.readouterr().out


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")  # as the program does
def test_very_large_photographs_are_taken_up_to_a_limit(tmp_path, monkeypatch):
    images = write_folder(tmp_path / "mine", {**SOUND, "train/ash/large.jpg": jpeg(0, size=(40, 30))})
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 600)
    prepare("folder", tmp_path / "twice", images=images, size=16)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 599)
    message = r"large\.jpg is not .*: has more than 1,198 pixels, .*; `prepare --max-pixels` takes more"
    refused("folder", tmp_path, message, images=images, size=16)
    prepare("folder", tmp_path / "large", images=images, size=16, max_pixels=1200)
    assert len(read_manifest(tmp_path / "large")) == 19
    (images / "train/ash/large.jpg").rename(images / "train/ash/large")  # no less a picture
    refused("folder", tmp_path, "has more than 1,000 pixels", images=images, size=16, max_pixels=1000)
    assert Image.MAX_IMAGE_PIXELS == 599
    with pytest.raises(ValueError, match="more than 1,198 pixels"):
        open_picture(images / "train/ash/large")
    with pytest.raises(UserError, match="max_pixels is for pictures that are resized; give a size, too"):
        prepare("folder", tmp_path / "kept", images=images, size=None, max_pixels=1200)
