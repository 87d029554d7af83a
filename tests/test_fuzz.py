"""Whatever is given to a command: exit code 0, or 2 with one line of at most 400 characters.

About 2,200 examples, in this process and without training. An input that once failed stays as an example.
"""

import contextlib
import io
import json
import zipfile
from datetime import timedelta
from importlib import resources
from tarfile import TarFile, TarInfo

import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from PIL import Image

from convnext_ablation.cli import asked
from convnext_ablation.cli.main import main, parsed
from convnext_ablation.cli.train import guarded
from convnext_ablation.data.archives import open_source
from convnext_ablation.data.folder import Record, read_manifest, write_manifest
from convnext_ablation.files import sha256_of
from convnext_ablation.study.designs.yaml_design import read_design
from convnext_ablation.study.experiment_file import _read as read_experiment
from convnext_ablation.training.arguments import ARGUMENTS
from convnext_ablation.training.checks import dry_run
from convnext_ablation.training.trained_arguments import VALIDATION_ARGUMENTS, ValidationArguments

RECIPE = (resources.files("convnext_ablation") / "recipes" / "fashion_mnist.yaml").read_bytes()
EXPERIMENT = (resources.files("convnext_ablation") / "experiments" / "mini.yaml").read_bytes()
NUMBERS = ["0", "-1", "1", "2", "5", "0.5", "nan", "inf", "-inf", "1e300", "1e-300", "9" * 30, "1:30", "1_0"]
WORDS = st.sampled_from([*NUMBERS, "", "x", "null", "[1", "a" * 500, "é", "\u2028", "../x", "avg"])
VALUES = st.lists(WORDS | st.text(max_size=8).filter(lambda text: "\0" not in text), max_size=3)
YAML = st.recursive(
    WORDS | st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS, inner, max_size=3),
    max_leaves=5,
)


def fuzz(examples):
    """A bounded search, the same each time."""
    return settings(
        max_examples=examples,
        derandomize=True,
        database=None,
        deadline=timedelta(seconds=20),
        suppress_health_check=list(HealthCheck),
    )


def holds(call):
    """Makes a call and checks how it ends; returns the exit code."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = call()
    text = err.getvalue()
    assert code in (0, 2), text
    if code == 2:
        assert text.find("\n") == len(text) - 1, text
        assert 20 < len(text) <= 400, text
    return code


def reads(read):
    return holds(lambda: guarded("train.py", lambda: 0 if read() is not Ellipsis else 1))


@st.composite
def damaged(draw, content):
    """Bytes with some changed, and perhaps cut short."""
    data = bytearray(content)
    for _ in range(draw(st.integers(0, 3))):
        data[draw(st.integers(0, len(data) - 1))] = draw(st.integers(0, 255))
    return bytes(data[: draw(st.none() | st.integers(0, len(data)))])


@pytest.fixture(autouse=True)
def nothing_outside(tmp_path, monkeypatch):
    """A folder that calls are made in, beside which nothing may appear."""
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    before = set(tmp_path.iterdir())
    yield
    assert set(tmp_path.iterdir()) - before <= {tmp_path / "input"}
    assert not list(here.iterdir())


@fuzz(750)
@given(st.lists(st.tuples(st.sampled_from(sorted(ARGUMENTS)), VALUES), min_size=1, max_size=3))
@example([("mean", ["0", "0"]), ("scale", ["nan", "1"])])
@example([("opt_kwargs", ["0"])])
@example([("model_kwargs", ["a=" + "[" * 300])])
def test_arguments_of_train(given_values):
    words = [word for name, values in given_values for word in ("--" + name.replace("_", "-"), *values)]
    reads(lambda: asked.train(parsed(words, "train.py")))


@fuzz(200)
@given(st.dictionaries(st.sampled_from(sorted(VALIDATION_ARGUMENTS)), YAML, min_size=1, max_size=3))
def test_values_of_validation(values):
    reads(lambda: ValidationArguments.of({"model": "model_i_atto", **values}))


SMALL = ["--model", "model_i_atto", "--img-size", "32", "--num-classes", "2"]
TRIED = sorted(set(ARGUMENTS) - {"torchcompile", "torchcompile_mode", "model", "img_size", "input_size"})


@fuzz(80)
@given(st.sampled_from(TRIED), VALUES)
@example("gp", ["x"])
@example("lr_cycle_mul", ["1e300"])
@example("opt_betas", ["0.5"])
@example("opt_kwargs", ["x=1"])
def test_arguments_that_timm_tries(name, values):
    words = [*SMALL, "--" + name.replace("_", "-"), *values]
    reads(lambda: dry_run(asked.train(parsed(words, "train.py"))))


CONFIG = {
    "architecture": "model_i_atto",
    "num_classes": 2,
    "label_names": ["ash", "oak"],
    "model_args": {"gelu": False},
    "pretrained_cfg": {"input_size": [3, 32, 32], "mean": [0.5] * 3, "std": [0.5] * 3, "crop_pct": 1.0},
    "weights": {"file": "model.safetensors", "sha256": "0" * 64},
    "trained": {"results": [{"split": "val", "top1_percent": 50.0, "top5_percent": 100.0, "images": 2}]},
}


def as_json(keys):
    """Documents in which some keys have other values."""
    values = st.dictionaries(st.sampled_from(sorted(keys)), YAML, min_size=1, max_size=3)
    return values.map(lambda changed: json.dumps({**(keys if keys is CONFIG else {}), **changed}).encode())


@fuzz(400)
@given(damaged(RECIPE) | st.binary(max_size=60) | as_json(ARGUMENTS))
@example(b"epochs: 1:30")
@example(b"? [a]\n: 1")
@example(b"lr: !!float ''")
def test_recipes(tmp_path, content):
    path = tmp_path / "input" / "a.yaml"
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content)
    reads(lambda: asked.train(parsed(["-c", str(path)], "train.py")))


DESIGN = b"""networks:
- model_i
- {label: With GELU, base: model_i, components: {gelu: true}, key: gelu}
contrasts:
- {network: gelu, baseline: model_i, label: GELU, primary: true}
- {name: half, weights: {gelu: 1/2, model_i: -0.5}}
groups: {a: [gelu, depthwise], b: [inverted]}
"""


@fuzz(200)
@given(damaged(DESIGN), damaged(EXPERIMENT))
def test_designs_and_experiments(tmp_path, design, experiment):
    folder = tmp_path / "input"
    folder.mkdir(exist_ok=True)
    for content, read in ((design, lambda file: read_design(file, "_atto")), (experiment, read_experiment)):
        (folder / "a.yaml").write_bytes(content)
        reads(lambda read=read: read(str(folder / "a.yaml")))


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """A prepared folder of four images of two classes."""
    root, records = tmp_path_factory.mktemp("fuzz") / "data", []
    for split in ("train", "val"):
        for number, name in enumerate(("ash", "oak")):
            path = root / split / name / "0.png"
            path.parent.mkdir(parents=True)
            Image.new("RGB", (8, 8), (number * 90, len(records) * 50, 9)).save(path)
            records.append(Record(f"{split}/{name}/0.png", split, name, "0.png", sha256_of(path)))
    (root / "classes.txt").write_text("ash\noak\n")
    write_manifest(root, records)
    return root


@fuzz(150)
@given(st.data())
def test_manifests(prepared, data):
    manifest = prepared / "manifest.csv"
    whole = manifest.read_bytes()
    manifest.write_bytes(data.draw(damaged(whole)))
    try:
        if holds(lambda: main(["prepare", "--verify", str(prepared)])) == 0:
            hashes = {record.id: record.sha256 for record in read_manifest(prepared)}
            assert hashes == {name: sha256_of(prepared / name) for name in hashes}
            assert len(hashes) == 4
    finally:
        manifest.write_bytes(whole)


@fuzz(200)
@example(json.dumps({**CONFIG, "label_names": False}).encode())
@example(json.dumps({**CONFIG, "trained": "0"}).encode())
@example(json.dumps({**CONFIG, "trained": {"results": [1]}}).encode())
@given(damaged(json.dumps(CONFIG).encode()) | as_json(CONFIG))
def test_releases(tmp_path, content):
    folder = tmp_path / "input"
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_bytes(content)
    call = ["verify", str(folder), "--data", "nowhere", "--device", "cpu", "-j", "0"]
    assert holds(lambda: main(call)) == 2


def checkpoint():
    file = io.BytesIO()
    state = {"fc.weight": torch.ones(2, 2), 3: torch.zeros(1)}
    torch.save({"state_dict": state, "arch": "model_i_atto", 7: None, "args": {"model": "x"}}, file)
    return file.getvalue()


@fuzz(150)
@given(damaged(checkpoint()) | st.binary(max_size=80))
@example(checkpoint())
def test_checkpoints(tmp_path, content):
    folder = tmp_path / "input"
    folder.mkdir(exist_ok=True)
    for name in ("a.pth.tar", "a.safetensors"):
        (folder / name).write_bytes(content)
        call = ["convert", str(folder / name), str(folder / "b.safetensors"), "--model", "model_i_atto"]
        assert holds(lambda call=call: main(call)) == 2


def packed(kind):
    file, image = io.BytesIO(), io.BytesIO()
    Image.new("RGB", (8, 8)).save(image, "PNG")
    names = [f"{split}/{name}/0.png" for split in ("train", "val") for name in ("ash", "oak")]
    if kind == "zip":
        with zipfile.ZipFile(file, "w") as archive:
            for name in names:
                archive.writestr(name, image.getvalue())
    else:
        with TarFile(fileobj=file, mode="w") as archive:
            for name in names:
                entry = TarInfo(name)
                entry.size, entry.pax_headers = len(image.getvalue()), {"comment": "x"}
                archive.addfile(entry, io.BytesIO(image.getvalue()))
    return file.getvalue()


@fuzz(100)
@given(damaged(packed("tar")), damaged(packed("zip")))
def test_archives(tmp_path, tar, zipped):
    folder = tmp_path / "input"
    folder.mkdir(exist_ok=True)
    for name, content in (("a.tar", tar), ("a.zip", zipped)):
        (folder / name).write_bytes(content)

        def read(path=folder / name):
            for piece in open_source(path, folder).values():
                piece.read()

        reads(read)
