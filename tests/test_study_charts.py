"""A report's charts: what stands where, and that all of it can be read."""

import math
import xml.etree.ElementTree as ET
from dataclasses import replace

from convnext_ablation.study.report.charts import draw_curves, draw_effects


def drawn(axes):
    return [(list(line.get_xdata()), list(line.get_ydata())) for line in axes.lines]


def test_marks_stand_where_the_numbers_say(study):
    axes = draw_effects(study.findings.effects).axes[0]
    for place, effect in enumerate(study.findings.effects):
        d = effect.difference
        assert ([100 * d.low, 100 * d.high], [place, place]) in drawn(axes)
        assert ([100 * d.estimate], [place]) in drawn(axes)
    points = [point for point in study.curves if point.network != "model_1"]
    panels = draw_curves(points, {"model_0": "Model 0", "model_2": "Model 2"}).axes
    means = [point.top1_percent for point in points if point.network == "model_2"]
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


def test_a_saved_chart_has_room_for_the_words_beside_its_axes(study):
    for path in study.folder.glob("*.svg"):
        root = ET.parse(path).getroot()
        width, height = map(float, root.get("viewBox").split()[2:])
        for text in root.iter("{http://www.w3.org/2000/svg}text"):
            assert 5 < float(text.get("x", "6")) < width - 5, text.text
            assert 5 < float(text.get("y", "6")) < height - 5, text.text
