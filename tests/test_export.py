"""`convnext-ablation export`: files that run without the package and give what `predict` gives."""

import csv
import importlib.metadata
import importlib.util
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from test_docs import FENCED, ROOT
from test_inference import with_trained_values
from test_predict import probabilities
from timm.data import resolve_data_config

from convnext_ablation.cli.main import main
from convnext_ablation.inference import export as exporting
from convnext_ablation.inference.export import Deployed, difference, load_torchscript, write_torchscript
from convnext_ablation.models.components import Components

MODEL, CLASSES, SIZE = "model_iv_atto", ["dark", "grey", "light"], (3, 64, 64)
KEYS = ["model", "class_names", "input_size", "crop_pct", "interpolation", "mean"]
compiles = pytest.mark.skipif(not shutil.which("g++"), reason="AOTInductor needs a C++ compiler, g++")
FORMATS = ["onnx", "torchscript", pytest.param("aoti", marks=compiles)]
torchscript = pytest.mark.filterwarnings("ignore:`torch.jit:FutureWarning")  # which torch deprecates


@pytest.fixture(scope="module", autouse=True)
def _two_blocks_a_stage():
    """Each block takes as long to export, and is the same."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Components, "depths", (2, 2, 2, 2))
        yield


def trained(name=MODEL, **options):
    torch.manual_seed(0)
    model = with_trained_values(timm.create_model(name, num_classes=len(CLASSES), **options))
    model.get_classifier().weight.data.mul_(0.1)  # else all probabilities are 0 or 1
    return model


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A folder with a run of the network."""
    folder = tmp_path_factory.mktemp("export") / "run"
    folder.mkdir()
    arguments = {"model": MODEL, "input_size": SIZE, "crop_pct": 0.9, "mean": (0.4, 0.5, 0.6)}
    saved = {"arch": MODEL, "state_dict": trained().state_dict(), "args": arguments}
    torch.save({**saved, "convnext_ablation": {"classes": CLASSES}}, folder / "model_best.pth.tar")
    return folder


@pytest.fixture(scope="module")
def exported(run):
    """Exports the run to a format, once."""
    files = {}

    def file(form):
        if form not in files:
            files[form] = run.parent / f"it{exporting.FORMATS[form]}"
            assert main(["export", str(run), "--to", form, "--output", str(files[form])]) == 0
        return files[form]

    return file


def metadata(form, path):
    """What the file says, by the format's own reader."""
    if form == "onnx":
        import onnxruntime

        return onnxruntime.InferenceSession(path).get_modelmeta().custom_metadata_map
    if form == "aoti":
        return torch._inductor.aoti_load_package(str(path)).get_metadata()
    extra = dict.fromkeys(KEYS, "")
    torch.jit.load(path, _extra_files=extra)
    return {name: value.decode() for name, value in extra.items()}


def documented():
    """The function of docs/deploying.md that resizes a picture."""
    page = (ROOT / "docs" / "deploying.md").read_text()
    names = {}
    exec(next(code for _, _, code in FENCED.findall(page) if "def prepared" in code), names)
    return names["prepared"]


@torchscript
@pytest.mark.parametrize("form", FORMATS)
def test_a_file_gives_the_probabilities_of_predict_for_any_number_of_pictures(form, run, exported, tmp_path):
    rng = np.random.default_rng(0)
    pictures = [tmp_path / f"{number:02d}.png" for number in range(16)]
    for path in pictures:
        coarse = Image.fromarray(rng.integers(0, 256, (5, 7, 3), np.uint8))
        coarse.resize((rng.integers(70, 140), rng.integers(70, 140))).save(path)
    asked = ["--topk", "3", "--device", "cpu", "-j", "0", "--results-file", str(tmp_path / "rows.csv")]
    assert main(["predict", *map(str, pictures), "--checkpoint", str(run), *asked]) == 0
    with open(tmp_path / "rows.csv", newline="") as file:
        expected = [probabilities(row) for row in csv.DictReader(file)]
    about = {name: json.loads(metadata(form, exported(form))[name]) for name in KEYS}
    network = exporting.WRITERS[form].load(exported(form))
    images = np.stack([documented()(path, about) for path in pictures])
    for count in (1, 3, 16):
        assert network(images[:count]) == pytest.approx(np.array(expected[:count]), abs=1e-5)
    assert np.ptp(expected, axis=0).max() > 0.01


@torchscript
@pytest.mark.parametrize("form", FORMATS)
def test_a_file_names_its_classes_and_preprocessing(form, exported):
    about = metadata(form, exported(form))
    expected = {"model": MODEL, "class_names": CLASSES, "input_size": list(SIZE), "crop_pct": 0.9}
    expected |= {"interpolation": "bicubic", "mean": [0.4, 0.5, 0.6]}
    assert {name: json.loads(about[name]) for name in expected} == expected


def test_an_onnx_file_tells_nothing_of_this_machine(exported):
    assert str(ROOT).encode() not in exported("onnx").read_bytes()


@torchscript
@pytest.mark.parametrize(
    ("name", "options"),
    [
        *((f"model_{number}_atto", {}) for number in ("i", "ii", "iii", "v")),
        ("model_v_atto", {"in_chans": 1}),
        ("test_vit", {"img_size": 64}),
    ],
)
def test_every_kind_of_network_can_be_exported(name, options, tmp_path):
    model = trained(name, **options)
    config = resolve_data_config({"input_size": (options.get("in_chans", 3), 64, 64)}, model=model)
    if config["input_size"][0] == 1:
        config |= {"mean": (0.5,), "std": (0.25,)}
    with torch.no_grad():
        images = torch.zeros(2, 64, 64, config["input_size"][0], dtype=torch.uint8)
        write_torchscript(Deployed(model, config), images, {}, tmp_path / "x.pt")
        assert difference(load_torchscript(tmp_path / "x.pt"), model, config) < 1e-5


@torchscript
@pytest.mark.parametrize("name", ["model_v_atto", "test_resnet.r160_in1k"])
def test_a_model_is_exported_by_its_name(name, tmp_path, monkeypatch, capsys):
    create = timm.create_model
    monkeypatch.setattr(timm, "create_model", lambda *x, **y: create(*x, **{**y, "pretrained": False}))
    monkeypatch.chdir(tmp_path)
    assert main(["export", name, "--to", "onnx", "--img-size", "64"]) == 0
    file = Path(f"{name}-64.onnx")
    assert list(tmp_path.iterdir()) == [tmp_path / file]
    assert len(json.loads(metadata("onnx", file)["class_names"])) == 1000
    assert "uint8 images (N, 64, 64, 3) -> probabilities (N, 1000)" in capsys.readouterr().out


def without_shift(network, images):
    return network.network(images.permute(0, 3, 1, 2).float() * network.scale).softmax(1)


@pytest.mark.parametrize(
    "forward",
    [
        without_shift,
        lambda network, images: without_shift(network, images) / 0 * 0,
        lambda network, images: without_shift(network, images)[:, :2],
    ],
)
def test_nothing_is_written_if_the_file_gives_something_else(forward, run, tmp_path, monkeypatch, capsys):
    (tmp_path / "x.pt").write_text("as it was")
    monkeypatch.setattr(Deployed, "forward", forward)
    output = ["--output", str(tmp_path / "x.pt"), "--force"]
    assert main(["export", str(run), "--to", "torchscript", *output]) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert "torchscript: log-probabilities differ from the network's by" in said
    assert "may by 1e-04; nothing is written" in said
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("x.pt", "as it was")]


def test_a_network_that_cannot_be_exported_is_named(run, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(Deployed, "forward", lambda network, images: torch.cat([images, network.scale]))
    monkeypatch.chdir(tmp_path)
    assert main(["export", str(run), "--to", "torchscript"]) == 2
    said = capsys.readouterr().err.splitlines()
    assert f"error: {MODEL}: can't be exported to torchscript: " in said[-1]
    assert len(said) == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("resnet5 --to onnx", "unknown model 'resnet5'"),
        ("model_iv_atto --to onnx", "there are no public weights of it"),
        ("gone.pth --to onnx", "gone.pth: no such checkpoint"),
        ("gone --to onnx --model model_iv", "gone: no such checkpoint"),
        ("{run} --to onnx --model model_v", "model_best.pth.tar: the checkpoint"),
        ("{run} --to onnx --output there.onnx", "there.onnx: exists; give --force to overwrite it"),
        ("{run} --to aoti --output x.onnx", "x.onnx: --to aoti writes a .pt2 file, to a folder that exists"),
        ("{run} --to onnx --output gone/x.onnx", "gone/x.onnx: --to onnx writes"),
        ("{run} --to torchscript --model-kwargs features_only=True", "gives no logits for whole images"),
        ("{run} --to torchscript --img-size 0", "img_size is 0; it must be at least 1"),
    ],
)
def test_what_is_wrong_is_one_line(words, message, run, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("there.onnx").write_text("")
    before = list(tmp_path.iterdir())
    assert main(["export", *words.format(run=run).split()]) == 2
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1
    assert list(tmp_path.iterdir()) == before


@pytest.mark.parametrize(
    ("form", "patch", "message"),
    [
        ("onnx", (importlib.util, "find_spec", lambda name: None), "pip install 'convnext_ablation[export]'"),
        ("onnx", (exporting, "_MOST_BYTES", 10), "GiB, and ONNX files hold 2; give --to aoti"),
        ("aoti", (shutil, "which", lambda name: None), "needs a C++ compiler, and there is none"),
        (
            "aoti",
            (importlib.metadata, "version", lambda name: "2.5.1+cpu"),
            "needs torch 2.6, and 2.5.1+cpu is",
        ),
    ],
)
def test_what_is_missing_is_one_line(form, patch, message, run, monkeypatch, capsys):
    monkeypatch.setattr(*patch)
    assert main(["export", str(run), "--to", form]) == 2
    assert message in capsys.readouterr().err
