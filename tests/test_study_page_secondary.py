"""The page's secondary results: the same numbers as the CSV files, and that nothing rests on them."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from fake_study import again, csv_lines, fake_study, opinions_of
from page_reader import read_text, table_of

from convnext_ablation.study.report.page_secondary import secondary_part
from convnext_ablation.study.report.second_opinions import Opinion
from convnext_ablation.study.report.tables import effect_table

METHODS = {
    "McNemar": "McNemar's test",
    "beyond ImageNet": "Beyond what ImageNet predicts",
    "bootstrap": "Hierarchical bootstrap",
}


def points(text):
    return f"{100 * float(text):+.1f}".replace("-", "−").replace("+0.0", "0.0").replace("−0.0", "0.0")


@pytest.mark.parametrize(("method", "heading"), METHODS.items())
def test_opinions_are_those_of_the_csv(study, page, method, heading):
    lines = [line for line in csv_lines(study, "second_opinions") if line["method"] == method]
    labels = {line["contrast"]: line["label"] for line in csv_lines(study, "effects")}
    rows = table_of(page[1], f"{heading}, effects in percent points (second_opinions.csv)")
    assert len(rows) == len(lines) == (6 if method == "McNemar" else 2)
    for row, line in zip(rows, lines, strict=True):
        texts, values = [text for text, _ in row], [value for _, value in row if value]
        assert texts[0] == labels[line["effect"]]
        assert float(values[0]) == float(line["estimate"])
        assert points(line["estimate"]) in texts
        if line["seed"]:
            assert texts[1] == line["seed"]
        if line["low"]:
            assert f"[{points(line['low'])}, {points(line['high'])}]" in texts
            assert float(values[1]) == float(line["high"]) - float(line["low"])
        if line["p_value"]:
            assert float(values[-1]) == float(line["p_value"])
        if line["note"]:
            assert texts[-1] == line["note"]


def test_classes_that_stand_out_are_those_of_the_csv(study, page):
    lines = [line for line in csv_lines(study, "class_differences") if float(line["q_value"] or 1) < 0.05]
    rows = table_of(page[1], "Classes that gain or lose, q below 0.05 (class_differences.csv)")
    assert len(rows) == len(lines) == 2
    names = ("images", "estimate", "p_value", "q_value")
    for row, line in zip(rows, lines, strict=True):
        assert row[1][0] == line["class_name"]
        assert [float(row[place][1]) for place in (2, 3, 5, 6)] == [float(line[name]) for name in names]
        assert row[4][0] == f"[{points(line['low'])}, {points(line['high'])}]"
    gain = sum(float(line["estimate"]) > 0 for line in lines)
    assert f"8 in all (class_differences.csv). {gain} gain and {len(lines) - gain} lose at" in page[0].words()


def test_what_stands_there_is_said_to_be_secondary(page):
    words = page[0].words()
    where = words.index("No claim of this page rests on what stands here.")
    assert words.index("Secondary results", words.index("Runs")) < where < words.index("McNemar's testExact")
    for told in (
        "None of its p-values is adjusted for the number of effects.",
        "A small p says that these two runs differ, not that the networks do",
        "The bootstrap interval is too narrow with few seeds",
    ):
        assert told in words


def test_the_answer_is_the_same_without_them(study, page, tmp_path):
    bare = replace(study.extras, opinions=[], class_opinions=[])
    _, text = again(study, tmp_path, extras=bare)
    assert text.split('id="secondary"')[0] == page[1].split('id="secondary"')[0]


def test_what_imagenet_predicts_is_asked_for_where_it_is_not_known(study):
    extras = replace(study.extras, **opinions_of(study, imagenet=False))
    words = read_text(secondary_part(effect_table(study.effects), extras)).words()
    assert "Beyond what ImageNet predictsNot told: it takes accuracies on ImageNet" in words


def test_classes_of_one_seed_are_not_told_apart(tmp_path):
    alone = fake_study(tmp_path, seeds=1)
    extras = replace(alone.extras, **opinions_of(alone))
    assert all(math.isnan(each.q_value) for each in extras.class_opinions)
    words = read_text(secondary_part(effect_table(alone.effects), extras)).words()
    assert "Classes that gain or loseNot told: it takes two seeds or more" in words


def test_no_class_stands_out_where_q_is_high(study):
    high = [each._replace(q_value=0.05) for each in study.extras.class_opinions]
    text = secondary_part(effect_table(study.effects), replace(study.extras, class_opinions=high))
    assert "0 gain and 0 lose at a false discovery rate of 5% over the classes" in read_text(text).words()
    assert "expected to be wrong" not in text
    assert table_of(text, "Classes that gain or lose, q below 0.05 (class_differences.csv)") == []


def test_a_linear_model_of_main_effects_is_shown(study):
    line = Opinion("wide", "linear model", "", 0.012, -0.003, 0.027, 0.04, "9 degrees of freedom")
    text = secondary_part(effect_table(study.effects), replace(study.extras, opinions=[line]))
    rows = table_of(text, "Linear model, effects in percent points (second_opinions.csv)")
    assert [cell for cell, _ in rows[0]] == ["wide", "+1.2", "[−0.3, +2.7]", "0.040", line.note]
    assert "leave out that other test images" in text
