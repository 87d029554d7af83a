"""What other methods say of the same runs, against those methods by themselves."""

from __future__ import annotations

import csv
import itertools
import math

import numpy as np
import pytest
from simulated_studies import simulated_studies

from convnext_ablation.errors import UserError
from convnext_ablation.study.designs.design import Contrast, design_of
from convnext_ablation.study.report.comparison import NetworkResult, compare
from convnext_ablation.study.report.expected_gain import gain_beyond_imagenet
from convnext_ablation.study.report.second_opinions import (
    ClassOpinion,
    Opinion,
    class_opinions,
    read_imagenet,
    second_opinions,
    write_opinions,
)
from convnext_ablation.study.report.secondary import class_differences
from convnext_ablation.study.stats.bootstrap import bootstrap_interval, resampled_accuracies

GROUPS = {"macro": ["stage_ratio"], "micro": ["gelu"]}


def results_of(names, tables, seeds=(0, 1, 2)):
    count = len(seeds)
    return [
        NetworkResult(
            name=name,
            label=name,
            adds="",
            correct=table[:count],
            seeds=list(seeds),
            learning_rate=0.001,
            parameters=1,
            gmacs=1.0,
            train_images_per_second=[1.0] * count,
            seconds=[1.0] * count,
            val_top1=[0.5] * count,
        )
        for name, table in zip(names, tables, strict=True)
    ]


def tables_of(count):
    top1 = np.linspace(0.6, 0.8, count)
    return simulated_studies(np.random.default_rng(0), 1, 3, 300, top1, 0.01)[:, 0]


def by_method(opinions, method):
    return [opinion for opinion in opinions if opinion.method == method]


@pytest.fixture(scope="module")
def factorial():
    design = design_of("factorial", "atto", GROUPS)
    results = results_of([point.key for point in design.points], tables_of(4))
    findings = compare(results, design.contrasts)
    return results, findings, second_opinions(results, findings)


def test_a_linear_model_gives_the_effects_of_a_factorial_design(factorial):
    _, findings, opinions = factorial
    effects = {effect.contrast.name: effect.difference for effect in findings.effects}
    found = by_method(opinions, "linear model")
    assert [opinion.effect for opinion in found] == ["macro", "micro", "macro:micro"]
    for opinion in found:
        assert opinion.estimate == pytest.approx(effects[opinion.effect].estimate, abs=1e-8)
        assert opinion.low < opinion.estimate < opinion.high
        assert "degrees of freedom" in opinion.note


def test_the_bootstrap_draws_all_networks_anew_together(factorial):
    results, findings, opinions = factorial
    resampled = resampled_accuracies([result.correct for result in results])
    names = [result.name for result in results]
    found = by_method(opinions, "bootstrap")
    assert [opinion.effect for opinion in found] == [effect.contrast.name for effect in findings.effects]
    for opinion, effect in zip(found, findings.effects, strict=True):
        weights = [effect.contrast.weights.get(name, 0.0) for name in names]
        assert (opinion.low, opinion.high) == pytest.approx(bootstrap_interval(resampled, weights))
        assert math.isnan(opinion.p_value)


def differences(names):
    return [
        Contrast(f"{after}-{before}", after, {before: -1.0, after: 1.0}, "difference", baseline=before)
        for before, after in itertools.pairwise(names)
    ]


def test_mcnemar_compares_the_runs_of_each_seed():
    names = ["one", "other"]
    results = results_of(names, tables_of(2))
    opinions = second_opinions(results, compare(results, differences(names)))
    found = by_method(opinions, "McNemar")
    assert [opinion.seed for opinion in found] == ["0", "1", "2"]
    for opinion, before, after in zip(found, results[0].correct, results[1].correct, strict=True):
        gained, lost = (after & ~before).sum(), (before & ~after).sum()
        assert opinion.note.startswith(f"gained {gained}, lost {lost}, ")
        assert opinion.estimate == pytest.approx(after.mean() - before.mean())
    assert not by_method(opinions, "linear model")


def test_what_each_class_gains_is_written_for_differences_of_two(tmp_path):
    names = ["one", "other"]
    results = results_of(names, tables_of(2))
    targets = np.arange(300) % 3
    found = class_opinions(results, compare(results, differences(names)), targets, ["a", "b", "c"])
    write_opinions(tmp_path / "c.csv", ClassOpinion, found)
    with open(tmp_path / "c.csv", newline="", encoding="utf-8") as file:
        lines = list(csv.DictReader(file))
    wanted = class_differences(results[1].correct, results[0].correct, targets, 3)
    assert [line["class_name"] for line in lines] == ["a", "b", "c"]
    assert [float(line["estimate"]) for line in lines] == [each.estimate for each in wanted]
    assert [float(line["q_value"]) for line in lines] == [each.q_value for each in wanted]
    assert {line["effect"] for line in lines} == {"other-one"}


def test_networks_with_other_seeds_are_drawn_anew_by_themselves():
    names = ["one", "other", "third"]
    results = [*results_of(names[:2], tables_of(2)), *results_of(names[2:], tables_of(1), seeds=(0, 1))]
    found = by_method(second_opinions(results, compare(results, differences(names))), "bootstrap")
    assert [opinion.effect for opinion in found] == ["other-one"]


def test_what_imagenet_predicts_is_taken_off_where_it_is_known():
    names = ["one", "other", "third"]
    results = results_of(names, tables_of(3))
    findings = compare(results, differences(names))
    known = {"one": 0.70, "other": 0.75, "third": 0.76}
    found = by_method(second_opinions(results, findings, known), "beyond ImageNet")
    wanted = gain_beyond_imagenet(
        [result.correct for result in results], np.array([0.70, 0.75, 0.76]), [-1, 1, 0]
    )
    assert [opinion.effect for opinion in found] == ["other-one", "third-other"]
    assert found[0].estimate == wanted.beyond.estimate
    assert found[0].note.startswith("ImageNet +5.00 points, slope ")
    assert not by_method(second_opinions(results, findings, {"one": 0.7, "other": 0.75}), "beyond ImageNet")


def test_they_are_written_with_nothing_where_a_method_says_nothing(factorial, tmp_path):
    write_opinions(tmp_path / "opinions.csv", Opinion, factorial[2])
    with open(tmp_path / "opinions.csv", newline="", encoding="utf-8") as file:
        lines = list(csv.DictReader(file))
    assert [line["effect"] for line in lines] == [opinion.effect for opinion in factorial[2]]
    first = lines[0]
    assert (first["method"], first["p_value"], float(first["low"])) == ("bootstrap", "", factorial[2][0].low)


@pytest.mark.parametrize("text", ["", "network,top\nmodel_i,75\n", "network,top1\nmodel_i,x\n"])
def test_a_table_of_imagenet_accuracies_that_makes_no_sense_is_refused(tmp_path, text):
    path = tmp_path / "imagenet.csv"
    path.write_text(text)
    with pytest.raises(UserError, match="needs columns network and top1"):
        read_imagenet(path)
    path.write_text("network,top1\nmodel_i,0\n")
    with pytest.raises(UserError, match="top1 of model_i is no percentage"):
        read_imagenet(path)
    path.write_text("network,top1\nmodel_i,75\n")
    assert read_imagenet(path) == {"model_i": 0.75}
