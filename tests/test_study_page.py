"""The page of a study: what it says, its numbers and pictures, and that anyone can read it."""

import base64
import hashlib
import math
import re
from dataclasses import replace

import numpy as np
import pytest
from fake_study import again, csv_lines, svg_texts, write_all

from convnext_ablation.study.designs.contrasts import Contrast
from convnext_ablation.study.report.charts import charts
from convnext_ablation.study.report.contents import class_gains
from convnext_ablation.study.report.findings import Power
from convnext_ablation.study.report.html_page import confusion_pictures
from convnext_ablation.study.report.whole import report_of

# The page as a whole


def test_the_page_needs_nothing_from_elsewhere_and_its_links_and_names_are_whole(page):
    reader, text = page
    library, script = re.findall("<script>(.*?)</script>", text, re.DOTALL)
    assert "http" not in text.replace("http-equiv", "").replace(library, "")
    assert len(text) < 1.5e6
    assert not reader.all("link")
    ids = [attributes["id"] for _, attributes in reader.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert {each["href"].removeprefix("#") for _, each in reader.tags if "href" in each} <= set(ids)
    assert all(image["alt"] for image in reader.all("img"))
    assert not reader.all("b") + reader.all("on"), "names of classes and studies are text"
    assert all(image["src"].startswith("data:image/jpeg;base64,") for image in reader.all("img"))
    policy = next(meta["content"] for meta in reader.all("meta") if "http-equiv" in meta)
    digests = [
        base64.b64encode(hashlib.sha256(each.encode()).digest()).decode() for each in (library, script)
    ]
    assert policy.startswith("default-src 'none'; img-src data:;")
    assert policy.endswith("script-src " + " ".join(f"'sha256-{digest}'" for digest in digests))


def test_the_page_says_what_was_found_and_done(page, study):
    words = page[0].words()
    order = (
        "Which step changes top-1 accuracy on shades, and by how much?",
        report_of(study).sentence,
        "Diamonds are primary effects",
        "Effects are in points of top-1; brackets",
        "Measured on shades: 4 classes, 60 test images, 32 px, 3 epochs, 3 seeds.",
        "images/s and time were measured on a machine that may have done other things",
        "Kernels are aliased.",
        "Effects on top-1 (effects.csv)",
        "4 classes, 60 test images, 32 x 32 px",
        "3 epochs from scratch, float32, seeds 0, 1, 2",
        study.facts.command,
    )
    places = [words.index(text) for text in order]
    assert places == sorted(places)
    # below each of four figures, and among the caveats
    assert words.count("Pre-training has seen 22 test images.") == 5


def test_the_same_study_gives_the_same_files(study):
    # below the same folder, as the runs' places are told relative to the report's
    other = replace(study, folder=study.folder.parent / "again")
    write_all(other)
    paths = list(other.folder.iterdir())
    assert {path.name for path in paths} == {path.name for path in study.folder.iterdir()}
    for path in paths:
        assert path.read_bytes() == (study.folder / path.name).read_bytes(), path.name


def points(value):
    return f"{float(value):+.1f}".replace("-", "−")


def test_figures_say_what_the_csv_files_say(study):
    words = {name: svg_texts(study.folder / f"{name}.svg") for name in ("effects", "classes")}
    for line in csv_lines(study, "effects"):
        interval = (
            f"{points(line['estimate_points'])} [{points(line['low_points'])}, {points(line['high_points'])}]"
        )
        assert any(text.startswith(interval) for text in words["effects"])
        assert line["label"] in words["effects"]
    for line in csv_lines(study, "classes"):
        assert f"{points(line['gain_points'])} ({line['images']} images)" in words["classes"]


# Its figures


def marks_of(study, name):
    chart = charts(report_of(study))[name]
    wide, narrow = (
        [
            [mark[key] for key in ("row", "estimate", "low", "high")]
            for mark in spec["data"]["values"]
            if "low" in mark
        ]
        for spec in chart[1:]
    )
    assert wide == narrow
    return chart.wide["data"]["values"]


def test_marks_stand_where_the_numbers_say(study):
    for row, (mark, effect) in enumerate(
        zip(marks_of(study, "effects"), study.findings.effects, strict=True)
    ):
        d = effect.difference
        assert [mark[name] for name in ("row", "column")] == [row, 0]
        assert [mark[name] / 100 for name in ("estimate", "low", "high")] == pytest.approx(
            [d.estimate, d.low, d.high]
        )
    means = [(point.epoch + 1, point.top1_percent) for point in study.curves if point.network == "model_2"]
    drawn = [(each["epoch"], each["top-1 %"]) for each in marks_of(study, "curves") if each["row"] == 2]
    assert drawn == means
    runs = [mark for mark in charts(report_of(study))["roadmap"].wide["data"]["values"] if "command" in mark]
    assert [run["command"] for run in runs] == [run.command for run in study.runs]


def test_what_is_significant_is_filled_and_the_rest_open(study):
    holds, other = study.findings.effects
    secondary = replace(
        other,
        contrast=replace(other.contrast, primary=False),
        difference=replace(other.difference, p_holm=0.05),
    )
    untested = replace(
        holds,
        contrast=replace(holds.contrast, name="untested"),
        difference=replace(holds.difference, p_holm=math.nan),
    )
    effects = [holds, secondary, untested]
    marks = marks_of(replace(study, findings=replace(study.findings, effects=effects)), "effects")
    assert [(mark["shape"], mark["filled"]) for mark in marks] == [
        ("diamond", True), ("circle", False), ("diamond", False),
    ]  # fmt: skip


def test_next_to_what_could_not_be_detected_stands_what_would_narrow_it(study):
    effect = study.findings.effects[1]
    wide = replace(effect.difference, estimate=0.0, low=-0.1, high=0.1, p_holm=0.9)
    missed = replace(effect, difference=wide, power=Power(3, "seed", 0.12, 40))
    findings = replace(study.findings, effects=[missed])
    (mark,) = marks_of(replace(study, findings=findings), "effects")
    assert (mark["text"], mark["takes"]) == ("0.0 [−10.0, +10.0]", "40 seeds")


# Its numbers


def test_what_is_not_at_hand_is_told(study, tmp_path):
    gone = replace(study.evidence, data_folder=tmp_path / "moved")
    words = again(study, tmp_path / "report", evidence=gone)[0].words()
    assert "image not found" in words
    assert "the test images are not available" in words


def test_curves_are_mean_and_range_over_runs(study):
    by_key = {(line["network"], int(line["epoch"])): line for line in csv_lines(study, "curves")}
    assert len(by_key) == 9
    line = by_key["model_2", 1]  # of 50, 51 and 52 percent
    top1 = [float(line[f"{name}_percent"]) for name in ("top1", "top1_low", "top1_high")]
    assert top1 == [51, 50, 52]
    assert (line["runs"], float(line["train_loss"])) == ("3", 1.0)


def test_a_run_can_be_traced(study, page):
    line = csv_lines(study, "runs")[4]
    assert (line["network"], line["seed"], line["identity"]) == ("model_1", "1", "0123abcd" * 8)
    assert (line["best_epoch"], line["val_top1_percent"], line["versions"]) == ("2", "51.0", "torch 2.9.0")
    assert line["folder"] == "../runs/model_1-seed1-0123abcd"
    assert line["command"] == "python train.py --config ../runs/model_1-seed1-0123abcd/args.yaml"
    right = study.evidence.runs[4].predicted == study.evidence.targets
    assert float(line["test_top1_percent"]) == 100 * np.mean(right)
    assert line["command"] in page[0].words()
    assert page[1].count('<td class="words">torch 2.9.0</td>') == 9


def test_gains_of_classes_are_the_contrast_on_their_images(study):
    evidence = study.evidence
    right = {
        (run.seed, run.network): (run.predicted == evidence.targets).reshape(15, 4).mean(axis=0)
        for run in evidence.runs
    }
    found = [line for line in csv_lines(study, "classes") if line["contrast"] == "model_1-model_0"]
    gains = np.stack([right[seed, "model_1"] - right[seed, "model_0"] for seed in range(3)])
    assert {line["class_name"] for line in found} == set(evidence.classes)
    for line in found:
        mine = gains[:, evidence.classes.index(line["class_name"])]
        assert [float(line[name]) for name in ("gain_points", "low_points", "high_points")] == pytest.approx(
            [100 * mine.mean(), 100 * mine.min(), 100 * mine.max()]
        )
        assert line["images"] == "15"
    order = [float(line["gain_points"]) for line in found]
    assert order == sorted(order, reverse=True)


def test_confusions_are_counted_by_hand(study):
    evidence = study.evidence

    def count(network, true, other):
        runs = [run for run in evidence.runs if run.network == network]
        return np.mean([np.sum((run.predicted == other) & (evidence.targets == true)) for run in runs])

    found = [line for line in csv_lines(study, "confusions") if line["contrast"] == "model_1-model_0"]
    assert (found[0]["class_name"], found[0]["taken_for"]) == (evidence.classes[0], evidence.classes[1])
    for line in found:
        pair = [evidence.classes.index(line[name]) for name in ("class_name", "taken_for")]
        before, after = (float(line[name]) for name in ("images_without", "images_with"))
        assert (before, after) == pytest.approx((count("model_0", *pair), count("model_1", *pair)))
        assert float(line["images_change"]) == pytest.approx(after - before)
    assert float(found[0]["images_change"]) == -5


def test_runs_are_paired_by_both_of_their_seeds(study):
    evidence, effects = study.evidence, study.findings.effects
    runs = [replace(run, seed=0, pretraining_seed=run.seed) for run in evidence.runs]
    mixed = [replace(run, seed=7) if run.network == "model_2" else run for run in runs]
    assert class_gains(effects, replace(evidence, runs=runs)) == study.class_gains
    # the effect whose networks have no seeds in common is left out
    assert class_gains(effects, replace(evidence, runs=mixed)) == study.class_gains[:4]


def test_a_main_effect_weighs_its_networks_and_an_interaction_has_no_classes(study):
    evidence, effect = study.evidence, study.findings.effects[0]
    weights = {"model_0": -1.0, "model_1": 0.5, "model_2": 0.5}
    late = Contrast("late", "late", weights, "main effect")
    between = replace(late, name="between", kind="interaction")
    gains = class_gains([replace(effect, contrast=each) for each in (late, between)], evidence)
    assert {gain.contrast for gain in gains} == {"late"}
    first = evidence.targets == evidence.classes.index(gains[0].class_name)
    expected = [100 * weights[run.network] * np.mean(run.correct[first]) / 3 for run in evidence.runs]
    assert gains[0].gain_points == pytest.approx(sum(expected))


# Pictures


def test_confusions_that_go_are_shown_with_images_of_them(page):
    reader, _ = page
    assert "bird 0 <b> taken for bird 1 <b>: in a run, 5.0 test images without it, 0.0 with" in reader.words()
    shown = [image["alt"] for image in reader.all("img") if "jpeg" in image["src"]]
    assert shown[0].startswith("bird 0 <b>, taken for bird 1 <b>: bird 0 <b>/000")


def test_a_confusion_that_comes_is_shown_with_images_that_were_right_before(study):
    effect = study.findings.effects[0]
    turned = replace(
        effect,
        contrast=replace(effect.contrast, weights={"model_0": 1.0, "model_1": -1.0}),
        difference=replace(effect.difference, estimate=-effect.difference.estimate, p_holm=0.05),
    )
    change = confusion_pictures(replace(study, findings=replace(study.findings, effects=[turned])))[0]
    confusion, pictures = change.pairs[0]
    assert confusion.images_change == 5
    assert "confused in 100% of runs with it, right in" in pictures[0].caption
    assert pictures[0].caption.endswith("without it")
    assert change.heading.endswith(", not significant after Holm's correction")
    assert not change.significant, "it is folded away"
