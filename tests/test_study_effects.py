"""Statistics of studies: against scipy, against hand-made examples, and in simulated studies."""

import itertools
import math

import numpy as np
import pytest
from scipy import stats
from scipy.linalg import hadamard
from simulated_studies import simulated_studies

from convnext_ablation.errors import UserError
from convnext_ablation.study.stats.effects import accuracy, contrast, holm, paired_difference

pytestmark = pytest.mark.usefixtures("little_to_collect")

TABLES = np.random.default_rng(11).random((4, 3, 300)) < 0.8  # of four networks


def differences(tables):
    """Compares the second network with the first in every study, (networks, studies, seeds, images)."""
    return [paired_difference(treated, baseline) for baseline, treated in zip(*tables, strict=True)]


def test_simulated_seeds_and_networks_differ_as_told():
    rng = np.random.default_rng(1)
    tables = simulated_studies(rng, 500, 2, 1000, [0.7, 0.8], 0.02, pretraining=2, pretraining_sd=0.03)
    assert tables.shape == (2, 500, 2, 2, 1000)
    assert tables.mean(axis=(1, 2, 3, 4)) == pytest.approx([0.7, 0.8], abs=0.008)
    runs = tables.mean(axis=-1)
    within = (runs[:, :, :, 0] - runs[:, :, :, 1]).var(axis=(1, 2)) / 2
    assert np.sqrt(within) == pytest.approx(0.02, abs=0.004)
    between = (runs[:, :, 0].mean(-1) - runs[:, :, 1].mean(-1)).var(axis=1) / 2 - within / 2
    assert np.sqrt(between) == pytest.approx(0.03, abs=0.004)


@pytest.mark.parametrize(("seeds", "most"), [(2, 0.993), (3, 0.980), (5, 0.972)])
@pytest.mark.parametrize("seed_sd", [0.003, 0.015])
def test_intervals_cover_the_truth_as_often_as_they_say(seeds, most, seed_sd):
    studies = 1000
    rng = np.random.default_rng([seeds, int(1000 * seed_sd)])
    tables = simulated_studies(rng, studies, seeds, 1000, [0.80, 0.82], seed_sd)
    found = differences(tables)
    top1 = [accuracy(table) for table in tables[1]]
    covered = np.mean([each.low <= 0.02 <= each.high for each in found])
    accuracy_covered = np.mean([each.low <= 0.82 <= each.high for each in top1])
    # 1000 studies measure it to +- 1.4 points; `most` is what the module's docstring says, and that.
    assert 0.93 <= covered <= most
    assert accuracy_covered >= 0.93
    estimates = [each.estimate for each in found]
    # No bias: within four standard errors of the truth.
    assert np.mean(estimates) == pytest.approx(0.02, abs=4 * np.std(estimates) / math.sqrt(studies))
    # Not bought with width: next to an interval that knows the variance, and so needs no t-quantile.
    widths = [each.high - each.low for each in found]
    assert np.median(widths) / (2 * 1.96 * np.std(estimates)) < {2: 6, 3: 2, 5: 1.45}[seeds]


def test_intervals_over_pretraining_seeds_cover_the_truth_and_those_over_finetuning_seeds_alone_do_not():
    rng = np.random.default_rng(8)
    tables = simulated_studies(rng, 400, 2, 500, [0.80, 0.82], 0.005, pretraining=3, pretraining_sd=0.03)
    found = differences(tables)
    flat = differences(tables.reshape(2, 400, 6, 500))  # as if all six runs were independent
    assert 0.93 <= np.mean([each.low <= 0.02 <= each.high for each in found]) <= 0.98
    assert np.mean([each.low <= 0.02 <= each.high for each in flat]) < 0.9


@pytest.mark.parametrize(("seeds", "seed_sd"), [(2, 0.03), (3, 0.01)])
def test_no_effect_at_all_is_found_significant_in_at_most_5_of_100_studies(seeds, seed_sd):
    rng = np.random.default_rng([9, seeds])
    tables = simulated_studies(rng, 400, seeds, 400, [0.8] * 5, seed_sd)
    found = 0
    for study in np.moveaxis(tables, 1, 0):
        steps = [paired_difference(after, before) for before, after in itertools.pairwise(study)]
        found += min(holm([step.p_value for step in steps])) < 0.05
    assert found / 400 <= 0.05


@pytest.mark.parametrize(("seeds", "most"), [(2, 0.99), (3, 0.98)])
def test_main_effects_cover_the_truth_as_often_as_they_say_though_some_networks_have_noisier_seeds(
    seeds, most
):
    """Eight networks, as in a fractional factorial of seven components without an effect."""
    levels = hadamard(8)[1:] / 4
    tables = simulated_studies(
        np.random.default_rng([11, seeds]), 300, seeds, 400, [0.8] * 8, np.repeat([0.02, 0.005], [2, 6])
    )
    covered, found = [], 0
    for study in np.moveaxis(tables, 1, 0):
        effects = [contrast(list(study), row) for row in levels]
        covered += [each.low <= 0 <= each.high for each in effects]
        found += min(holm([each.p_value for each in effects])) < 0.05
    assert 0.94 <= np.mean(covered) <= most
    assert found / 300 <= 0.06


def test_probability_of_better_is_as_right_as_it_says_where_seeds_are_many():
    rng = np.random.default_rng(10)
    truths = rng.normal(0, 0.02, 400)  # about as far from 0 as one can tell
    right, said = [], []
    for truth in truths:
        tables = simulated_studies(rng, 1, 5, 300, [0.8, 0.8 + truth], 0.005)
        p_better = differences(tables)[0].p_better
        right.append((p_better > 0.5) == (truth > 0))
        said.append(max(p_better, 1 - p_better))
    assert np.mean(right) == pytest.approx(np.mean(said), abs=0.05)


def test_one_seed_gives_the_t_interval_over_images_and_no_p_value():
    rng = np.random.default_rng(1)
    treated, baseline = rng.random((1, 300)) < 0.8, rng.random((1, 300)) < 0.7
    ours = paired_difference(treated, baseline)
    theirs = stats.ttest_1samp((treated.astype(float) - baseline)[0], 0).confidence_interval(0.95)
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=1e-12)
    assert math.isnan(ours.p_value)
    assert math.isnan(ours.p_holm)
    assert math.isnan(ours.p_better)


RANDOM = np.random.default_rng(2).random((2, 1, 400))
SEEDS = np.array([[1, 0, 1, 1, 0, 1, 0, 1], [0, 0, 0, 0, 1, 0, 0, 0]]) == 1


@pytest.mark.parametrize(
    ("alike", "values"),
    [
        ("images", np.repeat(SEEDS[:, :2, None], 500, axis=2)),
        ("images", np.repeat(SEEDS[:, :, None], 500, axis=2)),
        ("seeds", np.repeat(RANDOM < [[[0.80]], [[0.74]]], 3, axis=1)),
    ],
)
def test_images_or_seeds_that_all_behave_alike_leave_the_paired_t_test_over_the_others(alike, values):
    ours = paired_difference(*values)
    theirs = stats.ttest_rel(*(values[:, :, 0] if alike == "images" else values[:, 0]).astype(float))
    interval = theirs.confidence_interval(0.95)
    assert ours.p_value == pytest.approx(theirs.pvalue, rel=1e-9)
    assert ours.p_holm == ours.p_value
    assert (ours.low, ours.high) == pytest.approx((max(-1, interval.low), min(1, interval.high)), abs=1e-12)


def test_the_general_case_follows_the_formula_in_the_docstring():
    # Two-way table of 2 seeds x 4 images; mean squares worked out by hand.
    treated = np.array([[1, 1, 1, 0], [1, 0, 0, 0]], dtype=bool)
    baseline = np.zeros((2, 4), dtype=bool)
    # Seed means 3/4, 1/4: variance 1/8. Image means 1, 1/2, 1/2, 0: variance 1/6.
    # The eight residuals are +-1/4: their sum of squares is 1/2, over 3 degrees of freedom.
    a, b, c = (1 / 8) / 2, (1 / 6) / 4, (0.5 / 3) / 8
    half = math.sqrt(a * stats.t.ppf(0.975, 1) ** 2 + (b - c) * stats.t.ppf(0.975, 3) ** 2)
    ours = paired_difference(treated, baseline)
    assert ours.estimate == 0.5
    assert (ours.low, ours.high) == (max(-1.0, 0.5 - half), 1.0)
    # The p-value is where the interval meets 0.
    p = ours.p_value
    touching = math.sqrt(a * stats.t.isf(p / 2, 1) ** 2 + (b - c) * stats.t.isf(p / 2, 3) ** 2)
    assert touching == pytest.approx(0.5, rel=1e-9)
    assert ours.p_better == pytest.approx(1 - p / 2)


@pytest.mark.parametrize("seeds", [2, 3])
def test_equal_predictions_are_no_difference_but_not_proof_of_none(seeds):
    same = np.random.default_rng(0).random((seeds, 1000)) < 0.8
    ours = paired_difference(same, same)
    # About two images more or less, were there no variance at all.
    assert (ours.estimate, ours.p_value) == (0, 1)
    assert (ours.low, ours.high) == pytest.approx((-0.00196, 0.00196), abs=1e-5)


def test_accuracy_with_one_seed_is_wilsons_interval():
    ours = accuracy(np.arange(5000)[None] < 4000)
    theirs = stats.binomtest(4000, 5000).proportion_ci(method="wilson")
    assert (ours.low, ours.estimate, ours.high) == pytest.approx((theirs.low, 0.8, theirs.high), abs=1e-5)


@pytest.mark.parametrize("seeds", [1, 3])
def test_accuracy_of_a_perfect_network_leaves_room_for_an_unseen_mistake(seeds):
    ours = accuracy(np.ones((seeds, 500), bool))
    theirs = stats.binomtest(500, 500).proportion_ci(method="wilson")
    assert (ours.estimate, ours.high) == (1, 1)
    assert ours.low == pytest.approx(theirs.low, abs=1e-4)
    none = accuracy(np.zeros((seeds, 500), bool))
    assert (none.estimate, none.low) == (0, 0)
    assert none.high == pytest.approx(1 - ours.low)


def test_intervals_stay_within_what_weights_allow_and_a_mean_has_no_p_value():
    contradicting = np.array([[True] * 100, [False] * 100])
    ours = contrast([contradicting, ~contradicting], [0.5, -0.5])
    assert (ours.low, ours.high) == (-0.5, 0.5)
    mean = contrast(TABLES, [0.25] * 4)
    assert mean.estimate == pytest.approx(TABLES.mean())
    assert math.isnan(mean.p_value)
    assert contrast([np.ones((3, 100), bool)] * 2, [0.5, 0.5]).high == 1


def test_finetuning_seeds_of_a_pretraining_seed_count_as_one_draw():
    treated, baseline = (np.random.default_rng(seed).random((3, 2, 200)) < 0.8 for seed in (12, 13))
    ours = paired_difference(treated, baseline)
    d = treated.mean(axis=1) - baseline.mean(axis=1)
    a, b = d.mean(1).var(ddof=1) / 3, d.mean(0).var(ddof=1) / 200
    residual = d - d.mean(1)[:, None] - d.mean(0) + d.mean()
    c = (residual**2).sum() / (2 * 199) / 600
    half = math.sqrt(a * stats.t.ppf(0.975, 2) ** 2 + max(0, b - c) * stats.t.ppf(0.975, 199) ** 2)
    assert (ours.low, ours.high) == pytest.approx((d.mean() - half, d.mean() + half), abs=1e-12)
    # of one pre-training seed they are the draws
    assert contrast([TABLES[0][None], TABLES[1][None]], [1, -1]) == contrast(TABLES[:2], [1, -1])


@pytest.mark.parametrize("weights", [[0.7, 0.7], [1, -0.9], [1, -1, 0]])
def test_weights_that_are_no_contrast_are_refused(weights):
    with pytest.raises(UserError, match="no contrast of 2 networks"):
        contrast(TABLES[:2], weights)
    with pytest.raises(UserError, match="every weight"):
        contrast(TABLES[:2], [0, 0])


def test_holm_multiplies_by_the_number_of_tests_left_and_does_not_count_what_was_not_tested():
    # Sorted: .01 x 4 = .04; .02 x 3 = .06; .03 x 2 = .06; .04 x 1 = .04 -> .06.
    assert holm([0.03, 0.01, 0.04, 0.02]) == pytest.approx([0.06, 0.04, 0.06, 0.06])
    assert (holm([0.6, 0.7]), holm([0.2]), holm([])) == ([1.0, 1.0], [0.2], [])
    assert holm([math.nan, 0.01, 0.04]) == pytest.approx([math.nan, 0.02, 0.04], nan_ok=True)


def test_what_are_no_tables_of_the_same_images_is_refused():
    with pytest.raises(UserError, match=r"2 x 5 .* with 2 x 6 .*same test images"):
        paired_difference(np.ones((2, 5), bool), np.ones((2, 6), bool))
    with pytest.raises(UserError, match="at least one seed and two test images"):
        accuracy(np.ones((2, 1), bool))
    with pytest.raises(TypeError, match="bool"):  # classes instead of right and wrong
        accuracy(np.array([[3, 1, 0], [1, 1, 2]]))
    unpaired = contrast([TABLES[0], TABLES[1], TABLES[2][:, :50]], [-1, 1, 0])  # one without weight may be
    assert unpaired == paired_difference(TABLES[1], TABLES[0])
