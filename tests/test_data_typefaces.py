import io
import itertools
import string
from pathlib import Path

import numpy as np
import pytest
from encoding import encoded
from PIL import Image, ImageDraw, ImageFont

from convnext_ablation.data import typefaces
from convnext_ablation.data.typefaces import FACES, WORDS, Rendering, Typefaces
from convnext_ablation.errors import UserError


def decode(data):
    return np.asarray(Image.open(io.BytesIO(data)))


@pytest.fixture(scope="module")
def small_set():
    dataset = Typefaces(train=6, val=2, test=3)
    return dataset, [(record, encoded(dataset, key)) for record, key in dataset.records(Path("unused"))]


def test_set_has_all_classes_and_counts(small_set):
    _, images = small_set
    records = [record for record, _ in images]
    for split, count in {"train": 6, "val": 2, "test": 3}.items():
        for face in FACES:
            names = [r.id for r in records if (r.split, r.class_name) == (split, face)]
            assert names == [f"{split}/{face}/{index:05d}.png" for index in range(count)]
    assert len(records) == 11 * 20


def test_no_two_images_are_identical(small_set):
    _, images = small_set
    assert len({decode(data).tobytes() for _, data in images}) == len(images)


def test_images_are_square_grey_pngs_with_contrast(small_set):
    for _, data in small_set[1]:
        image = Image.open(io.BytesIO(data))
        assert (image.format, image.mode, image.size) == ("PNG", "L", (32, 32))
        dark, light = np.percentile(np.asarray(image), [2, 98])
        assert light - dark > 40


def test_image_depends_on_nothing_but_its_key_and_seed(small_set):
    _, images = small_set
    larger = Typefaces(train=50, val=20, test=30)
    wanted = {record.id: data for record, data in images}
    shared = [(record, key) for record, key in larger.records(Path("unused")) if record.id in wanted]
    assert len(shared) == len(wanted)
    for record, key in reversed(shared):
        assert encoded(larger, key) == wanted[record.id]


@pytest.mark.parametrize("key", [("val", "cmr10", 0), ("train", "cmb10", 0), ("train", "cmr10", 1)])
def test_split_class_and_index_change_the_image(key):
    assert encoded(Typefaces(), key) != encoded(Typefaces(), ("train", "cmr10", 0))


def test_seed_changes_every_image():
    keys = [key for _, key in Typefaces(train=1, val=1, test=1).records(Path("unused"))]
    assert all(encoded(Typefaces(seed=1), key) != encoded(Typefaces(seed=0), key) for key in keys)


def test_size_is_the_side_of_the_image():
    assert decode(encoded(Typefaces(size=96), ("train", "cmr10", 0))).shape == (96, 96)


def test_words_are_short_and_have_every_letter():
    assert set("".join(WORDS)) == set(string.ascii_lowercase)
    assert len(set(WORDS)) == len(WORDS) > 100
    assert {len(word) for word in WORDS} == {2}


def test_record_names_the_word_that_is_drawn(small_set, monkeypatch):
    drawn = []
    draw_ink = typefaces._draw_ink
    monkeypatch.setattr(
        typefaces, "_draw_ink", lambda rng, word, *rest: drawn.append(word) or draw_ink(rng, word, *rest)
    )
    dataset = small_set[0]
    for record, key in itertools.islice(dataset.records(Path("unused")), 20):
        encoded(dataset, key)
        assert record.source == drawn[-1]
    assert len(set(drawn)) > 5


def test_no_two_faces_draw_alike_and_all_have_every_letter():
    drawn = {}
    for face in FACES:
        font = typefaces._font(face, 48)
        missing = bytes(font.getmask("\uffff"))
        letters = [bytes(font.getmask(letter)) for letter in string.ascii_letters]
        assert len(set(letters)) == 52
        assert missing not in letters
        drawn[face] = letters
    for face, letters in drawn.items():
        for other, others in drawn.items():
            alike = sum(a == b for a, b in zip(letters, others, strict=True))
            assert face == other or alike <= 3, (face, other)


def test_word_is_drawn_whole_within_the_image():
    rng = np.random.default_rng(0)
    rendering = Rendering(em=(0.9, 0.9), tilt=(8.0, 8.0))
    for face in FACES:
        ink = np.asarray(typefaces._draw_ink(rng, "WOW", face, 64, rendering))
        columns = np.flatnonzero(ink.any(axis=0))
        assert 40 <= columns[-1] - columns[0] < 64
        # One pixel of ink at the very edge may stem from rounding; a cut letter would show more.
        assert ink[[0, -1]].max() < 255


def middle_distance(pixels):
    """How far the ink's middle is off the image's, along the side where a word has room."""
    rows = np.flatnonzero((abs(pixels - np.median(pixels)) > 45).any(axis=1))
    return abs((rows[0] + rows[-1]) / 2 - (len(pixels) - 1) / 2)


@pytest.mark.parametrize(
    ("easier", "harder", "measure"),
    [
        (Rendering(noise=(0, 0)), Rendering(noise=(30, 30)), lambda p: -np.abs(np.diff(p[:3])).mean()),
        (Rendering(contrast=(220, 220)), Rendering(contrast=(40, 40)), lambda p: np.ptp(p)),
        (Rendering(em=(0.6, 0.6)), Rendering(em=(0.2, 0.2)), lambda p: (abs(p - np.median(p)) > 45).mean()),
        (Rendering(blur=(0, 0)), Rendering(blur=(4, 4)), lambda p: np.abs(np.diff(p)).max()),
        (Rendering(shift=0.0), Rendering(shift=0.5), lambda p: -middle_distance(p)),
        (Rendering(inverse=0.0), Rendering(inverse=1.0), lambda p: np.median(p) - p.mean()),
    ],
)
def test_rendering_knobs_change_the_difficulty(easier, harder, measure):
    means = []
    for rendering in (easier, harder):
        dataset = Typefaces(rendering=rendering)
        images = [decode(encoded(dataset, ("train", face, 0))).astype(float) for face in FACES]
        means.append(np.mean([measure(image) for image in images]))
    assert means[0] > means[1]


def test_tilt_turns_counter_clockwise():
    inks = []
    for tilt in (8.0, -8.0):
        rng = np.random.default_rng(0)
        ink = typefaces._draw_ink(rng, "www", "DejaVuSans", 64, Rendering(tilt=(tilt, tilt)))
        rows, columns = np.nonzero(np.asarray(ink) > 128)
        inks.append(np.polyfit(columns, rows, 1)[0])
    assert inks[0] < -0.05 < 0.05 < inks[1]


def test_layout_is_basic_whether_or_not_pillow_has_raqm():
    font = ImageFont.truetype(typefaces._font_file("cmr10"), 40, layout_engine=ImageFont.Layout.BASIC)
    image, other = Image.new("L", (128, 64)), Image.new("L", (128, 64))
    ImageDraw.Draw(image).text((0, 0), "Wave", fill=255, font=font)
    ImageDraw.Draw(other).text((0, 0), "Wave", fill=255, font=typefaces._font("cmr10", 40))
    assert image.tobytes() == other.tobytes()
    assert typefaces._font("cmr10", 40).layout_engine == ImageFont.Layout.BASIC


@pytest.mark.parametrize(
    "parameters", [{"seed": -1}, {"size": 15}, {"train": 0}, {"val": 0}, {"test": -3}], ids=str
)
def test_parameter_out_of_range_is_named(parameters):
    ((name, value),) = parameters.items()
    with pytest.raises(UserError, match=f"typefaces: {name} is {value}; give"):
        Typefaces(**parameters)


def test_missing_font_is_named_before_anything_is_drawn(tmp_path, monkeypatch):
    import matplotlib

    typefaces._font_file.cache_clear()
    monkeypatch.setattr(matplotlib, "get_data_path", lambda: str(tmp_path))
    with pytest.raises(UserError, match=r"DejaVuSans\.ttf is missing; reinstall matplotlib"):
        next(Typefaces().records(Path("unused")))


def test_missing_matplotlib_is_named(monkeypatch):
    typefaces._font_file.cache_clear()
    monkeypatch.setitem(__import__("sys").modules, "matplotlib", None)
    with pytest.raises(UserError, match="pip install matplotlib"):
        next(Typefaces().records(Path("unused")))
