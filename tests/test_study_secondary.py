"""Secondary statistics: against statsmodels and scipy, and against hand-made examples."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats
from simulated_studies import simulated_studies

from convnext_ablation.errors import UserError
from convnext_ablation.study.report.expected_gain import gain_beyond_imagenet
from convnext_ablation.study.report.secondary import benjamini_hochberg, class_differences, mcnemar
from convnext_ablation.study.stats import bootstrap
from convnext_ablation.study.stats.bootstrap import CAVEAT, bootstrap_interval, resampled_accuracies
from convnext_ablation.study.stats.effects import contrast, paired_difference


def two_runs(gained, lost, both=50):
    treated = np.repeat([True, False, True], [gained, lost, both])
    baseline = np.repeat([False, True, True], [gained, lost, both])
    return treated, baseline


@pytest.mark.parametrize(("gained", "lost"), [(30, 12), (12, 30), (5, 5), (6, 5), (1, 0), (0, 0), (900, 700)])
def test_mcnemar_is_that_of_statsmodels(gained, lost):
    from statsmodels.stats.contingency_tables import mcnemar as theirs

    ours = mcnemar(*two_runs(gained, lost))
    assert (ours.gained, ours.lost) == (gained, lost)
    assert ours.p_exact == pytest.approx(theirs([[50, lost], [gained, 0]], exact=True).pvalue, abs=1e-8)


@pytest.mark.parametrize(("gained", "lost"), [(30, 12), (12, 30), (6, 5), (1, 0)])
def test_mid_p_counts_the_observed_outcome_half(gained, lost):
    coins, fewer = stats.binom(gained + lost, 0.5), min(gained, lost)
    expected = 2 * (coins.cdf(fewer) - coins.pmf(fewer) / 2)
    assert mcnemar(*two_runs(gained, lost)).p_mid == pytest.approx(expected, abs=1e-8)


def test_mid_p_of_as_many_gained_as_lost_counts_that_one_outcome_half():
    assert mcnemar(*two_runs(5, 5)).p_mid == pytest.approx(1 - stats.binom.pmf(5, 10, 0.5) / 2, abs=1e-8)
    assert mcnemar(*two_runs(0, 0)).p_mid == 1


def test_mcnemar_refuses_other_images():
    with pytest.raises(UserError, match="same test images"):
        mcnemar(np.ones(5, bool), np.ones(6, bool))


@pytest.mark.parametrize("seed", range(3))
def test_false_discovery_rate_is_that_of_statsmodels_and_scipy(seed):
    from statsmodels.stats.multitest import multipletests

    p_values = np.random.default_rng(seed).random(200) ** 3
    ours = benjamini_hochberg(p_values)
    assert ours == pytest.approx(multipletests(p_values, method="fdr_bh")[1], abs=1e-12)
    assert ours == pytest.approx(stats.false_discovery_control(p_values), abs=1e-12)


def test_false_discovery_rate_does_not_count_what_was_not_tested():
    adjusted = benjamini_hochberg([math.nan, 0.01, 0.9])
    assert math.isnan(adjusted[0])
    assert adjusted[1:] == pytest.approx([0.02, 0.9])
    assert benjamini_hochberg([]) == []


def test_class_differences_are_paired_differences_on_the_images_of_a_class():
    rng = np.random.default_rng(0)
    targets = np.repeat(np.arange(5), 40)
    rng.shuffle(targets)
    baseline = rng.random((3, 200)) < 0.6
    treated = baseline | ((targets == 2) & (rng.random((3, 200)) < 0.9))
    found = class_differences(treated, baseline, targets, 5)
    assert [each.target for each in found] == list(range(5))
    assert [each.images for each in found] == [40] * 5
    alone = paired_difference(treated[:, targets == 2], baseline[:, targets == 2])
    ours = found[2]
    assert (ours.estimate, ours.low, ours.high, ours.p_value) == (
        alone.estimate,
        alone.low,
        alone.high,
        alone.p_value,
    )
    assert [each.q_value for each in found] == pytest.approx(
        stats.false_discovery_control([each.p_value for each in found])
    )
    assert [each.q_value < 0.05 for each in found] == [False, False, True, False, False]


def test_classes_without_images_or_with_one_have_no_interval():
    treated, baseline = np.ones((2, 3), bool), np.array([[False, True, True]] * 2)
    few, none, some = class_differences(treated, baseline, np.array([0, 2, 2]), 3)
    assert (few.images, few.estimate) == (1, 1)
    assert math.isnan(few.low)
    assert math.isnan(few.q_value)
    assert none.images == 0
    assert math.isnan(none.estimate)
    assert some.q_value == some.p_value == 1


def test_classes_of_one_seed_have_intervals_and_no_p_values():
    rng = np.random.default_rng(1)
    treated, baseline = rng.random((1, 60)) < 0.8, rng.random((1, 60)) < 0.7
    found = class_differences(treated, baseline, np.repeat([0, 1], 30), 2)
    assert all(each.low < each.estimate < each.high for each in found)
    assert all(math.isnan(each.p_value) and math.isnan(each.q_value) for each in found)


def test_classes_of_other_images_are_refused():
    with pytest.raises(UserError, match="don't fit 4 targets"):
        class_differences(np.ones((2, 5), bool), np.ones((2, 5), bool), np.zeros(4, int), 1)


def naive_bootstrap(tables, weights, replicates, seed):
    """The same by indexing: tables (networks, pretraining, finetuning, images)."""
    rng = np.random.default_rng(seed)
    _, pretraining, finetuning, images = tables.shape
    drawn = []
    for _ in range(replicates):
        columns = rng.integers(images, size=images)
        runs = [
            tables[:, outer, rng.integers(finetuning, size=finetuning)].mean(axis=1)[:, columns].mean(axis=1)
            for outer in rng.integers(pretraining, size=pretraining)
        ]
        drawn.append(np.mean(runs, axis=0) @ weights)
    return np.quantile(drawn, [0.025, 0.975])


@pytest.mark.parametrize("shape", [(2, 4, 3, 300), (2, 1, 5, 300), (2, 5, 1, 300)])
def test_bootstrap_redraws_seeds_within_pretraining_seeds_and_images(shape):
    rng = np.random.default_rng(2)
    difficulty = 0.1 * rng.standard_normal((2, *shape[1:3], 1)) + 0.02 * rng.standard_normal(
        (2, shape[1], 1, 1)
    )
    tables = rng.random(shape) < 0.75 + difficulty
    low, high = bootstrap_interval(resampled_accuracies(list(tables)), [-1, 1])
    expected = naive_bootstrap(tables, np.array([-1, 1]), 2000, seed=3)
    assert (low, high) == pytest.approx(expected, abs=0.1 * (high - low))


def test_bootstrap_takes_finetuning_seeds_of_one_pretraining_for_seeds_and_is_the_same_every_time():
    tables = list(np.random.default_rng(4).random((3, 4, 200)) < 0.8)
    once = resampled_accuracies(tables, replicates=300)
    bootstrap._image_counts.cache_clear()  # as in another process
    assert once.shape == (3, 300)
    assert (once == resampled_accuracies(tables, replicates=300)).all()
    assert (once == resampled_accuracies([table[None] for table in tables], replicates=300)).all()
    assert (once != resampled_accuracies(tables, replicates=300, seed=1)).any()
    assert once.mean(axis=1) == pytest.approx([table.mean() for table in tables], abs=0.01)


def test_bootstrap_pairs_networks():
    table = np.random.default_rng(5).random((3, 500)) < 0.8
    assert bootstrap_interval(resampled_accuracies([table, table], 100), [1, -1]) == (0, 0)


def test_bootstrap_of_one_seed_is_over_images():
    table = np.arange(1000)[None] < 800
    low, high = bootstrap_interval(resampled_accuracies([table]), [1])
    assert (low, high) == pytest.approx(stats.binom(1000, 0.8).ppf([0.025, 0.975]) / 1000, abs=0.003)


def test_bootstrap_covers_too_little_with_two_seeds_as_its_caveat_says():
    tables = simulated_studies(np.random.default_rng(6), 200, 2, 1000, [0.8, 0.8], 0.02)
    covered = 0
    for study in np.moveaxis(tables, 1, 0):
        low, high = bootstrap_interval(resampled_accuracies(list(study), 400), [-1, 1])
        covered += low <= 0 <= high
    assert 0.6 < covered / 200 < 0.9
    assert "too narrow with few seeds" in CAVEAT


@pytest.mark.parametrize("shapes", [[], [(2, 5), (2, 6)]])
def test_bootstrap_of_tables_that_cannot_be_paired_is_refused(shapes):
    with pytest.raises(UserError, match="one shape"):
        resampled_accuracies([np.ones(shape, bool) for shape in shapes])


IMAGENET = np.array([0.75, 0.77, 0.772, 0.771, 0.78])


def line_study(slope, beyond, seeds=3, images=4000):
    """Networks whose accuracy here is on a line of ImageNet accuracy, but for the last one."""
    top1 = 0.8 + slope * (IMAGENET - 0.77)
    top1[-1] += beyond
    return simulated_studies(np.random.default_rng(7), 1, seeds, images, top1, 0.003)[:, 0]


def test_gain_beyond_imagenet_is_the_residual_difference_of_a_regression():
    tables = line_study(1.5, 0.03)
    found = gain_beyond_imagenet(tables, IMAGENET, [0, 0, 0, -1, 1])
    here = tables.mean(axis=(1, 2))
    theirs = stats.linregress(IMAGENET, here)
    assert found.slope.estimate == pytest.approx(theirs.slope, abs=1e-8)
    assert found.imagenet == pytest.approx(0.009)
    assert found.gain == contrast(tables, [0, 0, 0, -1, 1])
    residuals = here - theirs.intercept - theirs.slope * IMAGENET
    assert found.beyond.estimate == pytest.approx(residuals[4] - residuals[3], abs=1e-8)
    assert found.networks == 5


def test_gain_beyond_imagenet_has_the_interval_of_its_contrast():
    tables = line_study(1.5, 0.03)
    found = gain_beyond_imagenet(tables, IMAGENET, [0, 0, 0, -1, 1])
    centred = IMAGENET - IMAGENET.mean()
    weights = np.array([0, 0, 0, -1, 1]) - 0.009 * centred / (centred**2).sum()
    by_hand = contrast(tables, weights)
    ours, theirs = found.beyond, by_hand
    assert (ours.low, ours.high, ours.p_value) == pytest.approx((theirs.low, theirs.high, theirs.p_value))


def test_gain_that_the_line_explains_is_not_beyond_it():
    found = gain_beyond_imagenet(line_study(2.0, 0.0, images=20_000), IMAGENET, [-1, 0, 0, 0, 1])
    assert found.gain.p_value < 0.05
    assert found.beyond.low < 0 < found.beyond.high


def test_each_pretraining_seed_has_a_line_of_its_own():
    rng = np.random.default_rng(8)
    imagenet = IMAGENET[:, None] + rng.normal(0, 0.004, (5, 3))
    tables = rng.random((5, 3, 2, 500)) < 0.8
    found = gain_beyond_imagenet(list(tables), imagenet, [0, -1, 1, 0, 0])
    slopes, beyond = [], []
    for unit in range(3):
        here = tables[:, unit].mean(axis=(1, 2))
        slopes.append(stats.linregress(imagenet[:, unit], here).slope)
        beyond.append(here[2] - here[1] - slopes[-1] * (imagenet[2, unit] - imagenet[1, unit]))
    assert found.slope.estimate == pytest.approx(np.mean(slopes), abs=1e-8)
    assert found.imagenet == pytest.approx((imagenet[2] - imagenet[1]).mean())
    assert found.beyond.estimate == pytest.approx(np.mean(beyond), abs=1e-8)


def test_one_seed_gives_a_gain_beyond_imagenet_without_a_claim():
    found = gain_beyond_imagenet(line_study(1.0, 0.0, seeds=1), IMAGENET, [0, 0, 0, -1, 1])
    assert found.beyond.low < found.beyond.high
    assert math.isnan(found.beyond.p_value)


@pytest.mark.parametrize(
    ("imagenet", "message"),
    [
        ([0.7, 0.8], "at least three networks"),
        ([0.7, math.nan, 0.8], "isn't known"),
        ([0.7, 0.7, 0.7], "equally good on ImageNet"),
    ],
)
def test_networks_that_no_line_can_be_drawn_through_are_refused(imagenet, message):
    tables = [np.ones((2, 5), bool)] * len(imagenet)
    with pytest.raises(UserError, match=message):
        gain_beyond_imagenet(tables, np.array(imagenet), [-1, 1, *[0] * (len(imagenet) - 2)])


@pytest.mark.parametrize("weights", [[1, 1, 0], [1, -1]])
def test_weights_that_do_not_sum_to_nothing_are_a_mistake_of_the_caller(weights):
    with pytest.raises(ValueError, match="summing to 0"):
        gain_beyond_imagenet([np.ones((2, 5), bool)] * 3, np.array([0.7, 0.8, 0.9]), weights)
