"""What a study is before it runs: identities, learning rates, and whose folder it is."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from convnext_ablation.errors import UserError
from convnext_ablation.study.design import DESIGNS, points_of
from convnext_ablation.study.plan import Study, choose_learning_rates, claim_folder, saved_description

POINTS = points_of("stages", "atto")
STUDY = Study(
    design="stages",
    points=POINTS,
    data_name="typefaces",
    data_dir="data/typefaces",
    data_fingerprint="f" * 64,
    recipe_name="typefaces",
    recipe={"epochs": 2, "batch_size": 8, "input_size": [1, 32, 32]},
    learning_rates={point.model: 0.001 for point in POINTS},
    seeds=[0, 1],
    precision="float32",
    device="cpu",
    threads=1,
)


def test_every_network_runs_with_every_seed_one_seed_after_the_other():
    runs = [(run.point.label, run.arguments.seed) for run in STUDY.runs()]
    labels = ["Model I", "Model II", "Model III", "Model IV", "Model V"]
    assert runs == [(label, seed) for seed in (0, 1) for label in labels]


def test_precision_decides_autocast():
    assert not STUDY.runs()[0].arguments.amp
    arguments = replace(STUDY, precision="bfloat16").runs()[0].arguments
    assert (arguments.amp, arguments.amp_dtype) == (True, "bfloat16")


def test_runs_of_a_study_have_different_identities_and_folders(tmp_path):
    runs = STUDY.runs()
    assert len({run.identity for run in runs}) == len({run.folder(tmp_path) for run in runs}) == 10
    assert runs[0].folder(tmp_path).name == f"model_i_atto-seed0-{runs[0].identity[:8]}"


@pytest.mark.parametrize(
    "changes",
    [
        {"data_fingerprint": "0" * 64},
        {"recipe": {**STUDY.recipe, "epochs": 3}},
        {"learning_rates": dict.fromkeys(STUDY.learning_rates, 0.002)},
        {"precision": "bfloat16"},
        {"threads": 2},
        {"seeds": [2]},
    ],
)
def test_whatever_determines_a_result_is_in_its_identity(changes):
    assert replace(STUDY, **changes).runs()[0].identity != STUDY.runs()[0].identity


def test_where_the_data_lie_is_not_in_the_identity():
    assert replace(STUDY, data_dir="elsewhere").runs()[0].identity == STUDY.runs()[0].identity


def test_a_folder_is_claimed_once_and_found_again(tmp_path):
    folder = tmp_path / "study"
    assert saved_description(folder) is None
    claim_folder(folder, STUDY)
    assert saved_description(folder)["precision"] == "float32"
    claim_folder(folder, STUDY)


def test_seeds_may_be_added_to_a_study(tmp_path):
    claim_folder(tmp_path / "study", STUDY)
    claim_folder(tmp_path / "study", replace(STUDY, seeds=[0, 1, 2, 3]))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"recipe": {**STUDY.recipe, "epochs": 3}}, "its recipe is"),
        ({"data_fingerprint": "0" * 64}, "its data fingerprint is"),
        ({"learning_rates": dict.fromkeys(STUDY.learning_rates, 0.002)}, "its learning rates is"),
    ],
)
def test_another_study_is_not_written_into_the_folder(tmp_path, changes, message):
    claim_folder(tmp_path / "study", STUDY)
    before = (tmp_path / "study" / "study.json").read_bytes()
    with pytest.raises(UserError, match=f"holds another study: {message}"):
        claim_folder(tmp_path / "study", replace(STUDY, **changes))
    assert (tmp_path / "study" / "study.json").read_bytes() == before


def test_a_folder_with_something_else_is_left_alone(tmp_path):
    (tmp_path / "thesis.tex").write_text("x")
    with pytest.raises(UserError, match="holds something else than a study"):
        claim_folder(tmp_path, STUDY)
    with pytest.raises(UserError, match="something else"):
        saved_description(tmp_path / "thesis.tex")


def test_a_damaged_description_is_named(tmp_path):
    (tmp_path / "study.json").write_text(json.dumps(STUDY.description())[:-9])
    with pytest.raises(UserError, match=r"study\.json: damaged"):
        saved_description(tmp_path)


def test_a_given_learning_rate_comes_before_the_table_and_the_table_before_the_recipe():
    untuned = {"lr": 0.5}
    tuned = choose_learning_rates(POINTS, "typefaces", untuned, {})
    assert all(rate < 0.5 for rate in tuned.values())
    given = choose_learning_rates(POINTS, "typefaces", untuned, {"model_ii_atto": 0.25})
    assert given == {**tuned, "model_ii_atto": 0.25}
    assert set(choose_learning_rates(POINTS, "my.yaml", untuned, {}).values()) == {0.5}


def test_learning_rates_that_fit_nothing_are_refused():
    with pytest.raises(UserError, match="not a network of this design"):
        choose_learning_rates(POINTS, "typefaces", {}, {"model_i": 0.1})
    with pytest.raises(UserError, match=r"my\.yaml sets no lr for model_i_atto"):
        choose_learning_rates(POINTS, "my.yaml", {}, {})


def test_designs_and_widths_are_found_by_name():
    assert [point.model for point in points_of("stages", "full")] == [
        "model_i",
        "model_ii",
        "model_iii",
        "model_iv",
        "model_v",
    ]
    assert "stages" in DESIGNS
    with pytest.raises(UserError, match="unknown design 'stage'; did you mean 'stages'"):
        points_of("stage", "atto")
    with pytest.raises(UserError, match="unknown width 'at'; did you mean 'atto'"):
        points_of("stages", "at")
