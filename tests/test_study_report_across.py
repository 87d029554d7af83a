"""What an experiment found on several data sets: pairing, adjusting, and words."""

import itertools
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from simulated_studies import simulated_experiments

from convnext_ablation.errors import UserError
from convnext_ablation.study.designs.contrasts import Contrast
from convnext_ablation.study.report.across import compare_across
from convnext_ablation.study.report.answer import answer_across
from convnext_ablation.study.report.evidence import FinishedRun, NetworkResult
from convnext_ablation.study.report.findings import compare
from convnext_ablation.study.stats.effects import Difference, contrast_across, holm
from convnext_ablation.study.stats.power import Asked, PlannedSet
from convnext_ablation.study.stats.variance import measured_scatter, scatter_of_single_runs

pytestmark = pytest.mark.usefixtures("little_to_collect")

LABELS = ("plain", "kernel 7", "GELU", "LayerNorm")
CONTRASTS = [
    Contrast(f"c{k}", LABELS[k], {f"network_{k}": 1.0, f"network_{k - 1}": -1.0}, "difference")
    for k in (1, 2, 3)
]


def experiment(pretraining=3, seeds=2, sd=0.002, gains=((0, 0.02, 0.02, 0.06), (0, 0.14, 0.14, 0.18))):
    """Tables of networks on a general set and two fine-tuned ones, which have the same true effects."""
    general, tuned = (0.6 + np.array(each) for each in gains)
    changed = {"pretraining_sd": sd if pretraining > 1 else 0.0}
    sets = [
        {"images": images, "top1": tuned, "seeds": seeds, "seed_sd": sd, **changed} for images in (900, 1100)
    ]
    drawn = simulated_experiments(
        np.random.default_rng(8), 1, pretraining, {"images": 1000, "top1": general, **changed}, sets
    )
    return [tables[:, 0] for tables in drawn]


def set_results(name, tables, general=False, starts=None, contrasts=CONTRASTS, classes=10):
    """The results of a set, (networks, pre-trainings[, seeds], images); `starts` are the pre-trainings."""
    networks = []
    for place, table in enumerate(tables):
        runs, key = [], f"network_{place}"
        for start, of_start in zip(starts or range(len(table)), table, strict=True):
            for seed, right in enumerate([of_start] if general else of_start):
                seeds = (start, None) if general else (seed, start)
                answers = right.astype(np.int64), np.ones(len(right), np.int64)
                runs.append(FinishedRun(key, seeds[0], Path(key), *answers, {}, seeds[1]))
        networks.append(NetworkResult(key, LABELS[place], LABELS[place], runs))
    return name, compare(networks, contrasts, classes)


def three_sets(tables, **options):
    """The general set and two others."""
    return set_results("ImageNet", tables[0], general=True), [
        set_results(name, table, **options) for name, table in zip(("CUB", "Dogs"), tables[1:], strict=True)
    ]


def not_found(findings):
    """How many gaps are not significant: Holm's method asks the smallest of their p-values for that part."""
    number = sum(gap.difference.p_holm >= 0.05 for each in findings.effects for gap in each.gaps)
    assert 0 < number < 9
    return number


TABLES = experiment()
FOUND = compare_across(*three_sets(TABLES), CONTRASTS)


def pair(tables, place):
    """What a contrast weighs of each set's networks."""
    return [[table[place], table[place - 1]] for table in tables]


def test_each_effect_has_its_size_on_each_set_and_a_gap_to_each_and_to_their_mean():
    p_values = []
    for place, each in enumerate(FOUND.effects, 1):
        assert each.contrast == CONTRASTS[place - 1]
        sizes = [(table[place].mean() - table[place - 1].mean()) for table in TABLES]
        assert [effect.difference.estimate for effect in each.effects] == pytest.approx(sizes)
        assert [gap.sets for gap in each.gaps] == [("CUB",), ("Dogs",), ("CUB", "Dogs")]
        for gap, weights in zip(each.gaps, [[-1, 1, 0], [-1, 0, 1], [-1, 0.5, 0.5]], strict=True):
            wanted = contrast_across(pair(TABLES, place), [1, -1], weights)
            assert replace(gap.difference, p_holm=wanted.p_holm) == wanted
            assert (gap.pretrainings, gap.draws) == (3, 3)
            p_values.append(wanted.p_value)
        assert each.whole == each.gaps[2]
    adjusted = [gap.difference.p_holm for each in FOUND.effects for gap in each.gaps]
    assert adjusted == holm(p_values)


def test_the_answer_says_what_matters_more_and_what_could_not_be_told():
    more, *unclear = FOUND.effects
    d = more.whole.difference
    sizes = [100 * effect.difference.estimate for effect in more.effects]
    said = answer_across(FOUND)
    assert said.startswith(
        "kernel 7 matters more, averaged over CUB and Dogs. "
        f"The difference to ImageNet is {100 * d.estimate:+.1f} "
        f"points [{100 * d.low:+.1f}, {100 * d.high:+.1f}], p {d.p_holm:.3f}. "
        f"Its effect is {sizes[0]:+.1f} points on ImageNet, {sizes[1]:+.1f} on CUB and {sizes[2]:+.1f} on "
        "Dogs. "
        "LayerNorm: not significant after Holm's correction, "
    )
    assert [each.whole.power is None for each in FOUND.effects] == [True, False, False]
    assert [each.whole.verdict for each in unclear] == ["undetectable", "corrected"]
    assert " GELU: could not have been detected, " in said
    assert "]. With 3 pre-trainings, 80 of 100 such experiments find differences above " in said
    assert f" 1 point takes {unclear[0].whole.power.takes}. Effects are in points of top-1; brack" in said


@pytest.mark.parametrize(
    ("general", "tuned", "said"),
    [
        (0.0, (0, -0.15, -0.15, -0.11), "kernel 7 costs more, averaged over"),
        (-0.4, (0, -0.04, -0.04, 0.0), "kernel 7 costs less, averaged over"),
        (0.02, (0, -0.15, -0.15, -0.11), "kernel 7 adds less, averaged over"),
        (0.3, (0, 0.15, 0.15, 0.19), "kernel 7 matters less, averaged over"),
        (
            0.02,
            (0.02, 0.02, 0.02, 0.06),
            "No difference is significant. kernel 7: could not have been detected, ",
        ),
    ],
)
def test_the_answer_says_what_an_effect_does_on_the_fine_tuned_sets(general, tuned, said):
    tables = experiment(gains=((0, general, general, general + 0.04), tuned))
    assert said in answer_across(compare_across(*three_sets(tables), CONTRASTS))


def test_power_of_a_gap_is_by_the_scatter_on_each_set_and_by_what_pretrainings_change_on_all_together():
    gap = FOUND.effects[1].whole
    general, *tuned = (table.mean(axis=-1).reshape(4, 3, -1).mean(axis=2) for table in TABLES)
    draws = np.mean(tuned, axis=0) - general  # networks x pre-trainings
    together = np.mean([np.var(a - b, ddof=1) / 2 for a, b in itertools.combinations(draws, 2)])
    planned = [
        PlannedSet(weight, measured_scatter(list(table), ""), table.shape[-1])
        for weight, table in zip([-1, 0.5, 0.5], TABLES, strict=True)
    ]
    asked = Asked(planned, [1, -1], 0.05 / not_found(FOUND), seed_variance=together)
    assert gap.power.detectable == pytest.approx(asked.detectable(3))
    assert gap.power.seeds_needed == asked.seeds_needed(0.01)
    assert gap.power.unit == "pre-training"


def test_what_is_significant_but_for_holms_correction_could_have_been_detected():
    gap = replace(FOUND.effects[1].whole, difference=Difference(-0.08, -0.12, -0.03, 0.012, 0.06))
    assert gap.power.detectable > gap.size
    assert (gap.verdict, gap.finding) == ("corrected", "not significant after Holm's correction")
    assert replace(gap, difference=Difference(-0.08, -0.17, 0.01, 0.06, 0.3)).verdict == "undetectable"


def test_a_single_pretraining_is_paired_with_all_that_started_from_it_and_the_answer_says_so():
    tables = experiment(pretraining=1, seeds=3)
    found = compare_across(*three_sets(tables, starts=[None]), CONTRASTS)
    gap = found.effects[1].whole
    wanted = contrast_across(pair(tables, 2), [1, -1], [-1, 0.5, 0.5])
    assert replace(gap.difference, p_holm=wanted.p_holm) == wanted
    assert (gap.pretrainings, gap.draws, gap.power.unit) == (1, 3, "seed")
    planned = [PlannedSet(-1, scatter_of_single_runs(list(tables[0][:, 0]), ""), 1000, drawn=False)]
    planned += [
        PlannedSet(0.5, measured_scatter(list(each[:, 0]), ""), each.shape[-1]) for each in tables[1:]
    ]
    assert gap.power.detectable == Asked(planned, [1, -1], 0.05 / not_found(found), shared=False).detectable(
        3
    )
    assert answer_across(found).endswith(
        "Each network was pre-trained once: this holds for these pre-trainings alone."
    )
    # the same with the seed of that pre-training told
    general, others = three_sets(tables, starts=[0])
    again = compare_across(general, others, CONTRASTS)
    assert [each.gaps for each in again.effects] == [each.gaps for each in found.effects]


def test_only_pretrainings_that_all_sets_have_are_compared():
    general, cub, dogs = TABLES
    others = [
        set_results("CUB", cub[:, [2, 0]], starts=[2, 0]),  # in another order
        set_results("Dogs", dogs, starts=[0, 1, 2]),
    ]
    findings = compare_across(set_results("ImageNet", general, general=True), others, CONTRASTS)
    found = findings.effects[0]
    shared = [table[:, [0, 2]] for table in TABLES]
    wanted = contrast_across(pair(shared, 1), [1, -1], [-1, 0.5, 0.5])
    assert found.whole.difference.estimate == pytest.approx(wanted.estimate)
    assert (found.whole.difference.low, found.whole.pretrainings) == (pytest.approx(wanted.low), 2)
    assert found.gaps[1].pretrainings == 3  # Dogs alone
    said = answer_across(findings)
    assert said.endswith(" LayerNorm: over the 10 of 13 runs that all networks and sets share.")


def test_no_gap_is_claimed_of_a_network_at_chance_on_one_of_the_sets():
    tables = experiment(gains=((-0.5, 0.0, 0.02, 0.06), (0, 0.14, 0.14, 0.18)))
    found = compare_across(*three_sets(tables), CONTRASTS)
    first, *rest = found.effects
    assert {gap.at_chance for gap in first.gaps} == {("plain",)}
    assert all(np.isnan(gap.difference.p_holm) for gap in first.gaps)
    p_values = [gap.difference.p_value for each in rest for gap in each.gaps]
    assert [gap.difference.p_holm for each in rest for gap in each.gaps] == holm(p_values)
    assert "kernel 7: not tested, as plain is not above chance." in answer_across(found)


def test_effects_of_lesser_interest_are_not_adjusted_and_not_in_the_answer():
    second = replace(CONTRASTS[2], primary=False)
    contrasts = [*CONTRASTS[:2], second]
    found = compare_across(*three_sets(TABLES, contrasts=contrasts), contrasts)
    assert found.effects[2].whole.difference.p_holm == found.effects[2].whole.difference.p_value
    assert "LayerNorm" not in answer_across(found)


def test_what_can_not_be_compared_yet_is_named():
    general, cub, dogs = TABLES
    sets = [set_results("CUB", cub), set_results("Dogs", dogs[:3])]
    found = compare_across(set_results("ImageNet", general, general=True), sets, CONTRASTS)
    assert found.missing == CONTRASTS[2:]
    assert [gap.sets for gap in found.effects[2].gaps] == [("CUB",)]
    assert "LayerNorm: not compared on all sets, as runs are missing." in answer_across(found)
    # of several pre-trainings, nobody knows which one it was
    unknown = [set_results("CUB", cub[:, :1], starts=[None])]
    assert compare_across(set_results("ImageNet", general, general=True), unknown, CONTRASTS).effects == []


def test_sets_that_are_none_or_the_same_are_refused():
    general, (cub, _) = three_sets(TABLES)
    for others in ([], [cub, cub]):
        with pytest.raises(UserError, match="compared between two or more, once each"):
            compare_across(general, others, CONTRASTS)


def test_one_seed_of_one_pretraining_supports_no_claim():
    tables = experiment(pretraining=1, seeds=1)
    said = answer_across(compare_across(*three_sets(tables, starts=[None]), CONTRASTS))
    assert " GELU: not tested, for want of a second shared seed." in said


def test_single_runs_tell_in_which_images_networks_differ():
    runs = TABLES[0][:, 0]
    found = scatter_of_single_runs(list(runs), "here")
    wanted = np.mean([(one ^ other).mean() for one, other in itertools.combinations(runs, 2)])
    assert found.network_disagreement == pytest.approx(wanted, rel=0.05)
    assert (found.seed_sd, found.seed_disagreement, found.accuracy) == (0, 0, pytest.approx(runs.mean()))
    with pytest.raises(UserError, match="two or more networks, and there is 1"):
        scatter_of_single_runs(list(runs[:1]), "here")
