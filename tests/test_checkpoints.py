import pytest
import timm
import torch
from test_weights import randomized
from timm.models import load_pretrained

from convnext_ablation import zoo  # noqa: F401  (registers the models)
from convnext_ablation.errors import UserError
from convnext_ablation.models.convert import checkpoint_filter_fn
from convnext_ablation.models.layouts import layout_of

BATCH_NORM = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
AFFINE = ("weight", "bias")


def _layer(theirs, ours, leaves):
    return {f"{theirs}.{leaf}": f"{ours}.{leaf}" for leaf in leaves}


def _fgvc_names(depths, stem_bias, pointwise):
    """Names of 11785-FGVC's Models I to IV, and ours for the same parameter, written out."""
    names = _layer("conv1", "stem.conv", AFFINE if stem_bias else ("weight",))
    names |= _layer("bn1", "stem.norm", BATCH_NORM)
    for stage, depth in enumerate(depths):
        for block in range(depth):
            theirs, ours = f"layer{stage + 1}.{block}", f"stages.{stage}.blocks.{block}"
            for number in (1, 2, 3):
                names |= _layer(f"{theirs}.conv{number}", f"{ours}.conv{number}", ("weight",))
                names |= _layer(f"{theirs}.bn{number}", f"{ours}.norm{number}", BATCH_NORM)
        theirs, ours = f"layer{stage + 1}.0.downsample", f"stages.{stage}.blocks.0.shortcut"
        names |= _layer(f"{theirs}.0", f"{ours}.conv", ("weight",))
        names |= _layer(f"{theirs}.1", f"{ours}.norm", BATCH_NORM)
        if pointwise and stage:
            names |= _layer(f"ds{stage}", f"stages.{stage}.downsample.0", ("weight",))
    return names | _layer("fc", "head.fc", AFFINE)


def _fgvc_model_v_names():
    names = _layer("downsample_layers.0.0", "stem.conv", AFFINE)
    names |= _layer("downsample_layers.0.1", "stem.norm", AFFINE)
    layers = {"dwconv": "conv1", "norm": "norm1", "pwconv1": "conv2", "pwconv2": "conv3"}
    for stage, depth in enumerate((3, 3, 9, 3)):
        for part in (0, 1) if stage else ():
            names |= _layer(f"downsample_layers.{stage}.{part}", f"stages.{stage}.downsample.{part}", AFFINE)
        for block in range(depth):
            theirs, ours = f"stages.{stage}.{block}", f"stages.{stage}.blocks.{block}"
            for layer, other in layers.items():
                names |= _layer(f"{theirs}.{layer}", f"{ours}.{other}", AFFINE)
            names[f"{theirs}.gamma"] = f"{ours}.scale.gamma"
    return names | _layer("norm", "head.norm", AFFINE) | _layer("head", "head.fc", AFFINE)


FGVC = {
    "model_i": ("resnet", _fgvc_names((3, 4, 6, 3), stem_bias=False, pointwise=False)),
    "model_ii": ("resnet", _fgvc_names((3, 3, 9, 3), stem_bias=True, pointwise=False)),
    "model_iii": ("11785-fgvc", _fgvc_names((3, 3, 9, 3), stem_bias=True, pointwise=True)),
    "model_iv": ("11785-fgvc", _fgvc_names((3, 3, 9, 3), stem_bias=True, pointwise=True)),
    "model_v": ("convnext", _fgvc_model_v_names()),
}


def fgvc_state_dict(stage, num_classes=5):
    """A state dict as 11785-FGVC's code names and shapes it, at a quarter of the width, and ours."""
    ours = randomized(timm.create_model(f"{stage}_atto", num_classes=num_classes)).state_dict()
    theirs = {
        # Model V's 1x1 convs are linear layers there
        their_name: ours[name].flatten(1) if ".pwconv" in their_name and ours[name].ndim == 4 else ours[name]
        for their_name, name in FGVC[stage][1].items()
    }
    return theirs, ours


@pytest.mark.parametrize("stage", FGVC)
def test_fgvc_weights_come_back_parameter_by_parameter(stage):
    theirs, expected = fgvc_state_dict(stage)
    model = timm.create_model(f"{stage}_atto", num_classes=5, device="meta")
    converted = checkpoint_filter_fn(theirs, model)
    assert converted.keys() == expected.keys()
    for name, value in expected.items():
        assert torch.equal(converted[name], value), name
    assert layout_of(theirs).format.name == FGVC[stage][0]


def test_weights_without_counters_of_batches_are_taken():
    theirs, expected = fgvc_state_dict("model_i")
    old = {key: value for key, value in theirs.items() if not key.endswith("num_batches_tracked")}
    model = timm.create_model("model_i_atto", num_classes=5)
    model.load_state_dict(checkpoint_filter_fn(old, model))
    assert torch.equal(model.stem.conv.weight, expected["stem.conv.weight"])


@pytest.mark.parametrize(("num_classes", "in_chans"), [(5, 1), (7, 3), (0, 3)])
def test_timm_adapts_classes_and_channels_after_the_filter(num_classes, in_chans):
    theirs, expected = fgvc_state_dict("model_iii")
    model = timm.create_model("model_iii_atto", num_classes=num_classes, in_chans=in_chans)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    cfg = {**model.pretrained_cfg, "state_dict": theirs, "num_classes": 5}
    load_pretrained(model, cfg, num_classes=num_classes, in_chans=in_chans, filter_fn=checkpoint_filter_fn)
    state = model.state_dict()
    assert torch.equal(state["stages.3.blocks.2.conv3.weight"], expected["stages.3.blocks.2.conv3.weight"])
    stem = expected["stem.conv.weight"]
    adapted = stem.sum(1, keepdim=True) if in_chans == 1 else stem
    torch.testing.assert_close(state["stem.conv.weight"], adapted)
    if num_classes:
        kept = expected if num_classes == 5 else before
        assert torch.equal(state["head.fc.weight"], kept["head.fc.weight"])


def test_a_classifier_at_every_position_takes_a_linear_one():
    theirs, expected = fgvc_state_dict("model_i")
    model = timm.create_model("model_i_atto", device="meta", num_classes=5, global_pool="")
    converted = checkpoint_filter_fn(theirs, model)
    assert torch.equal(converted["head.fc.weight"], expected["head.fc.weight"][:, :, None, None])


def _narrower(key, *part):
    theirs, _ = fgvc_state_dict("model_iv")
    return {**theirs, key: theirs[key][part]}


def _refusal(name, state_dict):
    with pytest.raises(UserError) as caught:
        checkpoint_filter_fn(state_dict, timm.create_model(name, device="meta", num_classes=5))
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_a_layer_of_another_shape_is_named():
    kernel = _narrower("layer3.4.conv1.weight", ..., slice(2, 5), slice(2, 5))
    message = _refusal("model_iv_atto", kernel)
    assert "layer3.4.conv1.weight is 96x1x3x3 in the checkpoint and 96x1x7x7 in model_iv_atto" in message
    # another number of input channels or of classes is none of the stem's width or of the features
    message = _refusal("model_iv", fgvc_state_dict("model_iv")[0])
    assert "conv1.weight is 24x3x4x4 in the checkpoint and 96x3x4x4" in message
    message = _refusal("model_iv_atto", _narrower("fc.weight", slice(None), slice(100)))
    assert "fc.weight is 5x100 in the checkpoint and 5x192 in model_iv_atto (head.fc.weight)" in message


def test_the_first_missing_and_the_first_unexpected_name_are_told():
    message = _refusal("model_i_atto", fgvc_state_dict("model_ii")[0])
    assert "is not one of model_i_atto" in message
    assert "first missing: what model_i_atto calls stages.1.blocks.3.conv1.weight" in message
    assert message.endswith("first unexpected: conv1.bias")
    assert "first missing: what model_i_atto calls stem.conv.weight" in _refusal("model_i_atto", {})


def test_an_unknown_layout_names_the_nearest():
    theirs, _ = fgvc_state_dict("model_iii")
    theirs["se.weight"] = theirs.pop("layer1.0.conv1.weight")
    message = _refusal("model_iii_atto", theirs)
    assert "(nearest: 11785-fgvc, Models III and IV of 11785-FGVC) has an unknown layout" in message
    assert message.endswith("first unexpected: se.weight")
