import gzip
import hashlib
import struct
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torchvision
from official_archives import encoded

from convnext_ablation.data import fashion_mnist
from convnext_ablation.data.fashion_mnist import CLASSES, FashionMNIST
from convnext_ablation.errors import UserError

installed = pytest.mark.skipif(
    not fashion_mnist._DEBIAN_FOLDER.is_dir(), reason="Debian's dataset-fashion-mnist isn't installed"
)


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
    files = official_files()
    for name, data in files.items():
        (folder / name).write_bytes(gzip.compress(data))
    hashes = {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}
    monkeypatch.setattr(fashion_mnist, "_SHA256", hashes)
    monkeypatch.setattr(fashion_mnist, "_DEBIAN_FOLDER", folder)
    return folder


@pytest.fixture
def downloader(tiny, tmp_path, monkeypatch):
    """Torchvision's downloader, which finds the tiny files."""

    class Downloader:
        error = None

        def __init__(self, folder, download):
            assert download
            self.raw_folder = str(tiny)
            if self.error:
                raise self.error

    monkeypatch.setattr(torchvision.datasets, "FashionMNIST", Downloader)
    monkeypatch.setattr(fashion_mnist, "_DEBIAN_FOLDER", tmp_path / "not installed")
    return Downloader


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


def ids(split, **parameters):
    records = FashionMNIST(**parameters).records(Path("unused"))
    return {record.id for record, _ in records if record.split == split}


def test_smaller_train_is_a_subset_and_leaves_val_alone_and_a_seed_does_not(tiny):
    small, large = {"train": 3, "val": 2, "test": 1}, {"train": 6, "val": 2, "test": 3}
    assert ids("train", **small) < ids("train", **large)
    assert ids("val", **small) == ids("val", **large) != ids("val", seed=1, **small)
    assert ids("test", **small) < ids("test", **large)


def test_downloaded_files_give_the_same_images_as_the_package(tiny, downloader, monkeypatch, tmp_path):
    dataset = FashionMNIST(train=5, val=2, test=3)
    downloaded = [(record, encoded(dataset, pixels)) for record, pixels in dataset.records(tmp_path)]
    monkeypatch.setattr(fashion_mnist, "_DEBIAN_FOLDER", tiny)
    assert downloaded == [(record, encoded(dataset, pixels)) for record, pixels in dataset.records(tmp_path)]
    assert len(downloaded) == 100


def test_failed_download_says_what_to_install(downloader, tmp_path):
    downloader.error = RuntimeError("Error downloading:\nTried http://example.org")
    with pytest.raises(UserError, match=r"not be downloaded .*apt-get install dataset-fashion") as caught:
        list(FashionMNIST().records(tmp_path))
    assert "\n" not in str(caught.value)


# the time in the header would give the test another name in each process
@pytest.mark.parametrize(
    "data",
    [None, b"text", gzip.compress(bytes(1000), mtime=0)[:-12], gzip.compress(bytes(1000), mtime=0)],
)
def test_damaged_or_other_file_is_refused(tiny, data, tmp_path):
    path = tiny / "train-images-idx3-ubyte.gz"
    path.unlink()
    if data is not None:
        path.write_bytes(data)
    with pytest.raises(UserError, match=r"(cannot unpack .*|is not the published file.*)--reinstall"):
        list(FashionMNIST().records(tmp_path))


def test_parameter_out_of_range_is_named():
    with pytest.raises(UserError, match=r"train \+ val is 6001 images per class; there are 6000"):
        FashionMNIST(train=5401)


@installed
def test_debian_files_are_the_published_ones_and_split_evenly():
    files = fashion_mnist._read_files(Path("unused"))
    assert len(files["train-images-idx3-ubyte.gz"]) == 16 + 60_000 * 28 * 28
    assert len(files["t10k-images-idx3-ubyte.gz"]) == 16 + 10_000 * 28 * 28
    assert list(files["train-labels-idx1-ubyte.gz"][8:13]) == [9, 0, 0, 3, 0]
    for name, count in (("train", 6000), ("t10k", 1000)):
        labels = np.frombuffer(files[f"{name}-labels-idx1-ubyte.gz"], np.uint8, offset=8)
        assert np.bincount(labels).tolist() == [count] * 10
