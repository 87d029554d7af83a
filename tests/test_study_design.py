"""Designs: their networks build, their contrasts recover what was planted, bad ones are named."""

import itertools
import math
import re

import numpy as np
import pytest
import timm

from convnext_ablation.errors import UserError
from convnext_ablation.models.components import CONVNEXT_TINY, RESNET_50, WAY
from convnext_ablation.models.zoo import components_of
from convnext_ablation.study.designs.contrasts import parse_groups
from convnext_ablation.study.designs.design import DESIGNS, design_of
from convnext_ablation.study.designs.factorial import STAGE_GROUPS, factorial
from convnext_ablation.study.report.answer import question, studied

GROUPS = {"stem": ["patchify_stem"], "block": ["inverted", "moved_up"], "kernel": ["kernel_size"]}
ELEVEN = {switch: [switch] for switch in WAY[:11]}


def effects(design, accuracy):
    """Every contrast of a design, where `accuracy` says what a network with these components reaches."""
    reached = {point.key: accuracy(point.components) for point in design.points}
    return {
        contrast.name: sum(weight * reached[key] for key, weight in contrast.weights.items())
        for contrast in design.contrasts
    }


def is_on(components, switch):
    return getattr(components, switch) == getattr(CONVNEXT_TINY, switch)


@pytest.mark.parametrize(
    ("name", "groups", "networks", "contrasts", "family"),
    [
        ("stages", None, 5, 4, 4),
        ("leave-one-out", None, 14, 13, 13),
        ("add-one-in", None, 14, 13, 13),
        ("factorial", GROUPS, 8, 3 + 3 + 3, 3),
        ("screening", ELEVEN, 12, 11, 11),
        ("screening-fold-over", None, 32, 13, 13),
    ],
)
def test_a_design_has_so_many_networks_and_contrasts(name, groups, networks, contrasts, family):
    design = design_of(name, "atto", groups)
    assert len(design.points) == len({point.components for point in design.points}) == networks
    assert (len(design.contrasts), design.family) == (contrasts, family)


def test_every_network_of_every_design_is_what_it_says_and_builds():
    points = {point.components: point for name in DESIGNS for point in design_of(name, "atto").points}
    assert len(points) == 5 + 13 + 13 + 12 + 9 + 30  # those of a design that none before has
    for point in points.values():
        sizes = {"in_chans": 1, "num_classes": 3, "device": "meta"}
        model = timm.create_model(point.model, **sizes, **point.model_kwargs)
        assert model.components == point.components
        assert model.num_features < 800, "a quarter of the width"


def test_a_network_has_one_key_in_all_designs_and_a_registered_name_where_there_is_one():
    registered = {}
    for name in ("stages", "roadmap", "leave-one-out", "add-one-in", "factorial", "screening-fold-over"):
        for point in design_of(name, "full").points:
            if point.model_kwargs:
                assert point.model == "resnet_to_convnext"
                assert point.components == RESNET_50.with_(**point.model_kwargs)
            else:
                assert point.key == point.model
                assert components_of(point.model) == point.components
                assert registered.setdefault(point.components, point.key) == point.key
    assert registered[RESNET_50] == "model_i"
    assert registered[CONVNEXT_TINY] == "model_v"
    factorial_keys = {point.key for point in design_of("factorial", "full").points}
    way = {"model_i", "model_ii", "roadmap_06_moved_up", "roadmap_08_kernel_7", "model_v"}
    assert way < factorial_keys
    first, folded = design_of("screening", "full").points, design_of("screening-fold-over", "full").points
    assert first == folded[:16]


def test_steps_are_compared_with_the_one_before_and_larger_kernels_with_kernel_7(own):
    by_step = {each.name.split("-")[0]: each for each in design_of("roadmap", "full").contrasts}
    for step in ("roadmap_09_kernel_9", "roadmap_10_kernel_11", "roadmap_11_gelu"):
        assert by_step[step].weights == {step: 1, "roadmap_08_kernel_7": -1}
    stages = design_of("stages", "atto").contrasts
    models = [f"model_{number}_atto" for number in ("i", "ii", "iii", "iv", "v")]
    assert [each.name for each in stages] == [f"{b}-{a}" for a, b in itertools.pairwise(models)]
    assert stages[1].label == "Model III after Model II (inverted bottleneck)"
    assert stages[1].weights == {"model_iii_atto": 1, "model_ii_atto": -1}
    names = [each.name for each in own("networks: [model_i, model_iii, model_ii]", "full").contrasts]
    assert names == ["model_iii-model_i", "model_ii-model_iii"]


@pytest.mark.parametrize("name", ["leave-one-out", "add-one-in"])
def test_an_effect_above_0_means_that_the_component_helps(name):
    helps = {switch: 0.01 * number for number, switch in enumerate(WAY, start=1)}
    design = design_of(name, "atto")
    found = effects(design, lambda c: sum(gain for switch, gain in helps.items() if is_on(c, switch)))
    by_switch = {contrast.switch: found[contrast.name] for contrast in design.contrasts}
    assert by_switch == pytest.approx(helps)
    base = {"leave-one-out": "ConvNeXt-T", "add-one-in": "ResNet-50"}[name]
    labels = {contrast.label for contrast in design.contrasts}
    assert {f"GELU in {base}", f"kernel 7 in {base}"} <= labels


@pytest.mark.parametrize(
    ("name", "groups"),
    [("factorial", None), *itertools.product(["screening", "screening-fold-over"], [None, ELEVEN])],
)
def test_columns_are_balanced_and_orthogonal(name, groups):
    design = design_of(name, "atto", groups)
    default = STAGE_GROUPS if name == "factorial" else {switch: [switch] for switch in WAY}
    factors = (groups or default).values()
    on = [[all(is_on(p.components, switch) for switch in group) for group in factors] for p in design.points]
    settings = np.where(on, 1, -1)  # (networks, factors)
    assert (settings.sum(axis=0) == 0).all()
    assert (settings.T @ settings == len(settings) * np.eye(len(factors))).all()
    # and main effects weigh exactly those columns
    keys = [point.key for point in design.points]
    for column, contrast in zip(settings.T, design.contrasts, strict=False):
        assert contrast.kind == "main effect"
        assert contrast.primary
        assert [contrast.weights[key] for key in keys] == pytest.approx(2 * column / len(column))


def test_interactions_and_shapley_values_of_a_factorial_are_recovered_exactly():
    rng = np.random.default_rng(0)
    table = {frozenset(on): rng.random() for size in range(4) for on in itertools.combinations(GROUPS, size)}

    def accuracy(components):
        return table[frozenset(g for g, group in GROUPS.items() if all(is_on(components, s) for s in group))]

    found = effects(factorial("", GROUPS), accuracy)
    # the linear model with all interactions, factors coded -1/2 and 1/2, by least squares
    names = [(), *itertools.chain(*(itertools.combinations(GROUPS, size) for size in (1, 2, 3)))]
    rows = [[math.prod(0.5 if g in on else -0.5 for g in name) for name in names] for on in table]
    fitted = dict(zip(names, np.linalg.solve(np.array(rows), np.array(list(table.values()))), strict=True))
    for name in names:
        if 1 <= len(name) <= 2:
            assert found[":".join(name)] == pytest.approx(fitted[name], abs=1e-12)
    # what each group adds, averaged over all orders
    gains = {group: [] for group in GROUPS}
    for order in itertools.permutations(GROUPS):
        for place, group in enumerate(order):
            before = frozenset(order[:place])
            gains[group].append(table[before | {group}] - table[before])
    shapley = {group: found[f"shapley({group})"] for group in GROUPS}
    assert shapley == pytest.approx({group: np.mean(each) for group, each in gains.items()}, abs=1e-12)
    assert sum(shapley.values()) == pytest.approx(table[frozenset(GROUPS)] - table[frozenset()])


def test_screening_says_which_interactions_it_mixes_into_which_main_effects():
    """Plants each of the 78 interactions alone, and expects what the note says of every main effect."""
    design = design_of("screening", "atto")
    listed = next(note for note in design.notes if note.startswith("Measured are: "))
    mixed = {}
    for entry in listed.removeprefix("Measured are: ").removesuffix(".").split("; "):
        factor, _, terms = entry.removesuffix(")/2").partition(" + (")
        signs = re.findall(r"([+-]) (\w+:\w+)", terms if terms.startswith("- ") else f"+ {terms}")
        mixed[factor] = {pair: 0.5 if sign == "+" else -0.5 for sign, pair in signs}
    pairs = [f"{a}:{b}" for a, b in itertools.combinations(WAY, 2)]
    clear = [pair for pair in pairs if not any(pair in listed for listed in mixed.values())]
    for pair in pairs:
        a, b = pair.split(":")

        def accuracy(components, a=a, b=b):
            return (is_on(components, a) - 0.5) * (is_on(components, b) - 0.5)

        expected = {factor: mixed[factor].get(pair, 0.0) for factor in WAY}
        assert effects(design, accuracy) == pytest.approx(expected)
    assert len(clear) == 12
    assert {sign for signs in mixed.values() for sign in signs.values()} == {-0.5, 0.5}
    assert {"depthwise:kernel_size", "moved_up:kernel_size", "gelu:fewer_acts"} <= set(clear)


def test_folded_over_no_main_effect_holds_an_interaction_of_two():
    for groups in (None, ELEVEN):
        design = design_of("screening-fold-over", "atto", groups)
        for a, b in itertools.combinations(groups or WAY, 2):
            found = effects(design, lambda c, a=a, b=b: float(is_on(c, a) and not is_on(c, b)))
            others = [found[factor] for factor in groups or WAY if factor not in (a, b)]
            assert others == pytest.approx([0] * len(others))
            assert found[a] == pytest.approx(0.5)


@pytest.mark.parametrize("name", ["screening", "screening-fold-over"])
def test_screening_says_which_interactions_of_three_are_in_the_switches_of_one_convolution(name):
    design = design_of(name, "atto")
    note = next(note for note in design.notes if "shape one convolution" in note)
    listed = re.findall(r"(plus|minus) (\w+):(\w+):(\w+) in (\w+)", note)
    assert {each[-1] for each in listed} == {"depthwise", "kernel_size", "moved_up", "inverted"}
    for sign, *three, factor in listed:
        found = effects(design, lambda c, three=three: math.prod(is_on(c, each) - 0.5 for each in three))
        assert found[factor] == pytest.approx(0.25 if sign == "plus" else -0.25)


def test_the_12_networks_hold_a_sixth_of_each_interaction():
    design = design_of("screening", "atto", ELEVEN)
    assert any("a sixth of each interaction" in note for note in design.notes)
    found = effects(design, lambda c: (is_on(c, "wide") - 0.5) * (is_on(c, "gelu") - 0.5))
    sizes = {factor: abs(effect) for factor, effect in found.items()}
    assert sizes == pytest.approx({f: 0 if f in ("wide", "gelu") else 1 / 6 for f in ELEVEN})


def test_groups_are_read_from_a_command_line():
    assert parse_groups(["a=wide,gelu", "depthwise"]) == {"a": ["wide", "gelu"], "depthwise": ["depthwise"]}
    with pytest.raises(UserError, match="--groups a=gelu: the group 'a' is given twice"):
        parse_groups(["a=wide", "a=gelu"])


@pytest.mark.parametrize(
    ("name", "groups", "message"),
    [
        ("stages", GROUPS, "takes no groups"),
        ("factorial", {s: [s] for s in WAY[:8]}, "8 groups; give 1 to 7"),
        ("factorial", {"a": ["widht"]}, "unknown component .*'widht'; .*'wid"),
        ("factorial", {"a": ["wide"], "b": ["gelu", "wide"]}, "component 'wide' is in the groups twice"),
        ("screening", GROUPS, "3 groups are too few"),
        ("stage", None, "unknown design 'stage'; did you mean 'stages'"),
        ("none.yaml", None, r"none\.yaml: can't be read"),
    ],
)
def test_what_makes_no_design_is_refused(name, groups, message):
    with pytest.raises(UserError, match=message):
        design_of(name, "atto", groups)


# A design of one's own

OWN = """
networks:
  - model_i
  - roadmap_04_wide
  - label: Model I, kernel 7
    base: model_i
    components: {kernel_size: 7, moved_up: true}
    key: big_kernel
  - {label: Kernel 9!, components: {kernel_size: 9}}
contrasts:
  - {network: big_kernel, baseline: model_i}
  - {network: roadmap_04_wide, baseline: model_i, label: two, primary: false}
  - name: both
    weights: {big_kernel: 1/3, kernel_9: 1/6, model_i: -0.5}
"""


@pytest.fixture
def own(tmp_path):
    def read(text, width="atto"):
        path = tmp_path / "own.yaml"
        path.write_text(text)
        return design_of(str(path), width)

    return read


def test_a_design_of_ones_own_is_read_as_it_stands(own):
    design = own(OWN)
    assert design.name == "own"
    assert [(p.key, p.model, p.label) for p in design.points] == [
        ("model_i_atto", "model_i_atto", "Model I"),
        ("model_ii_atto", "model_ii_atto", "Step 4"),
        ("big_kernel_atto", "resnet_to_convnext_atto", "Model I, kernel 7"),
        ("kernel_9_atto", "resnet_to_convnext_atto", "Kernel 9!"),
    ]
    assert design.points[2].model_kwargs == {"kernel_size": 7, "moved_up": True}
    assert design.points[3].adds == "kernel 9"
    first, second, third = design.contrasts
    assert first.weights == {"big_kernel_atto": 1, "model_i_atto": -1}
    assert first.label == "Model I, kernel 7 minus Model I"
    assert (second.label, second.primary, design.family) == ("two", False, 2)
    weights = {"big_kernel_atto": 1 / 3, "kernel_9_atto": 1 / 6, "model_i_atto": -1 / 2}
    assert third.weights == pytest.approx(weights)


def test_groups_of_ones_own_make_a_factorial_that_networks_can_be_added_to(own):
    text = "groups: {stem: [patchify_stem], kernel: [kernel_size, moved_up]}\nnetworks: [model_v]\n"
    design = own(text + "contrasts: [{network: model_v, baseline: model_i}]")
    own_keys = ["resnet50_with_patchify_stem", "factorial-kernel", "factorial-stem-kernel"]
    keys = [f"{name}_atto" for name in ("model_i", *own_keys, "model_v")]
    assert [point.key for point in design.points] == keys
    names = {each.name for each in design.contrasts}
    assert {"stem", "kernel", "stem:kernel", "shapley(stem)", "model_v_atto-model_i_atto"} <= names


TWO = "networks: [model_i, model_ii]\ncontrasts:\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "write lines of `key: value` with networks, contrasts, groups"),
        ("networks: [model_i]\nnetworks: [model_ii]", "'networks' appears twice; leave one .*line 2"),
        ("network: [model_i]", "unknown key in .*own.yaml: 'network'; did you mean 'networks'"),
        ("networks: [model_i, roadmap_00_resnet50]", "'Step 0' and 'Model I' are the same network"),
        ("networks: [model_i, model_vi]", "unknown network in .*networks, entry 2: 'model_vi'; did you mean"),
        ("networks: [{label: a, key: a/b, components: {wide: true}}]", "key 'a/b': write letters, digits"),
        (TWO + "- {network: model_i, baseline: model_x}", "unknown network in .*entry 1: 'model_x'"),
        (TWO + "- {network: model_i, baseline: model_ii, primary: 1}", "primary is 1; it takes true or"),
        (
            TWO + 2 * "- {network: model_i, baseline: model_ii}\n",
            "'model_i_atto-model_ii_atto' appears twice",
        ),
        (TWO + "- {name: c, weights: {model_i: 1, model_ii: -0.9}}", "the weights of c sum to 0.1, not to 0"),
        ("groups: {a: wide}", "own.yaml: groups: group 'a' is 'wide'; give it a list"),
    ],
)
def test_what_is_wrong_with_a_design_of_ones_own_is_one_line_that_names_it(own, text, message):
    with pytest.raises(UserError, match=message) as caught:
        own(text)
    assert "own.yaml" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", DESIGNS)
def test_a_report_says_what_a_named_design_studies(name):
    assert studied(name) != name
    assert "Which change" not in question(name, ["typefaces"])
