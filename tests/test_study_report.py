"""The report of a study: comparisons, tables, wording and figure."""

import csv
import itertools
import re
from dataclasses import astuple, replace
from pathlib import Path

import fake_study
import numpy as np
import pytest
from fake_study import svg_texts
from sklearn.metrics import balanced_accuracy_score

from convnext_ablation.errors import UserError
from convnext_ablation.study.designs.design import Contrast, design_of
from convnext_ablation.study.report.answer import answer, caveats, p_text, points_text, sentence
from convnext_ablation.study.report.charts import write_charts
from convnext_ablation.study.report.contents import Contents
from convnext_ablation.study.report.evidence import Evidence, FinishedRun, NetworkResult
from convnext_ablation.study.report.findings import compare
from convnext_ablation.study.report.table_files import terminal, write_tables
from convnext_ablation.study.report.whole import report_of
from convnext_ablation.study.stats.effects import accuracy, contrast, holm, paired_difference
from convnext_ablation.study.stats.power import on_one_set
from convnext_ablation.study.stats.variance import measured_scatter

FACTS = replace(fake_study.FACTS, test_images=2000, classes=40)
LABELS, ADDS = zip(*((point.label, point.adds) for point in design_of("stages", "atto").points), strict=True)
SPEEDS, SECONDS = (100.0, 300.0, 110.0, 120.0), (60.0, 61.0, 65.0, 60.0)


def network(place, right_of_2000=0, runs=3, seeds=None, correct=None):
    """A network that is right on the first images: about `right_of_2000`, one more or less by seed.

    All networks find the same images easy, so that differences of 20 images are far from chance. `seeds` are
    of pre-training and training of each run; `correct` says which images are right instead of the first.
    """
    name, finished = f"network_{place}", []
    if correct is None:
        correct = np.arange(2000)[None] < right_of_2000 + np.array([0, -1, 1, 0])[:runs, None]
    for run, right in enumerate(correct):
        result = {
            "learning_rate": 0.001 * (place + 1),
            "parameters": 25_557_032 + place,
            "gmacs": 0.3333333333333333,
            "train_images_per_second": SPEEDS[run],
            "train_seconds": SECONDS[run],
            "val_top1_percent": 70.0 + run,
        }
        start, seed = seeds[run] if seeds else (None, run)
        finished.append(
            FinishedRun(name, seed, Path(name), right.astype(int), np.ones(2000, int), result, start)
        )
    return NetworkResult(name, LABELS[place], ADDS[place], finished)


def correct_of(network):
    """Which images the network has right, (runs, images)."""
    return np.stack([run.correct for run in network.runs])


def versus(treated, baseline):
    """The contrast of two networks."""
    return Contrast(
        name=f"{treated.name}-{baseline.name}",
        label=f"{treated.label} ({treated.adds})",
        weights={treated.name: 1.0, baseline.name: -1.0},
        kind="difference",
        baseline=baseline.name,
    )


def findings_of(results, contrasts=None):
    """The findings of networks, each compared with the one before if nothing else is said."""
    successive = [versus(after, before) for before, after in itertools.pairwise(results)]
    return compare(results, successive if contrasts is None else contrasts, FACTS.classes)


def report_on(findings, folder=Path("report")):
    """A report whose runs are not at hand."""
    runs = [run for row in findings.rows for run in row.network.runs]
    evidence = Evidence(runs, np.array(["class/image.png"] * 2000), ["wrong", "right"], folder)
    return report_of(Contents(folder, findings, FACTS, evidence))


def written(folder, findings):
    """Writes its tables and figures."""
    write_tables(report_on(findings, folder))
    write_charts(report_on(findings, folder))


def markdown(folder):
    """The text of ``table.md``, its cells without the spaces that fill them."""
    return re.sub(" +", " ", (folder / "table.md").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def stages():
    return [network(place, right) for place, right in enumerate([1500, 1600, 1600, 1570, 1700])]


@pytest.fixture(scope="module")
def report(stages, tmp_path_factory):
    """The folder of the stages' report."""
    folder = tmp_path_factory.mktemp("new") / "report"
    written(folder, findings_of(stages))
    return folder


# Comparisons


def test_a_weighted_contrast_of_two_networks_makes_neither_the_others_baseline(stages):
    one, two = stages[:2]
    half = Contrast("half", "half of it", {two.name: 0.5, one.name: -0.5}, "difference", primary=False)
    rows = findings_of([one, two], [versus(two, one), half]).rows
    assert [row.baseline for row in rows] == ["", one.label]


def test_each_row_holds_what_effects_say_of_the_network_and_the_one_before(stages):
    table = findings_of(stages).rows
    differences = [paired_difference(correct_of(stages[k]), correct_of(stages[k - 1])) for k in range(1, 5)]
    adjusted = holm([d.p_value for d in differences])
    assert [row.top1 for row in table] == [accuracy(correct_of(stage)) for stage in stages]
    assert table[0].difference is None
    for row, d, p_holm, before in zip(table[1:], differences, adjusted, LABELS[:4], strict=True):
        assert row.difference == replace(d, p_holm=p_holm)
        assert (row.baseline, row.follows) == (before, True)
    assert adjusted[2] > differences[2].p_value


def test_what_a_whole_loses_without_a_part_shows_in_the_rows_of_the_networks_without(stages):
    whole, *parts = stages[::-1]
    findings = findings_of([whole, *parts], [versus(whole, part) for part in parts])
    assert findings.rows[0].difference is None
    for row, effect in zip(findings.rows[1:], findings.effects, strict=True):
        assert row.baseline == whole.label
        assert effect.difference.estimate > 0
        assert row.difference.estimate == -effect.difference.estimate
        assert (row.difference.low, row.difference.high) == (-effect.difference.high, -effect.difference.low)
        assert row.difference.p_holm == effect.difference.p_holm


def test_a_contrast_of_many_networks_is_what_effects_say_and_has_a_table_of_its_own(stages, tmp_path):
    weights = dict(zip((stage.name for stage in stages), [-0.5, 0.5, -0.5, 0.5, 0.0], strict=True))
    main = Contrast(name="wide", label="width 96", weights=weights, kind="main effect")
    second = replace(main, name="wide:gelu", kind="interaction", primary=False)
    findings = findings_of(stages, [main, second])
    wanted = contrast([correct_of(stage) for stage in stages], list(weights.values()))
    assert findings.effects[0].difference == replace(wanted, p_holm=wanted.p_value)
    assert findings.primary == findings.effects[:1]
    assert all(row.difference is None for row in findings.rows)
    assert "width 96" in answer(findings, FACTS)
    written(tmp_path, findings)
    text = markdown(tmp_path)
    assert "| width 96 | main effect | 3 | " in text
    assert "| width 96 | interaction | 3 | " in text
    assert max(map(len, terminal(report_on(findings), 80).splitlines())) <= 80


def test_contrasts_whose_networks_have_no_runs_are_named_and_left_out(stages):
    wanted = [versus(stages[1], stages[0]), versus(stages[4], stages[3])]
    findings = findings_of(stages[:3], wanted)
    assert [effect.contrast for effect in findings.effects] == wanted[:1]
    assert findings.missing == wanted[1:]
    assert f"as runs are missing: Model V ({ADDS[4]})" in "\n".join(caveats(findings, FACTS))


def test_only_seeds_that_both_networks_have_are_paired():
    before = network(0, 1500)
    correct = correct_of(before)[[2, 0, 1]]
    correct[2] = True
    after = network(1, correct=correct, seeds=[(None, 2), (None, 0), (None, 9)])
    findings = findings_of([before, after])
    assert (findings.effects[0].difference.estimate, findings.effects[0].runs) == (0, 2)
    assert f"Model II ({ADDS[1]}): its networks share 2 of 3 runs" in "\n".join(caveats(findings, FACTS))


def test_what_can_not_be_compared_is_refused(stages):
    with pytest.raises(UserError, match="no run of this study is finished"):
        findings_of([])
    with pytest.raises(UserError, match="network_1 and network_0 have no seed in common"):
        findings_of([stages[0], network(1, 1600, seeds=[(None, seed) for seed in (7, 8, 9)])])


# Words


def test_answer_says_what_rose_what_fell_what_is_not_significant_and_how_far_it_reaches(stages):
    assert answer(findings_of(stages), FACTS) == (
        f"Model II ({ADDS[1]}) adds 5.0 points [+4.1, +5.9], p <0.001. "
        f"Model V ({ADDS[4]}) adds 6.5 points [+5.4, +7.6], p <0.001. "
        f"Model IV ({ADDS[3]}) costs 1.5 points [−2.0, −1.0], p <0.001. "
        "Model III (inverted bottleneck): smaller than 1 point, 0.0 [−0.1, +0.1]. "
        "Effects are in points of top-1; brackets are 95 % intervals; p is adjusted by Holm's method. "
        "Measured on shades: 40 classes, 2000 test images, 32 px, 3 epochs, 3 seeds. "
        "These figures hold at this width, data set and training budget and do not carry over to others, "
        "such as full-width networks pre-trained on ImageNet."
    )


def test_the_first_sentence_is_the_answer(stages):
    findings = findings_of(stages)
    assert sentence(findings, FACTS) == (
        "Model V has the largest effect, +6.5 points [+5.4, +7.6]; 3 of 4 effects are significant."
    )
    alike = findings_of([network(0, 1500), network(1, 1502), network(2, 1500)])
    d = alike.effects[0].difference
    assert sentence(alike, FACTS) == (
        f"No effect is significant; the largest is Model II ({ADDS[1]}), {points_text(d)} points."
    )
    once = findings_of([network(0, 1500, runs=1), network(1, 1900, runs=1)])
    assert sentence(once, FACTS).startswith(
        "Nothing can be claimed from one seed per network, which reach 75.0 to"
    )
    guessing = findings_of([network(0, 50), network(1, 55)])
    assert sentence(guessing, FACTS).startswith("No effect can be tested: ")


def test_no_sentence_of_an_answer_has_more_than_25_words(stages):
    labels = [each.label for each in design_of("stages", "atto").contrasts]
    pairs = [versus(*pair[::-1]) for pair in itertools.pairwise(stages)]
    pairs = [replace(pair, label=label) for pair, label in zip(pairs, labels, strict=True)]
    noisy = random_networks([0.60, 0.62, 0.63, 0.64, 0.66])
    for results in (stages, noisy):
        findings = findings_of(results, pairs)
        for said in [sentence(findings, FACTS), *re.split(r"\.\s", answer(findings, FACTS))]:
            assert len(said.split()) <= 25, said


@pytest.mark.parametrize(
    ("results", "said", "warned"),
    [
        ([network(0, 1500, runs=1), network(1, 1900, runs=1)], "Nothing can be claimed", "one seed"),
        (
            [network(0, 1500), network(1, 1600), network(2, 1900, runs=1)],
            " Model III (inverted bottleneck): not tested, for want of a second shared seed.",
            "one seed only for Model III",
        ),
        ([network(0, 50), network(1, 55), network(2, 1600)], "are not above chance (2.5 %)", "Model I and"),
        (
            [network(0, 1500), network(1, 1502), network(2, 1500)],
            f"No effect is significant. Model II ({ADDS[1]}): smaller than 1 point, ",
            "",
        ),
    ],
)
def test_answer_says_what_can_not_be_claimed(results, said, warned):
    findings = findings_of(results)
    assert said in answer(findings, FACTS)
    assert not warned or f"WARNING: {warned}" in "\n".join(caveats(findings, FACTS))


def test_no_claim_is_made_of_an_effect_that_a_network_at_chance_takes_part_in(stages, tmp_path):
    guessing = network(0, 51)  # of 2000 in 40 classes
    results = [guessing, *stages[1:]]
    findings = findings_of(results)
    first, *others = findings.effects
    assert first.difference.estimate == (1600 - 51) / 2000
    assert np.isnan([first.difference.p_value, first.difference.p_holm, first.difference.p_better]).all()
    assert first.at_chance == ("Model I",)
    # the others' p-values are adjusted over three tests, as if it weren't there
    assert others == findings_of(stages[1:]).effects
    said = answer(findings, FACTS)
    assert f"Model II ({ADDS[1]}): not tested, as Model I is not above chance (2.5 %)." in said
    assert said.count("above chance") == 1
    assert "adjusted (Holm) for 3 comparisons" in "\n".join(caveats(findings, FACTS))
    written(tmp_path, findings)
    with open(tmp_path / "effects.csv", newline="", encoding="utf-8") as file:
        lines = list(csv.DictReader(file))
    assert [lines[0][name] for name in ("p_value", "p_holm", "p_better")] == ["", "", ""]
    assert float(lines[1]["p_value"]) == others[0].difference.p_value
    assert re.search(r"\| Model II \|.*\] \| – \|", markdown(tmp_path))


def test_a_network_at_chance_without_weight_in_a_contrast_keeps_no_p_value_from_it(stages):
    weights = {stages[0].name: 0.0, stages[1].name: -1.0, stages[2].name: 1.0}
    half = Contrast("half", "half", weights, "difference")
    ours = findings_of([network(0, 51), *stages[1:3]], [half]).effects[0]
    assert ours.at_chance == ()
    assert ours.difference.p_value == paired_difference(*map(correct_of, stages[2:0:-1])).p_value


def random_networks(shares, seeds=3, drift=0.01, rng_seed=3):
    """Networks whose runs differ at random, by `drift` in accuracy and in which images are right."""
    rng = np.random.default_rng(rng_seed)
    ease = rng.random(2000)
    noise = rng.normal(0, 0.03, (len(shares), seeds, 2000)) + rng.normal(0, drift, (len(shares), seeds, 1))
    return [network(k, correct=ease + noise[k] < share) for k, share in enumerate(shares)]


@pytest.mark.parametrize("share", [0.55, 0.6, 0.64])
def test_what_is_not_significant_is_judged_by_a_stated_size_whatever_the_estimate_is(share):
    results = random_networks([0.6, share, 0.99], drift=0.02, rng_seed=7)
    contrasts = [versus(results[1], results[0]), versus(results[2], results[1])]
    scatter = measured_scatter([correct_of(each) for each in results], "")
    # the other effect is significant, so that Holm's method asks no more of this one than 0.05
    asked = on_one_set(scatter, 2000, [1, -1], 0.05)
    smallest, needed = asked.detectable(3), asked.seeds_needed(0.05)
    findings = compare(results, contrasts, 40, 0.05)
    effect, d = findings.effects[0], findings.effects[0].difference
    assert (effect.power.detectable, effect.power.seeds_needed) == (smallest, needed)
    assert effect.finding == f"could not have been detected: {needed} seeds needed for 5 points"
    said, points = answer(findings, FACTS), points_text(d)
    assert (
        f"Model II ({ADDS[1]}): could not have been detected, {points}. With 3 seeds, 80 of 100 such" in said
    )
    assert f" find effects above {100 * smallest:.1f} points. 5 points takes {needed} seeds." in said
    sharper = replace(effect, power=replace(effect.power, detectable=0.049))
    assert sharper.finding == "not significant"
    size = 1.001 * max(abs(d.low), abs(d.high))
    assert size < smallest
    findings = compare(results, contrasts, 40, size)
    assert findings.effects[0].finding == f"smaller than {100 * size:g} points"
    assert f"): smaller than {100 * size:g} points, {points}." in answer(findings, FACTS)


def test_each_of_several_effects_that_could_not_be_detected_has_its_own_number_of_seeds():
    results = random_networks([0.7, 0.705, 0.71, 0.9])
    pairs = [versus(*results[1::-1]), versus(*results[2:0:-1])]
    half = Contrast("half", "half of it", {key: w / 2 for key, w in pairs[0].weights.items()}, "difference")
    findings = compare(results, [*pairs, half], 40, 0.002)
    takes = [effect.power.takes for effect in findings.effects]
    assert takes[:2] == ["more test images"] * 2
    assert re.fullmatch(r"\d+ seeds", takes[2])
    names = f"Model II ({ADDS[1]}) and Model III ({ADDS[2]})"
    said = f"0.2 points takes more test images for {names}. 0.2 points takes {takes[2]} for half of it."
    assert said in answer(findings, FACTS)


def test_what_is_detectable_is_not_said_where_the_networks_share_no_runs_or_never_err():
    others = [(None, 7), (None, 8), (None, 9)]
    apart = [*map(network, (0, 1), (1500, 1501)), *(network(k, 1500 + k, seeds=others) for k in (2, 3))]
    asked = [versus(*apart[:2]), versus(*apart[2:])]
    assert findings_of(apart, asked).effects[0].power is None
    # but a network that no effect is about may have any seeds
    alone = findings_of(apart[:2], asked[:1]).effects
    assert findings_of(apart[:3], asked[:1]).effects == alone
    assert alone[0].power is not None
    perfect = [network(place, correct=np.ones((3, 2000), bool)) for place in (0, 1)]
    assert findings_of(perfect).effects[0].power is None


# Tables


def percent(interval):
    """An estimate and the ends of its interval, in percent."""
    return [100 * fraction for fraction in (interval.estimate, interval.low, interval.high)]


def test_csv_reads_back_as_the_rows_with_timings_last(stages, report):
    with open(report / "networks.csv", newline="", encoding="utf-8") as file:
        lines = list(csv.DictReader(file))
    for line, row in zip(lines, findings_of(stages).rows, strict=True):
        number, network, d = row.number, row.network, row.difference
        # the median speed, and the mean time
        *told, speed, seconds = line.values()
        assert (speed, seconds) == ("110.0", "62.0")
        compared = [*percent(d), d.p_value, d.p_holm] if d else [""] * 5
        given = [number, network.name, row.label, network.adds, 3, *percent(row.top1)]
        given += [row.baseline, *compared, 0.001 * number, 25_557_031 + number, 1 / 3]
        assert told == [str(float(f"{value:.15g}") if isinstance(value, float) else value) for value in given]
    assert list(lines[0])[-2:] == ["images_per_second", "seconds"]


def test_markdown_holds_table_facts_answer_and_caveats(stages, report):
    text, row = markdown(report), findings_of(stages).rows[3]
    d, top1 = row.difference, row.top1
    assert FACTS.title == "Planted effects <on> shades"
    assert text.startswith("# Planted effects \\<on> shades\n\n" + answer(findings_of(stages), FACTS))
    assert (
        f"| Model IV | {ADDS[3]} | 3 | 78.50 [{100 * top1.low:.2f}, {100 * top1.high:.2f}] "
        f"| -1.50 [{100 * d.low:+.2f}, {100 * d.high:+.2f}] | {p_text(d.p_holm)} "
        "| 0.004 | 25.56 | 0.333 | 110 | 62 s |"
    ) in text
    for fact in ("3 epochs from scratch, float32, seeds 0, 1, 2", FACTS.command, *FACTS.warnings):
        assert fact in text
    texts = svg_texts(report / "roadmap.svg")
    interval = f"78.5 [{100 * top1.low:.1f}, {100 * top1.high:.1f}]"
    assert {*LABELS, interval, "25.56", "0.333"} <= set(texts)


@pytest.mark.parametrize("width", [80, 120])
def test_terminal_table_fits_and_keeps_what_matters(stages, width):
    lines = terminal(report_on(findings_of(stages)), width).splitlines()
    assert max(map(len, lines)) <= width
    assert all(heading in lines[0] for heading in ("network", "adds", "top-1 %", "change", "p (Holm)"))
    assert ("GMACs" in lines[0]) == (width >= 120)
    # What a network adds is wrapped, never cut.
    start, stop = lines[0].index("adds"), lines[0].index("runs")
    assert " ".join(" ".join(line[start:stop] for line in lines[2:]).split()) == " ".join(ADDS)
    assert re.search(r"^Model II .* 80\.0 \[.* \+5\.0 \[.* <0\.001", "\n".join(lines), re.MULTILINE)


def test_effects_on_balanced_accuracy_are_given_where_classes_differ_in_size(tmp_path):
    contents = fake_study.fake_study(tmp_path)
    networks = [row.network for row in contents.findings.rows]
    contrasts = [effect.contrast for effect in contents.findings.effects]
    alike = compare([network.balanced() for network in networks], contrasts, FACTS.classes).effects
    for top1, balanced in zip(contents.findings.effects, alike, strict=True):
        assert astuple(balanced.difference) == pytest.approx(astuple(top1.difference), abs=1e-9)

    kept = (
        np.arange(60) % np.where(np.arange(60) < 20, 1, 2) == 0
    )  # all of the first images, half of the rest
    runs = [run.on(kept) for run in contents.evidence.runs]
    evidence = replace(contents.evidence, runs=runs, ids=contents.evidence.ids[kept])
    findings = compare([network.on(kept) for network in networks], contrasts, FACTS.classes)
    uneven = replace(contents, findings=findings, evidence=evidence)
    write_tables(report_of(uneven))
    accuracies = {
        (run.network, run.seed): 100 * balanced_accuracy_score(run.targets, run.predicted) for run in runs
    }
    for line in fake_study.csv_lines(uneven, "runs"):
        expected = accuracies[line["network"], int(line["seed"])]
        assert float(line["test_balanced_accuracy_percent"]) == pytest.approx(expected)
    lines = fake_study.csv_lines(uneven, "effects_balanced")
    assert [line["contrast"] for line in lines] == [each.name for each in contrasts]
    for line, each, top1 in zip(lines, contrasts, findings.effects, strict=True):
        by_seed = [sum(w * accuracies[key, seed] for key, w in each.weights.items()) for seed in range(3)]
        assert float(line["estimate_points"]) == pytest.approx(np.mean(by_seed))
        assert float(line["estimate_points"]) != pytest.approx(100 * top1.difference.estimate)
        assert float(line["low_points"]) < np.mean(by_seed) < float(line["high_points"])
    assert "## Effects on balanced accuracy" in markdown(uneven.folder)
    write_tables(report_of(contents))  # into the same folder
    assert not (contents.folder / "effects_balanced.csv").exists()
    assert "All classes have as many test images, so balanced (macro)" in markdown(contents.folder)


# Files and figure


def test_report_writes_every_file_and_nothing_else(stages, report):
    tables = ("seeds", "networks", "effects", "curves", "classes", "confusions", "runs")
    names = {"table.md", "networks.tex", "effects.tex", "answer.txt", *(f"{name}.csv" for name in tables)}
    names |= {f"{name}.{kind}" for name in ("roadmap", "effects", "classes") for kind in ("svg", "pdf")}
    assert names == {path.name for path in report.iterdir()}
    assert (report / "answer.txt").read_text(encoding="utf-8") == answer(findings_of(stages), FACTS) + "\n"
    lines = (report / "seeds.csv").read_text(encoding="utf-8").splitlines()
    top1 = "val_top1_percent,test_top1_percent"
    assert lines[0] == f"network,pretraining_seed,seed,{top1},images_per_second,seconds"
    assert lines[5] == "network_1,,1,71.0,79.95,300.0,61.0"
    assert len(lines) == 1 + 5 * 3


@pytest.mark.parametrize(
    "folder", ["fashion_mnist", "mini/*", *(f"{data}_6000/*" for data in ("fashion_mnist", "typefaces"))]
)
def test_committed_reports_have_the_columns_and_units_of_todays(folder, report, request):
    paths = list((request.config.rootpath / "results").glob(f"{folder}/networks.csv"))
    assert paths
    for path in paths:
        for name in ("networks", "effects", "seeds", "curves", "classes", "confusions", "runs"):
            lines = (path.parent / f"{name}.csv").read_text(encoding="utf-8").splitlines()
            assert lines[0] == (report / f"{name}.csv").read_text(encoding="utf-8").splitlines()[0]
        with open(path, newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        table = (path.parent / "table.md").read_text(encoding="utf-8")
        for row in rows:
            low, top1, high = (float(row[f"top1{end}_percent"]) for end in ("_low", "", "_high"))
            assert f"{top1:.2f} [{low:.2f}, {high:.2f}]" in table
