"""What a study could find: against simulated studies judged by the rule that real ones are judged by."""

import math
from dataclasses import replace

import numpy as np
import pytest
from fake_experiment import finish
from scipy import stats
from simulated_studies import simulated_experiments
from test_study_plan import STUDY

from convnext_ablation.errors import UserError
from convnext_ablation.study.designs.design import design_of
from convnext_ablation.study.forecast import read_scatter
from convnext_ablation.study.stats.effects import contrast, contrast_across, holm, seed_freedom
from convnext_ablation.study.stats.power import (
    Asked,
    PlannedSet,
    judged_freedom,
    level_of,
    on_one_set,
)
from convnext_ablation.study.stats.variance import Scatter, assumed_scatter, measured_scatter
from convnext_ablation.study.store import save_study

pytestmark = pytest.mark.usefixtures("little_to_collect")

SCATTER = Scatter(0.8, 0.004, 0.10, 0.16, "")
TWO, HALVES = [1.0, -1.0], [0.125, -0.125] * 8  # weights of a difference, and of a main effect of 16 networks


def latent(scatter):
    """Correlations of an image's ease: between seeds of a network, and what of that networks share.

    An answer is right if a normal variable exceeds a threshold; the correlation that gives a disagreement is
    found by bisection.
    """
    quantile = stats.norm.ppf(scatter.accuracy)

    def disagreement(correlation):
        both = stats.multivariate_normal([0, 0], [[1, correlation], [correlation, 1]]).cdf([quantile] * 2)
        return 2 * (scatter.accuracy - both)

    def correlation(wanted):
        low, high = 0.0, 1 - 1e-9
        while high - low > 1e-4:
            middle = (low + high) / 2
            low, high = (middle, high) if disagreement(middle) > wanted else (low, middle)
        return (low + high) / 2

    return correlation(scatter.seed_disagreement), correlation(scatter.network_disagreement)


def simulated(rng, scatter, gains, seeds, images, correlations):
    """Answers of networks whose true accuracies are higher by `gains`, (networks, seeds, images)."""
    between_seeds, between_networks = correlations
    shape = (len(gains), seeds, 1)
    top1 = scatter.accuracy + np.array(gains)[:, None, None] + scatter.seed_sd * rng.standard_normal(shape)
    ease = (
        math.sqrt(between_networks) * rng.standard_normal(images)
        + math.sqrt(between_seeds - between_networks) * rng.standard_normal((len(gains), 1, images))
        + math.sqrt(1 - between_seeds) * rng.standard_normal((len(gains), seeds, images))
    )
    return ease < stats.norm.ppf(top1)


@pytest.mark.parametrize(("name", "seeds"), [("stages", 3), ("screening", 2), ("screening", 3)])
def test_an_effect_of_the_detectable_size_is_found_in_80_of_100_studies(name, seeds):
    """One effect is real and alone; it is found if its p-value adjusted by Holm's method is below 0.05."""
    studies, images = 300, 2000
    design = design_of(name, "atto")
    family = design.family
    asked = design.contrasts[-1]
    question = on_one_set(SCATTER, images, list(asked.weights.values()), level_of(True, family))
    effect = question.detectable(seeds)
    weights = np.array([[c.weights.get(p.key, 0.0) for p in design.points] for c in design.contrasts])
    # the smallest change of the networks that has this effect and no other
    gains = effect * np.linalg.pinv(weights)[:, -1]
    assert weights @ gains == pytest.approx([0] * (family - 1) + [effect])
    rng, correlations = np.random.default_rng(seeds), latent(SCATTER)
    found = 0
    for _ in range(studies):
        tables = simulated(rng, SCATTER, gains, seeds, images, correlations)
        p_values = [contrast(list(tables), list(row)).p_value for row in weights]
        found += holm(p_values)[-1] < 0.05
    # 300 studies measure 80 % to +- 4.5 points
    assert 0.73 <= found / studies <= 0.87


# a general set, and a smaller one that the networks are fine-tuned on, where seeds vary more
SETS = [PlannedSet(-1.0, SCATTER, 2000), PlannedSet(1.0, Scatter(0.7, 0.008, 0.12, 0.2, ""), 1000)]


def test_a_difference_between_sets_of_the_detectable_size_is_found_in_80_of_100_experiments():
    """One effect is larger on the fine-tuned set; otherwise they are the same. One pre-training, 3 seeds."""
    experiments, design, seeds = 300, design_of("stages", "atto"), 3
    weights = np.array([[c.weights.get(p.key, 0.0) for p in design.points] for c in design.contrasts])
    sets = [replace(SETS[0], drawn=False), SETS[1]]
    asked = Asked(sets, weights[-1], level_of(True, design.family), shared=False)
    size = asked.detectable(seeds)
    gains = size * np.linalg.pinv(weights)[:, -1]
    rng, latents, found = np.random.default_rng([seeds, 0]), [latent(each.scatter) for each in sets], 0
    for _ in range(experiments):
        general, tuned = (
            simulated(rng, each.scatter, change, draws, each.images, correlations)
            for each, change, draws, correlations in zip(
                sets, (0 * gains, gains), (1, seeds), latents, strict=True
            )
        )
        tables = [list(general), [table[None] for table in tuned]]
        found += holm([contrast_across(tables, row, [-1, 1]).p_value for row in weights])[-1] < 0.05
    # 300 experiments measure 80 % to +- 4.5 points
    assert 0.73 <= found / experiments <= 0.87
    assert asked.seeds_needed(size) == seeds
    assert asked.seeds_needed(0.99 * size) == seeds + 1


@pytest.mark.parametrize("together", [0.0, 0.8])
def test_a_difference_is_found_as_often_where_pretrainings_change_all_sets_alike(together):
    """The mean of two fine-tuned sets minus the general one, of four pre-trainings, one fine-tuning each."""
    sd, images, weights, rng = 0.03, 300, [-1, 0.5, 0.5], np.random.default_rng(21)

    def experiments(count, gap):
        given = {"images": images, "pretraining_sd": sd}
        tuned = {**given, "top1": [0.6, 0.6 + gap], "seeds": 1, "seed_sd": 0.0}
        drawn = simulated_experiments(rng, count, 4, {**given, "top1": [0.6, 0.6]}, [tuned] * 2, together)
        return np.moveaxis([table.reshape(2, count, 4, images) for table in drawn], 2, 0)

    measured = [[measured_scatter(list(table), "") for table in tables] for tables in experiments(50, 0)]
    seeds, networks = (
        float(np.mean([[getattr(one, name) for one in each] for each in measured]))
        for name in ("seed_disagreement", "network_disagreement")
    )
    scatter = Scatter(0.6, sd, seeds, networks, "")
    variance = 1.5 * ((1 - together) * sd**2 + seeds / 2 / images)
    planned = [PlannedSet(weight, scatter, images) for weight in weights]
    size = Asked(planned, TWO, 0.05 / 6, seed_variance=variance).detectable(4)
    found = [contrast_across(list(t), [-1, 1], weights).p_value < 0.05 / 6 for t in experiments(300, size)]
    # 300 experiments measure 80 % to +- 4.5 points
    assert 0.73 <= np.mean(found) <= 0.87


def test_a_difference_between_sets_is_harder_to_find_than_either_effect_and_a_mean_of_sets_easier():
    alone = [on_one_set(each.scatter, each.images, TWO, 0.05).detectable(3) for each in SETS]
    difference = Asked(SETS, TWO, 0.05).detectable(3)
    assert max(alone) < difference < sum(alone)
    other = replace(SETS[1], weight=0.5)
    assert Asked([SETS[0], other, other], TWO, 0.05).detectable(3) < difference
    # of one set it is the effect's own
    assert Asked(SETS[1:], TWO, 0.05).detectable(3) == alone[1]
    assert math.isnan(Asked(SETS, TWO, 0.05).detectable(1))
    # networks of one pre-training, tested as they are, have no seeds to vary
    fixed = Asked([replace(SETS[0], drawn=False), SETS[1]], TWO, 0.05, shared=False)
    assert fixed.detectable(3) < difference
    # where seeds are each set's own, four runs tell of seeds and not two differences
    own = [SETS[1], replace(SETS[1], weight=-1.0)]
    assert Asked(own, TWO, 0.05, shared=False).detectable(3) < Asked(own, TWO, 0.05).detectable(3)


def test_power_at_the_detectable_size_is_the_one_asked_for_and_grows_with_it():
    for seeds, weights, level in [(2, TWO, 0.05), (3, HALVES, 0.05 / 13), (20, TWO, 0.01)]:
        asked = on_one_set(SCATTER, 5000, weights, level)
        size = asked.detectable(seeds)
        assert asked.power(size, seeds) == pytest.approx(0.8, abs=1e-6)
        assert asked.power(size / 2, seeds) < 0.8 < asked.power(-2 * size, seeds)
    assert math.isnan(asked.detectable(1))
    assert (level_of(True, 13), level_of(False, 13)) == (0.05 / 13, 0.05)


def test_without_images_chance_it_is_the_power_of_a_t_test():
    """All that varies is the seeds: a paired t-test has the non-central t's power."""
    scatter = Scatter(0.8, 0.01, 0.0, 0.0, "")
    for seeds in (3, 6):
        size = on_one_set(scatter, 10**9, TWO, 0.05).detectable(seeds)
        shift = size / math.sqrt(2 * 0.01**2 / seeds)
        beyond = stats.nct(seeds - 1, shift).sf(stats.t.ppf(0.975, seeds - 1))
        assert beyond == pytest.approx(0.8, abs=0.005)


def test_a_main_effect_of_16_networks_is_told_from_8_times_less_variance_than_a_difference():
    one, other = (on_one_set(SCATTER, 5000, weights, 0.01).detectable(1000) for weights in (TWO, HALVES))
    assert one / other == pytest.approx(math.sqrt(8), rel=1e-3)
    # of few seeds fewer do still, as each network tells of its own
    one, other = (on_one_set(SCATTER, 5000, weights, 0.05 / 13).detectable(3) for weights in (TWO, HALVES))
    assert one / other > 3 * math.sqrt(8)
    for name, squares in {"stages": 2, "screening": 1 / 4, "screening-fold-over": 1 / 8}.items():
        for asked in design_of(name, "atto").contrasts:
            assert sum(weight**2 for weight in asked.weights.values()) == squares


@pytest.mark.parametrize(("networks", "seeds"), [(4, 2), (4, 3), (16, 2), (16, 3), (16, 10)])
def test_degrees_of_freedom_are_those_that_a_study_of_few_seeds_is_judged_by(networks, seeds):
    variances = np.random.default_rng(3).chisquare(seeds - 1, (4000, networks))
    found = np.mean([seed_freedom(each, seeds) for each in variances])
    true = seed_freedom(np.ones(networks), seeds)
    assert true == networks * (seeds - 1)
    # a ratio of means, not the mean of a ratio: near it for many networks
    judged = judged_freedom(true, networks, seeds)
    assert judged == pytest.approx(found, rel=0.2 if networks < 16 else 0.1)
    assert judged < found + 0.1 < true
    assert judged_freedom(2.0, 2, 3) == 2.0


def test_fewest_seeds_do_and_one_fewer_does_not():
    for effect in (0.015, 0.02, 0.1):
        asked = on_one_set(SCATTER, 5000, TWO, 0.05 / 4)
        seeds = asked.seeds_needed(effect)
        assert asked.power(effect, seeds) >= 0.8
        if seeds > 2:
            assert asked.power(effect, seeds - 1) < 0.8
    # no number of seeds makes up for few images
    assert on_one_set(SCATTER, 1000, TWO, 0.05).seeds_needed(0.001) is None


# What is assumed


def test_variance_components_are_found_again_in_simulated_studies():
    rng, correlations = np.random.default_rng(1), latent(SCATTER)
    found = []
    for _ in range(60):
        tables = simulated(rng, SCATTER, [0, 0, 0, 0], 4, 2000, correlations)
        found.append(measured_scatter(list(tables), "here"))
    assert np.mean([each.accuracy for each in found]) == pytest.approx(0.8, abs=0.005)
    seed_sd = math.sqrt(np.mean([each.seed_sd**2 for each in found]))
    assert seed_sd == pytest.approx(SCATTER.seed_sd, rel=0.15)
    disagreement = np.mean([each.seed_disagreement for each in found])
    assert disagreement == pytest.approx(SCATTER.seed_disagreement, rel=0.03)
    disagreement = np.mean([each.network_disagreement for each in found])
    assert disagreement == pytest.approx(SCATTER.network_disagreement, rel=0.03)
    assert found[0].source == "here"


def test_what_is_given_comes_before_the_defaults():
    assert assumed_scatter().source.startswith("assumed: ")
    given = assumed_scatter(accuracy=0.6, seed_sd=0.02)
    assert (given.accuracy, given.seed_sd) == (0.6, 0.02)
    assert (given.seed_disagreement, given.network_disagreement) == pytest.approx((0.2, 0.28))
    assert given.source.startswith("as given; the rest assumed: ")
    assert assumed_scatter(accuracy=0.2).network_disagreement == pytest.approx(0.32), "independent mistakes"
    with pytest.raises(UserError, match="a seed SD of -1 points was given; it takes 0 to 50"):
        assumed_scatter(seed_sd=-0.01)


def test_pretrainings_count_as_seeds_where_there_are_several():
    runs = simulated(np.random.default_rng(5), SCATTER, [0, 0.02], 6, 800, latent(SCATTER))
    ours = measured_scatter(list(runs.reshape(2, 3, 2, 800)), "here")
    flat = measured_scatter(list(runs), "here")
    assert ours.accuracy == pytest.approx(flat.accuracy)
    # the mean of two seeds, which differ in nothing but chance, varies half as much
    assert ours.seed_disagreement == pytest.approx(flat.seed_disagreement / 2, rel=0.1)
    assert measured_scatter(list(runs.reshape(2, 1, 6, 800)), "here") == flat


def test_a_finished_study_is_measured_over_the_seeds_that_all_networks_have(tmp_path):
    study = save_study(tmp_path, replace(STUDY, seeds=[0, 1, 2, 7]))
    tables = simulated(np.random.default_rng(2), SCATTER, [0, 0.01, 0.02], 3, 500, latent(SCATTER))
    for run in study.runs():
        network, seed = study.points.index(run.point), run.arguments.seed
        if network < 3 and seed < 3:
            finish(run, tmp_path, tables[network][seed])
        elif network == 0:
            finish(run, tmp_path, tables[0][0])  # no other network has this seed
    expected = measured_scatter(list(tables), f"measured in {tmp_path} (3 networks, 3 seeds)")
    assert read_scatter(tmp_path) == expected


def test_studies_that_tell_too_little_are_refused(tmp_path):
    study = save_study(tmp_path, STUDY)
    with pytest.raises(UserError, match="no run of this study is finished"):
        read_scatter(tmp_path)
    right, runs = np.arange(100) < 80, study.runs()
    finish(runs[0], tmp_path, right)
    finish(runs[6], tmp_path, right)
    with pytest.raises(UserError, match="two or more seeds in common, and there are 0 with 0"):
        read_scatter(tmp_path)
    finish(runs[1], tmp_path, right[1:])
    with pytest.raises(UserError, match=f"{runs[1].name}: tested on other images"):
        read_scatter(tmp_path)
    (runs[0].folder(tmp_path) / "result.json").write_text("{")
    with pytest.raises(UserError, match="can't be read"):
        read_scatter(tmp_path)
