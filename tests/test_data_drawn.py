import hashlib
import io
import itertools
import string
import unicodedata
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import pytest
from official_archives import encoded
from PIL import Image

from convnext_ablation.data import drawn
from convnext_ablation.data.drawn import (
    BASES,
    FACES,
    MARKS,
    STYLES,
    Characters,
    Diacritics,
    FewTypefaces,
    Typefaces,
)
from convnext_ablation.data.prepare import library_versions
from convnext_ablation.errors import UserError

SETS = (Characters, Typefaces, FewTypefaces, Diacritics)
# of the first image of each class in each split
HASHES = {
    Characters: "31b1540924e17fd600d0b90989bac53e6a6ad0afb956a29f199fa2d077af1913",
    Typefaces: "03e3ff8916b35a9f6813d6345803b1a8b4ce46bccaef1977d82680b206a04ed0",
    FewTypefaces: "ebef54db7edc621c4823b716e35e0f305002ca177f98153f3c6dec7feb750273",
    Diacritics: "723decac50238fd175b70e34c4b7d7d9f9f2305aee5c876965fdf9a070b10e76",
}


def decode(data):
    return np.asarray(Image.open(io.BytesIO(data)))


@pytest.fixture(scope="module", params=SETS, ids=lambda dataset: dataset.name)
def small_set(request):
    dataset = request.param(train=6, val=2, test=3)
    return dataset, [(record, encoded(dataset, key)) for record, key in dataset.records(Path("unused"))]


def test_set_has_all_classes_and_counts_and_no_image_twice(small_set):
    dataset, images = small_set
    expected = [
        f"{split}/{class_name}/{index:05d}.png"
        for split, count in {"train": 6, "val": 2, "test": 3}.items()
        for class_name in dataset.classes
        for index in range(count)
    ]
    assert [record.id for record, _ in images] == expected
    assert all(record.id.startswith(f"{record.split}/{record.class_name}/") for record, _ in images)
    assert len({decode(data).tobytes() for _, data in images}) == len(images)
    assert {decode(data).shape for _, data in images} == {(dataset.size, dataset.size)}


@pytest.mark.parametrize("dataset", SETS, ids=lambda dataset: dataset.name)
def test_images_are_those_of_every_earlier_version(dataset):
    versions = library_versions()
    if (versions["freetype2"], versions["pillow"]) != ("2.14.3", "12.3.0"):
        pytest.skip("another FreeType or Pillow may draw other shapes")
    digest = hashlib.sha256()
    for split, class_name in itertools.product(("train", "val", "test"), dataset.classes):
        digest.update(decode(encoded(dataset(), (split, class_name, 0))).tobytes())
    assert digest.hexdigest() == HASHES[dataset]


def test_image_depends_on_nothing_but_its_key_and_seed(small_set):
    dataset, images = small_set
    larger = type(dataset)(train=50, val=20, test=30)
    wanted = {record.id: data for record, data in images}
    shared = [(record, key) for record, key in larger.records(Path("unused")) if record.id in wanted]
    assert len(shared) == len(wanted)
    for record, key in reversed(shared):
        assert encoded(larger, key) == wanted[record.id]


def test_no_two_faces_draw_alike_and_all_have_every_letter():
    shapes = {}
    for face in FACES:
        font = drawn._font(face, 48)
        letters = [bytes(font.getmask(letter)) for letter in string.ascii_letters]
        assert len({*letters, bytes(font.getmask("\uffff"))}) == 53
        shapes[face] = letters
    for (face, letters), (other, others) in itertools.combinations(shapes.items(), 2):
        assert sum(a == b for a, b in zip(letters, others, strict=True)) <= 3, (face, other)


def test_every_typeface_of_diacritics_has_every_letter_with_every_mark():
    marked = [unicodedata.normalize("NFC", base + mark) for base in BASES for mark in MARKS.values()]
    assert {len(letter) for letter in marked} == {1}
    for face in Diacritics.faces:
        font = drawn._font(face, 48)
        shapes = {bytes(font.getmask(letter)) for letter in marked}
        assert len({*shapes, bytes(font.getmask("\uffff"))}) == len(marked) + 1


def test_the_mark_alone_tells_diacritics_apart():
    drawn = {name: Counter() for name in Diacritics.classes}
    for record, _ in Diacritics(train=400, val=1, test=1).records(Path("unused")):
        text, _, face = record.source.partition(" in ")
        letter, *marks = unicodedata.normalize("NFD", text)
        assert "".join(marks) == MARKS[record.class_name]
        if record.split == "train":
            drawn[record.class_name].update([letter, face])
    for counts in drawn.values():  # 57 of each letter and 40 of each typeface are expected
        assert counts.keys() == {*BASES, *Diacritics.faces}
        assert min(counts.values()) >= 20
        assert max(counts.values()) <= 80


def test_characters_show_the_letter_and_the_style_of_their_class():
    seen = defaultdict(set)
    for record, _ in Characters(train=100, val=1, test=1).records(Path("unused")):
        letter, _, face = record.source.partition(" in ")
        style = record.class_name.removeprefix(f"{letter}-")
        assert face in STYLES[style]
        seen[style].add(face)
    assert sorted(itertools.chain(*STYLES.values())) == sorted(FACES)
    assert seen == {style: set(faces) for style, faces in STYLES.items()}


def test_missing_font_is_named_before_anything_is_drawn(tmp_path, monkeypatch):
    import matplotlib

    drawn.font_file.cache_clear()
    monkeypatch.setattr(matplotlib, "get_data_path", lambda: str(tmp_path))
    with pytest.raises(UserError, match=r"DejaVuSans\.ttf is missing; reinstall matplotlib"):
        next(Typefaces().records(Path("unused")))
