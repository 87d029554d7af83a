"""An experiment of several phases: each network is fine-tuned as soon as its own pre-training is done."""

import csv
import json
import os
import shutil
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import yaml
from conftest import RECIPE
from inline_engine import Inline, do_all
from test_study_running import disturbed, outcomes

from convnext_ablation.cli import main as cli
from convnext_ablation.errors import UserError
from convnext_ablation.study.engine import drive
from convnext_ablation.study.setup import plan_phases
from convnext_ablation.study.status import StudyProgress, Survey
from convnext_ablation.study.store import read_phases, save_phases
from convnext_ablation.training.checkpoints import load_checkpoint

PHASES = {
    "general": {"data": "letters", "recipe": "RECIPE", "seeds": [0, 1], "set": {"epochs": 1}},
    "fine": {"data": "birds", "recipe": "RECIPE", "start": "general", "seeds": 1, "set": {"epochs": 1}},
    "finer": {"data": "dogs", "recipe": "RECIPE", "start": "general", "seeds": 5, "set": {"epochs": 1}},
}
DESIGN = {"networks": ["model_i", "model_v"]}


@pytest.fixture(scope="module")
def folders(image_folder, tmp_path_factory):
    """Three data sets; the general one has no test split."""
    root = tmp_path_factory.mktemp("sets")
    for name in ("letters", "birds", "dogs"):
        shutil.copytree(image_folder, root / name)
    shutil.rmtree(root / "letters" / "test")
    (root / "recipe.yaml").write_text(RECIPE)
    (root / "design.yaml").write_text(yaml.safe_dump(DESIGN))
    return root


def command_of(folders, out, changes=None, **top):
    """The command line of an experiment whose phases are changed a little, by their names."""
    phases = dict(PHASES)
    for name, change in (changes or {}).items():
        phases[name] = None if change is None else {**phases.get(name, {}), **change}
    kept = {name: said for name, said in phases.items() if said is not None}
    content = yaml.safe_dump({"design": str(folders / "design.yaml"), "phases": kept, **top}, sort_keys=False)
    (out / "mine.yaml").write_text(content.replace("RECIPE", str(folders / "recipe.yaml")))
    data = [f"{name}={folders / name}" for name in ("letters", "birds", "dogs")]
    return ["study", "run", str(out / "mine.yaml"), f"--output={out / 'out'}", "--data", *data]


@pytest.fixture
def command(folders, tmp_path):
    return partial(command_of, folders, tmp_path)


def planned(call):
    return [study for study, _ in plan_phases(cli._parser(call).parse_args(call))]


@pytest.fixture(scope="module")
def finished(folders, tmp_path_factory):
    """The experiment's folder when its first two phases are done, and the order in which they were."""
    out = tmp_path_factory.mktemp("experiment")
    call = [*command_of(folders, out), "--without", "finer"]
    phases, engine = save_phases(out / "out", planned(call)), Inline()
    drive(phases, out / "out", engine, StudyProgress(quiet=True))
    return out / "out", engine.done


def test_a_network_starts_from_its_own_pre_training_of_each_seed(finished):
    folder, order = finished
    general, fine = read_phases(folder)
    assert len(order) == len(set(order)) == 4 + 4
    assert fine.pretraining_seeds == [0, 1]
    for path in folder.glob("fine/runs/*/args.yaml"):
        arguments = yaml.safe_load(path.read_text())
        result = json.loads(path.with_name("result.json").read_text())
        before = next(
            run
            for run in general.runs()
            if (run.point.key, run.arguments.seed) == (result["network"], result["pretraining_seed"])
        )
        assert arguments["pretrained_path"] == str(before.folder(folder / "general") / "model_best.pth.tar")
        task = f"fine.{result['network']}-seed{result['seed']}-from{result['pretraining_seed']}"
        assert order.index(task) > order.index(before.task)


def test_data_without_a_test_split_are_tested_on_val_after_the_last_epoch(finished, folders):
    folder, _ = finished
    for path in folder.glob("general/runs/*/result.json"):
        result = json.loads(path.read_text())
        assert result["test_images"] == 15
        assert result["best_epoch"] == 0
        predictions = np.load(path.with_name("predictions.npz"))
        assert {str(name).partition("/")[0] for name in predictions["ids"]} == {"dark", "grey", "light"}
        assert result["test_top1_percent"] == result["val_top1_percent"]
    assert not (folders / "letters" / "test").exists()


def test_what_the_last_epoch_left_is_tested_though_another_was_better(command, tmp_path, monkeypatch):
    """On the images of the test no epoch is picked."""
    from convnext_ablation.training import loop

    call = command(
        {
            "fine": None,
            "finer": None,
            "general": {"seeds": [0], "set": {"epochs": 3, "val_split": "validation"}},
        }
    )
    call = [*call[: call.index("--data")], "--data", call[call.index("--data") + 1]]
    kept = []

    def kept_best(self, count):  # whatever is measured, the first epoch was the best
        kept.append(self.history)
        return self.history[:count]

    monkeypatch.setattr(loop.Trainer, "best_epochs", kept_best)
    save_phases(tmp_path / "out", planned(call))
    do_all(tmp_path / "out")
    (first, *_) = (tmp_path / "out" / "general" / "runs").iterdir()
    assert kept
    assert json.loads((first / "result.json").read_text())["best_epoch"] == 2
    assert load_checkpoint(first / "model_best.pth.tar")["epoch"] == 2


def test_a_phase_alone_has_the_identities_of_a_study_of_its_own(command, folders):
    call = command({"fine": None, "finer": None, "general": {"data": "birds"}})
    (phase,) = planned([*call[: call.index("--data")], "--data", f"birds={folders / 'birds'}"])
    alone = ["study", "run", f"--data={folders / 'birds'}", f"--recipe={folders / 'recipe.yaml'}"]
    alone += [f"--design={folders / 'design.yaml'}", "--seeds", "0", "1", "--set", "epochs=1", "--output=x"]
    (study,) = planned(alone)
    assert [run.identity for run in phase.runs()] == [run.identity for run in study.runs()]


def test_identities_hold_those_of_the_runs_before(command):
    fine = planned(command())[1]
    other = planned(command({"general": {"set": {"epochs": 2}}}))[1]
    assert fine.runs() == []
    runs = [replace(each, start=None, weights=()).runs()[0] for each in (fine, other)]
    assert runs[0].identity == runs[1].identity, "but for what they start from they are the same"


def test_what_was_killed_anywhere_ends_with_the_same_outcomes(finished, command, tmp_path):
    phases = save_phases(
        tmp_path / "out", planned([*command({"general": {"seeds": [0]}}), "--without", "finer"])
    )

    class Killed(Inline):
        def wait(self, seconds):
            if len(self.done) == 1:
                raise KeyboardInterrupt
            return super().wait(seconds)

    for _ in range(3):
        with pytest.raises(KeyboardInterrupt):
            drive(phases, tmp_path / "out", Killed(), StudyProgress(quiet=True))
    do_all(tmp_path / "out")
    assert len(outcomes(tmp_path / "out")) == 4
    assert outcomes(tmp_path / "out").items() <= outcomes(finished[0]).items()


TIMED = ("train_images_per_second", "train_seconds", "seconds", "images_per_second")


def tables(folder):
    """All tables of the reports, without what was timed and where it lies."""
    found = {}
    for path in folder.glob("**/report/*.csv"):
        with open(path, newline="") as file:
            rows = list(csv.DictReader(file))
        kept = [{k: v for k, v in row.items() if k not in TIMED} for row in rows]
        found[str(path.relative_to(folder))] = kept
    return found


@pytest.mark.skipif(not os.environ.get("CONVNEXT_ABLATION_SLOW_TESTS"), reason="takes minutes")
def test_processes_and_drivers_that_are_killed_at_any_moment_end_with_the_undisturbed_tables(
    command, tmp_path, monkeypatch, capfd
):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    kinds = ["run", "driver", "both", "run", "driver", "run", "run", "both"]
    call = [*command({"general": {"seeds": [0]}, "fine": {"seeds": [0]}}), "--epochs=10"]
    folder = tmp_path / "out"
    disturbed([*call[1:], "--jobs=2", "--retry-failed"], folder, kinds, 10)
    undisturbed = [word.replace(str(folder), str(tmp_path / "undisturbed")) for word in call]
    save_phases(tmp_path / "undisturbed", planned(undisturbed))
    do_all(tmp_path / "undisturbed")
    assert cli.main(undisturbed) == 0
    assert len(outcomes(folder)) == 6
    assert outcomes(folder) == outcomes(tmp_path / "undisturbed")
    assert tables(folder) == tables(tmp_path / "undisturbed")
    assert len(tables(folder)) > 6


def test_fine_tuning_waits_for_its_own_pre_training_only(command, tmp_path):
    phases = save_phases(tmp_path / "out", planned(command()))
    states = {state.task: state for state in Survey(phases, tmp_path / "out").look()}
    waiting = states["fine.model_v_atto-seed1-from0"]
    assert waiting.after == ("general.model_v_atto-seed0",)
    assert not waiting.is_known
    assert waiting.can_begin
    first = Inline()
    first.submit([states["general.model_v_atto-seed0"]])
    assert first.wait(0) == [("general.model_v_atto-seed0", "")]
    states = {state.task: state for state in Survey(phases, tmp_path / "out").look()}
    assert states["fine.model_v_atto-seed1-from0"].is_known
    assert not states["fine.model_v_atto-seed1-from1"].is_known


def test_the_folder_of_a_phase_is_that_of_a_study(finished, command, tmp_path):
    phases = save_phases(tmp_path / "out", planned(command()))
    states = Survey([phases[1]], tmp_path / "out" / "fine").look()
    assert {(state.status, state.is_known) for state in states} == {("waiting", False)}
    assert cli.main(["study", "status", str(finished[0] / "fine")]) == 0


def test_what_starts_from_a_failed_run_is_left_and_the_others_go_on(command, tmp_path, capsys):
    bad = {"model_v": {"set": {"lr": 1e30}}}
    call = command({"general": {"by_network": bad, "seeds": [0]}, "finer": None})
    call.remove(next(word for word in call if word.startswith("dogs=")))
    phases = save_phases(tmp_path / "out", planned(call))
    ended = drive(phases, tmp_path / "out", Inline(), StudyProgress(quiet=True))
    states = {state.task: state for state in ended}
    assert states["general.model_v_atto-seed0"].status == "failed"
    assert states["fine.model_v_atto-seed1-from0"].status == "waiting"
    assert not states["fine.model_v_atto-seed1-from0"].can_begin
    assert states["fine.model_i_atto-seed1-from0"].status == "done"


def test_models_of_timm_are_rows_beside_the_networks(command, tmp_path):
    seeds = {"fine": {"seeds": [0, 1]}}
    call = command({"finer": None, **seeds}, models=["resnet18", "vit_tiny_patch16_224"])
    call.remove(next(word for word in call if word.startswith("dogs=")))
    general, fine = planned([*call, "--phase", "general", "networks=design"])
    assert [point.key for point in general.points] == ["model_i_atto", "model_v_atto"]
    assert [point.key for point in fine.points[2:]] == ["resnet18", "vit_tiny_patch16_224"]
    assert fine.points[3].model_kwargs == {"img_size": 32}
    assert all("resnet18" not in contrast.weights for contrast in fine.design.contrasts)
    assert [run.point.key for run in fine.runs()] == ["resnet18", "vit_tiny_patch16_224"] * 2
    assert {run.arguments.seed for run in fine.runs()} == {0, 1}, "once, not for each pre-training"
    assert fine.size == "2 networks x 2 seeds x 2 pre-training seeds + 2 networks x 2 seeds"
    assert [fine.runs_of(point) for point in fine.points] == [4, 4, 2, 2]


@pytest.mark.parametrize(
    ("changes", "more", "message"),
    [
        ({"fine": {"data": None}}, (), "phase fine: names no data; give it data: NAME"),
        ({"general": {"start": "finer"}}, (), "phases start from one another: "),
        ({"fine": {"start": "generel"}}, (), "did you mean 'general'?"),
        ({"Fine": {"data": "birds"}}, (), "phase 'Fine': write its name in small letters"),
        ({"runs": {"data": "birds"}}, (), "phase 'runs': write its name"),
        ({"fine": {"colour": 1}}, (), "unknown key in phase fine: 'colour'"),
        ({"fine": {"seeds": "a,b"}}, (), "phase fine: seeds is 'a,b'; give whole numbers"),
        ({"fine": {"seeds": [0, 0]}}, (), "phase fine: --seeds 0 0: a seed is given twice"),
        ({"fine": {"init": "x"}}, (), "phase fine: starts from phase general, and from --init too"),
        ({"finer": {"start": "fine"}}, (), "phase finer: starts from phase fine, which has several"),
        ({"fine": {"networks": "models"}}, (), "phase fine: networks: models, but there are none"),
        ({"fine": {"by_network": {"model_iv": {}}}}, (), "unknown network in by_network 'model_iv'"),
        ({"fine": {"set": {"num_classes": 4}}}, (), "phase fine: "),
        ({"general": {"tune": "lr=0.1,0.2"}}, (), "phase general: "),
        ({}, ("--data", "birds=elsewhere"), "data birds: is given twice"),
        ({}, ("--data", "cats=elsewhere"), "unknown data set that no phase uses: 'cats'"),
        ({}, ("--set", "fien.epochs=2"), "unknown phase in --set 'fien'; did you mean 'fine'?"),
        ({}, ("--phase", "fine", "epochs"), "--phase epochs: write KEY=VALUE"),
        ({}, ("--phase", "fine", "epochs=2", "epochs=3"), "--phase fine: epochs is given twice; give one"),
        (
            {"fine": {"set": {"model_kwargs": {"kernel_size": 5}}}},
            (),
            "fine: starts from phase general, whose",
        ),
        ({}, ("--without", "fien"), "unknown phase in --without 'fien'; did you mean 'fine'?"),
        ({}, ("--without", "general"), "unknown phase that fine starts from: 'general'"),
        ({}, ("--without", "general", "fine", "finer"), "mine.yaml: no phase is left"),
        ({}, ("--models", "resnet19"), "unknown model of timm 'resnet19'"),
    ],
)
def test_what_makes_no_experiment_is_one_line_before_anything_is_trained(
    command, tmp_path, capsys, changes, more, message
):
    assert cli.main([*command(changes), *more]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_a_changed_experiment_is_refused_and_what_it_would_cost_is_said(finished, command, tmp_path, capsys):
    folder, _ = finished
    shutil.copytree(folder, tmp_path / "out")
    assert cli.main([*command({"general": {"set": {"epochs": 2}}}), "--without", "finer"]) == 2
    error = capsys.readouterr().err
    assert (
        "epochs of its recipe is 1, not 2; its 4 finished runs, and what starts from them, would not" in error
    )
    with pytest.raises(UserError, match=r"phases general, fine, not an experiment .* general, fine, finer;"):
        save_phases(tmp_path / "out", planned(command()))
    alone = replace(planned(command())[0], phase="")
    with pytest.raises(UserError, match="phases general, fine, not a single study; give another"):
        save_phases(tmp_path / "out", [alone])


def test_an_experiment_leaves_a_study_that_is_there_as_it_is(command, tmp_path):
    phases = planned(command())
    save_phases(tmp_path / "out", [replace(phases[0], phase="")])
    before = (tmp_path / "out" / "study.json").read_text()
    with pytest.raises(UserError, match="holds a single study, not an experiment with the phases general, "):
        save_phases(tmp_path / "out", phases)
    assert (tmp_path / "out" / "study.json").read_text() == before


def test_parts_of_an_experiment_are_flags_too(command, folders, tmp_path):
    call = command()
    assert [phase.phase for phase in planned([*call, "--without", "finer"])] == ["general", "fine"]
    flags = [
        "study",
        "run",
        "--output=x",
        f"--design={folders / 'design.yaml'}",
        *call[call.index("--data") :],
    ]
    for name, said in PHASES.items():
        words = {**said, "recipe": folders / "recipe.yaml", "set": "{epochs: 1}"}
        words["seeds"] = (
            ",".join(map(str, said["seeds"])) if isinstance(said["seeds"], list) else said["seeds"]
        )
        flags += ["--phase", name, *(f"{key}={value}" for key, value in words.items())]
    save_phases(tmp_path / "out", planned(call))
    save_phases(tmp_path / "out", planned(flags))  # it would refuse another experiment
    two = planned([*call, "--set", "fine.lr=0.5", "epochs=2"])
    assert [each.recipe["epochs"] for each in two] == [2, 2, 2]
    assert [each.learning_rates["model_i_atto"] for each in two] == [2e-3, 0.5, 2e-3]
