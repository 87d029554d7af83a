import argparse
import hashlib

import pytest
import timm
import torch
from safetensors import safe_open

from convnext_ablation.cli import convert
from convnext_ablation.errors import UserError


def _run(*arguments):
    parser = argparse.ArgumentParser()
    convert.add_arguments(parser)
    convert.run(parser.parse_args([str(argument) for argument in arguments]))


def _refusal(*arguments):
    with pytest.raises(UserError) as caught:
        _run(*arguments)
    message = str(caught.value)
    assert "\n" not in message
    return message


def _model_iv_names(ours):
    """Our Model IV's parameters by the names of 11785-FGVC, in a file of which they made theirs."""
    theirs = {}
    for key, value in ours.items():
        name = key.replace("stem.conv", "conv1").replace("stem.norm", "bn1").replace("head.fc", "fc")
        for stage in range(4):
            name = name.replace(f"stages.{stage}.downsample.0", f"ds{stage}")
            name = name.replace(f"stages.{stage}.blocks", f"layer{stage + 1}")
        name = name.replace("shortcut.conv", "downsample.0").replace("shortcut.norm", "downsample.1")
        theirs[f"module.{name.replace('.norm', '.bn')}"] = value
    return theirs


@pytest.fixture
def checkpoint(tmp_path):
    """A checkpoint of Model IV with 7 classes, and the network that it is of."""
    model = timm.create_model("model_iv_atto", num_classes=7).eval()
    averaged = {key: value + 1 for key, value in model.state_dict().items()}
    content = {
        "epoch": 87,
        "metric": 81.5,
        "arch": "resnet50_c123",
        "state_dict": _model_iv_names(model.state_dict()),
    }
    torch.save(content, tmp_path / "best.pth.tar")
    torch.save({**content, "state_dict_ema": _model_iv_names(averaged)}, tmp_path / "ema.pth.tar")
    return tmp_path / "best.pth.tar", model


def _same_weights(model, expected):
    return all(torch.equal(value, expected[key]) for key, value in model.state_dict().items())


def test_the_written_file_loads_through_timm(checkpoint, tmp_path, capsys):
    path, expected = checkpoint
    output = tmp_path / "model_iv.safetensors"
    _run(path, "--model", "model_iv_atto", output)
    found, wrote = capsys.readouterr().out.splitlines()
    assert found == (
        f"{path}: 11785-fgvc names (Models III and IV of 11785-FGVC), 7 classes, epoch 87, metric 81.5, "
        "made as resnet50_c123"
    )
    assert wrote == (
        f"wrote {output}: 1,794,871 parameters, "
        f"timm.create_model('model_iv_atto', num_classes=7, checkpoint_path='{output}')"
    )
    loaded = timm.create_model("model_iv_atto", num_classes=7, checkpoint_path=output)
    assert _same_weights(loaded, expected.state_dict())
    overlay = {"file": str(output), "num_classes": 7}
    pretrained = timm.create_model(
        "model_iv_atto", num_classes=7, pretrained=True, pretrained_cfg_overlay=overlay
    )
    assert _same_weights(pretrained, expected.state_dict())
    assert sorted(file.name for file in tmp_path.iterdir()) == ["best.pth.tar", "ema.pth.tar", output.name]


def test_the_written_file_says_where_it_is_from_and_converts_again(checkpoint, tmp_path, capsys):
    path, expected = checkpoint
    once, twice = tmp_path / "once.safetensors", tmp_path / "twice.safetensors"
    _run(path, once, "--model", "model_iv_atto")
    with safe_open(once, framework="pt") as file:
        metadata = file.metadata()
    assert metadata == {
        "format": "pt",
        "model": "model_iv_atto",
        "num_classes": "7",
        "source_format": "11785-fgvc",
        "source_sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        "source_weights": "plain",
        "epoch": "87",
        "metric": "81.5",
    }
    _run(once, twice, "--model", "model_iv_atto")
    out = capsys.readouterr().out
    assert "convnext_ablation names (this package), 7 classes, epoch 87, metric 81.5" in out
    loaded = timm.create_model("model_iv_atto", num_classes=7, checkpoint_path=twice)
    assert _same_weights(loaded, expected.state_dict())


def test_averaged_weights_are_taken_on_demand_only(checkpoint, tmp_path, capsys):
    path, expected = checkpoint
    _run(path.with_name("ema.pth.tar"), tmp_path / "plain.safetensors", "--model", "model_iv_atto")
    assert "plain weights taken, --ema takes the averaged ones" in capsys.readouterr().out
    _run(path.with_name("ema.pth.tar"), tmp_path / "ema.safetensors", "--model", "model_iv_atto", "--ema")
    assert "averaged weights taken" in capsys.readouterr().out
    for name, added in (("plain", 0), ("ema", 1)):
        model = timm.create_model(
            "model_iv_atto", num_classes=7, checkpoint_path=tmp_path / f"{name}.safetensors"
        )
        assert torch.equal(model.head.fc.weight, expected.head.fc.weight + added)


def test_channels_and_a_missing_classifier_are_told_from_the_weights(tmp_path, capsys):
    source = timm.create_model("model_v_atto", num_classes=0, in_chans=1)
    torch.save(source.state_dict(), tmp_path / "features.pth")
    output = tmp_path / "out.safetensors"
    _run(tmp_path / "features.pth", output, "--model", "model_v_atto")
    out = capsys.readouterr().out
    assert "no classifier, epoch not stated, metric not stated\n" in out
    assert f"num_classes=0, in_chans=1, checkpoint_path='{output}'" in out
    loaded = timm.create_model("model_v_atto", num_classes=0, in_chans=1, checkpoint_path=output)
    assert _same_weights(loaded, source.state_dict())


def test_half_a_classifier_is_refused(tmp_path):
    weights = timm.create_model("model_v_atto").state_dict()
    del weights["head.fc.bias"]
    torch.save(weights, tmp_path / "a.pth")
    message = _refusal(tmp_path / "a.pth", tmp_path / "b.safetensors", "--model", "model_v_atto")
    assert message.endswith("half a classifier: head.fc.bias is missing")


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
    message = _refusal(path, tmp_path / "out.safetensors", "--model", "model_ivv")
    assert message == "unknown model 'model_ivv'; did you mean 'model_iv'?"
    assert "unknown model 'resnet50'" in _refusal(path, tmp_path / "out.safetensors", "--model", "resnet50")
    assert "name it out.safetensors" in _refusal(path, tmp_path / "out.pth", "--model", "model_iv")
    folder = tmp_path / "missing"
    assert f"there is no folder {folder}" in _refusal(path, folder / "out.safetensors", "--model", "model_iv")
    assert not list(tmp_path.glob("*.safetensors"))


def test_another_models_checkpoint_names_the_model_that_it_fits(tmp_path):
    model = timm.create_model("model_iv", num_classes=7, device="meta")
    weights = {
        key: torch.zeros(value.shape, dtype=torch.float16) for key, value in model.state_dict().items()
    }
    torch.save(_model_iv_names(weights), tmp_path / "a.pth")
    message = _refusal(tmp_path / "a.pth", tmp_path / "b.safetensors", "--model", "model_iii")
    assert "layer1.0.conv1.weight is 96x1x7x7 in the checkpoint and 384x96x1x1 in model_iii" in message
    assert message.endswith("; it fits --model model_iv")
    assert not (tmp_path / "b.safetensors").exists()
    torch.save({"encoder.weight": torch.ones(2)}, tmp_path / "a.pth")
    message = _refusal(tmp_path / "a.pth", tmp_path / "b.safetensors", "--model", "model_iii")
    assert "the checkpoint's layout is unknown" in message
    assert "it fits" not in message
