"""Differences between data sets: against hand-made examples, and in simulated experiments."""

import itertools
import math

import numpy as np
import pytest
from scipy import stats
from scipy.linalg import hadamard
from simulated_studies import simulated_experiments

from convnext_ablation.errors import UserError
from convnext_ablation.study.stats.effects import contrast, contrast_across, holm

pytestmark = pytest.mark.usefixtures("little_to_collect")

SECOND = [-1.0, 1.0]  # the second network minus the first
# of the general set and of two fine-tuned ones
DIFFERENCES = {"a set": [-1.0, 1.0, 0.0], "their mean": [-1.0, 0.5, 0.5], "each other": [0.0, 1.0, -1.0]}


def experiments(rng, count, pretraining, seeds, sd, top1=(0.70, 0.72), together=0.5, images=(500, 400, 600)):
    """Tables of each experiment, by set and network; fine-tuning changes as much as pre-training does.

    What is said of one pre-training is of that alone, so what it changes is part of the truth there.
    """
    drawn = sd if pretraining > 1 else 0.0
    finetuned = [
        {"images": each, "top1": np.add(top1, 0.1), "seeds": seeds, "seed_sd": sd, "pretraining_sd": drawn}
        for each in images[1:]
    ]
    general = {"images": images[0], "top1": top1, "pretraining_sd": drawn}
    sets = simulated_experiments(rng, count, pretraining, general, finetuned, together)
    return [[list(tables[:, number]) for tables in sets] for number in range(count)]


@pytest.mark.parametrize(
    ("pretraining", "seeds", "sd", "most"),
    [
        (3, 1, 0.003, 0.985),
        (3, 2, 0.015, 0.98),
        (5, 2, 0.003, 0.98),
        (5, 1, 0.015, 0.975),
        (1, 3, 0.007, 0.98),
    ],
)
def test_intervals_cover_the_truth_as_often_as_they_say(pretraining, seeds, sd, most):
    rng = np.random.default_rng([pretraining, seeds])
    found = experiments(rng, 400, pretraining, seeds, sd)
    for factors in DIFFERENCES.values():
        estimated = [contrast_across(tables, SECOND, factors) for tables in found]
        # 400 experiments measure it to +- 2 points; docs/statistics.md has it more exactly
        assert 0.93 <= np.mean([each.low <= 0 <= each.high for each in estimated]) <= most + 0.01
        estimates = [each.estimate for each in estimated]
        assert np.mean(estimates) == pytest.approx(0, abs=4 * np.std(estimates) / math.sqrt(400))


@pytest.mark.parametrize(("pretraining", "seeds", "sd"), [(3, 1, 0.007), (3, 2, 0.03), (1, 3, 0.01)])
def test_no_difference_at_all_is_found_significant_in_at_most_5_of_100_experiments(pretraining, seeds, sd):
    rng = np.random.default_rng([7, pretraining, seeds])
    smallest = []
    for tables in experiments(rng, 300, pretraining, seeds, sd, top1=[0.7] * 4):
        asked = itertools.product(itertools.pairwise(range(4)), list(DIFFERENCES.values())[:2])
        p_values = [
            contrast_across([[each[k] for k in pair] for each in tables], SECOND, factors).p_value
            for pair, factors in asked
        ]
        smallest.append(len(p_values) * min(p_values))  # what Holm's method makes of it, without its library
    assert smallest[-1] == pytest.approx(min(holm(p_values)))
    assert np.mean(np.array(smallest) < 0.05) <= 0.05


def test_differences_of_main_effects_cover_the_truth_as_often_as_they_say():
    levels = hadamard(8)[1] / 4
    found = experiments(np.random.default_rng(12), 300, 3, 1, 0.01, top1=[0.7] * 8)
    estimated = [contrast_across(tables, levels, DIFFERENCES["a set"]) for tables in found]
    assert 0.93 <= np.mean([each.low <= 0 <= each.high for each in estimated]) <= 0.98


def test_what_pretrainings_change_on_all_sets_alike_cancels():
    rng = np.random.default_rng(3)
    widths = []
    for together in (0, 1):
        found = experiments(rng, 60, 5, 1, 0.03, together=together)
        estimated = [contrast_across(tables, SECOND, DIFFERENCES["their mean"]) for tables in found]
        widths.append(np.median([each.high - each.low for each in estimated]))
    assert widths[1] < 0.8 * widths[0]


# Formulas

GENERAL, FIRST, OTHER = (
    list(tables[:, 0])
    for tables in simulated_experiments(
        np.random.default_rng(5),
        1,
        3,
        {"images": 300, "top1": [0.6, 0.7, 0.65, 0.7], "pretraining_sd": 0.02},
        [
            {"images": 200, "top1": [0.7] * 4, "seeds": 2, "seed_sd": 0.02, "pretraining_sd": 0.02},
            {"images": 400, "top1": [0.8] * 4, "seeds": 3, "seed_sd": 0.03, "pretraining_sd": 0.02},
        ],
    )
)


def image_part(table):
    """B - C of a table of draws x images."""
    draws, images = table.shape
    residuals = table - table.mean(1, keepdims=True) - table.mean(0) + table.mean()
    rest = (residuals**2).sum() / ((draws - 1) * (images - 1))
    return table.mean(0).var(ddof=1) / images - rest / (draws * images)


def test_the_interval_follows_the_formula_in_the_docstring():
    general = GENERAL[1].astype(float) - GENERAL[0]
    first, other = ((tables[1].astype(float) - tables[0]).mean(axis=1) for tables in (FIRST, OTHER))
    by_pretraining = (first.mean(1) + other.mean(1)) / 2 - general.mean(1)
    parts = [(by_pretraining.var(ddof=1) / 3, 2), (image_part(general), 299)]
    parts += [(image_part(first) / 4, 199), (image_part(other) / 4, 399)]
    assert min(part for part, _ in parts) > 0
    half = math.sqrt(sum(part * stats.t.ppf(0.975, freedom) ** 2 for part, freedom in parts))
    ours = contrast_across([GENERAL[:2], FIRST[:2], OTHER[:2]], SECOND, [-1, 0.5, 0.5])
    assert ours.estimate == pytest.approx(by_pretraining.mean())
    assert (ours.low, ours.high) == pytest.approx((ours.estimate - half, ours.estimate + half))
    touching = math.sqrt(sum(part * stats.t.isf(ours.p_value / 2, freedom) ** 2 for part, freedom in parts))
    assert touching == pytest.approx(abs(ours.estimate))
    assert ours.p_holm == ours.p_value
    assert ours.p_better == pytest.approx(1 - ours.p_value / 2 if ours.estimate > 0 else ours.p_value / 2)


def test_pretrainings_of_four_networks_are_taken_by_themselves_over_all_sets():
    weights = np.array([0.5, -0.5, 0.25, -0.25])
    each = np.mean(FIRST, axis=2).mean(axis=-1) - np.mean(GENERAL, axis=-1)  # networks x pre-trainings
    variances = weights**2 * each.var(axis=1, ddof=1) / 3
    freedom = 2 * variances.sum() ** 2 / (variances**2).sum()
    tables = [np.einsum("n,npi->pi", weights, t) for t in (np.mean(FIRST, axis=2), np.array(GENERAL, float))]
    parts = [(variances.sum(), freedom), *((image_part(table), table.shape[1] - 1) for table in tables)]
    half = math.sqrt(sum(part * stats.t.ppf(0.975, f) ** 2 for part, f in parts))
    ours = contrast_across([GENERAL, FIRST], list(weights), [-1, 1])
    assert ours.high - ours.estimate == pytest.approx(half)


def test_seeds_of_one_pretraining_are_each_sets_own():
    first, other = ([table[:1] for table in tables[:2]] for tables in (FIRST, OTHER))
    ours = contrast_across([first, other], SECOND, [1, -1])
    runs = [(tables[k][0].mean(axis=-1), len(tables[k][0])) for tables in (first, other) for k in (0, 1)]
    variances = np.array([top1.var(ddof=1) / seeds for top1, seeds in runs])
    freedom = variances.sum() ** 2 / (variances**2 / np.array([seeds - 1 for _, seeds in runs])).sum()
    images = [tables[1][0].astype(float) - tables[0][0] for tables in (first, other)]
    parts = [(variances.sum(), freedom), *((image_part(table), table.shape[1] - 1) for table in images)]
    half = math.sqrt(sum(part * stats.t.ppf(0.975, f) ** 2 for part, f in parts))
    assert ours.high - ours.estimate == pytest.approx(half)
    assert 0 < ours.p_value < 1


def test_one_pretraining_adds_no_seeds_of_its_own_on_the_general_set():
    general, other = [table[:1] for table in GENERAL[:2]], [table[:1] for table in OTHER[:2]]
    ours = contrast_across([general, other], SECOND, [-1, 1])
    tuned = other[1][0].astype(float) - other[0][0]
    there = (general[1].astype(float) - general[0])[0]
    parts = [
        (tuned.mean(axis=1).var(ddof=1) / 3, 2),
        (there.var(ddof=1) / 300, 299),
        (image_part(tuned), 399),
    ]
    half = math.sqrt(sum(part * stats.t.ppf(0.975, f) ** 2 for part, f in parts))
    assert ours.high - ours.estimate == pytest.approx(half)
    assert 0 < ours.p_value < 1


@pytest.mark.parametrize("tables", [FIRST, [table[:1] for table in OTHER]])
@pytest.mark.parametrize("weights", [[1, -1, 0, 0], [0.5, -0.5, 0.5, -0.5]])
def test_of_a_single_set_it_is_the_contrast_itself(tables, weights):
    ours, theirs = contrast_across([tables], weights, [1]), contrast(tables, weights)
    assert ours.estimate == pytest.approx(theirs.estimate)
    assert (ours.low, ours.high, ours.p_value) == pytest.approx((theirs.low, theirs.high, theirs.p_value))


def test_a_set_without_weight_counts_for_nothing():
    three = contrast_across([GENERAL[:2], FIRST[:2], OTHER[:2]], SECOND, [-1, 1, 0])
    assert three == contrast_across([GENERAL[:2], FIRST[:2]], SECOND, [-1, 1])


@pytest.mark.parametrize(
    "sets",
    [
        [[table[:1] for table in GENERAL], [table[:1, :1] for table in FIRST]],  # a single fine-tuning seed
        [[table[:1, :1] for table in FIRST], [table[:1] for table in OTHER]],  # on one of two sets
        [[table[:1] for table in GENERAL], [table[:1] for table in GENERAL]],  # pre-trained only
    ],
)
def test_without_a_second_draw_nothing_is_claimed(sets):
    ours = contrast_across([each[:2] for each in sets], SECOND, [-1, 1])
    assert math.isnan(ours.p_value)
    assert math.isnan(ours.p_better)
    assert ours.low < ours.estimate < ours.high


def test_what_does_not_fit_together_is_refused():
    with pytest.raises(UserError, match="3 and 1 pre-trainings"):
        contrast_across([GENERAL[:2], [table[:1] for table in FIRST[:2]]], SECOND, [-1, 1])
    with pytest.raises(UserError, match="2 data sets with 2 networks have weights, and 1 with 2 have tables"):
        contrast_across([GENERAL[:2]], SECOND, [-1, 1])
    for weights, factors in [([1, 1], [1, -1]), ([0, 0], [1, -1]), (SECOND, [0, 0])]:
        with pytest.raises(UserError, match="no contrast between data sets"):
            contrast_across([GENERAL[:2], FIRST[:2]], weights, factors)
    with pytest.raises(UserError, match="same test images"):
        contrast_across([[GENERAL[0], GENERAL[1][:, :50]], FIRST[:2]], SECOND, [-1, 1])
