import datetime
import hashlib
import io
import json
import os
import pickle
import sys
import zipfile
from argparse import Namespace
from collections import Counter, deque
from enum import Enum
from pathlib import Path, PureWindowsPath
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from convnext_ablation.errors import UserError
from convnext_ablation.files import sha256_of
from convnext_ablation.models.checkpoint_files import checkpoint_hash, read_checkpoint
from convnext_ablation.models.layouts import layout_of

MODEL_III_NAMES = [
    "conv1.weight",
    "conv1.bias",
    "layer1.0.conv1.weight",
    "ds1.weight",
    "fc.weight",
]  # some of them


class _AddictDict(dict):
    """addict 2's: it pickles its content three times over."""

    def __getnewargs__(self):
        return tuple(self.items())

    def __getstate__(self):
        return self

    def __setstate__(self, state):
        self.update(state)


@pytest.fixture
def fgvc_file(tmp_path, monkeypatch):
    """A file like those of 11785-FGVC; addict is there while it is written, and gone when it is read."""
    settings_type = type("Dict", (_AddictDict,), {"__module__": "addict.addict"})
    module = ModuleType("addict.addict")
    module.Dict = settings_type
    model = settings_type(backbone=settings_type(name="resnet50_c12", drop_path=0.0), head=settings_type())
    content = {
        "epoch": 87,
        "arch": model,
        "state_dict": {f"module.{name}": torch.ones(2, 3) for name in MODEL_III_NAMES},
        "optimizer": {"state": {}, "param_groups": [{"lr": 0.03}]},
        "version": 2,
        "args": settings_type(model=model, optim=settings_type(name="sgd", betas=[settings_type(a=1)])),
        "scaler": {"scale": 65536.0},
        "metric": 81.5,
    }
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "addict", ModuleType("addict"))
        patch.setitem(sys.modules, "addict.addict", module)
        torch.save(content, tmp_path / "model_best.pth.tar")
    assert "addict" not in sys.modules
    return tmp_path / "model_best.pth.tar"


def test_settings_of_a_type_that_is_not_there_are_read_as_plain_data(fgvc_file):
    checkpoint = read_checkpoint(fgvc_file)
    assert layout_of(checkpoint.plain).format.name == "11785-fgvc"
    assert checkpoint.arguments == {
        "model": checkpoint.content["arch"],
        "optim": {"name": "sgd", "betas": [{"a": 1}]},
    }
    assert checkpoint.content["arch"]["backbone"]["name"] == "resnet50_c12"
    assert "addict" not in sys.modules
    torch.save(checkpoint.content, fgvc_file)  # as what torch takes for plain data
    assert torch.load(fgvc_file, weights_only=True)["args"] == checkpoint.arguments


class _Phase(Enum):
    ONE = 1


class _Names(list):
    """A list of a type of one's own."""


PLAIN = {
    "number": (np.int64(7), 7),
    "score": (np.float64(71.5), 71.5),
    "flag": (np.bool_(True), True),
    "path": (Path("/data/cub"), "/data/cub"),
    "path of Windows": (PureWindowsPath("c:/data"), "c:\\data"),
    "date": (datetime.date(2026, 1, 2), datetime.date(2026, 1, 2)),
    "settings": (Namespace(lr=0.1), {"lr": 0.1}),
    "counts": (Counter("aab"), {"a": 2, "b": 1}),
    "set": ({1, 2}, {1, 2}),
    "half": (torch.float16, torch.float16),
    "bytes": (b"\xff", b"\xff"),
    # kept without their values
    "array": (np.arange(3), {}),
    "objects": (np.array(["a", {}], dtype=object), {}),
    "phase": (_Phase.ONE, {}),
    "names": (_Names("ab"), {}),
    "queue": (deque([1]), {}),
    "type": (dict[str, Any], {}),
    "device": (torch.device("cpu"), {}),
}


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "before torch 1.6"])
def test_plain_data_beside_the_weights_never_stops_a_file(tmp_path, zipped):
    weights = {
        "conv.weight": torch.arange(12.0).reshape(3, 4).t(),
        "fc.weight": torch.nn.Parameter(torch.arange(10.0)[3:7:2]),
        "fc.scale": torch.ones(3, dtype=torch.bfloat16),
        "fc.count": torch.tensor(3, dtype=torch.uint16),
        "fc.none": torch.empty(0, 3),
    }
    content = {name: saved for name, (saved, _) in PLAIN.items()} | {"loss": torch.nn.CrossEntropyLoss()}
    torch.save({"state_dict": weights, **content}, tmp_path / "a.pth", _use_new_zipfile_serialization=zipped)
    checkpoint = read_checkpoint(tmp_path / "a.pth")
    for name, (_, expected) in PLAIN.items():
        assert checkpoint.content[name] == expected, name
    for name, value in weights.items():
        assert torch.equal(checkpoint.plain[name], value), name
        assert checkpoint.plain[name].dtype == value.dtype


def test_a_file_in_parts_is_read_by_its_index(tmp_path):
    parts = {"a.weight": "model-00001-of-00002.safetensors", "b.weight": "pytorch_model-00002.bin"}
    save_file({"a.weight": torch.ones(2)}, tmp_path / parts["a.weight"])
    torch.save({"b.weight": torch.zeros(3)}, tmp_path / parts["b.weight"])
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": parts}))
    assert {name: len(value) for name, value in read_checkpoint(index).plain.items()} == {
        "a.weight": 2,
        "b.weight": 3,
    }
    hashes = "".join(sha256_of(tmp_path / part) for part in sorted(parts.values()))
    assert checkpoint_hash(index) == hashlib.sha256(hashes.encode()).hexdigest()
    for names in ({"a.weight": "../a.bin"}, {"a.weight": index.name}, []):
        index.write_text(json.dumps({"weight_map": names}))
        assert str(index) in _unreadable(index)
    (tmp_path / parts["b.weight"]).unlink()
    index.write_text(json.dumps({"weight_map": parts}))
    with pytest.raises(UserError, match=r"pytorch_model-00002\.bin: no such checkpoint"):
        read_checkpoint(index)


def _unreadable(path, **kwargs):
    with pytest.raises(UserError) as caught:
        read_checkpoint(path).weights(**kwargs)
    message = str(caught.value)
    assert message.startswith(str(path))
    assert "\n" not in message
    return message


def _saved(zipped=True, **content):
    file = io.BytesIO()
    torch.save(content, file, _use_new_zipfile_serialization=zipped)
    return file.getvalue()


def _zip(name):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr(name, b"")
    return file.getvalue()


def _flipped(data):
    at = data.index(b"\x11" * 64)
    return data[:at] + b"\x12" + data[at + 1 :]


WEIGHTS = {"fc.weight": torch.full((64, 64), 0x11, dtype=torch.uint8)}


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("a.pth", b"", "not a checkpoint, or a damaged one (it is empty)"),
        ("a.pth", b"GGUF\x03\x00", "this is a GGUF file, not a checkpoint of torch or safetensors; save"),
        ("a.pth", b"\x08\x07\x12\x07pytorch", "this is an ONNX file"),
        ("a.ckpt", b"\x89HDF\r\n\x1a\n", "this is an HDF5 file, as of Keras"),
        (
            "a.pth",
            b"\x1f\x8b\x08\x00",
            "this is a gzip file, not a checkpoint of torch or safetensors; unpack it",
        ),
        ("a.pth.tar", b"sys_info".ljust(257, b"\x00") + b"ustar", "this is a tar archive"),
        ("a.pth", b"\n<!DOCTYPE html><html>404</html>", "a web page"),
        ("a.safetensors", b"<html></html>", "a web page"),
        ("a.pth", b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "git lfs pull"),
        ("a.pth", b"\x80\x02}q\x00(X\x05", "not a checkpoint, or a damaged one"),
        ("a.pth", _saved(state_dict=WEIGHTS)[:-200], "not a checkpoint, or a damaged one (it is cut short)"),
        ("a.pth", _saved(False, state_dict=WEIGHTS)[:-200], "or a damaged one (it is cut short)"),
        ("a.pth", _flipped(_saved(state_dict=WEIGHTS)), "Bad CRC-32"),
        ("a.pth", _zip("model/readme.txt"), "a zip archive of other files"),
        ("a.pth", pickle.dumps({"a": 1}), "a pickle that torch didn't write"),
        ("a.pt", _zip("model/constants.pkl"), "a TorchScript program"),
        ("a.safetensors", b"\x08\x00\x00\x00\x00\x00\x00\x00{", "not a checkpoint, or a damaged one"),
        ("a.pth", _saved(epoch=3), "holds no weights"),
        ("a.pth", _saved(state_dict={}), "holds no weights"),
        ("a.pth", _saved(net=torch.nn.Linear(2, 2)), "holds a whole network; save its state_dict"),
    ],
)
def test_what_is_no_checkpoint_is_refused_in_one_line(tmp_path, name, content, says):
    (tmp_path / name).write_bytes(content)
    assert says in _unreadable(tmp_path / name)


def test_a_list_a_missing_file_and_absent_averages_are_refused(tmp_path):
    torch.save([1, 2], tmp_path / "list.pth")
    assert "holds a list" in _unreadable(tmp_path / "list.pth")
    assert "no such checkpoint" in _unreadable(tmp_path / "missing.pth")
    assert "is a folder; give the path of a checkpoint file" in _unreadable(tmp_path)
    os.mkfifo(tmp_path / "pipe.pth")
    assert "is no file; give" in _unreadable(tmp_path / "pipe.pth")
    torch.save({"state_dict": WEIGHTS}, tmp_path / "a.pth")
    no_average = "holds no averaged weights, only plain ones; ask for those"
    assert no_average in _unreadable(tmp_path / "a.pth", kind="averaged")
    torch.save(torch.nn.Linear(2, 2), tmp_path / "a.pth")
    assert "holds a whole network; save its state_dict" in _unreadable(tmp_path / "a.pth")
