"""The page of a study: what it says, its numbers, and that anyone can read it."""

from __future__ import annotations

import base64
import hashlib
import math
import re
from dataclasses import replace

import numpy as np
import pytest
from fake_study import again, csv_lines
from page_reader import table_of

from convnext_ablation.study.designs.contrasts import Contrast
from convnext_ablation.study.report.classes import class_table, telling
from convnext_ablation.study.report.page import PageRun, write_page
from convnext_ablation.study.report.tables import curve_table
from convnext_ablation.training.evaluation import Predictions

TABLES = (
    "classes",
    "confusions",
    "curves",
    "effects",
    "networks",
    "runs",
)
FIGURES = ("classes", "cost", "curves", "effects")


# The page as a whole


def test_the_page_comes_with_its_numbers_and_figures(study):
    names = {"index.html", *(f"{name}.csv" for name in TABLES)}
    names |= {f"{name}.{kind}" for name in FIGURES for kind in ("svg", "png")}
    assert {path.name for path in study.paths} == names == {path.name for path in study.folder.iterdir()}
    assert study.paths[0].name == "index.html"


def test_the_page_needs_nothing_from_elsewhere(page):
    reader, text = page
    assert "http" not in text.replace("http-equiv", "")
    assert not reader.all("link")
    assert all(image["src"].startswith("data:image/jpeg;base64,") for image in reader.all("img"))
    policy = next(meta["content"] for meta in reader.all("meta") if "http-equiv" in meta)
    script = re.search(r"<script>(.*)</script>", text, re.DOTALL)[1]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert policy.startswith("default-src 'none'; img-src data:;")
    assert f"script-src 'sha256-{digest}'" in policy


def test_the_page_is_well_formed_for_those_who_do_not_see_it(page):
    reader, text = page
    ids = [attributes["id"] for _, attributes in reader.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    used = re.findall(r"url\(#([^)]+)\)", text) + [
        attributes["href"].removeprefix("#") for _, attributes in reader.tags if "href" in attributes
    ]
    assert len(used) > 100
    assert set(used) <= set(ids)
    assert all(image["alt"] for image in reader.all("img"))
    drawings = reader.all("svg")
    assert len(drawings) == 5
    assert all(drawing["role"] == "img" for drawing in drawings)
    assert len({drawing["aria-label"] for drawing in drawings}) == 5
    regions = [attributes for _, attributes in reader.tags if attributes.get("tabindex") == "0"]
    names = [region["aria-label"] for region in regions if region["role"] == "region"]
    assert len(names) == len(regions) == len(set(names))
    assert all(cell["scope"] in ("row", "col") for cell in reader.all("th"))
    assert reader.all("html") == [{"lang": "en"}]
    assert not reader.all("b") + reader.all("on"), "names of classes and studies are text"


def test_the_page_says_what_was_found_and_done(page, study):
    words = page[0].words()
    for text in (
        study.extras.answer,
        "Nobody ran this.",
        "Kernels are aliased.",
        "Planted effects <on> shades",
        "4 classes, 60 test images, 32 x 32 px",
        "3 epochs from scratch, float32, seeds 0, 1, 2",
        "torch 2.9.0",
        study.facts.command,
        "Model 1 after Model 0",
    ):
        assert text in words


def test_what_mixes_into_effects_is_said_where_they_stand(page):
    words = page[0].words()
    order = ("Diamonds are primary effects", "Kernels are aliased.", "Effects on top-1 in percent points")
    places = [words.index(text) for text in order]
    assert places == sorted(places)


def test_the_table_of_curves_calls_networks_as_the_others_do(page, study):
    table = (
        page[0]
        .words()
        .split("Validation top-1 after the last epoch (curves.csv)")[1]
        .split("(classes.csv)")[0]
    )
    assert all(row.label in table for row in study.rows)
    assert study.extras.runs[0].network not in table


def test_warnings_stand_at_every_figure(study, page, tmp_path):
    assert page[0].words().count("Pre-training has seen 22 test images.") == 5
    alone = [replace(study.rows[0], seeds=1), *study.rows[1:]]
    words = again(study, tmp_path, rows=alone)[0].words()
    assert words.count("One seed only for Model 0: intervals leave out what another seed would") == 5


def test_the_same_study_gives_the_same_bytes(study, tmp_path):
    extras = replace(study.extras, runs=study.extras.runs)
    write_page(study.folder.parent / "again", study.rows, study.effects, study.facts, extras)
    for path in study.paths:
        other = study.folder.parent / "again" / path.name
        assert path.read_bytes() == other.read_bytes(), path.name


# Its numbers


def test_effects_and_costs_are_those_that_were_given(study):
    for line, effect in zip(csv_lines(study, "effects"), study.effects, strict=True):
        d = effect.difference
        given = (d.estimate, d.low, d.high, d.p_value, d.p_holm, d.p_better)
        names = ("estimate", "low", "high", "p_value", "p_holm", "p_better")
        assert tuple(float(line[name]) for name in names) == given
        assert (line["contrast"], line["runs"]) == (effect.contrast.name, "3")
    for line, row in zip(csv_lines(study, "networks"), study.rows, strict=True):
        assert (line["network"], line["label"], line["parameters"]) == (
            row.name,
            row.label,
            str(row.parameters),
        )
        given = (row.top1.estimate, row.top1.low, row.top1.high, row.gmacs, row.images_per_second)
        names = ("top1", "top1_low", "top1_high", "gmacs", "images_per_second")
        assert tuple(float(line[name]) for name in names) == given


def test_what_is_not_known_is_empty_and_a_dash(study, tmp_path):
    rows = [replace(row, images_per_second=math.nan, seconds=math.nan) for row in study.rows]
    reader, text = again(study, tmp_path, rows=rows)
    assert (tmp_path / "networks.csv").read_text().splitlines()[1].endswith(",0.5,,")
    assert text.count(">–</td>") == 2 * len(rows)
    assert "not measured" in (tmp_path / "cost.svg").read_text()
    assert reader


def test_curves_are_mean_and_range_over_runs(study):
    by_key = {(line["network"], int(line["epoch"])): line for line in csv_lines(study, "curves")}
    assert len(by_key) == 9
    line = by_key["model_2", 1]  # of 50, 51 and 52 percent
    top1 = [float(line[name]) for name in ("top1", "top1_low", "top1_high")]
    assert top1 == pytest.approx([0.51, 0.5, 0.52])
    assert (line["runs"], float(line["train_loss"])) == ("3", 1.0)


def test_runs_without_summary_are_counted(study, tmp_path):
    lost = [replace(run, folder=tmp_path / "none") if run.seed == 2 else run for run in study.extras.runs]
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "summary.csv").write_text("epoch,train_loss\n0,x\n")
    lost[0] = replace(lost[0], folder=tmp_path / "bad")
    reader, _ = again(study, tmp_path / "report", extras=replace(study.extras, runs=lost))
    assert "4 of 9 runs have no summary.csv that can be read." in reader.words()
    points, without = curve_table(lost)
    assert [point.runs for point in points[::3]] == [1, 2, 2]
    assert len(without) == 4


def test_a_run_can_be_traced(study, page):
    line = csv_lines(study, "runs")[4]
    assert (line["network"], line["seed"], line["identity"]) == ("model_1", "1", "0123abcd" * 8)
    assert (line["best_epoch"], line["val_top1"], line["versions"]) == ("2", "0.51", "torch 2.9.0")
    assert line["folder"] == "../runs/model_1-seed1-0123abcd"
    assert line["command"] == "python train.py --config ../runs/model_1-seed1-0123abcd/args.yaml"
    run = study.extras.runs[4]
    assert float(line["test_top1"]) == np.mean(run.predicted == study.extras.targets)
    assert line["command"] in page[0].words()
    assert "All with torch 2.9.0." in page[0].words()


def test_runs_of_different_versions_say_so(study, tmp_path):
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "result.json").write_text('{"versions": {"torch": "2.8.0"}}')
    runs = [replace(study.extras.runs[0], folder=tmp_path / "other"), *study.extras.runs[1:]]
    reader, text = again(study, tmp_path / "report", extras=replace(study.extras, runs=runs))
    assert "With 2 sets of versions" in reader.words()
    assert text.count('<td class="words">torch 2.8.0</td>') == 1


def test_gains_of_classes_are_the_contrast_on_their_images(study):
    extras = study.extras
    right = {
        (run.network, run.seed): np.array(
            [np.mean((run.predicted == extras.targets)[extras.targets == k]) for k in range(4)]
        )
        for run in extras.runs
    }
    found = [line for line in csv_lines(study, "classes") if line["contrast"] == "model_1-model_0"]
    gains = np.stack([right["model_1", seed] - right["model_0", seed] for seed in range(3)])
    assert {line["class_name"] for line in found} == set(extras.classes)
    for line in found:
        number = extras.classes.index(line["class_name"])
        expected = (gains[:, number].mean(), gains[:, number].min(), gains[:, number].max())
        assert [float(line[name]) for name in ("gain", "low", "high")] == pytest.approx(expected)
        assert line["images"] == "15"
    order = [float(line["gain"]) for line in found]
    assert order == sorted(order, reverse=True)


def test_confusions_are_counted_by_hand(study, page):
    extras = study.extras

    def count(network, true, other):
        runs = [run for run in extras.runs if run.network == network]
        return np.mean([np.sum((run.predicted == other) & (extras.targets == true)) for run in runs])

    found = [line for line in csv_lines(study, "confusions") if line["contrast"] == "model_1-model_0"]
    assert (found[0]["class_name"], found[0]["taken_for"]) == (extras.classes[0], extras.classes[1])
    for line in found:
        pair = [extras.classes.index(line[name]) for name in ("class_name", "taken_for")]
        assert float(line["images_without"]) == pytest.approx(count("model_0", *pair))
        assert float(line["images_with"]) == pytest.approx(count("model_1", *pair))
        assert float(line["change"]) == pytest.approx(
            float(line["images_with"]) - float(line["images_without"])
        )
    assert float(found[0]["change"]) == -5
    assert table_of(page[1], "Confusions, test images a run (confusions.csv)")[0][-1] == ("−5.00", "-5.0")


def test_runs_are_paired_by_both_of_their_seeds(study):
    runs = [replace(run, seed=0, pretraining_seed=run.seed) for run in study.extras.runs]
    mixed = [replace(run, seed=7) if run.network == "model_2" else run for run in runs]
    whole = class_table(study.effects, study.extras)
    assert class_table(study.effects, replace(study.extras, runs=runs)) == whole
    # the effect whose networks have no seeds in common is left out
    assert class_table(study.effects, replace(study.extras, runs=mixed)) == whole[:4]


def test_interactions_and_effects_without_runs_have_no_classes(study):
    effect = study.effects[0]
    interaction = replace(effect, contrast=replace(effect.contrast, kind="interaction"))
    absent = replace(effect, contrast=replace(effect.contrast, weights={"model_9": 1.0, "model_0": -1.0}))
    assert class_table([interaction, absent], study.extras) == []
    assert telling([interaction, absent], study.extras, 5) == []


def test_a_main_effect_weighs_its_networks(study):
    extras = study.extras
    weights = {"model_0": -1.0, "model_1": 0.5, "model_2": 0.5}
    contrast = Contrast("late", "late", weights, "main effect")
    gains = class_table([replace(study.effects[0], contrast=contrast)], extras)
    right = {run.network: 0.0 for run in extras.runs}
    first = extras.targets == extras.classes.index(gains[0].class_name)
    for run in extras.runs:
        right[run.network] += np.mean((run.predicted == extras.targets)[first]) / 3
    expected = sum(weight * right[network] for network, weight in weights.items())
    assert gains[0].gain == pytest.approx(expected)


def test_only_the_best_class_is_kept_of_predictions(tmp_path):
    top5 = np.array([[2, 1, 0], [0, 1, 2]])
    predictions = Predictions(np.array(["a", "b"]), np.array([2, 1]), top5, np.ones(2, np.float32), 0.0)
    run = PageRun.of("model_i", 3, tmp_path, predictions, pretraining_seed=1)
    assert run.predicted.tolist() == [2, 0]
    assert run.predicted.base is None, "the other predictions need not stay in memory"
    assert run.seeds == (1, 3)


def test_a_network_may_predict_a_class_that_has_no_test_images(study, tmp_path):
    extras = study.extras
    runs = [replace(run, predicted=np.where(run.predicted == 3, 6, run.predicted)) for run in extras.runs]
    again(study, tmp_path, extras=replace(extras, runs=runs))
    study_there = replace(study, folder=tmp_path)
    found = {(line["class_number"], line["taken_for"]) for line in csv_lines(study_there, "confusions")}
    assert ("1", "6") in found
    assert not {("1", "bird 3 <b>"), ("6", "bird 3 <b>")} & found


def test_one_of_a_thing_is_not_called_many(study, tmp_path):
    alone = [run for run in study.extras.runs if run.seed == 2]
    facts = replace(study.facts, epochs=1, threads=1)
    words = again(study, tmp_path, facts=facts, extras=replace(study.extras, runs=alone))[0].words()
    assert "training: 1 epoch from scratch, float32, seed 2" in words
    assert "a laptop, 1 thread" in words
    assert "a laptop, 1 threads" not in words
