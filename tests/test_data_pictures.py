"""Pictures of any kind: which formats are opened, told by content, and which pixels a person sees."""

import io
import itertools
import struct
import subprocess
import zlib
from pathlib import Path

import numpy as np
import pytest
from official_archives import write_folder
from PIL import Image, ImageCms

from convnext_ablation.data.measure import measure_image
from convnext_ablation.data.pictures import FORMATS, as_seen, open_picture
from convnext_ablation.data.prepare import prepare
from convnext_ablation.errors import UserError
from convnext_ablation.training.splits import open_split

ROOT = Path(__file__).parents[1]
GRADIENT = np.arange(32 * 32, dtype=np.uint8).reshape(32, 32)


def encoded(image, kind, **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


KINDS = [(kind, "RGB") for kind in sorted({*FORMATS, "MPO"} - {"PSD", "SUN"})]


@pytest.mark.parametrize(("kind", "mode"), [*KINDS, *(("PPM", mode) for mode in "1LIF")])
def test_a_format_is_told_by_its_content(kind, mode):
    if kind == "QOI" and "QOI" not in Image.SAVE:
        pytest.skip("this Pillow doesn't write QOI")
    with open_picture(encoded(Image.fromarray(GRADIENT).convert(mode), kind)) as image:
        assert image.size == (32, 32)


TEXTS = [b"", b"Python", b"Pictures by us", b"BMW is a class", b"GIF", b"RIFF" * 9]


@pytest.mark.parametrize("kind", ["EPS", "PDF", "TGA", "IM", *TEXTS])
def test_what_is_not_on_the_list_is_no_picture(kind):
    data = kind if isinstance(kind, bytes) else encoded(Image.fromarray(GRADIENT).convert("RGB"), kind)
    with pytest.raises(ValueError, match=r"^cannot identify image file$"):
        open_picture(data)


def test_a_picture_of_another_ending_starts_no_program(tmp_path, monkeypatch, image_folder, arguments):
    started, data = tmp_path / "started", encoded(Image.fromarray(GRADIENT).convert("RGB"), "EPS")
    (tmp_path / "gs").write_text(f"#!/bin/sh\ntouch {started}\nexit 1\n")
    (tmp_path / "gs").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    images = write_folder(tmp_path / "images", {f"train/eps/{index}.png": data for index in range(6)})
    path = images / "train/eps/5.png"
    monkeypatch.setattr("PIL.EpsImagePlugin.gs_binary", None)
    with pytest.raises(subprocess.CalledProcessError), Image.open(path) as image:
        image.load()
    assert started.exists()  # so that would start it
    started.unlink()
    assert measure_image(path).error == "cannot identify image file"
    with pytest.raises(UserError, match="cannot identify image file"):
        prepare("folder", tmp_path / "out", images=images)
    for kind in ("", "torch/image_folder"):
        split = open_split(arguments(data_dir=str(images), dataset=kind), "train")
        with pytest.raises(UserError, match="cannot identify image file"):
            split.load(0)
    assert not started.exists()


def test_pictures_are_opened_in_one_module_only():
    opening = [
        path.name for path in (ROOT / "convnext_ablation").rglob("*.py") if "Image.open(" in path.read_text()
    ]
    assert opening == ["pictures.py"]


GREY = np.array([[0, 51, 102], [153, 204, 255]], np.uint8)
RED, BLUE = (255, 0, 0), (0, 0, 255)
# those that turn the stored picture upright, by orientation
TURNS = {
    1: lambda stored: stored,
    2: np.fliplr,
    3: lambda stored: np.rot90(stored, 2),
    4: np.flipud,
    5: lambda stored: stored.T,
    6: lambda stored: np.rot90(stored, -1),
    7: lambda stored: np.rot90(stored, 2).T,
    8: np.rot90,
}


def seen(data, mode="RGB", **options):
    image, changes = as_seen(open_picture(data), mode, **options)
    assert image.mode == mode
    return np.asarray(image), changes


def turned(orientation, pixels=GREY, kind="PNG", **options):
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encoded(Image.fromarray(pixels).convert("RGB"), kind, exif=exif, **options)


@pytest.mark.parametrize("orientation", TURNS)
@pytest.mark.parametrize(
    ("kind", "options"),
    [("PNG", {}), ("TIFF", {}), ("TIFF", {"compression": "tiff_lzw"}), ("WEBP", {"lossless": True})],
)
def test_a_picture_is_turned_upright(orientation, kind, options):
    found, changes = seen(turned(orientation, kind=kind, **options), "L")
    np.testing.assert_array_equal(found, TURNS[orientation](GREY))
    assert changes == ["turned upright by EXIF"] * (orientation > 1)


@pytest.mark.parametrize("orientation", TURNS)
def test_a_box_is_in_the_pixels_of_the_file(orientation):
    found, _ = seen(turned(orientation), "L", box=(1, 0, 3, 1))
    np.testing.assert_array_equal(found, TURNS[orientation](GREY[0:1, 1:3]))


def test_what_is_no_orientation_turns_nothing():
    for exif in (b"Exif\0\0damaged", b"\xff" * 40):
        found, changes = seen(encoded(Image.fromarray(GREY), "PNG", exif=exif), "L")
        np.testing.assert_array_equal(found, GREY)
        assert not changes
    with pytest.raises(ValueError, match="has a bounding box and an orientation"):
        seen(turned(6, kind="TIFF"), box=(0, 0, 1, 1))


def in_mode(mode, pixels):
    return Image.frombytes(mode, pixels.shape[::-1], pixels.tobytes())


WIDE = GREY.astype(np.uint16) * 257
IN_16 = "16-bit greyscale scaled"


@pytest.mark.parametrize(
    ("image", "kind", "expected", "change"),
    [
        (in_mode("I;16", WIDE), "PNG", GREY, IN_16),
        (in_mode("I;16", WIDE - 128 * (WIDE > 0).astype(np.uint16)), "PNG", GREY, IN_16),
        (in_mode("I;16", WIDE), "TIFF", GREY, IN_16),
        (in_mode("I;16", WIDE), "JPEG2000", GREY, IN_16),
        (in_mode("I;16B", WIDE.astype(">u2")), "TIFF", GREY, IN_16),
        (in_mode("I", WIDE.astype(np.int32)), "PPM", GREY, IN_16),
        (in_mode("I", WIDE.astype(np.int32)), "TIFF", GREY, "32-bit greyscale scaled from 0 to 65535"),
        (in_mode("I", GREY.astype(np.int32)), "TIFF", GREY, "32-bit greyscale scaled from 0 to 255"),
        (
            in_mode("I", WIDE.astype(np.int32) - 9),
            "TIFF",
            GREY,
            "32-bit greyscale scaled from its lowest to its highest",
        ),
        (in_mode("F", np.float32(GREY / 255)), "TIFF", GREY, "float greyscale scaled from 0 to 1"),
        (in_mode("F", np.float32(GREY)), "TIFF", GREY, "float greyscale scaled from 0 to 255"),
        (in_mode("F", np.float32(WIDE)), "TIFF", GREY, "float greyscale scaled from 0 to 65535"),
        (
            in_mode("F", np.float32(GREY / 5100 - 7)),
            "TIFF",
            GREY,
            "float greyscale scaled from its lowest to its highest",
        ),
    ],
)
def test_grey_of_more_than_8_bits_is_scaled(image, kind, expected, change):
    options = {"irreversible": False} if kind == "JPEG2000" else {}
    data = encoded(image, kind, **options)
    for mode in ("L", "RGB"):
        found, changes = seen(data, mode)
        np.testing.assert_array_equal(found, expected if mode == "L" else np.dstack([expected] * 3))
        assert changes == [change]


def test_grey_where_0_is_white_is_inverted():
    data = encoded(in_mode("I;16", WIDE), "TIFF", tiffinfo={262: 0})
    assert open_picture(data).tag_v2[262] == 0
    np.testing.assert_array_equal(seen(data, "L")[0], 255 - GREY)


@pytest.mark.parametrize("odd", [np.nan, np.inf])
def test_grey_that_is_no_number_is_refused(tmp_path, odd):
    path = tmp_path / "odd.tif"
    Image.fromarray(np.float32([[0, odd]])).save(path)
    assert measure_image(path).error == "has pixels that are NaN or infinite"


def cmyk_profile():
    """A profile in which ink of cyan alone is red, no ink is white, and all else is black."""
    lab = {(0, 0, 0, 0): (255, 128, 128), (1, 0, 0, 0): (138, 209, 198)}
    corners = bytes(value for at in np.ndindex(2, 2, 2, 2) for value in lab.get(at, (0, 128, 128)))
    matrix = struct.pack(">9i", *(65536 * value for value in (1, 0, 0, 0, 1, 0, 0, 0, 1)))
    table = b"mft1\0\0\0\0" + bytes([4, 3, 2, 0]) + matrix + bytes(range(256)) * 4 + corners
    table += bytes(range(256)) * 3
    white = b"XYZ \0\0\0\0" + struct.pack(">3i", 63190, 65536, 54061)
    place = 128 + 4 + 2 * 12
    tags = struct.pack(">I4sII4sII", 2, b"wtpt", place, 20, b"A2B0", place + 20, len(table))
    head = struct.pack(
        ">I4sI4s4s4s12s4s", place + 20 + len(table), b"", 0x02400000, b"prtr", b"CMYK", b"Lab ", b"", b"acsp"
    )
    head = head.ljust(68, b"\0") + struct.pack(">3i", 63190, 65536, 54061)
    return head.ljust(128, b"\0") + tags + white + table


@pytest.mark.parametrize("kind", ["JPEG", "TIFF"])
def test_cmyk_is_converted_by_its_profile(kind):
    cyan = Image.new("CMYK", (2, 1), (255, 0, 0, 0))
    options = {"quality": 100} if kind == "JPEG" else {}
    found, changes = seen(encoded(cyan, kind, icc_profile=cmyk_profile(), **options))
    np.testing.assert_allclose(found, [[RED] * 2], atol=6)
    assert changes == ["CMYK converted by its profile"]
    of_rgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    for profile in (None, of_rgb, b"damaged"):
        found, changes = seen(encoded(cyan, kind, icc_profile=profile, **options))
        np.testing.assert_allclose(found, [[(0, 255, 255)] * 2], atol=2)
        assert changes == ["CMYK converted without a profile"]


def test_lab_is_converted():
    found, changes = seen(encoded(Image.new("LAB", (1, 1), (138, 209, 198)), "TIFF"))
    np.testing.assert_allclose(found, [[RED]], atol=6)
    assert changes == ["LAB converted"]


def with_palette(*colours):
    image = Image.new("P", (len(colours), 1))
    image.putpalette([channel for colour in colours for channel in colour])
    image.putdata(range(len(colours)))
    return image


def grey_png(bits, row, transparent):
    """A PNG of two grey pixels with less than 8 bits each, which Pillow doesn't write."""
    chunks = {
        b"IHDR": struct.pack(">IIBBBBB", 2, 1, bits, 0, 0, 0, 0),
        b"tRNS": struct.pack(">H", transparent),
        b"IDAT": zlib.compress(bytes([0, row])),
        b"IEND": b"",
    }
    summed = (
        struct.pack(">I", len(each)) + (head := name + each) + struct.pack(">I", zlib.crc32(head))
        for name, each in chunks.items()
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(summed)


def on_white(colour, alpha):
    return [round((value * alpha + 255 * (255 - alpha)) / 255) for value in colour]


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (encoded(with_palette(RED, BLUE), "PNG", transparency=1), [RED, (255, 255, 255)]),
        (encoded(with_palette(RED, BLUE), "GIF", transparency=1), [RED, (255, 255, 255)]),
        (encoded(with_palette(RED, BLUE), "PNG", transparency=bytes([255, 51])), [RED, on_white(BLUE, 51)]),
        (
            encoded(Image.fromarray(np.uint8([[[9, 8, 7, 0], [90, 80, 70, 51]]])), "PNG"),
            [(255, 255, 255), on_white((90, 80, 70), 51)],
        ),
        (
            encoded(Image.fromarray(np.uint8([[[9, 0], [90, 51]]])), "PNG"),
            [(255, 255, 255), on_white((90, 90, 90), 51)],
        ),
        (
            encoded(Image.fromarray(np.uint8([[[9, 8, 7], [90, 80, 70]]])), "PNG", transparency=(9, 8, 7)),
            [(255, 255, 255), (90, 80, 70)],
        ),
        (
            encoded(Image.fromarray(np.uint16([[257, 514]])), "PNG", transparency=257),
            [(255, 255, 255), (2, 2, 2)],
        ),
        (grey_png(4, 0x35, 3), [(255, 255, 255), (85, 85, 85)]),
        (grey_png(2, 0x60, 1), [(255, 255, 255), (170, 170, 170)]),
        (grey_png(1, 0x80, 0), [(255, 255, 255), (255, 255, 255)]),
    ],
)
def test_transparency_is_composited_on_white(data, expected):
    found, changes = seen(data)
    np.testing.assert_array_equal(found, [expected])
    assert changes[-1] == "transparency composited on white"
    assert seen(data, "RGBA")[0][0, :, 3].min() < 255


@pytest.mark.parametrize(
    ("image", "options", "expected"),
    [
        (Image.fromarray(np.array([[False, True]])), {}, [(0, 0, 0), (255, 255, 255)]),
        (with_palette(RED, BLUE), {}, [RED, BLUE]),
        (with_palette(RED, BLUE), {"transparency": b"\xff\xff"}, [RED, BLUE]),
        (Image.fromarray(np.uint8([[[*RED, 255], [*BLUE, 255]]])), {}, [RED, BLUE]),
        (Image.fromarray(np.uint8([[7, 8]])), {}, [(7, 7, 7), (8, 8, 8)]),
    ],
)
def test_what_is_as_seen_already_is_not_changed(image, options, expected):
    found, changes = seen(encoded(image, "PNG", **options))
    np.testing.assert_array_equal(found, [expected])
    assert not changes


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP", "TIFF"])
def test_an_animation_is_its_first_frame(kind):
    frames = [Image.new("RGB", (2, 2), colour) for colour in (RED, BLUE)]
    options = {"lossless": True} if kind == "WEBP" else {}
    data = encoded(frames[0], kind, save_all=True, append_images=frames[1:], **options)
    found, changes = seen(data)
    np.testing.assert_array_equal(found, np.full((2, 2, 3), RED))
    assert changes == ["first of several frames taken"]


def test_original_and_prepared_give_the_same_pixels(tmp_path, arguments):
    rng = np.random.default_rng(0)
    wide = rng.integers(0, 65536, (24, 24), np.uint16)
    pictures = {
        "turned.jpg": turned(6, rng.integers(0, 256, (24, 24), np.uint8), "JPEG"),
        "grey.png": encoded(Image.fromarray(wide), "PNG"),
        "inks.jpg": encoded(Image.new("CMYK", (24, 24), (200, 0, 9, 0)), "JPEG", icc_profile=cmyk_profile()),
        "clear.png": encoded(Image.fromarray(rng.integers(0, 256, (24, 24, 4), np.uint8)), "PNG"),
        "plain.png": encoded(Image.fromarray(wide.astype(np.uint8)), "PNG"),
        "deep.TIF": encoded(Image.fromarray(wide.astype(np.float32)), "TIFF"),
        "moving.gif": encoded(
            Image.new("L", (24, 24), 9), "GIF", save_all=True, append_images=[Image.new("L", (24, 24))]
        ),
    }
    places = itertools.product(("train", "val", "test"), pictures)
    originals = write_folder(
        tmp_path / "originals", {f"{split}/oak/{name}": pictures[name] for split, name in places}
    )
    prepare("folder", tmp_path / "kept", images=originals, size=None)
    prepare("folder", tmp_path / "cached", images=originals, size=24, format="png")
    options = {"input_size": [3, 32, 32], "mean": None, "std": None}
    splits = [
        open_split(arguments(data_dir=str(tmp_path / folder), **options), "train")
        for folder in ("originals", "kept", "cached")
    ]
    for name, data in pictures.items():
        assert (tmp_path / "kept" / "val" / "oak" / name).read_bytes() == data
    assert [len(split) for split in splits] == [len(pictures)] * 3
    for index in range(len(pictures)):
        original, *others = (np.asarray(split.load(index)[0]) for split in splits)
        for other in others:
            np.testing.assert_array_equal(original, other)
        assert original.std() > 0 or "inks" in splits[0].id(index) or "moving" in splits[0].id(index)


def test_a_picture_without_an_ending_is_kept_under_one_of_its_format(tmp_path):
    endings = {"PNG": ".png", "TIFF": ".tif", "JPEG": ".jpg", "WEBP": ".webp"}
    data = {kind: encoded(Image.new("L", (8, 8)), kind) for kind in endings}
    images = write_folder(tmp_path / "mine", {f"oak/{kind}": each for kind, each in data.items()})
    prepare("folder", tmp_path / "out", images=images, size=None)
    kept = {path.name: path.read_bytes() for path in (tmp_path / "out").glob("*/oak/*")}
    assert kept == {f"{kind}{ending}": data[kind] for kind, ending in endings.items()}
