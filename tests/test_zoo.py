import re
from pathlib import Path

import pytest
import timm
import torch

from convnext_ablation.models import zoo
from convnext_ablation.models.blocks import SubsampledConv
from convnext_ablation.models.components import FAMILIES, RESNET_50, STAGES
from convnext_ablation.models.cost import count_gmacs, count_parameters

# Parameters at 1000, 200 and 120 classes, and billions of multiply-accumulates at 224 and 112 pixels, of the
# five networks as the 11785-FGVC project and timm (resnet50, convnext_tiny) publish them.
STAGE_COSTS = {
    "model_i": (25_557_032, 23_917_832, 23_753_912, 4.089, 1.078),
    "model_ii": (33_761_128, 31_302_728, 31_056_888, 5.268, 1.381),
    "model_iii": (28_183_432, 27_568_232, 27_506_712, 5.584, 1.443),
    "model_iv": (28_229_800, 27_614_600, 27_553_080, 4.571, 1.199),
    "model_v": (28_589_128, 27_973_928, 27_912_408, 4.456, 1.064),
}


def on_meta(name, **kwargs):
    return timm.create_model(name, device="meta", **kwargs)


@pytest.mark.parametrize("name", STAGE_COSTS)
def test_stage_has_published_parameters_and_macs(name):
    *parameters, gmacs_224, gmacs_112 = STAGE_COSTS[name]
    counted = [count_parameters(on_meta(name, num_classes=classes)) for classes in (1000, 200, 120)]
    assert counted == parameters
    assert round(count_gmacs(on_meta(name), (3, 224, 224)), 3) == gmacs_224
    assert round(count_gmacs(on_meta(name), (3, 112, 112)), 3) == gmacs_112


ROAD = (Path(__file__).parents[1] / "docs" / "road.md").read_text(encoding="utf-8")
NUMBER = r"([\d,.]+|none)"
ROWS = re.findall(
    rf"^\| \[.+\]\(#(\w+)\) \| .* \| {NUMBER} \| {NUMBER} \| {NUMBER} \| {NUMBER} \|$", ROAD, re.M
)


@pytest.mark.parametrize(("name", "parameters", "gmacs", "in_paper", "top1"), ROWS)
def test_network_costs_what_the_docs_and_the_paper_say(name, parameters, gmacs, in_paper, top1):
    model = on_meta(name)
    assert f"{count_parameters(model):,}" == parameters
    assert f"{count_gmacs(model, (3, 224, 224)):.2f}" == gmacs
    assert in_paper == (gmacs if top1 != "none" else "none")  # table 10 of arXiv:2201.03545


def test_the_docs_have_every_step_with_its_drawing():
    names = [*FAMILIES["roadmap"], *FAMILIES["stages"]]
    assert [row[0] for row in ROWS] == names
    assert all(f"](road/{name}.svg)" in ROAD for name in names)


def test_every_variant_is_registered_at_both_widths():
    named = {name for variants in FAMILIES.values() for name in variants}
    aliases = {f"resnet_to_convnext_stage{number}" for number in range(1, 6)}
    full = named | aliases | {"resnet_to_convnext"}
    assert set(timm.list_models(module="zoo")) == full | {f"{name}_atto" for name in full}
    assert len(full) == 5 + 5 + 16 + 13 + 13 + 1


def test_stages_have_two_names_and_the_switches_are_arguments():
    for number, (name, stage) in enumerate(STAGES.items(), start=1):
        assert zoo.components_of(name) == zoo.components_of(f"resnet_to_convnext_stage{number}")
        switches = stage.components.changed_from(RESNET_50)
        switched = on_meta("resnet_to_convnext_atto", **{key: value for key, (_, value) in switches.items()})
        assert switched.components == zoo.components_of(name) == stage.components


def test_atto_network_is_a_quarter_as_wide():
    assert on_meta("model_v").num_features == 4 * on_meta("model_v_atto").num_features


@pytest.mark.parametrize("name", ["resnet_to_convnext", "model_v_atto"])
def test_misspelt_arguments_are_errors(name):
    with pytest.raises(TypeError, match="kernal_size"):
        on_meta(name, kernal_size=7)


@pytest.mark.parametrize("name", [*STAGES, "resnet50_with_inverted"])
def test_network_is_built_on_the_device_and_of_the_type_asked_for(name):
    model = on_meta(f"{name}_atto", dtype=torch.bfloat16)
    tensors = [*model.parameters(), *model.buffers()]
    assert {tensor.device.type for tensor in tensors} == {"meta"}
    assert {tensor.dtype for tensor in tensors if tensor.is_floating_point()} == {torch.bfloat16}
    assert not any(isinstance(module, SubsampledConv) for module in model.modules())  # the bits of before
