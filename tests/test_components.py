import pytest

from convnext_ablation.errors import UserError
from convnext_ablation.models.components import (
    ADD_ONE_IN,
    CONVNEXT_TINY,
    FAMILIES,
    LEAVE_ONE_OUT,
    RESNET_50,
    ROADMAP,
    STAGES,
    SWITCHES,
    WORDS,
    Components,
)


def test_components_default_to_resnet_50():
    assert Components() == RESNET_50
    assert (RESNET_50.depths, RESNET_50.width, RESNET_50.kernel_size) == ((3, 4, 6, 3), 64, 3)
    assert (CONVNEXT_TINY.depths, CONVNEXT_TINY.width, CONVNEXT_TINY.kernel_size) == ((3, 3, 9, 3), 96, 7)


def test_every_switch_has_words():
    assert tuple(WORDS) == SWITCHES


@pytest.mark.parametrize(
    ("switches", "message"),
    [
        ({"gelu": 1}, "gelu is 1; it takes True or False"),
        ({"kernel_size": 4}, "kernel_size is 4; it takes an odd whole number such as 7"),
        ({"kernel_size": True}, "kernel_size is True; it takes an odd whole number such as 7"),
        ({"downsampling": "seperate"}, "unknown downsampling 'seperate'; did you mean 'separate'?"),
    ],
)
def test_value_that_a_switch_cannot_take_is_one_clear_line(switches, message):
    with pytest.raises(UserError) as raised:
        Components(**switches)
    assert str(raised.value) == message


def test_switch_that_does_not_exist_is_named_with_the_nearest():
    with pytest.raises(UserError, match="unknown component 'layernorm'; did you mean 'layer_norm'"):
        RESNET_50.with_(layernorm=True)


def test_variants_have_words_and_differ_from_their_baselines():
    named = {name: variant for variants in FAMILIES.values() for name, variant in variants.items()}
    for variant in named.values():
        assert variant.label
        assert variant.adds
        if variant.baseline:
            assert variant.components.changed_from(named[variant.baseline].components)
        else:
            assert variant.components == RESNET_50


def test_stages_lead_from_resnet_50_to_convnext_tiny():
    assert list(STAGES) == ["model_i", "model_ii", "model_iii", "model_iv", "model_v"]
    assert STAGES["model_v"].components == CONVNEXT_TINY
    assert STAGES["model_ii"].components == ROADMAP["roadmap_04_wide"].components
    assert [variant.baseline for variant in STAGES.values()] == ["", *list(STAGES)[:-1]]


def test_roadmap_changes_one_switch_a_step_and_ends_at_convnext_tiny():
    steps = [step for step in ROADMAP.values() if step.baseline]
    *changes, last = [step.components.changed_from(ROADMAP[step.baseline].components) for step in steps]
    assert all(len(changed) == 1 for changed in changes)
    assert last == {"downsampling": ("block", "separate"), "layer_scale": (False, True)}
    assert ROADMAP["roadmap_15_separate_downsampling"].components == CONVNEXT_TINY
    for name in ("roadmap_09_kernel_9", "roadmap_10_kernel_11", "roadmap_11_gelu"):
        assert ROADMAP[name].baseline == "roadmap_08_kernel_7"
    assert [step.components.kernel_size for step in steps[5:11]] == [3, 5, 7, 9, 11, 7]


def test_one_at_a_time_designs_set_one_switch():
    changed = CONVNEXT_TINY.changed_from(RESNET_50)
    assert len(LEAVE_ONE_OUT) == len(ADD_ONE_IN) == len(changed)
    for switch, (at_start, at_end) in changed.items():
        without = LEAVE_ONE_OUT[f"convnext_tiny_without_{switch}"]
        only = ADD_ONE_IN[f"resnet50_with_{switch}"]
        assert without.components.changed_from(CONVNEXT_TINY) == {switch: (at_end, at_start)}
        assert only.components.changed_from(RESNET_50) == {switch: (at_start, at_end)}
        assert (without.baseline, only.baseline) == ("model_v", "model_i")
