"""`convnext-ablation export --int8`: networks in 8 bits that keep their accuracy, or are refused."""

import io
import re
from contextlib import redirect_stdout

import numpy as np
import onnx
import pytest
import timm
import torch
from PIL import Image
from torch.nn.functional import cross_entropy

from convnext_ablation.cli.main import main
from convnext_ablation.errors import UserError
from convnext_ablation.inference import quantize as quantizing
from convnext_ablation.inference.export import load_onnx
from convnext_ablation.inference.prediction import Prediction
from convnext_ablation.training.trained_arguments import PredictionArguments

MODEL, CLASSES, SIZE = "model_v_atto", ["red", "green", "blue"], 32


def pictures(count, seed):
    """Noisy pictures, ``(count, SIZE, SIZE, 3)``, whose colour is their class, and the classes."""
    rng = np.random.default_rng(seed)
    classes = np.arange(count) % len(CLASSES)
    noise = rng.normal(0, 30, (count, SIZE, SIZE, 3))
    return (noise + 80 + 80 * np.eye(3)[classes][:, None, None]).clip(0, 255).astype(np.uint8), classes


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A folder with a run that has learned the classes."""
    torch.manual_seed(0)
    model = timm.create_model(MODEL, num_classes=len(CLASSES))
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3)
    pixels, classes = pictures(24, 0)
    images = torch.from_numpy(pixels).permute(0, 3, 1, 2) / 127.5 - 1
    for _ in range(30):
        loss = cross_entropy(model(images), torch.from_numpy(classes))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss < 0.1
    half = [0.5] * 3
    arguments = {"model": MODEL, "input_size": (3, SIZE, SIZE), "crop_pct": 1.0, "mean": half, "std": half}
    saved = {"arch": MODEL, "state_dict": model.state_dict(), "args": arguments}
    folder = tmp_path_factory.mktemp("int8") / "run"
    folder.mkdir()
    torch.save({**saved, "convnext_ablation": {"classes": CLASSES}}, folder / "model_best.pth.tar")
    return folder


@pytest.fixture
def data(tmp_path):
    return prepared(tmp_path / "data")


def prepared(folder):
    """A folder with 48 validation images."""
    for number, (image, name) in enumerate(zip(*pictures(48, 1), strict=True)):
        of_class = folder / "val" / CLASSES[name]
        of_class.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(of_class / f"{number}.png")
    return folder


def exported(run, data, output):
    return main(["export", str(run), "--to", "onnx", "--int8", str(data), "--output", str(output)])


def refused(capsys, output):
    """The one line of an error that leaves no file behind."""
    told = capsys.readouterr()
    assert not list(output.parent.glob("*.onnx"))
    assert told.err.count("error:") == 1
    return told.err.splitlines()[-1], told.out


@pytest.fixture(scope="module")
def files(run):
    """The network in float32 and in int8, and what the second export printed."""
    float32, int8 = run.parent / "float32.onnx", run.parent / "int8.onnx"
    assert main(["export", str(run), "--to", "onnx", "--output", str(float32)]) == 0
    with redirect_stdout(io.StringIO()) as told:
        assert exported(run, prepared(run.parent / "data"), int8) == 0
    return float32, int8, told.getvalue()


def test_int8_answers_as_float32_from_a_smaller_file_with_its_metadata(files):
    *files, told = files
    line = next(line for line in told.splitlines() if line.startswith("int8: "))
    found = re.fullmatch(
        r"int8: top-1 (\S+) % against (\S+) % in float32 on 36 images, calibrated on 12 others: "
        r"\+\d\.\d\d ± \d\.\d\d points; too few images to tell 0\.3 points",
        line,
    )
    assert found, line
    assert float(found[1]) >= float(found[2]) > 90
    pixels, classes = pictures(30, 2)
    probabilities = [load_onnx(file)(pixels) for file in files]
    assert (probabilities[1].argmax(1) == classes).mean() > 0.9
    assert 0 < np.abs(probabilities[0] - probabilities[1]).mean() < 0.02
    metadata = [{each.key: each.value for each in onnx.load(file).metadata_props} for file in files]
    assert metadata[0] == metadata[1]
    assert "class_names" in metadata[1]
    assert files[1].stat().st_size < 0.4 * files[0].stat().st_size


def test_int8_weights_cannot_overflow_where_products_are_added_in_16_bits(files):
    weights = [onnx.numpy_helper.to_array(each) for each in onnx.load(files[1]).graph.initializer]
    weights = [each for each in weights if each.dtype == np.int8 and each.ndim > 1]
    assert len(weights) > 50
    assert max(np.abs(each.astype(int)).max() for each in weights) * 255 * 2 < 2**15


def test_network_that_int8_makes_wrong_is_refused(run, data, tmp_path, capsys, monkeypatch):
    def negated(source, target, calibration):
        network = onnx.load(source)
        (classifier,) = (node.input[1] for node in network.graph.node if node.op_type == "Gemm")
        (weights,) = (each for each in network.graph.initializer if each.name == classifier)
        weights.CopyFrom(onnx.numpy_helper.from_array(-onnx.numpy_helper.to_array(weights), classifier))
        onnx.save(network, target)

    monkeypatch.setattr(quantizing, "quantize", negated)
    assert exported(run, data, tmp_path / "int8.onnx") == 2
    error, _ = refused(capsys, tmp_path / "int8.onnx")
    assert "0.3 may be lost, so nothing is written" in error


@pytest.mark.parametrize(("count", "lost"), [(1000, 3), (1000, 4), (100, 1)])
def test_int8_may_lose_three_in_a_thousand(count, lost, monkeypatch):
    def runtime(file):
        wrong = lost if file == "int8" else 0
        return lambda pixels: np.eye(2)[(pixels < wrong).astype(int)]

    def numbered(images, chosen, config):
        yield np.array(chosen), np.zeros(len(chosen), int)

    monkeypatch.setattr(quantizing, "load_onnx", runtime)
    monkeypatch.setattr(quantizing, "batches", numbered)
    monkeypatch.setattr(quantizing, "quantize", lambda source, target, calibration: list(calibration))
    monkeypatch.setattr(quantizing, "calibrating", lambda images: range(count, count + 8))
    images = range(count + 8)
    if 1000 * lost > 3 * count:
        with pytest.raises(UserError, match=f"on {count} images"):
            quantizing.quantize_as_accurate("float32", "int8", images, {})
        return
    found = quantizing.quantize_as_accurate("float32", "int8", images, {})
    assert found.change == pytest.approx(-0.3)
    assert found.margin == pytest.approx(196 * np.sqrt(0.003 * 0.997 / 999), rel=1e-6)


def test_images_that_calibrate_are_few_and_from_all_of_the_split():
    for count in (8, 1000, 1024, 50_000):
        chosen = quantizing.calibrating(range(count))
        assert len(chosen) <= min(256, (count + 3) // 4)
        assert chosen[-1] > 0.7 * count - 4


@pytest.mark.parametrize("fault", ["no_val", "few", "other_classes"])
def test_data_that_cannot_calibrate_are_refused_before_the_export(fault, run, data, tmp_path, capsys):
    if fault == "no_val":
        (data / "val").rename(data / "train")
    elif fault == "few":
        for path in [*data.glob("val/*/*.png")][5:]:
            path.unlink()
    else:
        (data / "val/green").rename(data / "val/lime")
    assert exported(run, data, tmp_path / "int8.onnx") == 2
    error, said = refused(capsys, tmp_path / "int8.onnx")
    expected = {"no_val": "no such folder", "few": "has 5 images", "other_classes": "lime"}
    assert expected[fault] in error
    assert "exporting" not in said


def test_unreadable_image_is_named(files, run, data, tmp_path):
    (data / "val/blue/47.png").write_bytes(b"no picture")
    prediction = Prediction(PredictionArguments.of({"checkpoint": str(run), "device": "cpu"}))
    images = quantizing.validation_images(prediction, str(data))
    with pytest.raises(UserError, match=r"blue/47\.png: can't be decoded"):
        quantizing.quantize_as_accurate(files[0], tmp_path / "int8.onnx", images, prediction.data_config)


def test_int8_is_for_onnx_alone(run, data, capsys):
    assert main(["export", str(run), "--to", "torchscript", "--int8", str(data)]) == 2
    assert "--int8 is for --to onnx" in capsys.readouterr().err
