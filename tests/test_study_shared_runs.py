"""Reports of several designs from the runs of one study."""

import csv
from dataclasses import replace

import numpy as np
import pytest
from fake_experiment import finish
from test_study_plan import STUDY

from convnext_ablation.cli import main as cli
from convnext_ablation.errors import UserError
from convnext_ablation.study.designs.design import design_of
from convnext_ablation.study.results import seen_as
from convnext_ablation.study.store import save_study
from convnext_ablation.study.tuning import as_known

UNION = """
networks:
  - model_i
  - model_ii
  - model_iii
  - model_iv
  - model_v
  - resnet50_with_gelu
  - resnet50_with_wide
  - {label: Both of them, key: both, components: {wide: true, gelu: true}}
contrasts: []
"""
GROUPS = {"a": ["wide"], "b": ["gelu"]}


def study_of(design):
    rates = {point.key: 0.001 * number for number, point in enumerate(design.points, start=1)}
    return replace(STUDY, design=design, learning_rates=rates, command="convnext-ablation study")


@pytest.fixture(scope="module")
def union(tmp_path_factory):
    path = tmp_path_factory.mktemp("design") / "union.yaml"
    path.write_text(UNION)
    return study_of(design_of(str(path), "atto"))


def finished(study, folder):
    """A study's folder, whose runs are right by what they are made from."""
    save_study(folder, study)
    for run in as_known(study, folder).runs():
        finish(run, folder, np.random.default_rng(int(run.identity[:8], 16)).random(80) < 0.7)
    return folder


@pytest.fixture(scope="module")
def folder(union, tmp_path_factory):
    return finished(union, tmp_path_factory.mktemp("study") / "all-shades")


def read_csv(path):
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_a_design_takes_its_networks_from_the_study_whatever_they_are_called_there(union, folder):
    part = seen_as(union, folder, "factorial", GROUPS)
    assert [point.key for point in part.points] == [
        "model_i_atto", "resnet50_with_wide_atto", "resnet50_with_gelu_atto", "both_atto",
    ]  # fmt: skip
    wanted = design_of("factorial", "atto", GROUPS)
    assert [point.label for point in part.points] == [point.label for point in wanted.points]
    for ours, theirs in zip(part.design.contrasts, wanted.contrasts, strict=True):
        assert (ours.name, ours.kind) == (theirs.name, theirs.kind)
        assert list(ours.weights.values()) == list(theirs.weights.values())
        assert list(ours.weights)[-1] == "both_atto"
    of_union = {run.name: run.identity for run in union.runs()}
    assert all(of_union[run.name] == run.identity for run in part.runs())
    assert len(part.runs()) == 8


def test_differences_name_networks_as_the_study_does(union, folder, tmp_path):
    (tmp_path / "own.yaml").write_text(
        "networks: [model_i, {label: w, key: mine, components: {wide: true, gelu: true}}]\n"
    )
    (contrast,) = seen_as(union, folder, str(tmp_path / "own.yaml")).design.contrasts
    assert (contrast.name, contrast.baseline) == ("both_atto-model_i_atto", "model_i_atto")
    assert contrast.weights == {"both_atto": 1.0, "model_i_atto": -1.0}


@pytest.mark.usefixtures("no_charts")
def test_the_report_is_the_same_as_that_of_a_study_of_the_design_alone(union, folder, tmp_path, capsys):
    alone = replace(
        study_of(design_of("stages", "atto")),
        learning_rates={key: union.learning_rates[key] for key in list(union.learning_rates)[:5]},
    )
    assert cli.main(["study", "report", str(finished(alone, tmp_path))]) == 0
    assert cli.main(["study", "report", str(folder), "--design", "stages"]) == 0
    assert f"report: {folder}/report-stages/index.html" in capsys.readouterr().out
    assert not (folder / "report").exists()
    for name in ("effects.csv", "networks.csv", "seeds.csv", "answer.txt", "runs.csv"):
        ours = (folder / "report-stages" / name).read_bytes()
        assert ours == (tmp_path / "report" / name).read_bytes(), name
    runs = read_csv(folder / "report-stages" / "runs.csv")
    assert len(runs) == 10
    assert all((folder / "report-stages" / run["folder"] / "result.json").is_file() for run in runs)


@pytest.mark.usefixtures("no_charts")
def test_the_report_says_where_its_runs_come_from(folder, tmp_path):
    call = ["study", "report", str(folder), "--design=factorial", "--groups", "a=wide", "b=gelu"]
    call += [f"--output={tmp_path}"]
    assert cli.main(call) == 0
    for name in ("index.html", "table.md"):
        text = (tmp_path / name).read_text(encoding="utf-8")
        assert "runs: 4 of the 8 networks of the study all-shades (design union); reports of other" in text
        assert "design: factorial" in text
    assert (
        f"convnext-ablation study\nconvnext-ablation {' '.join(call)}\n"
        in (tmp_path / "table.md").read_text()
    )


def test_learning_rates_that_were_chosen_carry_over(union, tmp_path):
    tuned = replace(union, learning_rates={}, tuning=(0.1, 0.2))
    save_study(tmp_path, tuned)
    for run in tuned.tuning_runs():
        best = 0.2 if run.point.key == "both_atto" else 0.1
        finish(run, tmp_path, val_top1_percent=50.0 + 10 * (run.arguments.lr == best))
    with pytest.raises(UserError, match=r"not finished: model_i_atto-seed0-\w+, .*both_atto-seed1-\w+$"):
        seen_as(as_known(tuned, tmp_path), tmp_path, "factorial", GROUPS)
    finished(tuned, tmp_path)
    part = seen_as(as_known(tuned, tmp_path), tmp_path, "factorial", GROUPS)
    assert [run.arguments.lr for run in part.runs()] == [0.1, 0.1, 0.1, 0.2] * 2
    assert cli.main(["study", "report", str(tmp_path), "--design=stages"]) == 0
    tried = read_csv(tmp_path / "report-stages" / "tuning.csv")
    assert [row["network"] for row in tried[::2]] == [point.key for point in union.points[:5]]
    text = (tmp_path / "report-stages" / "index.html").read_text()
    assert text.count("with a seed that is none of the study&#39;s") == 1, "no warning: not at every figure"
    assert text.count("a better one may lie beyond, for 5 of 5 networks (tuning.csv says which).") == 4


def test_networks_that_the_study_lacks_are_named_and_nothing_is_written(folder, tmp_path, capsys):
    output = tmp_path / "report"
    call = ["study", "report", str(folder), "--design", "add-one-in", f"--output={output}"]
    assert cli.main(call) == 2
    error = capsys.readouterr().err
    assert "the design add-one-in needs networks that this study of union doesn't have: road" in error
    assert "resnet50_with_depthwise_atto" in error
    assert "resnet50_with_wide_atto" not in error
    assert error.count("\n") == 1
    assert not output.exists()


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (["--groups", "a=wide"], "--groups: needs a design; give --design"),
        (["--design=stage"], "unknown design 'stage'; did you mean 'stages'?"),
        (["--design=stages", "--groups", "a=wide"], "takes no groups"),
    ],
)
def test_bad_designs_are_one_line_and_code_2(folder, capsys, extra, message):
    assert cli.main(["study", "report", str(folder), *extra]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
