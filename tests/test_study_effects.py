"""Statistics of studies: against scipy, against hand-made examples, and in simulated studies."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from convnext_ablation.errors import UserError
from convnext_ablation.study.effects import accuracy, holm, paired_difference

# Latent correlation of two seeds that are right on 80 % of the images and disagree on a tenth of them.
AGREEMENT = 0.93


def simulated_study(rng, seeds, images, top1, seed_sd):
    """Draws what networks of the given true top-1 get right, each (seeds, images), on the same images.

    An image is right if its difficulty, which all networks and seeds share in part, exceeds a threshold that
    varies with the seed by `seed_sd` in accuracy.
    """
    difficulty = rng.standard_normal(images)
    tables = []
    for accuracy_in_truth in top1:
        quantile = stats.norm.ppf(accuracy_in_truth)
        seed_scale = seed_sd / stats.norm.pdf(quantile)
        threshold = quantile * math.hypot(1, seed_scale) + seed_scale * rng.standard_normal((seeds, 1))
        by_network, by_run = rng.standard_normal(images), rng.standard_normal((seeds, images))
        shared = math.sqrt(0.9) * difficulty + math.sqrt(0.1) * by_network
        tables.append(threshold + math.sqrt(AGREEMENT) * shared + math.sqrt(1 - AGREEMENT) * by_run > 0)
    return tables


def test_simulated_seeds_disagree_as_often_as_real_ones():
    (table,) = simulated_study(np.random.default_rng(0), 2, 100_000, [0.8], 0.0)
    assert (table[0] != table[1]).mean() == pytest.approx(0.09, abs=0.02)


@pytest.mark.parametrize("seeds", [2, 3, 5])
@pytest.mark.parametrize("seed_sd", [0.0, 0.005, 0.015])
def test_intervals_cover_the_truth_in_at_least_95_of_100_studies(seeds, seed_sd):
    rng = np.random.default_rng([seeds, int(1000 * seed_sd)])
    estimates, covered, accuracy_covered, widths = [], [], [], []
    for _ in range(400):
        baseline, treated = simulated_study(rng, seeds, 1000, [0.80, 0.82], seed_sd)
        difference, top1 = paired_difference(treated, baseline), accuracy(treated)
        estimates.append(difference.estimate)
        covered.append(difference.low <= 0.02 <= difference.high)
        accuracy_covered.append(top1.low <= 0.82 <= top1.high)
        widths.append(difference.high - difference.low)
    # 400 studies measure 95 % to +- 2.2 points.
    assert np.mean(covered) >= 0.928
    assert np.mean(accuracy_covered) >= 0.928
    # No bias: within four standard errors of the truth.
    assert np.mean(estimates) == pytest.approx(0.02, abs=4 * np.std(estimates) / 20)
    # Not bought with width: next to an interval that knows the variance, and so needs no t-quantile.
    assert np.median(widths) / (2 * 1.96 * np.std(estimates)) < {2: 6, 3: 2.2, 5: 1.5}[seeds]


def test_no_effect_is_found_in_at_most_5_of_100_studies():
    rng = np.random.default_rng(5)
    p_values = []
    for _ in range(400):
        baseline, treated = simulated_study(rng, 3, 1000, [0.8, 0.8], 0.01)
        p_values.append(paired_difference(treated, baseline).p_value)
    assert np.mean(np.array(p_values) < 0.05) <= 0.072


def test_an_effect_well_above_the_noise_is_found():
    rng = np.random.default_rng(6)
    found = 0
    for _ in range(50):
        baseline, treated = simulated_study(rng, 5, 1000, [0.75, 0.80], 0.005)
        found += paired_difference(treated, baseline).p_value < 0.05
    assert found >= 45


def test_one_seed_gives_the_t_interval_over_images_and_no_p_value():
    rng = np.random.default_rng(1)
    treated, baseline = rng.random((1, 300)) < 0.8, rng.random((1, 300)) < 0.7
    ours = paired_difference(treated, baseline)
    theirs = stats.ttest_1samp((treated.astype(float) - baseline)[0], 0).confidence_interval(0.95)
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=1e-12)
    assert math.isnan(ours.p_value)
    assert math.isnan(ours.p_holm)


@pytest.mark.parametrize("seeds", [2, 3, 8])
def test_images_that_all_behave_alike_leave_the_paired_t_test_over_seeds(seeds):
    by_seed = np.array([1, 0, 1, 1, -1, 1, 0, 1])[:seeds]
    treated = np.repeat((by_seed == 1)[:, None], 500, axis=1)
    baseline = np.repeat((by_seed == -1)[:, None], 500, axis=1)
    ours = paired_difference(treated, baseline)
    theirs = stats.ttest_rel(treated[:, 0].astype(float), baseline[:, 0].astype(float))
    interval = theirs.confidence_interval(0.95)
    assert ours.p_value == pytest.approx(theirs.pvalue, rel=1e-9)
    assert ours.p_holm == ours.p_value
    assert (ours.low, ours.high) == pytest.approx((max(-1, interval.low), min(1, interval.high)), abs=1e-12)


def test_seeds_that_all_behave_alike_leave_the_paired_t_test_over_images():
    rng = np.random.default_rng(2)
    treated, baseline = (np.repeat(rng.random((1, 400)) < p, 3, axis=0) for p in (0.80, 0.74))
    ours = paired_difference(treated, baseline)
    theirs = stats.ttest_rel(treated[0].astype(float), baseline[0].astype(float))
    interval = theirs.confidence_interval(0.95)
    assert ours.p_value == pytest.approx(theirs.pvalue, rel=1e-9)
    assert (ours.low, ours.high) == pytest.approx((interval.low, interval.high), abs=1e-12)


def test_the_general_case_follows_the_formula_in_the_docstring():
    # Two-way table of 2 seeds x 4 images; mean squares worked out by hand.
    treated = np.array([[1, 1, 1, 0], [1, 0, 0, 0]], dtype=bool)
    baseline = np.zeros((2, 4), dtype=bool)
    # Seed means 3/4, 1/4: variance 1/8. Image means 1, 1/2, 1/2, 0: variance 1/6.
    # The eight residuals are +-1/4: their sum of squares is 1/2, over 3 degrees of freedom.
    a, b, c = (1 / 8) / 2, (1 / 6) / 4, (0.5 / 3) / 8
    variance = a + b - c
    share = a / variance
    critical = share * stats.t.ppf(0.975, 1) + (1 - share) * stats.t.ppf(0.975, 3)
    ours = paired_difference(treated, baseline)
    assert ours.estimate == 0.5
    assert (ours.low, ours.high) == (max(-1.0, 0.5 - critical * math.sqrt(variance)), 1.0)
    # The p-value is where the quantile meets the estimate.
    standard_errors = 0.5 / math.sqrt(variance)
    p = ours.p_value
    quantile = share * stats.t.isf(p / 2, 1) + (1 - share) * stats.t.isf(p / 2, 3)
    assert quantile == pytest.approx(standard_errors, rel=1e-9)


def test_interval_of_a_general_case_has_the_width_of_the_formula():
    rng = np.random.default_rng(3)
    baseline, treated = simulated_study(rng, 3, 600, [0.7, 0.75], 0.02)
    d = treated.astype(float) - baseline
    a, b = d.mean(1).var(ddof=1) / 3, d.mean(0).var(ddof=1) / 600
    # The interaction by the shortcut of two-way tables: total - seeds - images.
    total = ((d - d.mean()) ** 2).sum()
    interaction = total - 600 * 2 * d.mean(1).var(ddof=1) - 3 * 599 * d.mean(0).var(ddof=1)
    c = interaction / (2 * 599) / (3 * 600)
    variance = max(a, b, a + b - c)
    share = min(1, a / variance)
    half = math.sqrt(variance) * (share * stats.t.ppf(0.975, 2) + (1 - share) * stats.t.ppf(0.975, 599))
    ours = paired_difference(treated, baseline)
    assert (ours.low, ours.high) == pytest.approx((d.mean() - half, d.mean() + half), abs=1e-12)


def test_p_value_is_below_5_percent_where_the_interval_excludes_zero():
    rng = np.random.default_rng(4)
    sides = set()
    for _ in range(60):
        ours = paired_difference(*simulated_study(rng, 3, 300, [0.83, 0.8], 0.01))
        assert (ours.p_value < 0.05) == (ours.low > 0 or ours.high < 0)
        sides.add(ours.p_value < 0.05)
    assert sides == {True, False}


def test_swapping_the_networks_changes_the_sign_only():
    treated, baseline = simulated_study(np.random.default_rng(7), 3, 300, [0.8, 0.7], 0.01)
    there, back = paired_difference(treated, baseline), paired_difference(baseline, treated)
    assert (there.estimate, there.low, there.high) == pytest.approx((-back.estimate, -back.high, -back.low))
    assert there.p_value == pytest.approx(back.p_value)


@pytest.mark.parametrize("seeds", [2, 3])
def test_equal_predictions_are_no_difference_but_not_proof_of_none(seeds):
    same = np.random.default_rng(0).random((seeds, 1000)) < 0.8
    ours = paired_difference(same, same)
    # About two images more or less, were there no variance at all.
    assert (ours.estimate, ours.p_value) == (0, 1)
    assert (ours.low, ours.high) == pytest.approx((-0.00196, 0.00196), abs=1e-5)


def test_all_against_nothing_is_as_sure_as_it_gets():
    ours = paired_difference(np.ones((3, 100), bool), np.zeros((3, 100), bool))
    assert (ours.estimate, ours.high) == (1, 1)
    assert 0.97 < ours.low < 1
    assert 0 < ours.p_value < 1e-20


def test_accuracy_with_one_seed_is_wilsons_interval():
    correct = np.arange(5000)[None] < 4000
    ours = accuracy(correct)
    theirs = stats.binomtest(4000, 5000).proportion_ci(method="wilson")
    assert ours.estimate == 0.8
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=1e-5)


def test_accuracy_of_seeds_that_differ_is_wider_than_of_seeds_that_agree():
    correct = np.arange(1000)[None] < np.array([[780], [800], [820]])
    agree = np.arange(1000)[None] < np.array([[800], [800], [800]])
    one, other = accuracy(correct), accuracy(agree)
    assert one.estimate == pytest.approx(other.estimate)
    assert one.high - one.low > 1.5 * (other.high - other.low)


@pytest.mark.parametrize("seeds", [1, 3])
def test_accuracy_of_a_perfect_network_leaves_room_for_an_unseen_mistake(seeds):
    ours = accuracy(np.ones((seeds, 500), bool))
    theirs = stats.binomtest(500, 500).proportion_ci(method="wilson")
    assert (ours.estimate, ours.high) == (1, 1)
    assert ours.low == pytest.approx(theirs.low, abs=1e-4)
    none = accuracy(np.zeros((seeds, 500), bool))
    assert (none.estimate, none.low) == (0, 0)
    assert none.high == pytest.approx(1 - ours.low)


def test_accuracy_stays_within_bounds_where_seeds_contradict_each_other():
    ours = accuracy(np.array([[True] * 50 + [False] * 50, [False] * 50 + [True] * 50]))
    assert 0 <= ours.low <= ours.estimate == 0.5 <= ours.high <= 1


def test_holm_multiplies_by_the_number_of_tests_left_and_never_decreases():
    # Sorted: .01 x 4 = .04; .02 x 3 = .06; .03 x 2 = .06; .04 x 1 = .04 -> .06.
    assert holm([0.03, 0.01, 0.04, 0.02]) == pytest.approx([0.06, 0.04, 0.06, 0.06])
    assert holm([0.6, 0.7]) == [1.0, 1.0]
    assert holm([0.2]) == [0.2]
    assert holm([]) == []


def test_holm_does_not_count_what_was_not_tested():
    adjusted = holm([math.nan, 0.01, 0.04])
    assert math.isnan(adjusted[0])
    assert adjusted[1:] == pytest.approx([0.02, 0.04])


def test_networks_measured_on_different_images_are_refused():
    with pytest.raises(UserError, match=r"2 x 5 .* with 2 x 6 .*same test images"):
        paired_difference(np.ones((2, 5), bool), np.ones((2, 6), bool))


@pytest.mark.parametrize("shape", [(0, 5), (2, 1), (5,)])
def test_tables_without_seeds_or_images_are_refused(shape):
    with pytest.raises(UserError, match="at least one seed and two test images"):
        accuracy(np.ones(shape, bool))


def test_predicted_classes_are_not_taken_for_right_and_wrong():
    with pytest.raises(TypeError, match="bool"):
        accuracy(np.array([[3, 1, 0], [1, 1, 2]]))
