"""Effects of factorial designs by a linear model: against contrasts, statsmodels and hand-made examples."""

from __future__ import annotations

import itertools
import math
import sys

import numpy as np
import pandas as pd
import pytest
from simulated_studies import simulated_studies

from convnext_ablation.errors import UserError
from convnext_ablation.study.stats.effects import contrast
from convnext_ablation.study.stats.linear_model import factorial_effects

NAMES = ("kernel_size", "gelu", "wide")
LEVELS = np.array(list(itertools.product([False, True], repeat=3)))
# Plackett and Burman's design of 12 networks for up to 11 components: a first row turned round, and all off.
FIRST_ROW = np.array([1, 1, 0, 1, 1, 1, 0, 0, 0, 1, 0], bool)
PLACKETT_BURMAN = np.vstack([*(np.roll(FIRST_ROW, turn) for turn in range(11)), np.zeros(11, bool)])


@pytest.fixture(scope="module")
def tables():
    top1 = 0.7 + LEVELS @ np.array([0.04, 0.01, 0.0]) + 0.02 * LEVELS[:, 0] * LEVELS[:, 1]
    return simulated_studies(np.random.default_rng(0), 1, 3, 2000, top1, 0.004)[:, 0]


@pytest.fixture(scope="module")
def accuracies(tables):
    return tables.mean(axis=2)


def by_name(effects):
    return {effect.name: effect for effect in effects}


def test_effects_of_a_balanced_design_are_its_contrasts(tables, accuracies):
    found = by_name(factorial_effects(accuracies, LEVELS, NAMES))
    coded = np.where(LEVELS, 1, -1)
    weights = {name: coded[:, index] / 4 for index, name in enumerate(NAMES)}
    for first, second in itertools.combinations(range(3), 2):
        # how much more the one adds with the other than without it
        weights[f"{NAMES[first]}:{NAMES[second]}"] = coded[:, first] * coded[:, second] / 2
    assert list(found) == list(weights)
    for name, of_networks in weights.items():
        assert found[name].estimate == pytest.approx(contrast(tables, of_networks).estimate, abs=1e-8)


def test_planted_effects_are_found(accuracies):
    found = by_name(factorial_effects(accuracies, LEVELS, NAMES))
    # 0.04, and half of the interaction's 0.02, as half of the networks have the other component
    assert found["kernel_size"].estimate == pytest.approx(0.05, abs=0.012)
    assert found["kernel_size"].p_value < 0.001
    assert found["wide"].low < 0 < found["wide"].high


def test_errors_intervals_and_p_values_are_those_of_statsmodels_formulas(accuracies):
    from statsmodels.formula.api import ols

    seeds = accuracies.shape[1]
    data = {name: np.repeat(LEVELS[:, index], seeds) - 0.5 for index, name in enumerate(NAMES)}
    data |= {"top1": accuracies.ravel(), "seed": np.tile(list("abc"), len(LEVELS))}
    fitted = ols("top1 ~ (kernel_size + gelu + wide) ** 2 + C(seed)", pd.DataFrame(data)).fit()
    for name, effect in by_name(factorial_effects(accuracies, LEVELS, NAMES)).items():
        theirs = [fitted.params[name], fitted.bse[name], *fitted.conf_int().loc[name], fitted.pvalues[name]]
        ours = [effect.estimate, effect.standard_error, effect.low, effect.high, effect.p_value]
        assert ours == pytest.approx(theirs, abs=1e-8)
        assert effect.freedom == fitted.df_resid


def test_what_all_networks_of_a_seed_have_in_common_is_not_in_the_error(accuracies):
    shifted = accuracies + np.array([0.0, 0.1, -0.2])
    plain, other = (factorial_effects(each, LEVELS, NAMES) for each in (accuracies, shifted))
    assert [effect.standard_error for effect in other] == pytest.approx([e.standard_error for e in plain])


def test_main_effects_of_a_screening_design_are_found():
    planted = np.array([0.05, -0.03, 0.02, *[0.0] * 8])
    rng = np.random.default_rng(1)
    accuracies = (0.7 + PLACKETT_BURMAN @ planted)[:, None] + rng.normal(0, 0.004, (12, 3))
    found = factorial_effects(accuracies, PLACKETT_BURMAN, [f"c{i}" for i in range(11)], interactions=False)
    assert [effect.estimate for effect in found] == pytest.approx(planted, abs=0.005)
    assert [effect.p_value < 0.001 for effect in found] == [True] * 3 + [False] * 8


def test_a_missing_run_is_left_out(accuracies):
    accuracies = accuracies.copy()
    accuracies[2, 1] = math.nan
    found = factorial_effects(accuracies, LEVELS, NAMES)
    assert found[0].freedom == 23 - 1 - 6 - 2
    accuracies[:, 1] = math.nan  # a seed without a run
    assert factorial_effects(accuracies, LEVELS, NAMES)[0].freedom == 16 - 1 - 6 - 1


def test_one_seed_gives_no_p_value(accuracies):
    found = factorial_effects(accuracies[:, :1], LEVELS, NAMES, interactions=False)
    assert found[0].estimate == pytest.approx(0.05, abs=0.015)
    assert found[0].standard_error > 0
    assert all(math.isnan(effect.p_value) for effect in found)


def test_without_a_degree_of_freedom_there_is_no_error():
    levels = np.array(list(itertools.product([False, True], repeat=2)))
    found = factorial_effects(np.array([[0.1], [0.2], [0.4], [0.8]]), levels, ["a", "b"])
    assert [effect.estimate for effect in found] == pytest.approx([0.45, 0.25, 0.3])
    assert found[0].freedom == 0
    assert all(math.isnan(value) for value in (found[0].standard_error, found[0].low, found[0].high))


def test_effects_that_the_networks_cannot_tell_apart_are_refused():
    with pytest.raises(UserError, match="can't tell"):
        factorial_effects(np.full((12, 2), 0.5), PLACKETT_BURMAN, [f"c{i}" for i in range(11)])


def test_a_missing_statsmodels_is_named(monkeypatch, accuracies):
    monkeypatch.setitem(sys.modules, "statsmodels.regression.linear_model", None)
    with pytest.raises(UserError, match="needs statsmodels"):
        factorial_effects(accuracies, LEVELS, NAMES)


def test_levels_that_do_not_fit_are_a_mistake_of_the_caller(accuracies):
    with pytest.raises(ValueError, match="don't fit"):
        factorial_effects(accuracies, LEVELS[:, :2], NAMES)
