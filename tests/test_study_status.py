"""`study status`: what it says of a folder in every state, and of nothing else than the folder."""

from __future__ import annotations

import json
import os
import sys
import time
from dataclasses import replace

import pytest
from test_study_plan import STUDY

from convnext_ablation.cli import main as cli
from convnext_ablation.cli import study_status as status_command
from convnext_ablation.cli.study_status import report
from convnext_ablation.study.claims import take
from convnext_ablation.study.file_clock import FileClock
from convnext_ablation.study.progress import Progress, Survey, duration, forget_failures, seconds_left
from convnext_ablation.study.run_files import write_failure
from convnext_ablation.study.store import claim_folder
from convnext_ablation.training.history import Epoch, write_summary

SMALL = replace(STUDY, recipe={**STUDY.recipe, "epochs": 10})  # five networks of 0.5 GMACs, two seeds


def finish(run, folder, top1=50.0, seconds=20.0, epochs=10):
    path = run.folder(folder)
    path.mkdir(parents=True, exist_ok=True)
    result = {
        "val_top1": top1,
        "val_loss": 1.0,
        "test_top1": top1 - 1,
        "train_seconds": seconds,
        "elapsed_seconds": seconds,
        "elapsed_epochs": epochs,
    }
    (path / "result.json").write_text(json.dumps(result))


def train(run, folder, epochs):
    path = run.folder(folder)
    path.mkdir(parents=True, exist_ok=True)
    write_summary(path / "summary.csv", [Epoch(n, 1.0, 1.0, 50.0, 90.0, 0.1) for n in range(epochs)], True)


def fail(run, folder, reason):
    run.folder(folder).mkdir(parents=True, exist_ok=True)
    write_failure(run.folder(folder), reason, "Traceback ...")


@pytest.fixture
def folder(tmp_path):
    """A study: three runs done, one running, one failed, one interrupted."""
    folder = tmp_path / "study"
    claim_folder(folder, SMALL)
    runs = SMALL.runs()
    for run in runs[:3]:
        finish(run, folder)
    train(runs[3], folder, 4)
    take(runs[3].folder(folder), FileClock(folder), epochs=4)
    fail(runs[4], folder, "the loss is\nnan")
    train(runs[5], folder, 7)
    take(runs[5].folder(folder), FileClock(folder)).release()
    return folder


def look(folder, study=SMALL):
    return Survey(folder).look(study)


def status(folder, *more):
    with pytest.raises(SystemExit) as error:
        cli.main(["study", "status", str(folder), *more])
    return error.value.code


def test_every_state_is_told_from_the_folder(folder):
    states = look(folder)
    assert [state.status for state in states] == ["done"] * 3 + ["running", "failed"] + ["left"] * 5
    assert [state.epochs for state in states[3:6]] == [4, 0, 7]
    assert states[3].holder.pid == os.getpid()
    assert states[4].reason == "the loss is nan"


def test_what_it_prints(folder, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    assert status(folder) == status_command.SOME_FAILED == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"{folder}: stages on typefaces, 5 networks x 2 seeds"
    assert lines[1] == "10 runs: 3 done, 1 running, 1 failed, 5 left"
    # 3 x 20 s for 10 epochs; 6 + 3 + 4 x 10 epochs are left, those of the running one since just now
    assert lines[2] == "about 98 s to go with 1 worker" or lines[2].endswith("2 min to go with 1 worker")
    assert [line.split() for line in lines[4:10]] == [
        ["val", "top-1", "%,", "by", "seed", "0", "1"],
        ["Model", "I", "50.00", "7/10"],
        ["Model", "II", "50.00", "."],
        ["Model", "III", "50.00", "."],
        ["Model", "IV", "4/10", "."],
        ["Model", "V", "failed", "."],
    ]
    text = "\n".join(lines)
    assert (
        f"  model_iv_atto seed 0: 4 of 10 epochs, on {os.uname().nodename} (process {os.getpid()}) for "
        in text
    )
    assert "  model_v_atto seed 0: the loss is nan (" in text
    assert "failure.txt)" in text


def test_a_table_that_is_too_wide_is_left_out(folder):
    survey = Survey(folder)
    assert "Model III" in report(SMALL, survey.look(SMALL), survey, 50)
    assert "Model III" not in report(SMALL, survey.look(SMALL), survey, 30)


def test_exit_codes_say_whether_work_is_left(folder, capsys):
    forget_failures(look(folder), folder)
    assert status(folder) == status_command.WORK_LEFT == 3
    for run in SMALL.runs():
        finish(run, folder)
    assert cli.main(["study", "status", str(folder)]) == 0
    assert "0 running, 0 failed, 0 left" in capsys.readouterr().out


def test_a_folder_without_a_study_is_one_line(tmp_path, capsys):
    assert cli.main(["study", "status", str(tmp_path)]) == 2
    assert "no study is there" in capsys.readouterr().err
    (tmp_path / "study.json").write_text('{"precision": "float32"}')
    assert cli.main(["study", "status", str(tmp_path)]) == 2
    assert "of format 1" in capsys.readouterr().err


def test_a_damaged_result_is_named(folder, capsys):
    path = SMALL.runs()[0].folder(folder) / "result.json"
    path.write_text("{")
    assert cli.main(["study", "status", str(folder)]) == 2
    assert f"{path}: can't be read" in capsys.readouterr().err


def test_finished_runs_are_looked_at_once(folder):
    survey = Survey(folder)
    survey.look(SMALL)
    for run in SMALL.runs()[:3]:
        (run.folder(folder) / "result.json").unlink()
    assert [state.status for state in survey.look(SMALL)][:3] == ["done"] * 3


def test_looking_leaves_nothing_behind(folder):
    before = sorted(folder.rglob("*"))
    look(folder)
    assert sorted(folder.rglob("*")) == before


def test_networks_that_wait_for_their_learning_rate_are_left(tmp_path):
    study = replace(SMALL, learning_rates={}, tuning=(0.001, 0.002))
    claim_folder(tmp_path / "study", study)
    states = look(tmp_path / "study", study)
    assert [state.status for state in states] == ["left"] * 20
    for run in study.tuning_runs()[:2]:
        finish(run, tmp_path / "study", top1=100 * run.arguments.lr)
    states = look(tmp_path / "study", study)
    assert [state.run.arguments.lr for state in states if state.run and not state.run.tuning] == [
        0.002,
        0.002,
    ]
    survey = Survey(tmp_path / "study")
    assert "2 learning rates tried" in report(study, survey.look(study), survey, 100)


@pytest.mark.parametrize("workers", [1, 2])
def test_time_to_go_is_from_epochs_and_what_networks_cost(tmp_path, workers):
    study = replace(SMALL, gmacs={**SMALL.gmacs, "model_v_atto": 4.0}, seeds=[0])
    runs = study.runs()
    assert seconds_left(look(tmp_path, study), study, time.time()) is None
    finish(runs[0], tmp_path, seconds=10.0)  # 2 s an epoch and GMAC
    for run in runs[1 : 1 + workers]:
        take(run.folder(tmp_path), FileClock(tmp_path))
    left = seconds_left(look(tmp_path, study), study, time.time())
    # 3 x 10 s and 80 s; with two workers the large network alone is what counts
    assert left == pytest.approx({1: 110, 2: 80}[workers], abs=3)


def test_time_to_go_is_from_a_running_run_before_one_is_done(tmp_path):
    run = SMALL.runs()[0]
    take(run.folder(tmp_path), FileClock(tmp_path))
    train(run, tmp_path, 5)
    now = time.time()
    os.utime(run.folder(tmp_path) / "summary.csv", (now + 50, now + 50))
    assert seconds_left(look(tmp_path), SMALL, now + 50) == pytest.approx(950, abs=10)


@pytest.mark.parametrize(("ago", "left"), [(4, 46), (100, 40)])
def test_what_is_done_of_the_current_epoch_counts(tmp_path, ago, left):
    study = replace(SMALL, seeds=[0])
    runs = study.runs()
    for run in runs[:4]:
        finish(run, tmp_path, seconds=100.0)
    train(runs[4], tmp_path, 5)
    claim = take(runs[4].folder(tmp_path), FileClock(tmp_path), epochs=5)
    now = time.time()
    claim.path.write_text(json.dumps({**json.loads(claim.path.read_text()), "since": now - ago}))
    os.utime(runs[4].folder(tmp_path) / "summary.csv", (now - 500, now - 500))
    assert seconds_left(look(tmp_path, study), study, now) == pytest.approx(left, abs=0.5)


def test_nobody_at_work_is_said(tmp_path):
    finish(SMALL.runs()[0], tmp_path)
    survey = Survey(tmp_path)
    assert "nobody is at work; one worker would take about 3 min" in report(
        SMALL, survey.look(SMALL), survey, 90
    )
    (tmp_path / "empty").mkdir()
    survey = Survey(tmp_path / "empty")
    assert "not known before an epoch is finished" in report(SMALL, survey.look(SMALL), survey, 90)


def test_watching_ends_when_all_is_over(folder, capsys, monkeypatch):
    def finish_all(seconds):
        for run in SMALL.runs():
            finish(run, folder)

    monkeypatch.setattr(time, "sleep", finish_all)
    assert cli.main(["study", "status", str(folder), "--watch"]) == 0
    assert capsys.readouterr().out.count("10 runs:") == 2


def test_progress_in_a_log_is_a_line_for_each_change(folder, capsys):
    progress, survey = Progress(SMALL), Survey(folder)
    progress.show(survey.look(SMALL), time.time())
    runs = SMALL.runs()
    finish(runs[3], folder, top1=60.0)
    fail(runs[5], folder, "out of memory")
    progress.show(survey.look(SMALL), time.time())
    progress.show(survey.look(SMALL), time.time())
    progress.close()
    done, failed = capsys.readouterr().out.splitlines()
    assert done.startswith("[4/10] model_iv_atto seed 0: val 60.00 %, test 59.00 %, 20 s; about ")
    assert failed == "model_i_atto seed 1 failed: out of memory"


def test_progress_on_a_terminal_is_a_bar(folder, capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    progress, survey = Progress(SMALL), Survey(folder)
    progress.show(survey.look(SMALL), time.time())
    assert progress.bar.n / progress.bar.total == pytest.approx(0.41)  # three runs, 0.4 and 0.7 of one
    finish(SMALL.runs()[3], folder)
    progress.show(survey.look(SMALL), time.time())
    progress.close()
    assert "[4/10] model_iv_atto seed 0: val 50.00 %" in capsys.readouterr().out


@pytest.mark.parametrize(("seconds", "text"), [(7.4, "7 s"), (300, "5 min"), (7200, "2.0 h")])
def test_durations(seconds, text):
    assert duration(seconds) == text
