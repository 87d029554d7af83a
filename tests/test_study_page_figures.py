"""The figures and pictures of a study's page."""

from __future__ import annotations

import itertools
import math
import re
from dataclasses import replace

import numpy as np
import pytest
from fake_study import csv_lines
from matplotlib.text import Text
from page_reader import read_text

from convnext_ablation.study.report.classes import confusion_table, examples
from convnext_ablation.study.report.drawings import planned
from convnext_ablation.study.report.figures import draw_cost, draw_curves, draw_forest
from convnext_ablation.study.report.inline import colours_of, inlined, palette
from convnext_ablation.study.report.pictures import attention_part, confusion_part, disagreed
from convnext_ablation.study.report.tables import curve_table, effect_table, network_table

FIGURES = ("classes", "cost", "curves", "effects")


# Figures


def svg_texts(text):
    return [re.sub(r"<[^>]+>", "", found) for found in re.findall(r"<text.*?</text>", text, re.DOTALL)]


def points(value):
    return f"{100 * float(value):+.1f}".replace("-", "−")


def test_figures_say_what_the_csv_files_say(study, page):
    for text in ((study.folder / "effects.svg").read_text("utf-8"), page[1]):
        words = svg_texts(text)
        for line in csv_lines(study, "effects"):
            assert f"{points(line['estimate'])} [{points(line['low'])}, {points(line['high'])}]" in words
            assert line["label"] in words
    assert "the 2 surest effects (2 of them hold up: adjusted p < 0.05)" in page[0].words()
    words = svg_texts((study.folder / "classes.svg").read_text("utf-8"))
    for line in csv_lines(study, "classes"):
        assert f"{points(line['gain'])} ({line['images']} images)" in words


def drawn(axes):
    return [(list(line.get_xdata()), list(line.get_ydata())) for line in axes.lines]


def test_marks_stand_where_the_numbers_say(study):
    effects = [(100 * e.low, 100 * e.estimate, 100 * e.high) for e in effect_table(study.effects)]
    axes = draw_forest(effect_table(study.effects)).axes[0]
    for place, (low, estimate, high) in enumerate(effects):
        assert ([low, high], [place, place]) in drawn(axes)
        assert ([estimate], [place]) in drawn(axes)
    cost = network_table(study.rows)
    figure = draw_cost([replace(cost[0], label="L" * 60), *cost[1:]])
    assert "L" * 49 + "…" in [text.get_text() for text in figure.texts]
    speed, macs = figure.axes
    for each in cost:
        assert ([each.images_per_second], [100 * each.top1]) in drawn(speed)
        assert ([each.gmacs], [100 * each.top1]) in drawn(macs)
        assert ([each.gmacs] * 2, [100 * each.top1_low, 100 * each.top1_high]) in drawn(macs)
    curves, _ = curve_table(study.extras.runs)
    panels = draw_curves(curves, {"model_0": "Model 0", "model_2": "Model 2"}).axes
    assert [axes.get_title(loc="left") for axes in panels] == ["Model 0", "Model 2"]
    means = [100 * point.top1 for point in curves if point.network == "model_2"]
    assert ([1, 2, 3], means) in drawn(panels[1])
    assert len(panels[1].lines) == 2, "the first network stands in the other panels"
    five = {f"n{number}": "Model" for number in range(5)}
    panels = draw_curves([replace(curves[0], network=name) for name in five], five).axes
    assert [axes.axison for axes in panels] == [True] * 5 + [False] * 3


def test_numbers_of_networks_that_are_close_do_not_cover_each_other(study):
    cost = network_table(study.rows)
    many = [
        replace(
            cost[0],
            number=n,
            top1=0.5 + 0.001 * (n * 7 % 5),
            gmacs=0.3 + 0.001 * n,
            images_per_second=9.0 * n,
        )
        for n in range(1, 15)
    ]
    figure = draw_cost([*many, replace(cost[0], number=15, gmacs=3.0)])
    figure.draw_without_rendering()
    for axes in figure.axes:
        boxes = [Text.get_window_extent(text) for text in axes.texts]  # without the line to it
        assert len(boxes) == 15
        for one, other in itertools.combinations(boxes, 2):
            covered = min(one.y1, other.y1) - max(one.y0, other.y0)
            assert covered < 0 or one.x1 < other.x0 or other.x1 < one.x0


def test_long_names_of_networks_fit_beside_their_numbers(study):
    label = "ConvNeXt-T without spatial convolution moved up"
    figure = draw_cost([replace(line, label=label) for line in network_table(study.rows)])
    figure.draw_without_rendering()
    names = [text for text in figure.texts if text.get_text() == label]
    assert len(names) == 3
    assert all(text.get_window_extent().x1 < figure.bbox.x1 for text in names)


def test_long_names_of_networks_fit_above_their_curves(study):
    curves = [replace(curve_table(study.extras.runs)[0][0], network=name) for name in "abcd"]
    label = "ConvNeXt-T without spatial convolution moved up"
    figure = draw_curves(curves, dict.fromkeys("abcd", label))
    figure.draw_without_rendering()
    titles = [axes._left_title for axes in figure.axes]
    assert {title.get_text().replace("\n", " ") for title in titles} == {label}
    boxes = [title.get_window_extent() for title in titles]
    for left, right in itertools.pairwise(boxes):
        assert left.x1 < right.x0
    assert max(box.y1 for box in boxes) < figure.bbox.y1


def test_what_holds_up_is_filled_and_the_rest_open(study):
    holds, not_ = effect_table(study.effects)
    axes = draw_forest([holds, replace(not_, p_holm=0.05, primary=False)]).axes[0]
    marks = [line for line in axes.lines if line.get_marker() in ("D", "o")]
    assert [(mark.get_marker(), mark.get_markerfacecolor()) for mark in marks] == [
        ("D", "black"),
        ("o", "white"),
    ]
    untested = draw_forest([replace(holds, p_holm=math.nan)]).axes[0]
    assert [mark.get_markerfacecolor() for mark in untested.lines if mark.get_marker() == "D"] == ["white"]


def test_a_figure_with_too_much_says_what_it_leaves_out(study):
    effects = effect_table(study.effects)
    secondary = [replace(effects[0], primary=False, contrast=f"s{number}") for number in range(90)]
    curves = [replace(curve_table(study.extras.runs)[0][0], network=f"n{number}") for number in range(40)]
    plans = {
        plan.name: plan for plan in planned(network_table(study.rows), [*secondary, effects[1]], curves, [])
    }
    assert "80 of 91 effects are shown; all are in effects.csv." in plans["effects"].caption
    assert plans["effects"].draw.args[0][0] == effects[1], "primary effects come first"
    assert "36 of 40 networks are shown; all are in curves.csv." in plans["curves"].caption
    assert "classes" not in plans
    assert [plan.name for plan in planned(network_table(study.rows), [], [], [])] == ["cost"]


def luminance(colour):
    channels = (int(colour[start : start + 2], 16) / 255 for start in (1, 3, 5))
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast_of(one, two):
    high, low = sorted((luminance(one), luminance(two)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def test_words_of_figures_can_be_read_in_light_and_dark(study, page):
    css = palette(colours_of((study.folder / f"{name}.svg").read_text() for name in FIGURES))
    light, dark = (dict(re.findall(r"--c(\w{6}): (#\w{6});", part)) for part in css.split("@media"))
    assert (dark["ffffff"], dark["000000"]) == ("#0d1117", "#e6edf3")
    used = set(re.findall(r'<text style="[^"]*fill: var\(--c(\w{6})\)', page[1])) | {"000000"}
    assert len(used) == 2
    for colour in used:
        assert contrast_of(light[colour], light["ffffff"]) > 4.5
        assert contrast_of(dark[colour], dark["ffffff"]) > 4.5
    assert css in page[1]
    assert not re.search(r"(fill|stroke): #", page[1]), "no colour of a figure is fixed"


def test_a_drawing_keeps_its_ids_to_itself():
    svg = (
        '<?xml version="1.0"?>\n<svg width="10pt" height="5pt" viewBox="0 0 10 5" xmlns="http://a">'
        '<metadata>x</metadata><defs><style type="text/css">*{}</style><path id="m1"/></defs>'
        '<use xlink:href="#m1" clip-path="url(#c1)" style="fill: url(#h1); stroke: #0a0B0c"/></svg>'
    )
    assert (
        inlined(svg, "one", 'A "b"').split()
        == (
            '<svg class="chart" role="img" aria-label="A &quot;b&quot;" style="min-width: 12px" '
            'viewBox="0 0 10 5"><defs><path id="one-m1"/></defs><use href="#one-m1" clip-path="url(#one-c1)" '
            'style="fill: url(#one-h1); stroke: var(--c0a0b0c)"/></svg>'
        ).split()
    )


# Pictures


def test_confusions_that_go_are_shown_with_images_of_them(study, page):
    reader, _ = page
    words = reader.words()
    assert "bird 0 <b> taken for bird 1 <b>: 5.0 test images a run without it, 0.0 with it" in words
    assert "confused in 100% of runs without it, right in 100% with it" in words
    shown = [image["alt"] for image in reader.all("img")]
    assert 4 <= len(shown) <= 24
    assert shown[0].startswith("bird 0 <b>, taken for bird 1 <b>: bird 0 <b>/000")


def test_an_effect_that_lowers_shows_what_it_brings(study):
    effect = study.effects[0]
    turned = replace(
        effect,
        contrast=replace(effect.contrast, weights={"model_0": 1.0, "model_1": -1.0}),
        difference=replace(effect.difference, estimate=-effect.difference.estimate),
    )
    confusions = confusion_table([turned], study.extras)
    words = read_text(confusion_part([turned], confusions, study.extras)).words()
    assert "bird 0 <b> taken for bird 1 <b>: 5.0 test images a run with it, 0.0 without it" in words


@pytest.mark.parametrize(
    ("p", "doubt"), [(0.01, "points</h3>"), (0.05, ", can't be told from none"), (math.nan, ", not tested")]
)
def test_a_doubtful_effect_is_called_so_where_its_confusions_are(study, p, doubt):
    effect = replace(study.effects[0], difference=replace(study.effects[0].difference, p_holm=p))
    assert doubt in confusion_part([effect], [], study.extras).replace("&#x27;", "'")


def test_an_effect_without_confusions_that_go_says_so(study):
    assert "None is rarer with it." in confusion_part(study.effects[:1], [], study.extras)
    assert "No effect of this study has confusions to show." in confusion_part([], [], study.extras)


def test_examples_are_the_clearest_images(study):
    extras, contrast = study.extras, study.effects[0].contrast
    found = examples(contrast, extras, 0, 1, raises=True, most=3)
    first = next(run for run in extras.runs if run.network == "model_0")
    assert len(found) == 3
    for example in found:
        assert extras.targets[example.index] == 0
        assert first.predicted[example.index] == 1
        assert example.confused == 1
    assert [example.right for example in found] == sorted((e.right for e in found), reverse=True)
    assert examples(contrast, extras, 0, 1, raises=False, most=3) == []


def test_pictures_of_a_folder_that_is_gone_are_missed_in_words(study, tmp_path):
    confusions = confusion_table(study.effects, study.extras)
    for folder in (None, tmp_path / "moved"):
        extras = replace(study.extras, data_folder=folder)
        reader = read_text(
            confusion_part(study.effects, confusions, extras) + attention_part(study.rows, extras)
        )
        assert reader.all("img") == []
        assert "image not found" in reader.words()
        assert "the test images are not at hand" in reader.words()


def test_images_that_networks_disagree_on_are_of_different_classes(study):
    extras = study.extras
    chosen = disagreed(extras, 3)
    assert len({int(extras.targets[index]) for index in chosen}) == 3
    share = np.mean([run.predicted == extras.targets for run in extras.runs], axis=0)
    assert abs(share[chosen[0]] - 0.5) == np.abs(share - 0.5).min()
