import hashlib

import pytest
import timm
import torch
from safetensors import safe_open
from test_checkpoints import FGVC

from convnext_ablation.cli import convert, parsers
from convnext_ablation.dataclass_options import Parser
from convnext_ablation.errors import UserError


def _run(*arguments):
    parser = Parser()
    parsers.add_convert(parser)
    convert.run(parser.parse_args([str(argument) for argument in arguments]))


def _refusal(*arguments):
    with pytest.raises(UserError) as caught:
        _run(*arguments)
    message = str(caught.value)
    assert "\n" not in message
    return message


def _model_iv_names(ours):
    """Our Model IV's parameters by the names of 11785-FGVC, in a file of which they made theirs."""
    return {f"module.{theirs}": ours[name] for theirs, name in FGVC["model_iv"][1].items()}


@pytest.fixture
def checkpoint(tmp_path):
    """A checkpoint of Model IV with 7 classes, and the network that it is of."""
    model = timm.create_model("model_iv_atto", num_classes=7).eval()
    averaged = {key: value + 1 for key, value in model.state_dict().items()}
    content = {"epoch": 87, "state_dict": _model_iv_names(model.state_dict())}
    torch.save(content, tmp_path / "best.pth.tar")
    torch.save({**content, "state_dict_ema": _model_iv_names(averaged)}, tmp_path / "ema.pth.tar")
    return tmp_path / "best.pth.tar", model


def _same_weights(model, expected):
    return all(torch.equal(value, expected[key]) for key, value in model.state_dict().items())


def test_the_written_file_loads_through_timm_and_says_where_it_is_from(checkpoint, tmp_path, capsys):
    path, expected = checkpoint
    output = tmp_path / "model_iv.safetensors"
    _run(path, "--model", "model_iv_atto", output)
    found, wrote = capsys.readouterr().out.splitlines()
    assert found == f"{path}: plain weights, 7 classes, 11785-fgvc layout, prefix 'module.' cut"
    assert wrote == (
        f"wrote {output}: 1,794,871 parameters, "
        f"timm.create_model('model_iv_atto', num_classes=7, checkpoint_path='{output}')"
    )
    loaded = timm.create_model("model_iv_atto", num_classes=7, checkpoint_path=output)
    assert _same_weights(loaded, expected.state_dict())
    overlay = {"file": str(output), "num_classes": 7}
    options = {"num_classes": 7, "pretrained": True, "pretrained_cfg_overlay": overlay}
    assert _same_weights(timm.create_model("model_iv_atto", **options), expected.state_dict())
    assert sorted(file.name for file in tmp_path.iterdir()) == ["best.pth.tar", "ema.pth.tar", output.name]
    with safe_open(output, framework="pt") as file:
        metadata = file.metadata()
    assert metadata["source_sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert (metadata["format"], metadata["model"], metadata["num_classes"]) == ("pt", "model_iv_atto", "7")
    _run(output, tmp_path / "twice.safetensors", "--model", "model_iv_atto")
    assert "convnext_ablation layout" in capsys.readouterr().out
    twice = timm.create_model("model_iv_atto", num_classes=7, checkpoint_path=tmp_path / "twice.safetensors")
    assert _same_weights(twice, expected.state_dict())


def test_averaged_weights_are_taken_on_demand_only(checkpoint, tmp_path, capsys):
    path, expected = checkpoint
    for name, arguments, added in (("plain", [], 0), ("ema", ["--ema"], 1)):
        output = tmp_path / f"{name}.safetensors"
        _run(path.with_name("ema.pth.tar"), output, "--model", "model_iv_atto", *arguments)
        out = capsys.readouterr().out
        assert f"{'averaged' if added else 'plain'} weights" in out
        assert ("--ema uses the averaged ones" in out) == (name == "plain")
        model = timm.create_model("model_iv_atto", num_classes=7, checkpoint_path=output)
        assert torch.equal(model.head.fc.weight, expected.head.fc.weight + added)


def test_channels_and_a_missing_classifier_are_told_from_the_weights(tmp_path, capsys):
    source = timm.create_model("model_v_atto", num_classes=0, in_chans=1)
    torch.save(source.state_dict(), tmp_path / "features.pth")
    output = tmp_path / "out.safetensors"
    _run(tmp_path / "features.pth", output, "--model", "model_v_atto")
    assert f"num_classes=0, in_chans=1, checkpoint_path='{output}'" in capsys.readouterr().out
    loaded = timm.create_model("model_v_atto", num_classes=0, in_chans=1, checkpoint_path=output)
    assert _same_weights(loaded, source.state_dict())
    weights = timm.create_model("model_v_atto").state_dict()
    del weights["head.fc.bias"]
    torch.save(weights, tmp_path / "a.pth")
    message = _refusal(tmp_path / "a.pth", tmp_path / "b.safetensors", "--model", "model_v_atto")
    assert message.endswith("no whole classifier: head.fc.bias is missing")


def test_what_stands_at_the_output_is_kept_unless_forced(checkpoint, tmp_path):
    path, _ = checkpoint
    output = tmp_path / "out.safetensors"
    output.write_bytes(b"precious")
    assert f"{output}: exists; give --force" in _refusal(path, output, "--model", "model_iv_atto")
    assert output.read_bytes() == b"precious"
    _run(path, output, "--model", "model_iv_atto", "--force")
    assert output.stat().st_size > 1_000_000


def test_names_that_cannot_be_are_refused(checkpoint, tmp_path):
    path, _ = checkpoint
    assert "did you mean 'model_iv'?" in _refusal(path, tmp_path / "out.safetensors", "--model", "model_ivv")
    for output in (tmp_path / "out.pth", tmp_path / "missing" / "out.safetensors"):
        message = f"{output}: only .safetensors is written, to a folder that exists"
        assert _refusal(path, output, "--model", "model_iv") == message


def test_another_models_checkpoint_names_the_model_that_it_fits(tmp_path):
    model = timm.create_model("model_iv", num_classes=7, device="meta")
    halves = {key: torch.zeros(value.shape, dtype=torch.half) for key, value in model.state_dict().items()}
    torch.save(_model_iv_names(halves), tmp_path / "a.pth")
    message = _refusal(tmp_path / "a.pth", tmp_path / "b.safetensors", "--model", "model_iii")
    assert "layer1.0.conv1.weight is 96x1x7x7 in the checkpoint and 384x96x1x1 in model_iii" in message
    assert message.endswith("; it fits --model model_iv")
    assert not (tmp_path / "b.safetensors").exists()


def test_weights_that_are_not_finite_are_refused(checkpoint, tmp_path):
    content = torch.load(checkpoint[0], weights_only=True)
    next(iter(content["state_dict"].values())).flatten()[0] = float("inf")
    torch.save(content, checkpoint[0])
    message = _refusal(checkpoint[0], tmp_path / "out.safetensors", "--model", "model_iv_atto")
    assert f"{checkpoint[0]}: stem.conv.weight isn't finite" in message
