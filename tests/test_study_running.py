"""Doing a study's runs: killed, shared, taken over, failed, tuned, by timm's script, in jobs of Slurm."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import timm_repo
import torch
from conftest import ONE_THREAD

from convnext_ablation.cli import main as cli
from convnext_ablation.cli.study_work import check_data
from convnext_ablation.data.folder import check_folder
from convnext_ablation.errors import UserError
from convnext_ablation.study import claims, external, slurm, workers
from convnext_ablation.study.claims import LostClaimError, newest_claim, take
from convnext_ablation.study.designs.design import design_of
from convnext_ablation.study.experiment import Study
from convnext_ablation.study.file_clock import FileClock
from convnext_ablation.study.progress import Progress, Survey, forget_failures
from convnext_ablation.study.run import execute
from convnext_ablation.study.store import claim_folder, read_study
from convnext_ablation.study.tuning import chosen_rates, parse_tuning, tuning_notes, write_tuning
from convnext_ablation.study.workers import places_for, supervise, work
from convnext_ablation.training.checkpoints import BEST, LAST, load_checkpoint
from convnext_ablation.training.history import read_summary
from convnext_ablation.training.loop import StoppedError, Trainer
from convnext_ablation.training.recipes import read_recipe

ROOT = Path(__file__).parents[1]
DESIGN = """
networks: [model_i, {label: kernel 5, components: {kernel_size: 5}, key: kernel_5}]
"""


@pytest.fixture(scope="module")
def design_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("design") / "two.yaml"
    path.write_text(DESIGN)
    return str(path)


@pytest.fixture(scope="module")
def study(image_folder, recipe_file, design_file):
    """One network, a free one, and one seed."""
    design = design_of(design_file, "atto")
    return Study(
        design=replace(design, points=design.points[1:], contrasts=()),
        data_name="shades",
        data_dir=str(image_folder),
        data_fingerprint=check_folder(image_folder).fingerprint,
        recipe_name="shades",
        recipe=read_recipe(str(recipe_file)),
        learning_rates={"kernel_5_atto": 0.002},
        seeds=[0],
        precision="float32",
        device="cpu",
        threads=1,
    )


@pytest.fixture
def arguments(image_folder, recipe_file, design_file):
    """What the command is given for two networks and two seeds."""
    return [
        f"--data={image_folder}",
        f"--recipe={recipe_file}",
        f"--design={design_file}",
        "--precision=float32",
        "--jobs=1",
        "--seeds",
        "0",
        "1",
    ]


def start(*arguments):
    return subprocess.Popen(
        [sys.executable, "-m", "convnext_ablation.cli.main", "study", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**ONE_THREAD, "PYTHONUNBUFFERED": "1"},
    )


def finished(folder):
    return {path.parent.name: path.stat().st_mtime_ns for path in folder.glob("runs/*/result.json")}


def outcomes(folder):
    """What each run came to, without what was timed or is another process's."""
    same = (
        "identity",
        "network",
        "learning_rate",
        "best_epoch",
        "val_top1",
        "val_loss",
        "test_loss",
        "gmacs",
    )
    results = {path.parent.name: json.loads(path.read_text()) for path in folder.glob("runs/*/result.json")}
    return {name: [result[each] for each in same] for name, result in results.items()}


def wait_for(what, process=None):
    """Waits until there is something, and returns it."""
    while not (found := what()):
        assert process is None or process.poll() is None, process.stdout.read()
        time.sleep(0.02)
    return found


def holders(folder):
    found = [newest_claim(path, os.listdir(path)) for path in folder.glob("runs/*")]
    return [seen.holder for seen in found if seen and seen.holder and claims._birth(seen.holder.pid)]


def set_up(study, folder):
    claim_folder(folder, study)
    return study.runs()[0] if not study.tuning else study.tuning_runs()[0]


def test_commands_and_workers_that_are_killed_share_a_study_and_end_with_the_undisturbed_results(
    arguments, image_folder, tmp_path, capfd
):
    folder = tmp_path / "study"
    first = start(*arguments, f"--output={folder}")
    victim, *_ = wait_for(lambda: list(folder.glob("runs/*/summary.csv")) and holders(folder), first)
    os.kill(victim.pid, signal.SIGKILL)  # a worker: another takes its place
    worker, *_ = wait_for(lambda: finished(folder) and holders(folder), first)
    before = finished(folder)
    first.kill()  # the parent: its worker ends with it
    assert "a process that trained was killed (exit code -9)" in first.communicate()[0]
    while claims._birth(worker.pid) is not None:
        time.sleep(0.02)
    helper = start("work", folder, "--jobs=1")
    assert cli.main(["study", *arguments, f"--output={folder}"]) == 0
    output = helper.communicate(timeout=120)[0]
    assert helper.returncode == 0, output
    assert "4 of 4 runs done" in output
    assert f"{len(before)} done before" in capfd.readouterr().out
    assert {name: finished(folder)[name] for name in before} == before
    assert not list(folder.glob("runs/*/claim.*"))
    assert not list(folder.glob("runs/*/last.pth.tar"))

    undisturbed = tmp_path / "undisturbed"
    claim_folder(undisturbed, read_study(folder))
    assert work(undisturbed) == 0
    assert outcomes(folder) == outcomes(undisturbed)


def test_a_worker_that_is_asked_to_stop_saves_what_it_is_at(study, tmp_path):
    run = set_up(replace(study, recipe={**study.recipe, "epochs": 300}), tmp_path)
    folder = run.folder(tmp_path)
    started = workers.Workers(tmp_path, [{}], None, Progress(study, quiet=True))
    try:
        wait_for(lambda: (folder / "summary.csv").exists())
        (process,) = started.processes
        assert process.is_alive()
    finally:
        started.end()
    assert process.exitcode == 0
    assert newest_claim(folder, os.listdir(folder)).is_released
    assert list(folder.glob("recovery-*.pth.tar")) or load_checkpoint(folder / LAST)["epoch"] > 0


def test_a_command_that_is_asked_to_stop_does_as_with_ctrl_c():
    before = signal.getsignal(signal.SIGTERM)

    def ask():
        with workers._stopped_by_signal():
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(5)

    with pytest.raises(KeyboardInterrupt):
        ask()
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_run_that_is_stopped_and_goes_on_ends_as_if_it_never_was(study, tmp_path):
    run = set_up(study, tmp_path / "stopped")
    calls = []

    def stop_in_the_second_epoch():
        calls.append(1)
        return len(calls) == 12

    with pytest.raises(StoppedError):
        execute(run, tmp_path / "stopped", should_stop=stop_in_the_second_epoch)
    folder = run.folder(tmp_path / "stopped")
    assert not (folder / "result.json").exists()
    (folder / ".last.pth.tar.1.tmp").touch()
    assert work(tmp_path / "stopped") == 0
    set_up(study, tmp_path / "undisturbed")
    assert work(tmp_path / "undisturbed") == 0
    assert outcomes(tmp_path / "stopped") == outcomes(tmp_path / "undisturbed")
    results = [
        json.loads((run.folder(tmp_path / name) / "result.json").read_text())
        for name in ("stopped", "undisturbed")
    ]
    assert [result["elapsed_epochs"] for result in results] == [1, 2]
    assert set(os.listdir(folder)) == {
        "args.yaml", "summary.csv", "model_best.pth.tar", "predictions.npz", "result.json",
    }  # fmt: skip


@pytest.mark.parametrize(("check_seconds", "steps"), [(0.0, 7), (1e9, 12)])
def test_an_owner_that_lost_its_run_stops_without_writing(study, tmp_path, monkeypatch, check_seconds, steps):
    # at the next batch if it looks then, else at the end of the epoch: 6 batches each
    run = set_up(study, tmp_path)
    folder, clock = run.folder(tmp_path), FileClock(tmp_path)
    monkeypatch.setattr(claims, "CHECK_SECONDS", check_seconds)
    finish, step, takers, done = Trainer._finish_epoch, Trainer._step, [], []

    def lose_it_behind_the_first_epoch(trainer, number, losses):
        finish(trainer, number, losses)
        if not takers:
            path = max(folder.glob("claim.*"))
            os.utime(path, (time.time() - 1000,) * 2)
            takers.append(take(folder, clock))

    monkeypatch.setattr(Trainer, "_finish_epoch", lose_it_behind_the_first_epoch)
    monkeypatch.setattr(Trainer, "_step", lambda *inputs: (done.append(1), step(*inputs))[1])
    with take(folder, clock) as claim, pytest.raises(LostClaimError):
        execute(run, tmp_path, claim)
    assert len(done) == steps
    assert load_checkpoint(folder / LAST)["epoch"] == 0
    assert len(read_summary(folder / "summary.csv")) == 1
    assert not (folder / "result.json").exists()
    takers[0].check(now=True)


@pytest.mark.parametrize("error", [UserError("the loss is nan"), MemoryError("no more")])
def test_a_failed_run_blocks_no_other_and_is_tried_again(study, tmp_path, monkeypatch, error):
    two = replace(study, seeds=[0, 1])
    run = set_up(two, tmp_path)
    monkeypatch.setattr(workers, "execute", failing_once(error))
    afresh = isinstance(error, MemoryError)  # it may have left the process in a bad state
    assert work(tmp_path) == (workers._AFRESH if afresh else 0)
    assert work(tmp_path) == 0
    states = Survey(tmp_path).look(two)
    assert [state.status for state in states] == ["failed", "done"]
    assert states[0].reason == ("MemoryError: no more" if afresh else "the loss is nan")
    assert "Traceback" in (run.folder(tmp_path) / "failure.txt").read_text()
    assert forget_failures(states, tmp_path) == 1
    assert work(tmp_path) == 0
    assert [state.status for state in Survey(tmp_path).look(two)] == ["done", "done"]


def failing_once(error, before=lambda claim: None):
    attempts = []

    def execute(run, folder, claim, should_stop):
        attempts.append(run.name)
        if attempts == [run.name]:
            before(claim)
            raise error
        (run.folder(folder) / "result.json").write_text('{"val_top1": 50.0}')

    return execute


@pytest.mark.parametrize("error", [LostClaimError(), FileNotFoundError("its half-written file is gone")])
def test_a_run_that_was_lost_has_not_failed(study, tmp_path, monkeypatch, error):
    run = set_up(study, tmp_path)

    def lose(claim):
        os.utime(claim.path, (0, 0))
        take(claim.path.parent, FileClock(tmp_path)).release()

    monkeypatch.setattr(workers, "execute", failing_once(error, lose))
    assert work(tmp_path) == 0
    assert (run.folder(tmp_path) / "result.json").exists()
    assert not (run.folder(tmp_path) / "failure.txt").exists()


def test_a_run_at_which_process_after_process_dies_has_failed(study, tmp_path):
    run = set_up(study, tmp_path)
    folder = run.folder(tmp_path)
    for _ in range(workers.MOST_DEATHS):
        claim = take(folder, FileClock(tmp_path))
        holder = json.loads(claim.path.read_text())
        claim.path.write_text(json.dumps({**holder, "pid": 999999999}))
    assert work(tmp_path) == 0
    (state,) = Survey(tmp_path).look(study)
    assert (state.status, state.holder) == ("failed", None)
    assert "3 processes were killed at it within one epoch (out of memory?)" in state.reason
    forget_failures([state], tmp_path)
    claim = take(folder, FileClock(tmp_path))
    assert claim.holder.deaths == 0, "it is tried afresh"


def test_processes_that_end_at_once_are_not_started_forever(study, tmp_path, monkeypatch):
    set_up(study, tmp_path)
    monkeypatch.setattr(workers, "_LOOK_SECONDS", 0.01)
    monkeypatch.setattr(workers, "_worker", os._exit)
    monkeypatch.setattr(
        workers.multiprocessing, "get_context", lambda _: type("Context", (), {"Process": _EndsAtOnce})
    )
    with pytest.raises(UserError, match=r"end at once \(exit code 1\)"):
        supervise(tmp_path, [{}], Progress(study, quiet=True))


class _EndsAtOnce:
    exitcode, pid = 1, 999999999

    def __init__(self, **_):
        pass

    def start(self):
        assert os.environ["CUBLAS_WORKSPACE_CONFIG"]

    def terminate(self):
        pass

    kill = terminate

    def join(self, timeout=None):
        pass


def test_a_worker_keeps_memory_before_it_works(tmp_path, monkeypatch):
    done = []
    monkeypatch.setattr(workers, "_FOR_PARENT", [])
    monkeypatch.setattr(workers, "end_with_parent", lambda: None)
    monkeypatch.setattr(workers, "keep_memory", lambda: done.append("keeps"))
    monkeypatch.setattr(workers, "work", lambda *_: done.append("works") or 0)
    with pytest.raises(SystemExit):
        workers._worker(str(tmp_path), None)
    assert done == ["keeps", "works"]


def test_what_a_killed_process_left_of_a_finished_run_is_removed(study, tmp_path):
    run = set_up(study, tmp_path)
    run.folder(tmp_path).mkdir(parents=True)
    (run.folder(tmp_path) / "result.json").write_text("{}")
    (run.folder(tmp_path) / LAST).touch()
    assert work(tmp_path) == 0
    assert not (run.folder(tmp_path) / LAST).exists()


def test_weights_of_another_epoch_than_the_best_are_not_tested(study, tmp_path, monkeypatch):
    run = set_up(study, tmp_path)
    real = Trainer.run

    def spoil(trainer):
        history = real(trainer)
        state = load_checkpoint(trainer.folder / BEST)
        torch.save({**state, "epoch": 7}, trainer.folder / BEST)
        return history

    monkeypatch.setattr(Trainer, "run", spoil)
    with pytest.raises(UserError, match="is of epoch 7, and the best was"):
        execute(run, tmp_path)


def test_learning_rates_are_chosen_on_validation_with_equal_budgets(study, tmp_path, monkeypatch):
    tuned = replace(study, learning_rates={}, tuning=parse_tuning("lr=1e30,0.002,0.0001"))
    set_up(tuned, tmp_path)
    assert chosen_rates(tuned, tmp_path) == {}
    assert work(tmp_path) == 0
    write_tuning(tuned, tmp_path)
    with open(tmp_path / "tuning.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["lr"] for row in rows] == ["0.0001", "0.002", "1e+30"]
    assert rows[2]["val_top1"] == "", "it diverged"
    best = max(rows[:2], key=lambda row: (float(row["val_top1"]), -float(row["val_loss"])))
    assert [row["lr"] for row in rows if row["chosen"] == "1"] == [best["lr"]]
    (run,) = tuned.runs(chosen_rates(tuned, tmp_path))
    assert run.arguments.lr == float(best["lr"])
    assert (run.folder(tmp_path) / "predictions.npz").is_file()
    assert not list(tmp_path.glob("tuning/*/predictions.npz"))
    result = json.loads(next(tmp_path.glob("tuning/*lr0.002*/result.json")).read_text())
    assert "test_top1" not in result
    assert "of 0.0001, 0.002, 1e+30 with the highest top-1" in tuning_notes(tuned, tmp_path)[0]


@pytest.mark.parametrize(("best", "warned"), [(0.1, True), (0.2, False), (0.4, True)])
def test_a_best_learning_rate_at_the_edge_is_warned_of(study, tmp_path, best, warned):
    tuned = replace(study, learning_rates={}, tuning=(0.1, 0.2, 0.4))
    for run in tuned.tuning_runs():
        run.folder(tmp_path).mkdir(parents=True)
        result = {"val_top1": 90.0 if run.arguments.lr == best else 80.0, "val_loss": 1.0}
        (run.folder(tmp_path) / "result.json").write_text(json.dumps(result))
    assert chosen_rates(tuned, tmp_path) == {"kernel_5_atto": best}
    notes = tuning_notes(tuned, tmp_path)
    assert ("WARNING" in notes[-1]) == warned
    assert (f"kernel_5_atto ({best:g})" in notes[-1]) == warned
    assert tuning_notes(study, tmp_path) == []


def test_equal_accuracies_are_told_apart_by_the_loss(study, tmp_path):
    tuned = replace(study, learning_rates={}, tuning=(0.1, 0.2, 0.4))
    for run, loss in zip(tuned.tuning_runs(), (1.2, 1.0, 1.1), strict=True):
        run.folder(tmp_path).mkdir(parents=True)
        (run.folder(tmp_path) / "result.json").write_text(json.dumps({"val_top1": 9.0, "val_loss": loss}))
    assert chosen_rates(tuned, tmp_path) == {"kernel_5_atto": 0.2}


@pytest.mark.parametrize("text", ["0.1,0.2", "lr=0.1", "lr=0.1,x", "lr=0.1,0.1", "wd=0.1,0.2", "lr=0,1"])
def test_values_that_can_not_be_tried_are_named(text):
    with pytest.raises(UserError, match=r"--tune .*two or more learning rates"):
        parse_tuning(text)


@pytest.mark.parametrize(
    "script",
    [
        pytest.param(ROOT / "train.py", id="ours"),  # it takes the same arguments
        pytest.param(timm_repo.FOLDER / "train.py", id="timm's", marks=timm_repo.needs_timm_repo),
    ],
)
def test_timms_script_trains_and_the_test_is_ours(study, tmp_path, monkeypatch, script):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    scripted = replace(study, script=external.find_script(str(script)))
    run = set_up(scripted, tmp_path)
    folder = run.folder(tmp_path)
    assert work(tmp_path) == 0
    assert (folder / "result.json").is_file(), (folder / "failure.txt").read_text()
    result = json.loads((folder / "result.json").read_text())
    epochs = read_summary(folder / "summary.csv")
    assert len(epochs) == result["elapsed_epochs"] == 2
    assert result["val_top1"] == max(epoch.eval_top1 for epoch in epochs)
    assert result["test_images"] == 21
    assert result["train_images_per_second"] > 0
    assert (folder / "train.log").stat().st_size
    assert (folder / "predictions.npz").is_file()


def test_what_the_script_needs_is_checked(study, tmp_path, monkeypatch):
    with pytest.raises(UserError, match=r"--train-script .*no such file; `convnext-ablation timm-scripts`"):
        external.find_script(str(tmp_path / "train.py"))
    path = tmp_path / "train.py"
    path.write_text("")
    script = external.find_script(str(path))
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\necho Traceback; echo no such thing; exit 1\n")
    python.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(python))
    run = set_up(replace(study, script=script), tmp_path / "study")
    with pytest.raises(UserError, match=r"timm's script ended with code 1: no such thing \(.*train\.log\)"):
        execute(run, tmp_path / "study")
    monkeypatch.setattr(external.timm, "__version__", "0.1")
    with pytest.raises(UserError, match=r"timm 0\.1 is installed here"):
        external.check_script(script)
    path.write_text("another")
    with pytest.raises(UserError, match="has changed since the study began"):
        external.check_script(script)


def test_the_script_ends_with_the_run_and_with_its_worker(study, tmp_path, monkeypatch):
    path = tmp_path / "train.py"
    path.write_text("import time\ntime.sleep(60)")
    run = set_up(replace(study, script=external.find_script(str(path))), tmp_path / "study")
    begun, processes, real = time.monotonic(), [], subprocess.Popen

    def noted(*arguments, **more):
        processes.append(real(*arguments, **more))
        return processes[-1]

    monkeypatch.setattr(external.subprocess, "Popen", noted)
    with pytest.raises(StoppedError):
        execute(run, tmp_path / "study", should_stop=lambda: time.monotonic() > begun + 1)
    assert processes[0].returncode


def test_the_script_goes_on_from_what_it_half_renamed_and_keeps_the_better_best(tmp_path):
    def save(name, **more):
        torch.save({"state_dict": {}, **more}, tmp_path / name)

    save("tmp.pth.tar", epoch=0)
    assert external._checkpoint(tmp_path) == tmp_path / LAST
    save(BEST, epoch=0, metric=60.0)
    external._keep_best(tmp_path, decreasing=False, aside=True)
    save(BEST, epoch=1, metric=50.0)
    external._keep_best(tmp_path, decreasing=False)
    assert load_checkpoint(tmp_path / BEST)["epoch"] == 0
    assert not external._is_finished(tmp_path, 2)
    assert external._is_finished(tmp_path, 1)
    assert {path.name for path in tmp_path.iterdir()} == {LAST, BEST}


def test_jobs_of_submitit_do_the_runs(image_folder, recipe_file, design_file, tmp_path, capsys):
    pytest.importorskip("submitit")
    arguments = [f"--data={image_folder}", f"--recipe={recipe_file}", f"--design={design_file}", "--jobs=1"]
    arguments += ["--seeds=0", "--precision=float32", f"--output={tmp_path / 'study'}"]
    code = cli.main(["study", *arguments, "--slurm", "cluster=local", "timeout_min=5"])
    captured = capsys.readouterr()
    assert code == 0, captured.err
    assert "submitted " in captured.out
    assert len(finished(tmp_path / "study")) == 2
    assert list((tmp_path / "study" / "slurm").glob("*/*_log.out"))
    worker = slurm.Worker(tmp_path / "study", 1)
    again = worker.checkpoint()
    assert again.function is worker
    again.function()  # nothing is left to do
    assert len(finished(tmp_path / "study")) == 2


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["partition"], "write KEY=VALUE"),
        (["=gpu"], "write KEY=VALUE"),
        (["cluster=cloud"], "it is one of slurm, local, debug"),
    ],
)
def test_settings_of_slurm_that_are_none_are_named(texts, message):
    with pytest.raises(UserError, match=message):
        slurm.parse_slurm(texts)


def test_settings_of_slurm_are_read(monkeypatch, tmp_path):
    assert slurm.parse_slurm(["partition=gpu", "gpus_per_node=2", "time=1:00"]) == {
        "partition": "gpu", "gpus_per_node": 2, "time": "1:00",
    }  # fmt: skip
    pytest.importorskip("submitit")
    monkeypatch.setenv("PATH", "")
    with pytest.raises(UserError, match="jobs can't be submitted"):
        slurm.submit(tmp_path, {"partition": "gpu"}, 1, None)
    monkeypatch.setitem(sys.modules, "submitit", None)
    with pytest.raises(UserError, match=r"submitit is missing; pip install 'convnext_ablation\[slurm\]'"):
        slurm.submit(tmp_path, {}, 1, None)


def test_data_that_have_changed_are_named(study, tmp_path, capsys):
    set_up(replace(study, data_fingerprint="0" * 64), tmp_path)
    assert cli.main(["study", "work", str(tmp_path)]) == 2
    assert "the data have changed since the study began" in capsys.readouterr().err
    check_data(study)
    assert cli.main(["study", "work", str(tmp_path), "--jobs=0"]) == 2
    assert "--jobs is 0" in capsys.readouterr().err


def test_work_ends_with_an_error_where_runs_have_failed(study, tmp_path, capsys):
    run = set_up(study, tmp_path)
    run.folder(tmp_path).mkdir(parents=True)
    (run.folder(tmp_path) / "failure.txt").write_text("no more memory\n")
    assert cli.main(["study", "work", str(tmp_path)]) == 2
    captured = capsys.readouterr()
    assert "0 of 1 run done" in captured.out
    assert "1 of 1 run failed; `study status` says why" in captured.err


def test_each_gpu_has_a_worker_and_cpus_as_many_as_cores_allow(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert places_for("cuda", None, 1) == [{"CUDA_VISIBLE_DEVICES": gpu} for gpu in "012"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,GPU-7")
    assert places_for("cuda", None, 1) == [{"CUDA_VISIBLE_DEVICES": gpu} for gpu in ("5", "GPU-7")]
    assert [place["CUDA_VISIBLE_DEVICES"] for place in places_for("cuda", 3, 1)] == ["5", "GPU-7", "5"]
    assert places_for("cuda:1", None, 1) == [{}]
    monkeypatch.setattr(workers, "available_cores", lambda: 7)
    assert [len(places_for("cpu", *jobs)) for jobs in ((None, 1), (None, 2), (None, 8), (4, 1))] == [
        7,
        3,
        1,
        4,
    ]
