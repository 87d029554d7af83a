"""Any combination of switches is a network: it builds, trains, and costs what a closed formula says."""

import os
import random
import subprocess
import sys
from pathlib import Path

import pytest
import timm
import torch

from convnext_ablation.models.components import DOWNSAMPLINGS, SWITCHES
from convnext_ablation.models.cost import count_gmacs, count_parameters

CLASSES = 10
SIDE = 64  # pixels; the stages work at 16, 8, 4 and 2
WIDTH_FACTOR = 1 / 16  # a dense 7x7 conv on the widest channels of an atto network has 29 million weights
VALUES = {"kernel_size": (1, 3, 5, 7), "downsampling": DOWNSAMPLINGS}
DRAWS = random.Random(0)
# among them are all pairs of two switches' values, and 3,113 of the 3,124 triples
COMBINATIONS = [{name: DRAWS.choice(VALUES.get(name, (False, True))) for name in SWITCHES} for _ in range(80)]
KWARGS = {"width_factor": WIDTH_FACTOR, "num_classes": CLASSES, "layer_scale_init": 0.1}


class Cost:
    """Sums parameters and multiply-accumulates, layer by layer, from the text of the design only."""

    def __init__(self, layer_norm):
        self.layer_norm = layer_norm
        self.parameters = 0
        self.macs = 0

    def conv(self, inputs, outputs, side, kernel=1, groups=1, normed=True, bias=None):
        """A conv whose output is `side` pixels wide; with a bias unless a BatchNorm follows it directly."""
        weights = inputs * outputs * kernel**2 // groups
        bias = (self.layer_norm or not normed) if bias is None else bias
        self.parameters += weights + outputs * bias
        self.macs += weights * side**2

    def norm(self, channels):
        self.parameters += 2 * channels  # a factor and an offset each


def predicted_cost(s, width):
    """Parameters and multiply-accumulates of the network with switches `s` and that first width."""
    cost = Cost(s["layer_norm"])
    if s["patchify_stem"]:
        cost.conv(3, width, SIDE // 4, kernel=4, bias=True)
    else:
        cost.conv(3, width, SIDE // 2, kernel=7)
    cost.norm(width)

    channels, side = width, SIDE // 4
    for stage, depth in enumerate((3, 3, 9, 3) if s["stage_ratio"] else (3, 4, 6, 3)):
        d = width * 2**stage
        hidden, out = (4 * d, d) if s["inverted"] else (d, 4 * d)
        side_out = side if stage == 0 else side // 2
        if stage > 0 and s["downsampling"] == "separate":
            cost.norm(channels)
            cost.conv(channels, out, side_out, kernel=2, bias=True)
            channels, side = out, side_out
        if stage > 0 and s["downsampling"] == "pointwise":
            cost.conv(channels, out, side, bias=False)
            channels = out
        if side != side_out or channels != out or s["downsampling"] == "pointwise":
            cost.conv(channels, out, side_out)  # the first block's shortcut
            cost.norm(out)
        for _ in range(depth):
            add_block(cost, s, channels, hidden, out, side, side_out)
            channels, side = out, side_out

    if s["downsampling"] == "separate":
        cost.norm(channels)
    cost.parameters += channels * CLASSES + CLASSES
    cost.macs += channels * CLASSES
    return cost.parameters, cost.macs


def add_block(cost, s, channels, hidden, out, side, side_out):
    """A block from `side` to `side_out` pixels; only a 1x1 conv in front of the spatial one sees `side`."""
    everywhere = not s["fewer_norms"]
    spatial = channels if s["moved_up"] else hidden
    groups = spatial if s["depthwise"] else 1
    cost.conv(spatial, spatial, side_out, kernel=s["kernel_size"], groups=groups)
    cost.norm(spatial)
    cost.conv(channels, hidden, side_out if s["moved_up"] else side, normed=everywhere)
    cost.conv(hidden, out, side_out, normed=everywhere)
    if everywhere:
        cost.norm(hidden)
        cost.norm(out)
    if s["layer_scale"]:
        cost.parameters += out


@pytest.mark.parametrize("switches", COMBINATIONS)
def test_any_combination_costs_what_a_closed_formula_says(switches):
    model = timm.create_model("resnet_to_convnext_atto", **switches, **KWARGS)
    parameters, macs = predicted_cost(switches, width=6 if switches["wide"] else 4)
    assert count_parameters(model) == parameters
    assert round(count_gmacs(model, (3, SIDE, SIDE)) * 1e9) == macs


@pytest.mark.parametrize("switches", COMBINATIONS)
def test_any_combination_is_a_network_that_trains(switches):
    torch.manual_seed(0)
    model = timm.create_model("resnet_to_convnext_atto", zero_init_last=False, **switches, **KWARGS)
    images = torch.randn(2, 3, SIDE, SIDE)
    model(images).square().mean().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name

    twin = timm.create_model("resnet_to_convnext_atto", **switches, **KWARGS)
    twin.load_state_dict(model.state_dict())
    with torch.no_grad():
        torch.testing.assert_close(twin.eval()(images), model.eval()(images), rtol=0, atol=0)
        features = model.forward_head(model.forward_features(images), pre_logits=True)
        model.reset_classifier(0)
        torch.testing.assert_close(model(images), features, rtol=0, atol=0)
        model.reset_classifier(3)
        assert model(images).shape == (2, 3)


@pytest.mark.parametrize(("isa", "threads"), [("AVX2", 2), ("DEFAULT", 1)])
def test_strided_convs_of_few_channels_have_the_gradients_of_double_precision(isa, threads):
    script = Path(__file__).with_name("narrow_convs.py")
    # threads that wait without work leave the processor to other tests
    environment = {**os.environ, "ONEDNN_MAX_CPU_ISA": isa, "OMP_WAIT_POLICY": "PASSIVE"}
    done = subprocess.run(
        [sys.executable, script, str(threads)], env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "47 convs\n"
