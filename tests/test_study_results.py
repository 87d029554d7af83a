"""What a reader is told of a study's finished runs."""

import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from test_study_plan import STUDY

from convnext_ablation.study.report.evidence import FinishedRun
from convnext_ablation.study.results import StudyResults
from convnext_ablation.study.store import read_study, save_study
from convnext_ablation.training.arguments import TrainingArguments

RESULT = {"host": "one", "device": "a processor", "versions": {"torch": "2.9.0"}}


def results_of(
    folder,
    name="stanford-dogs",
    pretrained=True,
    results=(RESULT, RESULT),
    runs=2,
    origins=("a",),
    arguments=None,
):
    each = SimpleNamespace(is_pretrained=True, arguments=TrainingArguments(**(arguments or {})))
    (folder / "dataset.json").write_text(json.dumps({"name": name}))
    study = SimpleNamespace(
        one_run_each=lambda: [each] if arguments else [],
        design=SimpleNamespace(name="stages", notes=()),
        data_name="mine",
        data_dir=str(folder),
        is_pretrained=pretrained,
        weights=[SimpleNamespace(network=origin, origin=origin) for origin in origins],
        tuning=(),
        precision="float32",
        threads=1,
        epochs=1,
        command="study",
        test_split="test",
        processes=1,
    )
    targets = np.array([0, 2, 2])
    finished = [FinishedRun("a", 0, folder, np.zeros(3, int), targets, result) for result in results]
    ids = np.array(["cat/1.png", "dog/1.png", "dog/2.png"])
    return StudyResults(study, folder, finished, runs, ids, [(32, 32)])


def test_a_study_that_was_begun_with_other_notes_on_its_design_goes_on(tmp_path):
    save_study(tmp_path, replace(STUDY, design=replace(STUDY.design, notes=("earlier words",))))
    save_study(tmp_path, STUDY)
    assert read_study(tmp_path).design == STUDY.design


def test_classes_go_by_the_folders_of_their_images_or_their_number_and_each_machine_is_named(tmp_path):
    other = {**RESULT, "host": "other", "device": "NVIDIA H100"}
    results = results_of(tmp_path, results=(RESULT, other, RESULT), runs=3)
    assert results.classes == ["cat", "1", "dog"]
    facts = results.facts()
    assert (facts.classes, facts.test_images) == (3, 3)
    assert facts.machine == "one (a processor), other (NVIDIA H100)"


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({}, ["Stanford Dogs is made from ImageNet"]),
        ({"name": "cub200"}, ["22 or 23 of its test images also stand in ImageNet"]),
        ({"name": "typefaces"}, []),
        ({"pretrained": False}, []),
        (
            {"name": "mine", "arguments": {"freeze": "head-only", "early_stopping": 3}},
            ["layers are frozen, by freeze head-only", "runs end early where nothing gets better"],
        ),
        ({"name": "mine", "runs": 6}, ["2 of 6 runs are finished"]),
        ({"name": "mine", "origins": ("a", "b")}, ["start from weights of different origin: a: a; b: b"]),
        (
            {"name": "mine", "results": (RESULT, {**RESULT, "versions": {"torch": "2.10.0"}})},
            ["made with different versions"],
        ),
    ],
)
def test_what_limits_the_figures_is_told(tmp_path, changes, told):
    warnings = results_of(tmp_path, **changes).facts().warnings
    assert len(warnings) == len(told)
    for warning, words in zip(warnings, told, strict=True):
        assert warning.startswith("WARNING: ")
        assert words in warning
