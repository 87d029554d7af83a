"""`study status`: what it says of a folder in every state, and of nothing else than the folder."""

import os
import subprocess
import sys
import time
from dataclasses import replace

import fake_experiment
import pytest
from conftest import ONE_THREAD
from test_study_plan import STUDY

from convnext_ablation.cli import main as cli
from convnext_ablation.cli.study_status import report
from convnext_ablation.study.status import StudyProgress, Survey, seconds_left
from convnext_ablation.study.store import (
    LOCK,
    Holder,
    held,
    load_result,
    note_failure,
    save_phases,
    save_study,
)
from convnext_ablation.study.tuning import as_known
from convnext_ablation.training.history import Epoch, write_summary

SMALL = replace(STUDY, recipe={**STUDY.recipe, "epochs": 10})  # five networks, two seeds


def finish(run, folder, top1=50.0, seconds=20.0, epochs=10):
    fake_experiment.finish(
        *(run, folder), val_top1_percent=top1, test_top1_percent=top1 - 1, train_seconds=seconds,
        elapsed_seconds=seconds, elapsed_epochs=epochs,
    )  # fmt: skip


def train(run, folder, epochs):
    path = run.folder(folder)
    path.mkdir(parents=True, exist_ok=True)
    write_summary(path / "summary.csv", [Epoch(n, 1.0, 1.0, 50.0, 90.0, 0.1) for n in range(epochs)], True)


def fail(run, folder, reason, times=1):
    run.folder(folder).mkdir(parents=True, exist_ok=True)
    for _ in range(times):
        note_failure(run.folder(folder), reason, "Traceback ...")


@pytest.fixture
def folder(tmp_path):
    """A study: three runs done, one running, one failed for good, one interrupted, one failed once."""
    folder = tmp_path / "study"
    save_study(folder, SMALL)
    runs = SMALL.runs()
    for run in runs[:3]:
        finish(run, folder)
    train(runs[3], folder, 4)
    fail(runs[4], folder, "the loss is\nnan", times=2)
    train(runs[5], folder, 7)
    (runs[5].folder(folder) / LOCK).write_text("of a process that was killed")
    fail(runs[6], folder, "out of memory")
    with held(runs[3].folder(folder), epochs=4):
        yield folder


def look(folder, study=SMALL):
    return Survey([study], folder).look()


def status(folder, *more):
    with pytest.raises(SystemExit) as error:
        cli.main(["study", "status", str(folder), *more])
    return error.value.code


def test_every_state_is_told_from_the_folder_and_looking_changes_nothing(folder):
    before = sorted(folder.rglob("*"))
    states = look(folder)
    assert [state.status for state in states] == ["done"] * 3 + ["running", "failed"] + ["waiting"] * 5
    assert [state.epochs for state in states[3:6]] == [4, 0, 7]
    assert f"(process {os.getpid()})" in states[3].holder.where
    assert (states[4].failure.reason, states[4].failure.times) == ("the loss is nan", 2)
    assert (states[6].failure.reason, states[6].failure.final) == ("out of memory", False)
    assert sorted(folder.rglob("*")) == before


def test_what_it_prints(folder, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    with held(folder):
        assert status(folder) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"{folder}: stages on typefaces, 5 networks x 2 seeds"
    assert lines[1] == "10 runs: 3 done, 1 running, 1 failed, 5 waiting"
    # 3 x 20 s for 10 epochs; 6 + 3 + 4 x 10 epochs are left, those of the running one since just now
    assert lines[2].startswith("about 2 min to go with 1 run at a time, driven by ")
    assert f"(process {os.getpid()}) for " in lines[2]
    rows = [line.split() for line in lines[4:11]]
    assert rows[0] == ["val", "top-1", "%,", "by", "seed", "0", "1"]
    assert rows[2:] == [
        ["Model", "I", "50.00", "7/10"],
        ["Model", "II", "50.00", "."],
        ["Model", "III", "50.00", "."],
        ["Model", "IV", "4/10", "."],
        ["Model", "V", "failed", "."],
    ]
    text = "\n".join(lines)
    where = f"on {os.uname().nodename} (process {os.getpid()}) for "
    assert f"  model_iv_atto seed 0: 4 of 10 epochs, {where}" in text
    assert "  model_v_atto seed 0: the loss is nan; `study --retry-failed` tries it again (" in text
    assert "  model_ii_atto seed 1: out of memory; it is tried again (" in text


def test_exit_codes_say_whether_work_is_left(folder, capsys):
    (SMALL.runs()[4].folder(folder) / "failure.txt").unlink()
    assert status(folder) == 3
    for run in SMALL.runs():
        finish(run, folder)
    assert cli.main(["study", "status", str(folder)]) == 0
    assert "0 running, 0 failed, 0 waiting" in capsys.readouterr().out


@pytest.mark.parametrize("content", [None, "the loss is nan\n\nTraceback"])
def test_a_failure_is_final_when_it_comes_twice_in_the_same_way(tmp_path, content):
    if content:  # of a version that did not count
        (tmp_path / "failure.txt").write_text(content)
    else:
        assert not note_failure(tmp_path, "the loss is nan", "").final
    assert note_failure(tmp_path, "the loss is nan", "").final


def test_failures_that_differ_and_processes_that_were_killed_are_tried_once_more(tmp_path):
    finals = [note_failure(tmp_path, reason, "").final for reason in ("a", "b", "c")]
    assert finals == [False, False, True]
    write_summary(tmp_path / "summary.csv", [Epoch(0, 1.0, 1.0, 50.0, 90.0, 0.1)], True)
    finals = [note_failure(tmp_path, "killed", "", killed=True).final for _ in range(3)]
    assert finals == [False, False, True], "an epoch was finished in between, so counting begins again"


def test_a_folder_without_a_study_and_a_damaged_result_are_one_line(tmp_path, capsys):
    assert cli.main(["study", "status", str(tmp_path)]) == 2
    assert "no study is there" in capsys.readouterr().err
    save_study(tmp_path, SMALL)
    finish(SMALL.runs()[0], tmp_path)
    path = SMALL.runs()[0].folder(tmp_path) / "result.json"
    path.write_text("{")
    assert cli.main(["study", "status", str(tmp_path)]) == 2
    assert f"{path}: can't be read" in capsys.readouterr().err


def test_networks_that_wait_for_their_learning_rate_are_waiting(tmp_path):
    study = replace(SMALL, learning_rates={}, tuning=(0.001, 0.002))
    save_study(tmp_path, study)
    states = look(tmp_path, study)
    assert [state.status for state in states] == ["waiting"] * 20
    assert len({state.task for state in states}) == 20
    for run in study.tuning_runs()[:2]:
        finish(run, tmp_path, top1=100 * run.arguments.lr)
    known = [state.run for state in look(tmp_path, study) if state.is_known]
    chosen = [run.arguments.lr for run in known if not run.tuning]
    assert chosen == [0.002, 0.002]
    assert "2 learning rates" in report([study], look(tmp_path, study), tmp_path, 100)


def test_learning_rates_of_a_phase_are_those_chosen_for_the_weights_that_it_starts_from(tmp_path):
    first = replace(SMALL, phase="first", seeds=[0])
    second = replace(SMALL, phase="second", start=first, learning_rates={}, tuning=(0.001, 0.002))
    first, second = save_phases(tmp_path, [first, second])
    for run in first.runs():
        finish(run, tmp_path / "first")
    for run in as_known(second, tmp_path / "second").tuning_runs():
        finish(run, tmp_path / "second", top1=100 * run.arguments.lr)
    runs = [state.run for state in Survey([first, second], tmp_path).look()]
    assert {run.arguments.lr for run in runs if run.phase == "second" and not run.tuning} == {0.002}
    assert len({run.weights for run in as_known(second, tmp_path / "second").runs()}) == 5


@pytest.mark.parametrize(("running", "seconds"), [(1, 360), (2, 180), (8, 80)])
def test_time_to_go_is_from_epochs_and_what_networks_took(tmp_path, running, seconds):
    runs, now = SMALL.runs(), time.time()
    assert seconds_left(look(tmp_path)) is None
    finish(runs[0], tmp_path, seconds=10.0)
    finish(runs[4], tmp_path, seconds=80.0)
    states = look(tmp_path)
    waiting = [number for number, state in enumerate(states) if state.status == "waiting"]
    for number in waiting[:running]:
        states[number] = replace(states[number], status="running", holder=Holder("here", now))
    # 10 s and 80 s for those two networks, 6 x 45 s for the others; the longest run takes 80 s
    assert seconds_left(states) == pytest.approx(seconds, abs=0.1)


def test_time_to_go_is_from_a_running_run_before_one_is_done(tmp_path):
    run, now = SMALL.runs()[0], time.time()
    train(run, tmp_path, 5)
    os.utime(run.folder(tmp_path) / "summary.csv", (now + 50, now + 50))
    with held(run.folder(tmp_path)):
        assert seconds_left(look(tmp_path)) == pytest.approx(950, abs=10)


def test_a_study_is_looked_at_without_torch(folder):
    command = [sys.executable, "-X", "importtime", "-m", "convnext_ablation.cli.main", "study", "status"]
    done = subprocess.run([*command, str(folder)], capture_output=True, text=True, env=ONE_THREAD)
    assert "10 runs: 3 done, 1 running, 1 failed, 5 waiting" in done.stdout
    assert " torch\n" not in done.stderr


def test_progress_in_a_log_is_a_line_for_each_change(folder, capsys):
    progress = StudyProgress()
    progress.show(look(folder))
    runs = SMALL.runs()
    finish(runs[3], folder, top1=60.0)
    fail(runs[5], folder, "no space left")
    for _ in range(2):
        progress.show(look(folder))
    done, failed = capsys.readouterr().out.splitlines()
    assert done.startswith("[4/10] model_iv_atto seed 0: val 60.00 %, test 59.00 %, 20 s; about ")
    assert failed == "model_i_atto seed 1 failed: no space left; it is tried again"


def test_results_of_earlier_versions_are_read_under_todays_names(tmp_path):
    path = tmp_path / "result.json"
    path.write_text('{"val_top1": 70.5, "test_top1": 69.0, "test_top5": null, "val_loss": 1.5}')
    todays = {"val_top1_percent": 70.5, "test_top1_percent": 69.0, "test_top5_percent": None, "val_loss": 1.5}
    assert load_result(path) == todays
