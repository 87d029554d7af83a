"""The report of a study: comparisons, tables, wording and figure."""

from __future__ import annotations

import csv
import math
import os
import re
import sys
import xml.etree.ElementTree as ET
from dataclasses import replace

import numpy as np
import pytest

from convnext_ablation.errors import UserError
from convnext_ablation.study.answer import caveats, p_text, verdict
from convnext_ablation.study.effects import Difference, accuracy, holm, paired_difference
from convnext_ablation.study.report import (
    NetworkResult,
    StudyFacts,
    answer,
    rows,
    terminal_table,
    write_report,
    write_table_csv,
    write_table_markdown,
)

FACTS = StudyFacts(
    title="Five stages on typefaces",
    design="stages",
    data_name="typefaces",
    image_size=64,
    test_images=2000,
    classes=40,
    precision="float32",
    threads=2,
    epochs=10,
    machine="a laptop",
    versions={"python": "3.12.1", "torch": "2.9.0"},
    command="convnext-ablation study --design stages --seeds 3",
    warnings=["Stage V had a smaller learning rate."],
)
LABELS = ["Model I", "Model II", "Model III", "Model IV", "Model V"]
ADDS = [
    "ResNet-50",
    "stage ratio, patchify stem, depthwise, width",
    "inverted bottleneck",
    "depthwise moved up, kernel 7",
    "GELU, LayerNorm, fewer acts and norms, separate downsampling, layer scale (= ConvNeXt-T)",
]


def network(place, right_of_2000, runs=3, **changes):
    """A network that is right on the first images: about `right_of_2000`, one more or less by seed.

    All networks find the same images easy, so that differences of 20 images are far from chance.
    """
    right = right_of_2000 + np.array([0, -1, 1, 0, 2])[:runs, None]
    return NetworkResult(
        **{
            "name": f"network_{place}",
            "label": LABELS[place] if place < 5 else f"Step {place}",
            "adds": ADDS[place] if place < 5 else f"change {place}",
            "correct": np.arange(2000)[None] < right,
            "seeds": list(range(runs)),
            "learning_rate": 0.001 * (place + 1),
            "parameters": 25_557_032 + place,
            "gmacs": 0.3333333333333333,
            "train_images_per_second": [100.0, 300.0, 110.0, 120.0, 130.0][:runs],
            "seconds": [60.0, 61.0, 65.0, 60.0, 60.0][:runs],
            "val_top1": [0.7, 0.71, 0.72, 0.73, 0.74][:runs],
            **changes,
        }
    )


@pytest.fixture
def stages():
    return [network(place, right) for place, right in enumerate([1500, 1600, 1600, 1570, 1700])]


# Comparisons


def test_each_row_holds_what_effects_say_of_the_network_and_the_one_before(stages):
    table = rows(stages)
    differences = [paired_difference(stages[k].correct, stages[k - 1].correct) for k in range(1, 5)]
    adjusted = holm([d.p_value for d in differences])
    assert [row.top1 for row in table] == [accuracy(stage.correct) for stage in stages]
    assert table[0].difference is None
    for row, d, p_holm, before in zip(table[1:], differences, adjusted, LABELS[:4], strict=True):
        assert row.difference == replace(d, p_holm=p_holm)
        assert (row.baseline, row.follows, row.paired_seeds) == (before, True, 3)
    assert adjusted[2] > differences[2].p_value


def test_speed_is_the_median_and_time_the_mean_over_seeds(stages):
    row = rows(stages)[0]
    assert (row.images_per_second, row.seconds) == (110.0, 62.0)
    unknown = network(0, 1500, seconds=[math.nan] * 3, train_images_per_second=[math.nan, 5.0, math.nan])
    assert rows([unknown])[0].images_per_second == 5.0
    assert math.isnan(rows([unknown])[0].seconds)


def test_a_network_is_compared_with_the_baseline_it_names(stages):
    results = [*stages[:4], replace(stages[4], baseline="network_1")]
    row = rows(results)[4]
    assert row.difference.estimate == pytest.approx(100 / 2000)
    assert (row.baseline, row.follows) == ("Model II", False)
    assert "Model V (" + ADDS[4] + "; against Model II)" in answer(results, FACTS)
    assert "against" in terminal_table(rows(results), 130).splitlines()[0]
    assert "against" not in terminal_table(rows(stages), 130).splitlines()[0]


def test_a_first_network_may_have_its_baseline_below():
    table = rows([network(0, 1500, baseline="network_1"), network(1, 1600)])
    assert [row.difference.estimate for row in table] == pytest.approx([-0.05, 0.05])
    assert [row.follows for row in table] == [False, True]


def test_only_seeds_that_both_networks_have_are_paired():
    before = network(0, 1500)
    # Seed 2 comes first here, and seed 9 has no partner.
    correct = before.correct[[2, 0, 1]].copy()
    correct[2] = True
    after = network(1, 1500, correct=correct, seeds=[2, 0, 9])
    row = rows([before, after])[1]
    assert row.difference.estimate == 0
    assert row.paired_seeds == 2
    assert "WARNING: Model II and Model I share 2 of 3 seeds" in "\n".join(caveats([before, after], FACTS))


def test_a_study_without_results_is_refused():
    with pytest.raises(UserError, match="no run of this study is finished"):
        rows([])


def test_a_baseline_without_result_is_refused_with_the_nearest_name():
    with pytest.raises(UserError, match="unknown baseline 'network_00'; did you mean 'network_0'"):
        rows([network(0, 1500), network(1, 1500, baseline="network_00")])


def test_networks_without_a_common_seed_are_refused(stages):
    with pytest.raises(UserError, match="network_1 and network_0 have no seed in common"):
        rows([stages[0], replace(stages[1], seeds=[7, 8, 9])])


@pytest.mark.parametrize(
    "change", [{"seeds": [1, 2]}, {"seeds": [1, 1, 2]}, {"seconds": []}, {"val_top1": [1.0]}]
)
def test_a_result_has_one_of_everything_per_seed(change):
    with pytest.raises(ValueError, match=r"network_0: .* one per seed"):
        network(0, 1500, **change)


# Words


@pytest.mark.parametrize(
    ("p", "text"), [(0.0001, "<0.001"), (0.0123, "0.012"), (0.0996, "0.10"), (0.5, "0.50"), (1.0, "1.00")]
)
def test_p_values_are_written_without_false_precision(p, text):
    assert p_text(p) == text
    assert p_text(math.nan) == "–"


def test_verdict_goes_by_the_adjusted_p_value():
    up = Difference(0.01, 0.001, 0.02, p_value=0.02, p_holm=0.04)
    assert verdict(up) == "raised"
    assert verdict(replace(up, estimate=-0.01)) == "lowered"
    assert verdict(replace(up, p_holm=0.05)) == "unclear"
    assert verdict(replace(up, p_holm=math.nan)) == verdict(None) == "untested"


def test_answer_says_what_rose_what_fell_what_is_unclear_and_how_far_it_reaches(stages):
    low, high = (100 * x for x in (rows(stages)[1].difference.low, rows(stages)[1].difference.high))
    text = answer(stages, FACTS)
    assert text.startswith(
        "On typefaces (40 classes, 2000 test images, 64 px, 10 epochs, 3 seeds), top-1 rose by 5.0 points "
        f"(95 % interval {low:+.1f} to {high:+.1f}, adjusted p <0.001) "
        f"with Model II ({ADDS[1]}) and by 6.5 points"
    )
    assert re.search(
        r"; it fell by 1\.5 points \(95 % interval −2\.0 to −1\.0, adjusted p .*\) with Model IV \(", text
    )
    unclear = (
        "; Model III (inverted bottleneck) can't be told from no change (interval reaches from −0.1 to +0.1"
    )
    assert unclear in text
    assert text.endswith(
        "These figures hold at this width, data set and training budget and do not carry over to others, "
        "such as full-width networks pre-trained on ImageNet."
    )
    assert text == answer(stages, FACTS)


def test_answer_speaks_of_a_fall_alone(stages):
    text = answer([stages[1], network(4, 1500)], FACTS)
    assert "), top-1 fell by 5.0 points (95 % interval −" in text
    assert "rose" not in text


def test_answer_says_when_nothing_can_be_told_apart():
    same = [network(place, 1500) for place in range(3)]
    assert (
        f"none of the changes can be told from no change: Model II ({ADDS[1]}) and Model III ({ADDS[2]}) "
        "(intervals together reach from −0.1 to +0.1 points)" in answer(same, FACTS)
    )
    assert f"), Model II ({ADDS[1]}) can't be told from no change (interval" in answer(same[:2], FACTS)


def test_the_reach_of_unclear_changes_spans_all_their_intervals():
    results = [network(place, right) for place, right in enumerate([1500, 1503, 1500])]
    first, second = (row.difference for row in rows(results)[1:])
    reach = f"from {100 * second.low:+.1f} to {100 * first.high:+.1f} points".replace("-", "−")
    assert second.low < first.low
    assert f"(intervals together reach {reach})" in answer(results, FACTS)


def test_one_seed_supports_no_claim_and_is_warned_of():
    results = [network(0, 1500, runs=1), network(1, 1900, runs=1)]
    text = answer(results, FACTS)
    assert "1 seed), nothing can be claimed from one seed per network" in text
    assert "75.0 to 95.0 % top-1" in text
    assert "rose" not in text
    assert "WARNING: one seed only for Model I and Model II" in "\n".join(caveats(results, FACTS))


def test_a_network_with_one_seed_among_others_is_not_judged(stages):
    results = [*stages[:2], network(2, 1900, runs=1)]
    text = answer(results, FACTS)
    assert "1 to 3 seeds), top-1 rose by 5.0 points" in text
    assert "; Model III (inverted bottleneck) can't be judged from one shared seed." in text
    assert "with Model III" not in text


def test_a_network_at_chance_is_named():
    results = [network(0, 50), network(1, 55), network(2, 1600)]
    text = answer(results, FACTS)
    assert text.endswith(
        "Model I and Model II are not above chance (2.5 %), so what is compared with them says nothing about "
        "the change."
    )
    assert "Model I is not above chance (2.5 %), so what is compared with it says" in answer(
        [results[0], results[2]], FACTS
    )
    assert any(line.startswith("WARNING: Model I and Model II are not") for line in caveats(results, FACTS))


def test_one_network_is_reported_without_a_comparison(stages):
    text = answer(stages[:1], FACTS)
    assert "Model I reaches 75.0 % top-1 (95 % interval 73." in text
    assert "no other network to compare it with" in text


def test_pretrained_networks_are_not_told_from_pretrained_ones(stages):
    assert "ImageNet" not in answer(stages, replace(FACTS, pretrained=True))


def test_a_change_without_description_goes_by_its_network():
    assert "with Model II." in answer([network(0, 1500), network(1, 1600, adds="")], FACTS)


# Tables


def test_csv_reads_back_as_the_rows_with_timings_last(stages, tmp_path):
    write_table_csv(tmp_path / "table.csv", rows(stages))
    with open(tmp_path / "table.csv", newline="", encoding="utf-8") as file:
        lines = list(csv.DictReader(file))
    assert list(lines[0])[-2:] == ["images_per_second", "seconds"]
    for line, row in zip(lines, rows(stages), strict=True):
        expected = {
            "network": row.name,
            "label": row.label,
            "adds": row.adds,
            "seeds": "3",
            "top1": repr(row.top1.estimate),
            "top1_low": repr(row.top1.low),
            "top1_high": repr(row.top1.high),
            "baseline": row.baseline,
            "paired_seeds": str(row.paired_seeds),
            **dict.fromkeys(["difference", "difference_low", "difference_high", "p_value", "p_holm"], ""),
            "learning_rate": repr(row.learning_rate),
            "parameters": str(row.parameters),
            "gmacs": "0.3333333333333333",
            "images_per_second": "110.0",
            "seconds": "62.0",
        }
        if row.difference is not None:
            d = row.difference
            expected |= {"difference": repr(d.estimate), "difference_low": repr(d.low)}
            expected |= {
                "difference_high": repr(d.high),
                "p_value": repr(d.p_value),
                "p_holm": repr(d.p_holm),
            }
        assert line == expected


def test_timings_change_nothing_but_the_last_two_columns(stages, tmp_path):
    slower = [replace(stage, seconds=[900.0] * 3, train_images_per_second=[7.0] * 3) for stage in stages]
    for name, results in (("one.csv", stages), ("other.csv", slower)):
        write_table_csv(tmp_path / name, rows(results))
    one, other = (
        [line.rsplit(",", 2) for line in (tmp_path / name).read_text(encoding="utf-8").splitlines()]
        for name in ("one.csv", "other.csv")
    )
    assert [line[0] for line in one] == [line[0] for line in other]
    assert one[1][1:] == ["110.0", "62.0"]
    assert other[1][1:] == ["7.0", "900.0"]


def test_markdown_holds_table_facts_answer_and_caveats(stages, tmp_path):
    write_table_markdown(tmp_path / "table.md", stages, FACTS)
    text = (tmp_path / "table.md").read_text(encoding="utf-8")
    d, top1 = rows(stages)[3].difference, rows(stages)[3].top1
    assert text.startswith("# Five stages on typefaces\n\n" + answer(stages, FACTS))
    assert (
        f"| Model IV | {ADDS[3]} | 3 | 78.50 [{100 * top1.low:.2f}, {100 * top1.high:.2f}] "
        f"| -1.50 [{100 * d.low:+.2f}, {100 * d.high:+.2f}] | {p_text(d.p_holm)} "
        "| 0.004 | 25.56 | 0.333 | 110 | 62 s |"
    ) in text
    assert "| Model I | ResNet-50 | 3 |" in text
    for fact in (
        "typefaces, 40 classes, 2000 test images, 64 x 64 px",
        "10 epochs from scratch, float32, seeds 0, 1, 2",
        "a laptop, 2 threads",
        "python 3.12.1, torch 2.9.0",
        FACTS.command,
        "- Stage V had a smaller learning rate.",
        "adjusted (Holm) for 4 comparisons",
        "the network in the row above",
    ):
        assert fact in text
    tables = [line for line in text.splitlines() if line.startswith("|")]
    assert {line.count("|") for line in tables} == {12}


def test_markdown_escapes_what_would_end_a_cell(tmp_path):
    write_table_markdown(tmp_path / "table.md", [network(0, 1500, adds="a|b")], FACTS)
    assert "| a\\|b |" in (tmp_path / "table.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("width", [80, 100, 110, 120, 160])
def test_terminal_table_fits_and_keeps_what_matters(stages, width):
    lines = terminal_table(rows(stages), width).splitlines()
    assert max(map(len, lines)) <= width
    assert all(heading in lines[0] for heading in ("network", "adds", "top-1 %", "change", "p (Holm)"))
    assert ("lr" in lines[0]) == (width >= 120)
    # What a network adds is wrapped, never cut.
    start = lines[0].index("adds")
    stop = lines[1].index("  ", start) if width < 160 else lines[1].index(" ", start)
    words = " ".join(line[start:stop].strip() for line in lines[2:])
    assert " ".join(words.split()) == " ".join(ADDS)
    model_ii = next(line for line in lines if line.startswith("Model II "))
    assert "80.0 [" in model_ii
    assert "+5.0 [" in model_ii
    assert "<0.001" in model_ii


def test_terminal_table_stands_figures_right_and_words_left():
    table = rows([network(0, 1500, seconds=[7200.0] * 3), network(1, 1600, seconds=[600.0] * 3)])
    lines = terminal_table(table, 140).splitlines()
    assert lines[2].endswith("110   2.0 h")
    assert lines[3].endswith("110  10 min")
    assert lines[2].startswith("Model I   ResNet-50")


def test_unmeasured_values_are_dashes_for_people_and_empty_in_csv(tmp_path):
    results = [network(0, 1500, seconds=[math.nan] * 3)]
    assert terminal_table(rows(results), 140).splitlines()[-1].endswith("110     –")
    write_table_csv(tmp_path / "table.csv", rows(results))
    assert (tmp_path / "table.csv").read_text(encoding="utf-8").endswith(",110.0,\n")


def test_slow_runs_keep_three_digits():
    results = [network(0, 1500, train_images_per_second=[1.234] * 3)]
    assert "1.23  62 s" in terminal_table(rows(results), 140)


# Files and figure


def test_report_writes_every_file_and_nothing_else(stages, tmp_path):
    folder = tmp_path / "new" / "report"
    paths = write_report(folder, stages, FACTS)
    names = {"table.csv", "seeds.csv", "table.md", "answer.txt", "roadmap.svg", "roadmap.png"}
    assert {path.name for path in paths} == names == {path.name for path in folder.iterdir()}
    assert (folder / "answer.txt").read_text(encoding="utf-8") == answer(stages, FACTS) + "\n"
    lines = (folder / "seeds.csv").read_text(encoding="utf-8").splitlines()
    assert lines[0] == "network,seed,val_top1,test_top1,images_per_second,seconds"
    assert lines[5] == "network_1,1,0.71,0.7995,300.0,61.0"
    assert len(lines) == 1 + 5 * 3


def test_the_same_results_give_the_same_bytes_whatever_the_settings(stages, tmp_path, monkeypatch):
    import matplotlib

    write_report(tmp_path / "one", stages, FACTS)
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)  # it can't be imported, and isn't needed
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1")
    with matplotlib.rc_context({"font.size": 20, "svg.hashsalt": None, "axes.edgecolor": "red"}):
        write_report(tmp_path / "other", stages, FACTS)
        assert matplotlib.rcParams["font.size"] == 20
    for path in (tmp_path / "one").iterdir():
        assert path.read_bytes() == (tmp_path / "other" / path.name).read_bytes(), path.name


def svg_texts(path):
    return ["".join(text.itertext()) for text in ET.parse(path).iter("{http://www.w3.org/2000/svg}text")]


def test_figure_says_in_words_what_it_shows(stages, tmp_path):
    write_report(tmp_path, stages, FACTS)
    texts = svg_texts(tmp_path / "roadmap.svg")
    d = rows(stages)[3].difference
    change = f"-1.5 [{100 * d.low:+.1f}, {100 * d.high:+.1f}]".replace("-", "−")
    for text in (*LABELS, "78.5", change, p_text(d.p_holm), "25.56", "0.333", "inverted bottleneck"):
        assert text in texts
    axis = next(text for text in texts if text.startswith("top-1 on 2000 test images, %"))
    start = re.search(r"the axis starts at (\d+) %, not at 0", axis)
    assert start
    assert 50 < int(start.group(1)) < 75
    for meaning in (
        "higher than its baseline (",
        "lower than its baseline (",
        "can't be told",
        "without p-value",
    ):
        assert any(text.startswith(meaning) for text in texts)
    assert "url(#h" in (tmp_path / "roadmap.svg").read_text(encoding="utf-8"), "what harms is hatched"


def test_figure_starts_at_zero_where_differences_are_visible_from_there(tmp_path):
    write_report(tmp_path, [network(0, 100), network(1, 1600)], FACTS)
    assert "top-1 on 2000 test images, %" in svg_texts(tmp_path / "roadmap.svg")


def test_figure_of_one_seed_says_that_whiskers_leave_seeds_out(tmp_path):
    write_report(tmp_path, [network(0, 1500, runs=1), network(1, 1600, runs=1)], FACTS)
    assert any("test images only (one seed)" in text for text in svg_texts(tmp_path / "roadmap.svg"))


@pytest.mark.parametrize("networks", [1, 5, 16])
def test_figure_has_room_for_every_network_and_no_text_is_cut_off(networks, tmp_path):
    results = [
        network(place, 1500 + 20 * place, baseline="network_0" if place == 7 else "")
        for place in range(networks)
    ]
    write_report(tmp_path, results, FACTS)
    header = (tmp_path / "roadmap.png").read_bytes()[:24]
    width, height = (int.from_bytes(header[start : start + 4], "big") for start in (16, 20))
    assert header[:8] == b"\x89PNG\r\n\x1a\n"
    assert width == 1687
    assert height == pytest.approx(150 * (2.1 + 0.56 * networks), abs=1)
    assert margin(tmp_path / "roadmap.png") == 255


def margin(path):
    """The darkest value on the edge of a picture, 255 where all is white."""
    from matplotlib.image import imread

    pixels = imread(path)[..., :3]
    edges = [pixels[:6], pixels[-6:], pixels[:, :6], pixels[:, -6:]]
    return round(255 * min(float(edge.min()) for edge in edges))


def test_a_failed_write_leaves_the_former_report_as_it_was(stages, tmp_path, monkeypatch):
    write_report(tmp_path, stages, FACTS)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        write_report(tmp_path, stages[:2], FACTS)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
