import io
import os
import sys
import zipfile
from argparse import Namespace
from types import ModuleType

import pytest
import torch
from safetensors.torch import save_file
from torch.serialization import safe_globals

from convnext_ablation.errors import UserError
from convnext_ablation.models.checkpoint_files import read_checkpoint
from convnext_ablation.models.convert import format_of

MODEL_III_NAMES = ["conv1.bias", "layer1.0.conv1.weight", "ds1.weight", "fc.weight"]  # some of them


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


def test_an_fgvc_file_is_read_without_addict(fgvc_file):
    checkpoint = read_checkpoint(fgvc_file)
    assert not checkpoint.has_ema
    assert format_of(checkpoint.state_dict).name == "11785-fgvc"
    assert list(checkpoint.state_dict) == MODEL_III_NAMES
    assert "addict" not in sys.modules


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "before torch 1.6"])
def test_a_timm_file_is_read_with_either_weights(tmp_path, zipped):
    plain, averaged = {"fc.weight": torch.zeros(2, 3)}, {"module.fc.weight": torch.ones(2, 3)}
    content = {
        "arch": "resnet50",
        "args": Namespace(lr=0.1, opt="sgd"),
        "epoch": 4,
        "metric": torch.tensor(71.5),
        "state_dict": plain,
        "state_dict_ema": averaged,
    }
    path = tmp_path / "last.pth.tar"
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    with safe_globals([Namespace]):  # as timm reads one, which forbids settings when it is done
        pass
    checkpoint, ema = read_checkpoint(path), read_checkpoint(path, ema=True)
    assert checkpoint.has_ema
    assert torch.equal(checkpoint.state_dict["fc.weight"], torch.zeros(2, 3))
    assert torch.equal(ema.state_dict["fc.weight"], torch.ones(2, 3))


def test_safetensors_are_known_by_their_content(tmp_path):
    save_file({"fc.weight": torch.ones(2, 3)}, tmp_path / "weights.bin")
    checkpoint = read_checkpoint(tmp_path / "weights.bin")
    assert torch.equal(checkpoint.state_dict["fc.weight"], torch.ones(2, 3))


class _Runs:
    """Runs a function when it is unpickled."""

    def __init__(self, function, *args):
        self.call = function, args

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "before torch 1.6"])
@pytest.mark.parametrize(
    ("function", "arg", "named"),
    [(os.system, "touch {}", f"{os.system.__module__}.system"), (eval, "open('{}', 'w')", "eval")],
)
def test_a_file_that_runs_code_is_refused_and_runs_nothing(tmp_path, function, arg, named, zipped):
    trace, path = tmp_path / "trace", tmp_path / "evil.pth"
    weights = {"fc.weight": torch.ones(2, 3)}
    content = {"state_dict": weights, "args": Namespace(x=[_Runs(function, arg.format(trace))])}
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    message = _unreadable(path)
    assert f"refused, nothing was run: the file names {named}," in message
    assert not trace.exists()
    torch.load(path, weights_only=False)  # the trap is a real one
    assert trace.exists()


def _unreadable(path, **kwargs):
    with pytest.raises(UserError) as caught:
        read_checkpoint(path, **kwargs)
    message = str(caught.value)
    assert message.startswith(str(path))
    assert "\n" not in message
    return message


def _saved(**content):
    file = io.BytesIO()
    torch.save(content, file)
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
        ("a.pth", b"", "not a checkpoint, or a damaged one"),
        ("a.pth", b"\n<!DOCTYPE html><html>404</html>", "a web page"),
        ("a.safetensors", b"<html></html>", "a web page"),
        ("a.pth", b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "git lfs pull"),
        ("a.pth", b"\x80\x02}q\x00(X\x05", "not a checkpoint, or a damaged one"),
        ("a.pth", _saved(state_dict=WEIGHTS)[:-200], "not a checkpoint, or a damaged one"),
        ("a.pth", _flipped(_saved(state_dict=WEIGHTS)), "fails its checksum"),
        ("a.pt", _zip("model/constants.pkl"), "a TorchScript program"),
        ("a.safetensors", b"\x08\x00\x00\x00\x00\x00\x00\x00{", "not a checkpoint, or a damaged one"),
        ("a.pth", _saved(epoch=3), "holds no weights"),
        ("a.pth", _saved(state_dict={}), "holds no weights"),
    ],
)
def test_what_is_no_checkpoint_is_refused_in_one_line(tmp_path, name, content, says):
    (tmp_path / name).write_bytes(content)
    assert says in _unreadable(tmp_path / name)


def test_a_list_a_missing_file_and_absent_averages_are_refused(tmp_path):
    torch.save([1, 2], tmp_path / "list.pth")
    assert "holds a list" in _unreadable(tmp_path / "list.pth")
    assert "No such file or directory" in _unreadable(tmp_path / "missing.pth")
    torch.save({"state_dict": WEIGHTS}, tmp_path / "a.pth")
    assert "holds no averaged weights; leave out --ema" in _unreadable(tmp_path / "a.pth", ema=True)


def test_torch_that_a_crafted_file_can_break_reads_safetensors_only(tmp_path, monkeypatch):
    torch.save({"state_dict": WEIGHTS}, tmp_path / "a.pth")
    save_file(WEIGHTS, tmp_path / "a.safetensors")
    monkeypatch.setattr(torch, "load", lambda *_, **__: pytest.fail("the file was unpickled"))
    monkeypatch.setattr(torch, "__version__", torch.torch_version.TorchVersion("2.9.1+cpu"))
    assert "convert it to safetensors with torch 2.10 or later" in _unreadable(tmp_path / "a.pth")
    assert list(read_checkpoint(tmp_path / "a.safetensors").state_dict) == ["fc.weight"]
