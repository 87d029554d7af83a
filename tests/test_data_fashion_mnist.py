import gzip
import struct
from collections import Counter

import numpy as np
import pytest
import torchvision

from convnext_ablation.data import fashion_mnist
from convnext_ablation.data.fashion_mnist import CLASSES, FashionMNIST
from convnext_ablation.errors import UserError


def idx(array):
    return struct.pack(f">I{array.ndim}I", 0x0800 | array.ndim, *array.shape) + array.tobytes()


def official_files():
    """A set like the official one with 8 training and 3 test images a class, pixels telling their row."""
    files = {}
    for name, count in (("train", 80), ("t10k", 30)):
        pixels = np.zeros((count, 28, 28), np.uint8)
        pixels[:, 0, 0] = np.arange(count)
        files[f"{name}-images-idx3-ubyte.gz"] = idx(pixels)
        files[f"{name}-labels-idx1-ubyte.gz"] = idx((np.arange(count) % 10).astype(np.uint8))
    return files


@pytest.fixture
def tiny(tmp_path, monkeypatch):
    folder = tmp_path / "official"
    folder.mkdir()
    for name, data in official_files().items():
        (folder / name).write_bytes(gzip.compress(data))
    monkeypatch.setattr(fashion_mnist, "_DEBIAN_FOLDER", folder)
    return folder


def test_splits_are_stratified_and_each_image_is_that_of_its_row(tiny, tmp_path):
    images = list(FashionMNIST(train=5, val=2, test=3).records(tmp_path))
    counts = Counter((record.split, record.class_name) for record, _ in images)
    expected = {"train": 5, "val": 2, "test": 3}
    assert counts == {(split, name): count for split, count in expected.items() for name in CLASSES}
    assert len({record.source for record, _ in images}) == len(images) == 100
    for record, pixels in images:
        row = int(record.source.split("#")[1])
        assert record.id == f"{record.split}/{record.class_name}/{row:05d}.png"
        assert pixels[0, 0] == row
        assert record.class_name == CLASSES[row % 10]
        assert record.source.startswith("t10k") == (record.split == "test")


def ids(scratch, split, **parameters):
    records = FashionMNIST(**parameters).records(scratch)
    return {record.id for record, _ in records if record.split == split}


def test_smaller_train_is_a_subset_and_leaves_val_alone_and_a_seed_does_not(tiny, tmp_path):
    small, large = ({"train": train, "val": 2, "test": test} for train, test in ((3, 1), (6, 3)))
    for split in ("train", "test"):
        assert ids(tmp_path, split, **small) < ids(tmp_path, split, **large)
    val = ids(tmp_path, "val", **small)
    assert val == ids(tmp_path, "val", **large) != ids(tmp_path, "val", **small, seed=1)


def test_failed_download_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setattr(fashion_mnist, "_DEBIAN_FOLDER", tmp_path / "not installed")
    monkeypatch.setattr(torchvision.datasets.FashionMNIST, "mirrors", ["http://127.0.0.1:1/"])
    with pytest.raises(
        UserError, match=r"downloaded .*apt-get install --reinstall dataset-fashion"
    ) as caught:
        list(FashionMNIST().records(tmp_path))
    assert "\n" not in str(caught.value)


# the time in the header would give the test another name in each process
@pytest.mark.parametrize("data", [b"text", gzip.compress(bytes(1000), mtime=0)[:-12]])
def test_damaged_file_is_refused(tiny, data, tmp_path):
    (tiny / "train-images-idx3-ubyte.gz").write_bytes(data)
    with pytest.raises(UserError, match=r"can't be unpacked .*--reinstall"):
        list(FashionMNIST().records(tmp_path))
