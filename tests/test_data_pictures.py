"""Pictures of any kind: which formats are opened, told by content, and which pixels a person sees."""

import io
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from convnext_ablation.data.measure import measure_image
from convnext_ablation.data.pictures import FORMATS, open_picture
from convnext_ablation.data.prepare import prepare
from convnext_ablation.errors import UserError
from convnext_ablation.training.splits import open_split

ROOT = Path(__file__).parents[1]
GRADIENT = np.arange(32 * 32, dtype=np.uint8).reshape(32, 32)


def encoded(image, kind, **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


@pytest.mark.parametrize("kind", sorted({*FORMATS, "MPO"} - {"PSD", "SUN"}))
def test_a_format_is_told_by_its_content(kind):
    rgb = Image.fromarray(GRADIENT).convert("RGB")
    if kind == "QOI" and "QOI" not in Image.SAVE:
        pytest.skip("this Pillow doesn't write QOI")
    data = encoded(rgb, kind)
    with open_picture(data) as image:
        assert image.size == (32, 32)


@pytest.mark.parametrize("mode", ["1", "L", "I", "F", "RGB"])
def test_the_family_of_ppm_is_one_format(mode):
    data = encoded(Image.fromarray(GRADIENT).convert(mode), "PPM")
    assert open_picture(data).size == (32, 32)


@pytest.mark.parametrize("kind", ["EPS", "PDF", "TGA", "IM"])
def test_what_is_not_on_the_list_is_no_picture(kind):
    data = encoded(Image.fromarray(GRADIENT).convert("RGB"), kind)
    with pytest.raises(ValueError, match=r"^cannot identify image file$"):
        open_picture(data)


@pytest.mark.parametrize("text", [b"", b"Python", b"Pictures by us", b"BMW is a class", b"GIF", b"RIFF" * 9])
def test_a_text_is_no_picture(text):
    with pytest.raises(ValueError, match=r"^cannot identify image file$"):
        open_picture(text)


def test_a_picture_of_another_ending_starts_no_program(tmp_path, monkeypatch, image_folder, arguments):
    started, data = tmp_path / "started", encoded(Image.fromarray(GRADIENT).convert("RGB"), "EPS")
    (tmp_path / "gs").write_text(f"#!/bin/sh\ntouch {started}\nexit 1\n")
    (tmp_path / "gs").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    for index in range(6):
        path = tmp_path / "images" / "train" / "eps" / f"{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    monkeypatch.setattr("PIL.EpsImagePlugin.gs_binary", None)
    with pytest.raises(subprocess.CalledProcessError), Image.open(path) as image:
        image.load()
    assert started.exists()  # so that would start it
    started.unlink()
    assert measure_image(path).error == "cannot identify image file"
    with pytest.raises(UserError, match="cannot identify image file"):
        prepare("folder", tmp_path / "out", images=tmp_path / "images")
    for kind in ("", "torch/image_folder"):
        images = open_split(arguments(data_dir=str(tmp_path / "images"), dataset=kind), "train")
        with pytest.raises(UserError, match="cannot identify image file"):
            images.load(0)
    assert not started.exists()


def test_pictures_are_opened_in_one_module_only():
    opening = [
        path.name for path in (ROOT / "convnext_ablation").rglob("*.py") if "Image.open(" in path.read_text()
    ]
    assert opening == ["pictures.py"]
