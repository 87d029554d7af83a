"""Any combination of switches is a network: it builds, trains, and costs what a closed formula says."""

import os
import random
import subprocess
import sys
from pathlib import Path

import pytest
import timm
import torch

from convnext_ablation.models.components import DOWNSAMPLINGS, SWITCHES, Components
from convnext_ablation.models.cost import count_gmacs, count_parameters
from convnext_ablation.models.expected_cost import expected_cost
from convnext_ablation.models.layouts import layout_of

CLASSES = 10
SIDE = 64  # pixels; the stages work at 16, 8, 4 and 2
WIDTH_FACTOR = 1 / 16  # a dense 7x7 conv on the widest channels of an atto network has 29 million weights
VALUES = {"kernel_size": (1, 3, 5, 7), "downsampling": DOWNSAMPLINGS}
DRAWS = random.Random(0)
# of thirteen switches, all pairs of two switches' values are among them, and 3,024 of the 3,124 triples
COMBINATIONS = [{name: DRAWS.choice(VALUES.get(name, (False, True))) for name in SWITCHES} for _ in range(48)]
KWARGS = {"width_factor": WIDTH_FACTOR, "num_classes": CLASSES, "layer_scale_init": 0.1}


@pytest.mark.parametrize("switches", COMBINATIONS)
def test_any_combination_costs_what_a_closed_formula_says_and_is_recognized(switches):
    model = timm.create_model("resnet_to_convnext_atto", **switches, **KWARGS)
    assert layout_of(model.state_dict()).format.name == "convnext_ablation"
    side = DRAWS.choice((SIDE, 50, 77))
    expected = expected_cost(Components(**switches), 6 if switches["wide"] else 4, side, CLASSES)
    assert count_parameters(model) == expected.parameters
    assert round(count_gmacs(model, (3, side, side)) * 1e9) == expected.macs


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
