import hashlib
import io
import itertools
import string
from pathlib import Path

import numpy as np
import pytest
from official_archives import encoded
from PIL import Image

from convnext_ablation.data import typefaces
from convnext_ablation.data.prepare import library_versions
from convnext_ablation.data.typefaces import FACES, Typefaces
from convnext_ablation.errors import UserError


def decode(data):
    return np.asarray(Image.open(io.BytesIO(data)))


@pytest.fixture(scope="module")
def small_set():
    dataset = Typefaces(train=6, val=2, test=3)
    return dataset, [(record, encoded(dataset, key)) for record, key in dataset.records(Path("unused"))]


def test_set_has_all_classes_and_counts_and_no_image_twice(small_set):
    _, images = small_set
    expected = [
        f"{split}/{face}/{index:05d}.png"
        for split, count in {"train": 6, "val": 2, "test": 3}.items()
        for face in FACES
        for index in range(count)
    ]
    assert [record.id for record, _ in images] == expected
    assert all(record.id.startswith(f"{record.split}/{record.class_name}/") for record, _ in images)
    assert len({decode(data).tobytes() for _, data in images}) == len(images)


def test_images_are_those_of_every_earlier_version():
    versions = library_versions()
    if (versions["freetype2"], versions["pillow"]) != ("2.14.3", "12.3.0"):
        pytest.skip("another FreeType or Pillow may draw other shapes")
    digest = hashlib.sha256()
    for split, face in itertools.product(("train", "val", "test"), FACES):
        digest.update(decode(encoded(Typefaces(), (split, face, 0))).tobytes())
    assert digest.hexdigest() == "03e3ff8916b35a9f6813d6345803b1a8b4ce46bccaef1977d82680b206a04ed0"


def test_image_depends_on_nothing_but_its_key_and_seed(small_set):
    _, images = small_set
    larger = Typefaces(train=50, val=20, test=30)
    wanted = {record.id: data for record, data in images}
    shared = [(record, key) for record, key in larger.records(Path("unused")) if record.id in wanted]
    assert len(shared) == len(wanted)
    for record, key in reversed(shared):
        assert encoded(larger, key) == wanted[record.id]


def test_no_two_faces_draw_alike_and_all_have_every_letter():
    drawn = {}
    for face in FACES:
        font = typefaces._font(face, 48)
        letters = [bytes(font.getmask(letter)) for letter in string.ascii_letters]
        assert len({*letters, bytes(font.getmask("\uffff"))}) == 53
        drawn[face] = letters
    for (face, letters), (other, others) in itertools.combinations(drawn.items(), 2):
        assert sum(a == b for a, b in zip(letters, others, strict=True)) <= 3, (face, other)


def test_missing_font_is_named_before_anything_is_drawn(tmp_path, monkeypatch):
    import matplotlib

    typefaces._font_file.cache_clear()
    monkeypatch.setattr(matplotlib, "get_data_path", lambda: str(tmp_path))
    with pytest.raises(UserError, match=r"DejaVuSans\.ttf is missing; reinstall matplotlib"):
        next(Typefaces().records(Path("unused")))
