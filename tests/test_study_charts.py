"""A report's charts: what stands where, and that all of it can be read."""

from __future__ import annotations

import math
from dataclasses import replace

from convnext_ablation.study.report.charts import draw_curves, draw_effects
from convnext_ablation.study.report.figures import planned


def drawn(axes):
    return [(list(line.get_xdata()), list(line.get_ydata())) for line in axes.lines]


def test_marks_stand_where_the_numbers_say(study):
    axes = draw_effects(study.findings.effects).axes[0]
    for place, effect in enumerate(study.findings.effects):
        d = effect.difference
        assert ([100 * d.low, 100 * d.high], [place, place]) in drawn(axes)
        assert ([100 * d.estimate], [place]) in drawn(axes)
    panels = draw_curves(study.curves, {"model_0": "Model 0", "model_2": "Model 2"}).axes
    means = [100 * point.top1 for point in study.curves if point.network == "model_2"]
    assert ([1, 2, 3], means) in drawn(panels[1])
    assert len(panels[1].lines) == 2, "the first network stands in the other panels"


def test_what_is_significant_is_filled_and_the_rest_open(study):
    holds, other = study.findings.effects
    secondary = replace(
        other,
        contrast=replace(other.contrast, primary=False),
        difference=replace(other.difference, p_holm=0.05),
    )
    untested = replace(holds, difference=replace(holds.difference, p_holm=math.nan))
    axes = draw_effects([holds, secondary, untested]).axes[0]
    marks = [line for line in axes.lines if line.get_marker() in ("D", "o")]
    found = [(mark.get_marker(), mark.get_markerfacecolor()) for mark in marks]
    assert found == [("D", "black"), ("o", "white"), ("D", "white")]


def test_a_figure_with_too_much_says_what_it_leaves_out(study):
    first, last = study.findings.effects
    secondary = replace(first, contrast=replace(first.contrast, primary=False))
    contents = replace(study, findings=replace(study.findings, effects=[secondary] * 90 + [last]))
    contents.__dict__["curves"] = [study.curves[0]._replace(network=f"n{number}") for number in range(40)]
    plans = {plan.name: plan for plan in planned(contents)}
    assert "80 of 91 effects are shown; all are in effects.csv." in plans["effects"].caption
    assert plans["effects"].draw.args[0][0] == last, "primary effects come first"
    assert "36 of 40 networks are shown; all are in curves.csv." in plans["curves"].caption
