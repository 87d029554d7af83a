"""The report of a whole experiment: its files against values computed here from the same predictions."""

import csv
import json
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import latex
import numpy as np
import page_reader
import pytest
from conftest import ONE_THREAD
from fake_experiment import (
    CLASSES,
    IMAGES,
    MODELS,
    STAGES,
    experiment_of,
    finished,
    right_of,
    simulated_tables,
)
from fake_study import svg_texts

from convnext_ablation.cli import main as cli
from convnext_ablation.data.folder import KNOWN_FAULTS
from convnext_ablation.study.designs.design import design_of
from convnext_ablation.study.report.answer import points_text
from convnext_ablation.study.stats.effects import accuracy, contrast, contrast_across, holm
from convnext_ablation.study.store import folder_of
from convnext_ablation.study.tuning import as_known

pytestmark = pytest.mark.usefixtures("little_to_collect")

TABLES = simulated_tables()
LABELS = [point.label for point in STAGES.points]
SETS = [("cub200",), ("dogs",), ("cub200", "dogs")]
WEIGHTS = [[-1, 1, 0], [-1, 0, 1], [-1, 0.5, 0.5]]
EXCLUDED = range(0, IMAGES["dogs"], 3)
DOGS = KNOWN_FAULTS["stanford-dogs"]
TEXTS = ("answer.txt", "table.md", "data_sets.tex", "effects_across.tex", "differences_across.tex")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A finished experiment, and its report with images of one phase excluded."""
    folder = tmp_path_factory.mktemp("experiment")
    (folder / "seen.txt").write_text("".join(f"test/class_{n % CLASSES}/{n}.jpg\n" for n in EXCLUDED))
    return finished(experiment_of(folder), folder / "out", TABLES)


@pytest.fixture(scope="module")
def report(folder):
    exclude = f"dogs={folder.parent / 'seen.txt'}"
    assert cli.main(["study", "report", str(folder), "--exclude", exclude]) == 0
    return folder / "report"


def lines(path):
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def text(path):
    return path.read_text(encoding="utf-8")


def plain(path):
    """A text without what it escapes, and with single spaces."""
    return " ".join(text(path).replace("\\_", "_").replace("{}", "").replace("`", "").split())


def kept(tables):
    """The tables without the images that are excluded."""
    left = np.setdiff1d(np.arange(IMAGES["dogs"]), EXCLUDED)
    return {**tables, "dogs": tables["dogs"][..., left]}


def of_models(folder, phase):
    """What the models of a phase get right, (seeds, images) each."""
    study = experiment_of(folder.parent)[phase]
    runs = [run for run in as_known(study, folder_of(study, folder)).runs() if run.point.key in MODELS]
    return {
        key: np.stack([right_of(r, TABLES) for r in runs if r.point.key == key])
        for key in MODELS
        if any(r.point.key == key for r in runs)
    }


def test_what_is_wrong_with_a_phases_data_stands_below_its_own_answer(folder, report):
    assert text(folder / "dogs" / "report" / "answer.txt").endswith(f"\n\n{DOGS}\n")
    assert DOGS not in text(folder / "imagenet" / "report" / "answer.txt")


def percents(table):
    found = accuracy(table)
    return [100 * found.estimate, 100 * found.low, 100 * found.high]


def test_each_network_has_its_accuracy_in_each_phase(folder, report):
    wanted = {}
    for images, tables in (("all", TABLES), ("without excluded", {"dogs": kept(TABLES)["dogs"]})):
        for phase, of_phase in tables.items():
            for point, table in zip(STAGES.points, of_phase, strict=True):
                wanted[phase, point.key, images] = table
    for name, place in (("dogs", 2), ("dogs_448", 3)):
        for key, table in of_models(folder, place).items():
            wanted[name, key, "all"] = table
            if name == "dogs":
                wanted[name, key, "without excluded"] = kept({"dogs": table})["dogs"]
    rows = lines(report / "data_sets.csv")
    assert {(row["phase"], row["network"], row["images"]) for row in rows} == wanted.keys()
    sizes = {"imagenet": "112", "cub200": "224", "dogs": "224", "dogs_448": "448"}
    for row in rows:
        table = wanted[row["phase"], row["network"], row["images"]]
        found = [float(row[f"top1{end}_percent"]) for end in ("", "_low", "_high")]
        assert found == pytest.approx(percents(table), abs=1e-9)
        assert (int(row["runs"]), int(row["test_images"])) == (np.prod(table.shape[:-1]), table.shape[-1])
        assert row["image_size"] == sizes[row["phase"]]
        assert row["data"] == ("stanford-dogs" if "dogs" in row["phase"] else row["phase"])


def cell(table, form=".2f"):
    estimate, low, high = (format(x, form) for x in percents(table))
    return f"{estimate} [{low}, {high}]"


def test_people_read_the_same_accuracies_in_markdown_and_latex(folder, report):
    body, _, notes = text(report / "data_sets.tex").partition("\n\n")
    head, *rows = latex.table_of(body)
    assert head == [
        "network", "imagenet, 112 px", "cub200, 224 px", "dogs, 224 px", "dogs without 100 images",
        r"dogs\_448, 448 px",
    ]  # fmt: skip
    wanted = [
        [label, *(cell(TABLES[name][place]) for name in IMAGES), cell(kept(TABLES)["dogs"][place]), "--"]
        for place, label in enumerate(LABELS)
    ]
    assert rows[:5] == wanted
    in_448 = of_models(folder, 3)
    assert rows[7] == ["convnext\\_tiny.fb\\_in1k", *["--"] * 4, cell(in_448["convnext_tiny.fb_in1k"])]
    assert notes.startswith("\\smallskip\n{\\footnotesize Top-1 on the test images in percent")
    for label, *cells in wanted:
        row = " | ".join([label, *cells]).replace("--", "–")
        assert f"| {row} |" in plain(report / "table.md")


def expected_effects(tables):
    """Each contrast's difference on each set, and between sets, with Holm's p, by their names."""
    found = {}
    for phase, table in tables.items():
        each = [contrast([table[k], table[k - 1]], [1, -1]) for k in range(1, 5)]
        adjusted = holm([d.p_value for d in each])
        for k, d in enumerate(each):
            found[k, "effect", phase] = replace(d, p_holm=adjusted[k])
    gaps = {}
    for k in range(1, 5):
        pairs = [[table[k], table[k - 1]] for table in tables.values()]
        for sets, weights in zip(SETS, WEIGHTS, strict=True):
            gaps[k - 1, "difference", "+".join(sets)] = contrast_across(pairs, [1, -1], weights)
    adjusted = holm([d.p_value for d in gaps.values()])
    found |= {key: replace(d, p_holm=p) for (key, d), p in zip(gaps.items(), adjusted, strict=True)}
    return found


def test_effects_and_their_differences_are_those_of_the_predictions(report):
    rows = lines(report / "effects_across.csv")
    assert len(rows) == 2 * 4 * (3 + 3)
    names = [each.name for each in STAGES.contrasts]
    wanted = {"all": expected_effects(TABLES), "without excluded": expected_effects(kept(TABLES))}
    for row in rows:
        d = wanted[row["images"]].pop((names.index(row["contrast"]), row["what"], row["sets"]))
        numbers = [100 * d.estimate, 100 * d.low, 100 * d.high, d.p_value, d.p_holm, d.p_better]
        columns = ("estimate_points", "low_points", "high_points", "p_value", "p_holm", "p_better")
        assert [float(row[name]) for name in columns] == pytest.approx(numbers, abs=1e-9)
        assert row["minus"] == ("imagenet" if row["what"] == "difference" else "")
        runs = {"imagenet": 3, "cub200": 6, "dogs": 6}
        sets = [*row["sets"].split("+"), *filter(None, [row["minus"]])]
        assert int(row["runs"]) == sum(runs[name] for name in sets)
    assert not any(wanted.values()), "all of them are there"


def effect_cell(d):
    p = "<0.001" if d.p_holm < 0.001 else f"{d.p_holm:.3f}" if d.p_holm < 0.0995 else f"{d.p_holm:.2f}"
    return f"{100 * d.estimate:+.2f} [{100 * d.low:+.2f}, {100 * d.high:+.2f}], p {p}"


def test_people_read_the_same_effects_in_markdown_latex_and_figure(report):
    wanted = expected_effects(TABLES)
    for name, what, places in (
        ("effects_across", "effect", IMAGES),
        ("differences_across", "difference", ["+".join(sets) for sets in SETS]),
    ):
        head, *rows = latex.table_of(text(report / f"{name}.tex").partition("\n\n")[0])
        assert len(head) == 4
        for k, row in enumerate(rows):
            cells = [effect_cell(wanted[k, what, place]) for place in places]
            assert row[1:] == [each.replace("-", "$-$").replace("<", r"\ensuremath{<}") for each in cells]
            assert f"| {STAGES.contrasts[k].label} | {' | '.join(cells)} |" in plain(report / "table.md")
    assert head[3] == "mean of cub200 and dogs $-$ imagenet"
    texts = svg_texts(report / "effects_across.svg")
    for (_, what, sets), d in wanted.items():
        if what == "effect" or "+" in sets:
            assert any(text.startswith(points_text(d)) for text in texts)
    assert "imagenet" in texts
    assert (report / "effects_across.pdf").read_bytes().startswith(b"%PDF")


def test_the_answer_is_of_all_images_and_of_those_that_are_left(report):
    said = text(report / "answer.txt").split("\n\n")
    d = expected_effects(TABLES)[0, "difference", "cub200+dogs"]
    assert d.p_holm < 0.05
    assert said[0].startswith(
        f"{STAGES.contrasts[0].label} matters more, averaged over cub200 and dogs. "
        "The difference to imagenet is "
        f"{points_text(d).replace(' ', ' points ', 1)}, p "
    )
    left = expected_effects(kept(TABLES))[0, "difference", "cub200+dogs"]
    assert said[1].startswith("The same without the excluded images of dogs (100). Model II after Model I (")
    assert f" is {100 * left.estimate:+.1f} points [" in said[1]
    assert all(part in plain(report / "table.md") for part in said[0].split(". "))


def test_what_pretraining_has_seen_stands_beside_every_figure(folder, report, capsys):
    wanted = (
        f"dogs and dogs_448: {DOGS} Accuracies without excluded images stand beside those of dogs "
        "(100 images). "
        "`study report --exclude dogs_448=FILE` adds accuracies without the images in a file."
    ).replace("`", "")
    counts = {"table.md": 5}  # the answer, the accuracies, the figure, and two tables of effects
    for name in TEXTS:
        assert plain(report / name).replace("-{}-", "--").replace("--", "-").count(
            wanted.replace("--", "-")
        ) == counts.get(name, 1), name
    words = page_reader.read(report / "index.html")[0].words().replace("`", "")
    assert words.count(wanted) == 4  # in the answer, below both figures, and below the tables of effects
    drawn = " ".join(" ".join(svg_texts(report / "effects_across.svg")).split())
    assert wanted in drawn.replace("`", "")
    # ImageNet itself was seen by no pre-training
    assert "imagenet: " not in " ".join(text(report / "answer.txt").split("\n\n")[2:])


def test_the_projects_tables_have_what_was_measured_of_them(folder, report):
    tables = [lines(report / f"fgvc_11785_{name}.csv") for name in ("imagenet", "finetune", "baselines")]
    found = {
        (row["network"], row["data"], row["image_size"]): row
        for table in tables for row in table if row["measured"]
    }  # fmt: skip
    wanted = {
        (point.key, data.replace("dogs", "stanford_dogs"), "112" if data == "imagenet" else "224"): table
        for data, of_phase in TABLES.items()
        for point, table in zip(STAGES.points, of_phase, strict=True)
    }
    # of two sets of weights for ResNet-50, the first
    wanted["resnet50", "stanford_dogs", "224"] = of_models(folder, 2)["resnet50.tv_in1k"]
    wanted["resnet50", "stanford_dogs", "448"] = of_models(folder, 3)["resnet50.tv_in1k"]
    wanted["convnext_tiny", "stanford_dogs", "448"] = of_models(folder, 3)["convnext_tiny.fb_in1k"]
    assert found.keys() == wanted.keys()
    for key, table in wanted.items():
        measured = [float(found[key][f"measured_{end}_percent"]) for end in ("top1", "low", "high")]
        assert measured == pytest.approx(percents(table), abs=1e-9)
    shown = "tables show resnet50.tv_in1k of phase dogs, and not resnet50.a1_in1k of phase dogs."
    assert f"WARNING: the project's {shown}" in plain(report / "table.md")
    assert "(fgvc_11785.md)" in text(report / "table.md")


def test_a_model_with_weights_of_its_own_has_one_run_a_seed(folder, report):
    rows = lines(folder / "dogs" / "report" / "seeds.csv")
    found = [(row["network"], row["pretraining_seed"], row["seed"]) for row in rows]
    assert [each for each in found if each[0] in MODELS] == [
        (name, "", seed) for name in MODELS[:2] for seed in "01"
    ]
    assert len(found) == 5 * 3 * 2 + 2 * 2


def test_the_page_shows_answer_table_and_figure_and_links_the_phases(folder, report):
    page = page_reader.read(report / "index.html")[0]
    assert "default-src 'none'; img-src data:" in page.all("meta")[2]["content"]
    links = [link["href"] for link in page.all("a") if not link["href"].startswith("#")]
    assert links == [f"../{name}/report/index.html" for name in (*IMAGES, "dogs_448")]
    assert all((report / link).is_file() for link in links)
    words = page.words()
    title = "ResNet-50 to ConvNeXt-T on imagenet, cub200 and stanford-dogs"
    question = "Which step matters more on cub200 and dogs than on imagenet, and by how much?"
    d = expected_effects(TABLES)[0, "difference", "cub200+dogs"]
    more = f"adds {100 * d.estimate:.1f} points more on cub200 and dogs than on imagenet; "
    assert f"{title} {question} Model II after Model I {more}" in words
    assert " ".join(text(report / "answer.txt").split("\n\n")[0].split()) in words
    assert cell(TABLES["cub200"][2]) in words
    assert effect_cell(expected_effects(TABLES)[3, "difference", "dogs"]) in words
    assert not page.all("img")


def test_pdflatex_takes_the_tables(report, tmp_path):
    if latex.PDFLATEX is None:
        pytest.skip("pdflatex is not installed: not compiled")
    names = (*TEXTS[2:], *(f"fgvc_11785_{name}.tex" for name in ("imagenet", "finetune", "baselines")))
    assert latex.compiled(tmp_path, *(text(report / name) for name in names)) == ""


def test_each_phases_own_report_is_that_of_a_study_alone(folder, report, tmp_path):
    shutil.copytree(folder / "imagenet", tmp_path / "alone", ignore=shutil.ignore_patterns("report"))
    assert cli.main(["study", "report", str(tmp_path / "alone")]) == 0
    for name in ("networks.csv", "effects.csv", "answer.txt", "table.md", "effects.svg"):
        mine = (tmp_path / "alone" / "report" / name).read_bytes()
        assert mine == (folder / "imagenet" / "report" / name).read_bytes()


@pytest.mark.usefixtures("no_charts")
def test_the_terminal_has_the_table_the_answer_and_the_warnings(folder, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "150")
    assert cli.main(["study", "report", str(folder), "--output", str(tmp_path / "new")]) == 0
    said = capsys.readouterr().out
    assert "dogs, 224 px" in said
    assert "without 100 images" not in said
    assert cell(TABLES["dogs"][4], ".1f") in said
    assert text(tmp_path / "new" / "answer.txt") in said
    assert said.count(" matters more, averaged over cub200 and dogs.") == 1
    assert "WARNING: the project's tables show" in said
    page = f"{tmp_path}/new/index.html"
    assert said.endswith(
        f"report: {page}, which links those of the phases, with tables and figures beside it\n"
    )
    assert (tmp_path / "new" / "cub200" / "networks.csv").is_file()
    assert 'href="cub200/index.html"' in text(tmp_path / "new" / "index.html")


@pytest.mark.usefixtures("no_charts")
def test_what_is_finished_is_shown_and_what_is_not_is_told(tmp_path, capsys, monkeypatch):
    def is_done(run):
        number = LABELS.index(run.point.label) if run.point.label in LABELS else 0
        return run.phase == "imagenet" or (run.phase == "dogs" and number < 3 and run.arguments.seed == 0)

    monkeypatch.setenv("COLUMNS", "45")
    folder = finished(experiment_of(tmp_path), tmp_path / "out", TABLES, is_done)
    assert cli.main(["study", "report", str(folder)]) == 0
    said = capsys.readouterr().out
    narrow = said.split("\n\n")[0]  # intervals are left to the files
    assert max(map(len, narrow.splitlines())) <= 45
    assert "[" not in narrow
    assert "WARNING: cub200: left out, as none of its runs is finished." in said
    assert "WARNING: dogs_448: left out, as none of its runs is finished." in said
    assert "WARNING: dogs: 11 of 34 runs are finished; what follows is of these." in said
    for each in STAGES.contrasts[2:]:
        assert f"{each.label}: not compared on all sets, as runs are missing." in said
    rows = lines(folder / "report" / "effects_across.csv")
    some = {name: TABLES[name] for name in ("imagenet", "dogs")}
    pair = [[some["imagenet"][1], some["imagenet"][0]], [some["dogs"][1, :, :1], some["dogs"][0, :, :1]]]
    wanted = contrast_across(pair, [1, -1], [-1, 1])
    assert [(row["sets"], row["minus"]) for row in rows[:3]] == [
        ("imagenet", ""), ("dogs", ""), ("dogs", "imagenet"),
    ]  # fmt: skip
    assert float(rows[2]["estimate_points"]) == pytest.approx(100 * wanted.estimate)
    assert float(rows[2]["high_points"]) == pytest.approx(100 * wanted.high)
    assert {row["contrast"] for row in rows} == {each.name for each in STAGES.contrasts[:2]}


@pytest.mark.usefixtures("no_charts")
def test_without_the_general_set_no_effects_are_compared(tmp_path, capsys):
    folder = finished(experiment_of(tmp_path), tmp_path / "out", TABLES, lambda run: run.phase == "dogs_448")
    assert cli.main(["study", "report", str(folder)]) == 0
    said = capsys.readouterr().out
    assert "compared between data sets: no finished phase starts from another." in said
    assert not list((folder / "report").glob("effects_across*"))
    assert "effects_across" not in text(folder / "report" / "table.md")


def test_nothing_finished_is_one_line(tmp_path, capsys):
    folder = finished(experiment_of(tmp_path), tmp_path / "out", TABLES, lambda run: False)
    assert cli.main(["study", "report", str(folder)]) == 2
    assert capsys.readouterr().err.endswith("no run of this experiment is finished; nothing to report\n")
    assert not list(folder.glob("**/report"))


@pytest.mark.usefixtures("no_charts")
def test_one_phase_has_its_own_report_only(tmp_path, capsys):
    folder = finished(experiment_of(tmp_path)[:1], tmp_path / "out", TABLES)
    assert cli.main(["study", "report", str(folder)]) == 0
    assert "Measured on imagenet: 10 classes, 500 val images" in capsys.readouterr().out
    assert not (folder / "report").exists()
    assert (folder / "imagenet" / "report" / "index.html").is_file()
    assert cli.main(["study", "report", str(folder), "--exclude", "imagenet=a"]) == 2
    assert "--exclude: is for an experiment of several phases" in capsys.readouterr().err


@pytest.mark.usefixtures("no_charts")
def test_sets_with_the_same_images_are_not_compared(tmp_path, capsys):
    phases = experiment_of(tmp_path, seeds=1)
    larger = replace(phases[1], phase="cub200_448", data_fingerprint="larger", data_dir=f"{tmp_path}/data/x")
    tables = {**TABLES, "cub200_448": TABLES["cub200"]}
    folder = finished([*phases[:2], larger], tmp_path / "out", tables)
    assert cli.main(["study", "report", str(folder)]) == 0
    said = capsys.readouterr().out
    assert " The difference to imagenet is " in said
    assert "WARNING: cub200_448: its effects are in its own report only: it has the images of cub200." in said


@pytest.mark.parametrize(
    ("exclude", "message"),
    [
        (["cub=a.txt"], "unknown phase in --exclude 'cub'; did you mean 'cub200'?"),
        (["cub200"], "--exclude cub200: write PHASE=FILE, with a phase of imagenet, cub200, dogs, dogs_448"),
        (["cub200=a", "cub200=b"], "--exclude cub200: is given twice, a and b; give one"),
        (["cub200=none.txt"], "none.txt: --exclude takes a file of image ids: "),
        (["cub200={seen}"], "ids in it are not in "),
        (["dogs={all}"], "all 300 test images of dogs are excluded; leave some in"),
    ],
)
def test_a_wrong_list_of_images_is_one_line_before_anything_is_written(
    folder, tmp_path, capsys, exclude, message
):
    (tmp_path / "seen.txt").write_text("test/class_0/1000.jpg\n")
    every = [f"class_{n % CLASSES}/{n}.jpg\n" for n in range(IMAGES["dogs"])]
    (tmp_path / "all.txt").write_text("".join(every))
    words = [each.format(seen=tmp_path / "seen.txt", all=tmp_path / "all.txt") for each in exclude]
    call = ["study", "report", str(folder), "--output", str(tmp_path / "new"), "--exclude", *words]
    assert cli.main(call) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not (tmp_path / "new").exists()


@pytest.mark.usefixtures("no_charts")
def test_another_design_is_reported_from_the_same_runs(tmp_path, capsys):
    union = tmp_path / "union.yaml"
    union.write_text("networks: [model_v, model_iv, model_iii, model_ii, model_i]\ncontrasts: []\n")
    design = design_of(str(union), "full")
    folder = finished(experiment_of(tmp_path, design=design), tmp_path / "out", TABLES)
    assert cli.main(["study", "report", str(folder)]) == 0
    assert "compared between data sets: the design asks for none." in capsys.readouterr().out
    assert cli.main(["study", "report", str(folder), "--design", "stages"]) == 0
    assert (
        "WARNING: dogs_448: left out, as it has no networks of the design stages." in capsys.readouterr().out
    )
    rows = lines(folder / "report-stages" / "effects_across.csv")
    wanted = expected_effects(TABLES)
    names = [each.name for each in STAGES.contrasts]
    for row in rows:
        d = wanted.pop((names.index(row["contrast"]), row["what"], row["sets"]))
        assert float(row["estimate_points"]) == pytest.approx(100 * d.estimate, abs=1e-9)
    assert not wanted
    assert (folder / "cub200" / "report-stages" / "index.html").is_file()


def test_a_report_without_checkpoints_needs_no_torch(tmp_path):
    folder = finished(experiment_of(tmp_path)[:1], tmp_path / "out", TABLES)
    command = [sys.executable, "-X", "importtime", "-m", "convnext_ablation.cli.main", "study", "report"]
    done = subprocess.run([*command, str(folder)], capture_output=True, text=True, env=ONE_THREAD)
    assert done.returncode == 0, done.stderr
    assert not re.search(r" (torch|sklearn)\n", done.stderr)


@pytest.mark.usefixtures("no_charts")
def test_hostile_names_do_nothing(tmp_path):
    hostile = r"<img src=x> \input{/etc/passwd} 100% $x_1$ & ~ | `a` [b](http://c) *"
    points = tuple(replace(point, label=f"{point.label} {hostile}") for point in STAGES.points)
    contrasts = tuple(replace(each, label=f"*{each.label} {hostile}") for each in STAGES.contrasts)
    design = replace(STAGES, name=f"stages {hostile}", points=points, contrasts=contrasts)
    phases = [replace(each, command=f"</code>{hostile}") for each in experiment_of(tmp_path, design=design)]
    folder = finished([replace(each, data_name=hostile) for each in phases], tmp_path / "out", TABLES)
    names = json.loads(text(folder / "experiment.json"))["phases"]
    names[3] = 'a"><b>&'  # as nobody can name a phase, but a file may say
    shutil.move(folder / "dogs_448", folder / names[3])
    study = json.loads(text(folder / names[3] / "study.json"))
    (folder / names[3] / "study.json").write_text(json.dumps({**study, "phase": names[3]}))
    (folder / "experiment.json").write_text(json.dumps({"phases": names}))
    assert cli.main(["study", "report", str(folder)]) == 0
    page, _ = page_reader.read(folder / "report" / "index.html")
    assert not page.all("img") + page.all("b")
    assert (folder / "report" / "index.html").parent.joinpath(Path("..", names[3])).is_dir()
    links = [link["href"] for link in page.all("a") if not link["href"].startswith("#")]
    assert links[-1] == "../a%22%3E%3Cb%3E%26/report/index.html"
    for name in TEXTS[2:]:
        body, _, notes = text(folder / "report" / name).partition("\n\n")
        assert len(latex.table_of(body)) > 4
        assert "\\input" not in notes
    markdown = text(folder / "report" / "table.md").split("```")[0]
    assert not re.search(r"(?<!\\)<img|(?<!\\)\]\(http", markdown)
    assert len({line.count(" | ") for line in markdown.splitlines() if line.startswith("| Model")}) == 1
