import hashlib
import os
import shutil

import pytest
from PIL import Image

from convnext_ablation.data import folder as manifest
from convnext_ablation.data.folder import Record, check_folder, manifest_hash, read_manifest, write_manifest
from convnext_ablation.data.pictures import ENDINGS
from convnext_ablation.errors import UserError

CLASSES = ["b2", "b10", "Cat"]  # in natural order, which is neither ASCII's nor a plain one without case


@pytest.fixture
def folder(tmp_path):
    root = tmp_path / "birds"
    for number, split in enumerate(("train", "val", "test")):
        for class_number, class_name in enumerate(CLASSES):
            (root / split / class_name).mkdir(parents=True)
            for index in range(2):
                grey = 80 * number + 10 * class_number + index
                Image.new("L", (8, 8), grey).save(root / split / class_name / f"{index}.png")
    return root


def list_images(root):
    ids = [path.relative_to(root).as_posix() for path in sorted(root.glob("*/*/*.png"))]
    hashes = [hashlib.sha256((root / id_).read_bytes()).hexdigest() for id_ in ids]
    return [
        Record(id_, *id_.split("/")[:2], "drawn, by hand", digest)
        for id_, digest in zip(ids, hashes, strict=True)
    ]


def test_manifest_reads_as_written_and_is_sorted_by_id(folder):
    records = list_images(folder)
    write_manifest(folder, reversed(records))
    assert read_manifest(folder) == records
    assert (folder / "manifest.csv").read_text().splitlines()[0] == "id,split,class,source,sha256"
    assert manifest_hash(folder) == hashlib.sha256((folder / "manifest.csv").read_bytes()).hexdigest()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "lacks the header"),
        (b"\xff\xfe", "damaged"),
        (b'id,split,class,source,sha256\n"', "damaged"),
        (b"id,split,class,source,sha256\ntrain/a/1.png,train,b,,\n", "line 2 is not"),
        (
            b"id,split,class,source,sha256\n" + 2 * b"train/a/1.png,train,a,,\n",
            "line 3 lists train/a/1.png a sec",
        ),
    ],
)
def test_damaged_manifest_is_refused(tmp_path, content, message):
    with pytest.raises(UserError, match=r"no manifest\.csv in"):
        read_manifest(tmp_path)
    (tmp_path / "manifest.csv").write_bytes(content)
    with pytest.raises(UserError, match=message):
        read_manifest(tmp_path)


def test_classes_and_images_are_those_of_timm(folder):
    from timm.data import create_dataset
    from timm.data.readers.img_extensions import get_img_extensions

    (folder / "train" / "b2" / "sub").mkdir()
    os.rename(folder / "train/b2/0.png", folder / "train/b2/2.PNG")
    for split in ("train", "val", "test"):
        (folder / split / "x" / "deep").mkdir(parents=True)
        Image.new("L", (8, 8)).save(folder / split / "x" / "deep" / "1.jpg")
    (folder / "train" / "b2" / "notes.txt").write_text("no image")
    (folder / "train" / "b2" / "sub").rmdir()
    summary = check_folder(folder)
    reader = create_dataset("", root=str(folder), split="train").reader
    assert list(reader.class_to_idx) == summary.classes == [*CLASSES, "deep"]
    assert len(reader) == summary.counts["train"] == 7
    assert get_img_extensions(as_set=True) | {".webp", ".tif", ".gif", ".bmp", ".jfif"} <= set(ENDINGS)


BAD_FOLDERS = {
    "no folder": (lambda root: root.rename(root.with_name("other")), "no image folder at .*birds"),
    "no split": (lambda root: shutil.rmtree(root / "val"), "no folder 'val'"),
    "empty class": (lambda root: (root / "val" / "dog").mkdir(), "class folder .*val/dog holds no images"),
    "new class in test": (
        lambda root: (root / "test" / "Cat").rename(root / "test" / "Dog"),
        "class 'Dog' is in .*test but not in train",
    ),
    "class not in val": (lambda root: shutil.rmtree(root / "val/b10"), "class 'b10' has no images in .*val"),
    "no class folder": (
        lambda root: (root / "train/b2/0.png").rename(root / "train/0.png"),
        r"train/0\.png is in no class folder",
    ),
    "classes that sort as equal": (
        lambda root: [(root / s / "b10").rename(root / s / "B2") for s in ("train", "val", "test")],
        "classes 'B2' and 'b2' sort as equal",
    ),
}


@pytest.mark.parametrize("case", BAD_FOLDERS)
def test_folder_that_would_falsify_training_is_refused(folder, case):
    spoil, message = BAD_FOLDERS[case]
    spoil(folder)
    with pytest.raises(UserError, match=message) as caught:
        check_folder(folder)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("with_manifest", [False, True])
def test_good_folder_is_summed_up(folder, with_manifest):
    if with_manifest:
        write_manifest(folder, list_images(folder))
    summary = check_folder(folder)
    assert (summary.root, summary.classes) == (folder, CLASSES)
    assert summary.counts == {"train": 6, "val": 6, "test": 6}
    assert (summary.fingerprint == manifest_hash(folder)) if with_manifest else len(summary.fingerprint) == 64
    (folder / "test" / "b2" / "0.png").unlink()  # a split that isn't asked for is not looked at
    assert check_folder(folder, ("train", "val")).counts == {"train": 6, "val": 6}


def replace_image(path):
    Image.new("L", (8, 8), 255).save(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda root: (root / "val/Cat/1.png").unlink(), r"lacks 1 images .* such as val/Cat/1\.png"),
        (lambda root: replace_image(root / "val/Cat/7.png"), r"holds 1 images .* such as val/Cat/7\.png"),
        (lambda root: replace_image(root / "test/b10/1.png"), r"test/b10/1\.png differs"),
        (lambda root: (root / "manifest.csv").write_text("id"), "lacks the header"),
    ],
)
def test_folder_unlike_its_manifest_is_refused_although_it_was_checked(folder, change, message):
    write_manifest(folder, list_images(folder))
    check_folder(folder)
    change(folder)
    with pytest.raises(UserError, match=message):
        check_folder(folder)


@pytest.mark.parametrize("damage", ["flip", "truncate"])
def test_damage_after_a_good_check_is_found_without_a_manifest(folder, damage):
    check_folder(folder)
    path = folder / "test/b10/1.png"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data if damage == "flip" else data[:-20])
    with pytest.raises(UserError, match=r"test/b10/1\.png is not a readable image"):
        check_folder(folder)


def test_classes_file_numbers_those_that_a_split_lacks(folder):
    (folder / "classes.txt").write_text("b2\nb10\nCat\n")
    shutil.rmtree(folder / "val/b10")
    assert check_folder(folder).classes == CLASSES
    (folder / "classes.txt").write_text("b2\n")
    with pytest.raises(UserError, match=r"has images but is not in .*classes\.txt"):
        check_folder(folder)


def test_checked_folder_is_read_again_only_when_it_has_changed(folder, monkeypatch):
    seen, read = [], manifest._read_image
    monkeypatch.setattr(manifest, "_read_image", lambda path, *rest: seen.append(path) or read(path, *rest))
    first = check_folder(folder)
    assert check_folder(folder) == first
    assert len(seen) == 18
    os.utime(folder / "train/Cat/0.png", (1, 1))
    assert check_folder(folder) == first
    assert len(seen) == 36
    # the fingerprint depends on names and contents alone
    os.rename(folder / "train/Cat/0.png", folder / "train/Cat/3.png")
    renamed = check_folder(folder).fingerprint
    replace_image(folder / "train/Cat/3.png")
    (folder / ".checked").unlink()
    (folder / ".checked").mkdir()  # a folder that can't be written to is checked all the same
    assert len({first.fingerprint, renamed, check_folder(folder).fingerprint}) == 3
