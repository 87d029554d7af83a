"""`optimize_for_inference` gives the plain network's outputs, whatever its components, batch and size."""

import copy
import itertools
import logging

import pytest
import timm
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from convnext_ablation import UserError, optimize_for_inference
from convnext_ablation.inference import optimize
from convnext_ablation.inference.batches import PartByPart, cheapest_ascent, choose
from convnext_ablation.inference.convs import FusedConv, PackedConv, packing_works, prepare
from convnext_ablation.inference.simplify import composed, sections_of
from convnext_ablation.models.blocks import LayerScale
from convnext_ablation.models.components import DOWNSAMPLINGS, SWITCHES

SWITCH_VALUES = {"kernel_size": st.sampled_from([3, 5, 7]), "downsampling": st.sampled_from(DOWNSAMPLINGS)}
SIDE = 64


def with_trained_values(model):
    """Gives norms, biases and layer scales values as after training: new ones hide what is done with them."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.normal_(0, 0.3, generator=generator)
                module.running_var.uniform_(0.5, 2, generator=generator)
            if isinstance(module, (nn.BatchNorm2d, nn.LayerNorm)):
                module.weight.uniform_(0.5, 1.5, generator=generator)
            if isinstance(module, LayerScale):
                module.gamma.uniform_(0.2, 1, generator=generator)
            if getattr(module, "bias", None) is not None:
                module.bias.normal_(0, 0.1, generator=generator)
    return model.eval()


def network(name="model_i_atto", **kwargs):
    torch.manual_seed(0)
    return with_trained_values(timm.create_model(name, num_classes=10, **kwargs))


@torch.no_grad()
def assert_same(network, model, x):
    """Both put out the same, which isn't all zeros."""
    before = x.clone()
    actual, expected = network(x), model(x)
    assert torch.equal(x, before)
    assert actual.shape == expected.shape
    assert (actual - expected).abs().max() <= 1e-4 * max(1.0, expected.abs().max())
    assert expected.abs().max() > 1e-2


@pytest.mark.parametrize("number", ["i", "ii", "iii", "iv", "v"])
def test_outputs_stay_at_any_batch_and_size(number):
    model = network(f"model_{number}_atto")
    fast = optimize_for_inference(model, torch.randn(3, 3, SIDE, SIDE))
    for batch, height, width in ((3, SIDE, SIDE), (1, SIDE, SIDE), (7, SIDE, SIDE), (2, 96, 80), (5, 33, 47)):
        x = torch.randn(batch, 3, height, width)
        assert_same(fast, model, x)
        assert_same(fast, model, x.to(memory_format=torch.channels_last))


@settings(max_examples=12, deadline=None)
@given(st.fixed_dictionaries({s: SWITCH_VALUES.get(s, st.booleans()) for s in SWITCHES}))
def test_outputs_stay_with_any_components(switches):
    model = network("resnet_to_convnext_atto", width_factor=1 / 16, **switches)
    x = torch.randn(2, 3, 32, 32)
    for packed in (False, True):
        sections = sections_of(model)
        for module in nn.ModuleList(sections).modules():
            if isinstance(module, FusedConv):
                module.convert(torch.float32)
                module.__class__ = PackedConv if packed else FusedConv
        assert_same(PartByPart(sections, [1, 1, 2, 2]), model, x)


def test_the_network_itself_stays_as_it_is_and_the_optimized_one_is_not_trained():
    model = network("model_iv_atto").train()
    before = copy.deepcopy(model.state_dict())
    fast = optimize_for_inference(model, torch.randn(2, 3, SIDE, SIDE))
    assert model.training
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert (fast.num_classes, fast.pretrained_cfg) == (10, model.pretrained_cfg)
    assert not fast.eval().training
    with pytest.raises(UserError, match="can't be trained"):
        fast.train()
    assert not fast(torch.randn(1, 3, SIDE, SIDE)).requires_grad


def test_models_ii_to_iv_lose_the_bare_convs():
    def convs(name):
        return sum(isinstance(m, FusedConv) for s in sections_of(network(name)) for m in s.modules())

    def plain(name):
        return sum(isinstance(m, nn.Conv2d) for m in network(name).modules())

    # one between two stages each; the stem's has more inputs than outputs at this width
    assert plain("model_iii_atto") - convs("model_iii_atto") == 3
    assert plain("model_iv_atto") == convs("model_iv_atto")  # needed in front of the depthwise convs
    assert plain("model_ii_atto") == convs("model_ii_atto")


def test_a_composed_conv_does_what_both_do():
    torch.manual_seed(0)
    first = nn.Conv2d(3, 32, 2, stride=2, padding=1)
    second = nn.Conv2d(32, 5, 1, stride=2)
    with torch.no_grad():
        both = composed(first, second)
        assert_same(both, nn.Sequential(first, second), torch.randn(2, 3, 16, 16))
        assert both.stride == (4, 4)
        for other in (
            nn.Conv2d(32, 5, 3),  # sees the padding of the first
            nn.Conv2d(32, 5, 1, padding=1),
            nn.Conv2d(32, 32, 1, groups=2),
        ):
            assert composed(first, other) is None
        assert composed(nn.Conv2d(8, 32, 2), nn.Conv2d(32, 5, 1)) is None  # saves nothing


def test_the_cheapest_ascent_is_the_cheapest_of_all():
    generator = torch.Generator().manual_seed(0)
    for _ in range(50):
        costs = torch.rand(4, 3, generator=generator).tolist()
        ascents = [c for c in itertools.product(range(3), repeat=4) if list(c) == sorted(c)]
        best = min(sum(costs[row][column] for row, column in enumerate(each)) for each in ascents)
        found = cheapest_ascent(costs)
        assert list(found) == sorted(found)
        assert sum(costs[row][column] for row, column in enumerate(found)) == pytest.approx(best)


def test_images_pass_part_by_part_and_depth_first():
    seen = []
    first, second = nn.Identity(), nn.Identity()
    for name, section in (("first", first), ("second", second)):
        section.register_forward_hook(lambda module, args, out, name=name: seen.append((name, len(out))))
    x = torch.arange(7.0).view(7, 1, 1, 1)
    assert torch.equal(PartByPart([first, second], [2, 4])(x), x)
    assert seen[:3] == [("first", 2), ("first", 2), ("second", 4)]
    assert seen[3:] == [("first", 2), ("first", 1), ("second", 3)]
    assert choose([first], torch.randn(6, 1, 1, 1))[0] in (1, 2, 4, 6)
    assert {1, 2, 4, 6} <= {number for _, number in seen[6:]}  # each is tried


def test_weights_are_packed_once_and_the_plain_ones_dropped():
    assert packing_works(torch.float32)  # of every torch that this is tested with
    conv = PackedConv(nn.Conv2d(16, 32, 3, padding=1))
    conv.convert(torch.float32)
    x = torch.randn(2, 16, 8, 8).to(memory_format=torch.channels_last)
    with torch.no_grad():
        first = conv(x)
        packed = conv.packed
        conv(x)
        assert conv.packed is packed
        assert conv.weight is not None
        prepare(conv, keep=False)
        assert torch.equal(conv(x), first)
    assert conv.weight is None


def test_without_packing_the_folded_form_is_taken(monkeypatch):
    monkeypatch.setattr(optimize, "packing_works", lambda dtype: False)
    model, x = network("model_iii_atto"), torch.randn(2, 3, SIDE, SIDE)
    fast = optimize_for_inference(model, x)
    assert fast.choice.form == "folded"
    assert not any(isinstance(module, PackedConv) for module in fast.modules())
    assert_same(fast, model, x)


def test_a_form_with_other_outputs_is_not_taken(monkeypatch, caplog):
    monkeypatch.setattr(PackedConv, "_weight_for", lambda self, x: self.weight * 1.1)
    monkeypatch.setattr(optimize, "packing_works", lambda dtype: True)
    model, x = network("model_i_atto"), torch.randn(2, 3, SIDE, SIDE)
    fast = optimize_for_inference(model, x)
    assert fast.choice.form == "plain"
    assert "its outputs differ by" in caplog.text
    assert_same(fast, model, x)


def test_bfloat16_rounds_and_keeps_the_type_of_the_input():
    model, x = network("model_v_atto"), torch.randn(4, 3, SIDE, SIDE)
    fast = optimize_for_inference(model, x, dtype=torch.bfloat16)
    with torch.no_grad():
        expected, actual = model(x), fast(x)
    assert actual.dtype == torch.float32
    assert 0 < (actual - expected).abs().max() < 0.1 * expected.abs().max()


def test_a_missing_compiler_costs_a_line(monkeypatch, caplog):
    def fails(*args, **kwargs):
        raise RuntimeError("No working C++ compiler found\nand more")

    monkeypatch.setattr(torch, "compile", fails)
    model, x = timm.create_model("test_resnet", num_classes=10).eval(), torch.randn(2, 3, SIDE, SIDE)
    with caplog.at_level(logging.WARNING):
        fast = optimize_for_inference(model, x)
    assert fast.choice.form == "channels_last"
    assert caplog.messages == ["torch.compile failed and is left out: No working C++ compiler found"]
    assert_same(fast, model, x)


def test_compiled_is_a_form_like_the_others(monkeypatch):
    compiled = []
    monkeypatch.setattr(torch, "compile", lambda module, options: compiled.append(options) or module)
    x = torch.randn(2, 3, SIDE, SIDE)
    fast = optimize_for_inference(network("model_ii_atto"), x, compiled=True)
    assert compiled == [{"freezing": True}]
    assert set(fast.choice.seconds) == {"packed", "compiled"}
    assert fast.choice.form == min(fast.choice.seconds, key=fast.choice.seconds.get)
    assert all(difference < 1e-4 for difference in fast.choice.difference.values())


def test_the_example_is_made_from_the_size():
    model = network("model_i_atto", in_chans=1)
    fast = optimize_for_inference(model, size=(32, 64), batch_size=2)
    assert fast(torch.randn(1, 1, 32, 64)).shape == (1, 10)
    assert optimize_for_inference(model, size=32, batch_size=1).choice.images_at_a_time == (1, 1, 1, 1)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"dtype": torch.float64}, "dtype is torch.float64; choose from"),
        ({"size": 0}, r"the example is \(16, 3, 0, 0\); it must be"),
        ({"example_input": torch.randn(3, 32, 32)}, r"the example is \(3, 32, 32\); it must be"),
        ({"example_input": torch.randn(2, 5, 32, 32)}, r"can't take an input of \(2, 5, 32, 32\)"),
    ],
)
def test_bad_input_is_named(kwargs, message):
    with pytest.raises(UserError, match=message):
        optimize_for_inference(network(), **kwargs)


def test_only_classifiers_are_optimized():
    backbone = timm.create_model("model_iii_atto", features_only=True)
    with pytest.raises(UserError, match="puts out a list; only classifiers are optimized"):
        optimize_for_inference(backbone, size=64, batch_size=2)
