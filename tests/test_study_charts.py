"""A report's charts: what stands where, and that all of it can be read."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

from matplotlib.text import Text

from convnext_ablation.study.report.charts import draw_cost, draw_curves, draw_effects
from convnext_ablation.study.report.figures import planned

LONG = "ConvNeXt-T without spatial convolution moved up"


def changed(row, number=None, top1=None, label=None, **measured):
    """A row with another number, accuracy, label or measurements."""
    runs = [replace(run, result={**run.result, **measured}) for run in row.network.runs]
    network = replace(row.network, runs=runs, label=label or row.network.label)
    interval = replace(row.top1, estimate=row.top1.estimate if top1 is None else top1)
    return replace(row, number=number or row.number, top1=interval, network=network)


def drawn(axes):
    return [(list(line.get_xdata()), list(line.get_ydata())) for line in axes.lines]


def test_marks_stand_where_the_numbers_say(study):
    axes = draw_effects(study.findings.effects).axes[0]
    for place, effect in enumerate(study.findings.effects):
        d = effect.difference
        assert ([100 * d.low, 100 * d.high], [place, place]) in drawn(axes)
        assert ([100 * d.estimate], [place]) in drawn(axes)
    rows = study.findings.rows
    speed, macs = draw_cost(rows).axes
    for row in rows:
        assert ([row.network.images_per_second], [100 * row.top1.estimate]) in drawn(speed)
        assert ([row.network.gmacs], [100 * row.top1.estimate]) in drawn(macs)
        assert ([row.network.gmacs] * 2, [100 * row.top1.low, 100 * row.top1.high]) in drawn(macs)
    panels = draw_curves(study.curves, {"model_0": "Model 0", "model_2": "Model 2"}).axes
    assert [axes.get_title(loc="left") for axes in panels] == ["Model 0", "Model 2"]
    means = [100 * point.top1 for point in study.curves if point.network == "model_2"]
    assert ([1, 2, 3], means) in drawn(panels[1])
    assert len(panels[1].lines) == 2, "the first network stands in the other panels"


def test_numbers_of_networks_that_are_close_do_not_cover_each_other(study):
    first = study.findings.rows[0]
    many = [
        changed(
            first,
            number,
            top1=0.5 + 0.001 * (number * 7 % 5),
            gmacs=0.3 + 0.001 * number,
            train_images_per_second=9.0 * number,
        )
        for number in range(1, 15)
    ]
    figure = draw_cost([*many, changed(first, 15, gmacs=3.0)])
    figure.draw_without_rendering()
    for axes in figure.axes:
        boxes = [Text.get_window_extent(text) for text in axes.texts]  # without the line to it
        assert len(boxes) == 15
        for one, other in itertools.combinations(boxes, 2):
            covered = min(one.y1, other.y1) - max(one.y0, other.y0)
            assert covered < 0 or one.x1 < other.x0 or other.x1 < one.x0


def test_long_names_of_networks_fit(study):
    figure = draw_cost([changed(row, label=LONG) for row in study.findings.rows])
    figure.draw_without_rendering()
    names = [text for text in figure.texts if text.get_text() == LONG]
    assert len(names) == 3
    assert all(text.get_window_extent().x1 < figure.bbox.x1 for text in names)
    curves = [replace(study.curves[0], network=name) for name in "abcd"]
    figure = draw_curves(curves, dict.fromkeys("abcd", LONG))
    figure.draw_without_rendering()
    titles = [axes._left_title for axes in figure.axes]
    assert {title.get_text().replace("\n", " ") for title in titles} == {LONG}
    boxes = [title.get_window_extent() for title in titles]
    assert all(left.x1 < right.x0 for left, right in itertools.pairwise(boxes))
    assert max(box.y1 for box in boxes) < figure.bbox.y1


def test_what_holds_up_is_filled_and_the_rest_open(study):
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
    secondary = [
        replace(first, contrast=replace(first.contrast, primary=False, name=f"s{number}"))
        for number in range(90)
    ]
    contents = replace(study, findings=replace(study.findings, effects=[*secondary, last]))
    contents.__dict__["curves"] = [replace(study.curves[0], network=f"n{number}") for number in range(40)]
    plans = {plan.name: plan for plan in planned(contents)}
    assert "80 of 91 effects are shown; all are in effects.csv." in plans["effects"].caption
    assert plans["effects"].draw.args[0][0] == last, "primary effects come first"
    assert "36 of 40 networks are shown; all are in curves.csv." in plans["curves"].caption
    none = replace(
        study,
        findings=replace(study.findings, effects=[]),
        evidence=replace(study.evidence, runs=[]),
    )
    assert [plan.name for plan in planned(none)] == ["roadmap", "cost"]
