"""Doing a study's runs: killed, failed, tuned, by timm's script; one driver a study."""

import csv
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import timm
import timm_repo
import torch
from conftest import ONE_THREAD, RECIPE
from fake_experiment import finish
from inline_engine import Inline, do_all
from PIL import Image
from safetensors.torch import load_file

from convnext_ablation.cli import main as cli
from convnext_ablation.data.folder import check_folder
from convnext_ablation.errors import UserError, exit_code_of
from convnext_ablation.files import sha256_of
from convnext_ablation.study import engine, external, run
from convnext_ablation.study.designs.design import design_of
from convnext_ablation.study.engine import Local, _Slot, drive, how_it_ended
from convnext_ablation.study.experiment import Study, Weights
from convnext_ablation.study.run import execute
from convnext_ablation.study.setup import local_places
from convnext_ablation.study.status import StudyProgress, Survey, look_at
from convnext_ablation.study.store import (
    LOCK,
    finished_epochs,
    held,
    holder_of,
    read_failure,
    read_study,
    save_study,
)
from convnext_ablation.study.tuning import as_known, parse_tuning, tuning_notes, write_tuning
from convnext_ablation.training.checkpoints import load_checkpoint
from convnext_ablation.training.history import BEST, LAST, read_summary
from convnext_ablation.training.loop import StoppedError, Trainer
from convnext_ablation.training.settings import read_recipe

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
    given = [f"--data={image_folder}", f"--recipe={recipe_file}", f"--design={design_file}"]
    return [*given, "--precision=float32", "--seeds", "0", "1"]


def start(*arguments):
    return subprocess.Popen(
        [sys.executable, "-m", "convnext_ablation.cli.main", "study", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**ONE_THREAD, "PYTHONUNBUFFERED": "1", "SLURM_CONF": os.environ.get("SLURM_CONF", "")},
    )


def finished(folder):
    return {path.parent.name: path.stat().st_mtime_ns for path in folder.glob("**/runs/*/result.json")}


def outcomes(folder):
    """What each run came to, without what was timed or is another process's."""
    same = ("identity", "learning_rate", "best_epoch", "val_top1_percent", "val_loss", "test_loss", "gmacs")
    results = {
        path.parent.name: json.loads(path.read_text()) for path in folder.glob("**/runs/*/result.json")
    }
    return {name: [result[each] for each in same] for name, result in results.items()}


def wait_for(what, process=None):
    """Waits until there is something, and returns it."""
    limit = time.monotonic() + 300
    while not (found := what()):
        assert time.monotonic() < limit
        assert process is None or process.poll() is None, process.stdout.read()
        time.sleep(0.02)
    return found


def set_up(study, folder):
    save_study(folder, study)
    return study.runs()[0] if not study.tuning else study.tuning_runs()[0]


def begin(local, run, folder):
    (folder / "logs").mkdir()
    assert local.submit([look_at(run, run.folder(folder))])


def at_work(folder):
    """The process of each run that is being done."""
    holders = {each: holder_of(each) for each in folder.glob("**/runs/*")}
    found = {each: re.search(r"process (\d+)", holder.where) for each, holder in holders.items() if holder}
    return {each: int(process[1]) for each, process in found.items() if process}


def kill(kind, folder, driver, rng):
    """Kills a run, the driver, or both; the runs whose processes have ended."""
    runs = at_work(folder)
    victims = runs if kind == "both" else rng.sample(sorted(runs), min(1, len(runs))) if kind == "run" else []
    for process in [*(runs[each] for each in victims), *([driver.pid] if kind != "run" else [])]:
        with suppress(ProcessLookupError):  # it is done
            os.kill(process, signal.SIGKILL)
    ended = victims if kind == "run" else runs
    wait_for(lambda: not any(Path(f"/proc/{runs[each]}").exists() for each in ended))
    if kind != "run":
        driver.communicate()
    return ended


def disturbed(arguments, folder, kinds, epochs):
    """Kills runs, drivers or both at random moments, then has all end; how many runs were done before."""
    seed = time.time_ns() % 1_000_000
    print("seed of the moments:", seed)
    rng = random.Random(seed)
    driver, done, begun = None, {}, {}  # the last: epochs that each run's next process finds
    for kind in kinds:
        if driver is None or driver.poll() is not None:
            driver = start(*arguments)
        wait_for(lambda: at_work(folder), driver)
        time.sleep(rng.uniform(0, 1.5))
        begun |= {each: finished_epochs(each)[0] for each in kill(kind, folder, driver, rng)}
        assert done.items() <= finished(folder).items(), "what is finished stays as it is"
        done = finished(folder)
    assert cli.main(["study", *arguments]) == 0
    for path in folder.glob("**/runs/*/result.json"):
        trained = json.loads(path.read_text())["elapsed_epochs"]
        assert trained == epochs - begun.get(path.parent, 0), "no epoch is trained twice"
    return len(done)


def test_drivers_and_runs_that_are_killed_at_any_moment_end_with_the_undisturbed_results(
    arguments, tmp_path, monkeypatch, capfd
):
    """With CONVNEXT_ABLATION_SLOW_TESTS set, it does so at twenty moments and not at two."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    slow, folder = bool(os.environ.get("CONVNEXT_ABLATION_SLOW_TESTS")), tmp_path / "study"
    kinds, epochs = (["run", "driver", "both"] * 7)[:20] if slow else ["run", "both"], 60 if slow else 6
    (tmp_path / "recipe.yaml").write_text(RECIPE.replace("epochs: 2", f"epochs: {epochs}"))
    arguments += [f"--recipe={tmp_path / 'recipe.yaml'}", f"--jobs={2 if slow else 1}", f"--output={folder}"]
    arguments += ["--retry-failed", "--seeds", "0", *(["1"] if slow else [])]
    done = disturbed(arguments, folder, kinds, epochs)
    assert f"{done} done before" in capfd.readouterr().out
    files = {"args.yaml", "summary.csv", "model_best.pth.tar", "predictions.npz", "result.json"}
    assert all({path.name for path in each.iterdir()} == files for each in folder.glob("runs/*"))
    save_study(tmp_path / "undisturbed", read_study(folder))
    do_all(tmp_path / "undisturbed")
    assert len(outcomes(folder)) == (4 if slow else 2)
    assert outcomes(folder) == outcomes(tmp_path / "undisturbed")


def test_a_second_driver_is_told_of_the_first(arguments, tmp_path, capsys):
    with held(tmp_path):
        assert cli.main(["study", *arguments, f"--output={tmp_path}"]) == 2
    error = capsys.readouterr().err
    assert f"{tmp_path}: has been run by {os.uname().nodename} (process {os.getpid()}) for " in error
    assert f"`convnext-ablation study status {tmp_path}` shows its progress" in error
    assert error.count("\n") == 1
    assert holder_of(tmp_path) is None


def test_a_folder_without_locks_is_named(tmp_path, monkeypatch):
    import fcntl

    def refuse(*_):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with pytest.raises(UserError, match="its file system has no file locks"), held(tmp_path):
        pass


@pytest.fixture
def does(monkeypatch):
    """Has local runs do something else."""
    return lambda code: monkeypatch.setattr(engine, "command_of", lambda _: [sys.executable, "-Sc", code])


def test_slots_are_filled_and_have_their_own_environment(study, does, tmp_path):
    does(
        "import os, sys, time; from pathlib import Path; time.sleep(0.2)\n"
        "print(os.environ['CUDA_VISIBLE_DEVICES'])\n"
    )
    (tmp_path / "logs").mkdir()
    local = Local([{"CUDA_VISIBLE_DEVICES": gpu} for gpu in ("GPU-a", "MIG-b")])
    left = Survey([replace(study, seeds=list(range(6)))], tmp_path).look()
    tasks = [state.task for state in left]
    ended = []
    while len(ended) < 6:
        left = left[len(local.submit(left)) :]
        ended += local.wait(5)
    assert sorted((tmp_path / "logs").glob("*.log")) == [tmp_path / "logs" / f"{task}.log" for task in tasks]
    logs = [path.read_text().strip() for path in (tmp_path / "logs").iterdir()]
    assert sorted(set(logs)) == ["GPU-a", "MIG-b"]
    assert sorted(ended) == [(task, "") for task in tasks]


def test_a_driver_sleeps_until_a_run_ends(study, does, tmp_path, monkeypatch):
    does("import sys, time; from pathlib import Path; time.sleep(1)\n")
    (tmp_path / "logs").mkdir()
    looks, ended = [], _Slot.ended
    monkeypatch.setattr(_Slot, "ended", lambda slot: looks.append(slot) or ended(slot))
    local = Local([{}])
    assert local.submit(Survey([study], tmp_path).look()[:1])
    assert [ending for _, ending in local.wait(60)] == [""]
    assert len(looks) < 40  # 200 a second otherwise


@pytest.fixture(scope="module")
def undisturbed(study, tmp_path_factory):
    """What the study's run comes to, and that of another seed."""
    folder = tmp_path_factory.mktemp("undisturbed")
    set_up(replace(study, seeds=[0, 1]), folder)
    do_all(folder)
    return outcomes(folder)


def test_a_process_that_does_several_runs_does_each_as_one_of_its_own_would(study, undisturbed, tmp_path):
    both = replace(study, seeds=[0, 1])
    set_up(both, tmp_path / "one")
    (tmp_path / "one" / "logs").mkdir()
    local, processes, logs = Local([{"OMP_NUM_THREADS": "1"}]), set(), []
    other = tmp_path / "one" / "runs" / "other"
    states = [look_at(run, run.folder(tmp_path / "one")) for run in both.runs()]
    for state in [*states, replace(states[0], folder=other)]:
        (begun,) = local.submit([state])
        ((task, ending),) = wait_for(lambda: local.wait(5))
        assert task == begun.task
        processes.add(local._slots[0].process.pid)
        logs.append(begun.log.read_text())
    assert ending == "its process ended with code 1"
    assert len(processes) == 1
    assert logs[:2] == ["", ""]
    assert "other: no run of the study" in logs[2]
    assert outcomes(tmp_path / "one") == undisturbed
    local.cancel()


def test_a_driver_that_is_asked_to_stop_has_its_runs_save_where_they_are(study, tmp_path):
    run = set_up(replace(study, recipe={**study.recipe, "epochs": 300}), tmp_path)
    folder = run.folder(tmp_path)
    local = Local([{"OMP_NUM_THREADS": "1"}])
    begin(local, run, tmp_path)
    wait_for(lambda: (folder / "summary.csv").exists())
    local.cancel()
    assert local.wait(0) == [(run.task, "its process ended with code 75")]
    if not list(folder.glob("recovery-*.pth.tar")):  # it was between two epochs
        assert load_checkpoint(folder / LAST)["epoch"] + 1 == len(read_summary(folder / "summary.csv"))
    assert read_failure(folder) is None
    assert holder_of(folder) is None


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_driver_that_is_asked_to_stop_does_as_with_ctrl_c(study, tmp_path, number):
    before = signal.getsignal(number)

    class Asked(Inline):
        def wait(self, seconds):
            os.kill(os.getpid(), number)
            time.sleep(5)

    set_up(study, tmp_path)
    driving = partial(drive, [study], tmp_path, Asked(), StudyProgress(quiet=True))
    assert exit_code_of("study", driving) == 128 + number
    assert signal.getsignal(number) is before


def test_a_run_that_is_stopped_and_resumes_ends_as_if_it_never_was(study, undisturbed, tmp_path):
    run = set_up(study, tmp_path)
    calls = []

    def stop_in_the_second_epoch():
        calls.append(1)
        return len(calls) == 12

    with pytest.raises(StoppedError):
        execute(run, tmp_path, stop_in_the_second_epoch)
    folder = run.folder(tmp_path)
    assert not (folder / "result.json").exists()
    (folder / ".last.pth.tar.1.tmp").touch()
    do_all(tmp_path)
    assert outcomes(tmp_path) == {run.name: undisturbed[run.name]}
    assert json.loads((folder / "result.json").read_text())["elapsed_epochs"] == 1, "and not 2"
    assert {path.name for path in folder.iterdir()} == {
        "args.yaml", "summary.csv", "model_best.pth.tar", "predictions.npz", "result.json",
    }  # fmt: skip


@pytest.mark.parametrize("error", [UserError("the loss is nan"), MemoryError("no more")])
def test_a_run_that_fails_twice_alike_waits_to_be_asked_and_blocks_no_other(
    study, tmp_path, monkeypatch, error
):
    attempts = []

    def fail_first_seed(run, folder, should_stop):
        attempts.append(run.arguments.seed)
        if run.arguments.seed == 0 and attempts.count(0) <= 2:
            raise error
        finish(run, folder)

    monkeypatch.setattr(run, "execute", fail_first_seed)
    first = set_up(replace(study, seeds=[0, 1]), tmp_path)
    assert [state.status for state in do_all(tmp_path)] == ["failed", "done"]
    failure = read_failure(first.folder(tmp_path))
    assert failure.reason == (str(error) if isinstance(error, UserError) else "MemoryError: no more")
    assert "Traceback" in (first.folder(tmp_path) / "failure.txt").read_text()
    do_all(tmp_path)
    assert attempts == [0, 1, 0], "it is not tried a third time"
    (first.folder(tmp_path) / "failure.txt").unlink()  # as --retry-failed does
    assert [state.status for state in do_all(tmp_path)] == ["done", "done"]
    assert read_failure(first.folder(tmp_path)) is None


def test_a_run_whose_process_is_killed_each_time_has_failed_with_the_end_of_its_log(study, does, tmp_path):
    does("import os; print('step 7', flush=True); os.kill(os.getpid(), 9)")
    first = set_up(study, tmp_path)
    (state,) = drive([study], tmp_path, Local([{}]), StudyProgress(quiet=True))
    assert (state.status, state.failure.times) == ("failed", 3)
    assert state.failure.reason == "its process was killed (SIGKILL; out of memory?)"
    assert "step 7\nstep 7\nstep 7" in (first.folder(tmp_path) / "failure.txt").read_text()


def test_a_signal_without_a_name_is_told_by_its_number():
    assert how_it_ended(-36) == "its process was killed (signal 36; out of memory?)"


def test_a_run_that_another_process_does_is_left_alone(study, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(run, "_SECONDS_FOR_OTHERS", 0.0)
    first = set_up(study, tmp_path)
    with held(first.folder(tmp_path)):
        assert run.main([str(first.folder(tmp_path))]) == run.FAILED
    assert "in use by " in capsys.readouterr().err
    assert {path.name for path in first.folder(tmp_path).iterdir()} == {LOCK}


def test_what_a_killed_process_left_of_a_finished_run_is_removed(study, tmp_path):
    first = set_up(study, tmp_path)
    first.folder(tmp_path).mkdir(parents=True)
    (first.folder(tmp_path) / "result.json").write_text("{}")
    (first.folder(tmp_path) / LAST).touch()
    do_all(tmp_path)
    assert [path.name for path in first.folder(tmp_path).iterdir()] == ["result.json"]


@pytest.mark.parametrize(("split", "change"), [("test", "overwritten"), ("train", "removed")])
def test_no_result_is_kept_of_images_that_have_changed_meanwhile(study, tmp_path, monkeypatch, split, change):
    shutil.copytree(study.data_dir, tmp_path / "data")
    changed = replace(study, data_dir=str(tmp_path / "data"), seeds=[0, 1])
    first, second = (set_up(changed, tmp_path / "study"), *changed.runs()[1:])
    image = sorted((tmp_path / "data" / split).glob("*/*.png"))[3]
    content, real = image.read_bytes(), Trainer.run

    def spoil(trainer):
        history = real(trainer)
        image.unlink()
        if change == "overwritten":
            Image.new("RGB", (32, 32)).save(image)
        return history

    monkeypatch.setattr(Trainer, "run", spoil)
    with pytest.raises(UserError, match=rf"{image.name}: changed while a run was at work, so nothing"):
        execute(first, tmp_path / "study")
    assert not [*first.folder(tmp_path / "study").iterdir()]
    monkeypatch.setattr(Trainer, "run", real)
    newest = image.name if change == "overwritten" else ""
    with pytest.raises(UserError, match=f"not those that the study began with .*{newest}"):
        execute(second, tmp_path / "study")
    image.write_bytes(content)
    run._Data(second)  # it would raise


def test_a_run_refuses_published_weights_that_the_study_did_not_begin_with(study, tmp_path, monkeypatch):
    tuned = replace(
        study, recipe={**study.recipe, "pretrained": True}, published={"resnet_to_convnext_atto": "a"}
    )
    (first,) = tuned.runs()
    assert (first.published, first.identity) == ("a", replace(tuned, published={}).runs()[0].identity)
    monkeypatch.setattr(run, "weights_hash", lambda model: "b")
    with pytest.raises(UserError, match=f"the published weights of {first.point.model} are not those"):
        execute(first, tmp_path / "study")
    (own,) = replace(tuned, weights=[Weights("kernel_5_atto", None, "x.pth", "c", "")]).runs()
    assert own.published == ""


def test_weights_of_another_epoch_than_the_best_are_not_tested(study, tmp_path, monkeypatch):
    first = set_up(study, tmp_path)
    real = Trainer.run

    def spoil(trainer):
        history = real(trainer)
        state = load_checkpoint(trainer.folder / BEST)
        torch.save({**state, "epoch": 7}, trainer.folder / BEST)
        return history

    monkeypatch.setattr(Trainer, "run", spoil)
    with pytest.raises(UserError, match="is of epoch 7, and the best was"):
        execute(first, tmp_path)


def test_learning_rates_are_chosen_on_validation_with_equal_budgets(study, tmp_path):
    tuned = replace(study, learning_rates={}, tuning=parse_tuning("lr=1e30,0.002,0.0001"))
    set_up(tuned, tmp_path)
    assert as_known(tuned, tmp_path).runs() == []
    assert len(do_all(tmp_path)) == 4
    write_tuning(tuned, tmp_path)
    with open(tmp_path / "tuning.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["lr"] for row in rows] == ["0.0001", "0.002", "1e+30"]
    assert rows[2]["val_top1_percent"] == "", "it diverged"
    best = max(rows[:2], key=lambda row: (float(row["val_top1_percent"]), -float(row["val_loss"])))
    assert [row["lr"] for row in rows if row["chosen"] == "1"] == [best["lr"]]
    (chosen,) = as_known(tuned, tmp_path).runs()
    assert chosen.arguments.lr == float(best["lr"])
    assert (chosen.folder(tmp_path) / "predictions.npz").is_file()
    assert not list(tmp_path.glob("tuning/*/predictions.npz"))
    result = json.loads(next(tmp_path.glob("tuning/*lr0.002*/result.json")).read_text())
    assert "test_top1_percent" not in result
    assert "of 0.0001, 0.002, 1e+30 with the highest top-1" in tuning_notes(tuned, tmp_path)[0]


@pytest.mark.parametrize(("best", "warned"), [(0.1, True), (0.2, False), (0.4, True)])
def test_a_best_learning_rate_at_the_edge_is_warned_of(study, tmp_path, best, warned):
    tuned = replace(study, learning_rates={}, tuning=(0.1, 0.2, 0.4))
    for each in tuned.tuning_runs():  # of equal accuracies the one with the lower loss
        finish(each, tmp_path, val_loss=1.0 if each.arguments.lr == best else 1.1)
    assert as_known(tuned, tmp_path).learning_rates == {"kernel_5_atto": best}
    notes = tuning_notes(tuned, tmp_path)
    assert ("WARNING" in notes[-1]) == warned
    assert ("for 1 of 1 network (tuning.csv says which)" in notes[-1]) == warned
    assert tuning_notes(study, tmp_path) == []


@pytest.mark.parametrize("text", ["lr=0.1,x", "lr=0.1,0.1", "wd=0.1,0.2", "lr=0,1"])
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
    folder = set_up(scripted, tmp_path).folder(tmp_path)
    do_all(tmp_path)
    assert (folder / "result.json").is_file(), (folder / "failure.txt").read_text()
    result = json.loads((folder / "result.json").read_text())
    epochs = read_summary(folder / "summary.csv")
    assert len(epochs) == result["elapsed_epochs"] == 2
    assert result["val_top1_percent"] == max(epoch.eval_top1 for epoch in epochs)
    assert result["test_images"] == 21
    assert result["train_images_per_second"] > 0
    assert (folder / "train.log").stat().st_size
    assert (folder / "predictions.npz").is_file()


def test_timms_script_starts_from_the_weights_alone_whatever_file_they_came_in(study, tmp_path, monkeypatch):
    class Runs:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "ran"),)

    [point] = study.points
    state = timm.create_model(point.model, in_chans=1, **point.model_kwargs).state_dict()
    given = tmp_path / "given.ckpt"
    content = {"state_dict": {f"_orig_mod.module.{name}": value for name, value in state.items()}}
    torch.save({**content, "hyper_parameters": {"root": Path("/data"), "x": torch.nn.Identity()}}, given)
    script, python = tmp_path / "train.py", tmp_path / "python"
    script.touch()
    weights = Weights(point.key, None, str(given), sha256_of(given), "not told")
    scripted = replace(study, script=external.find_script(str(script)), weights=(weights,))
    scripted = replace(scripted, recipe={**study.recipe, "pretrained": True})
    run = set_up(scripted, tmp_path / "study")
    folder = run.folder(tmp_path / "study")
    folder.mkdir(parents=True, exist_ok=True)
    python.write_text(f"#!/bin/sh\ncp {folder}/start.safetensors {tmp_path}/got.safetensors\n")
    python.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(python))
    assert external._train(run, 3, folder, lambda: False) == 0
    assert f"pretrained_path: {folder}/start.safetensors\n" in (folder / "script_args.yaml").read_text()
    got = load_file(tmp_path / "got.safetensors")
    assert got.keys() == state.keys()
    assert all(torch.equal(got[name], state[name]) for name in state)
    assert not (folder / "start.safetensors").exists()
    torch.save({**content, "x": Runs()}, given)
    with pytest.raises(UserError, match=r"given\.ckpt: refused, nothing was run: the file names posix.mkdir"):
        external._train(run, 3, folder, lambda: False)
    assert not (tmp_path / "ran").exists()


def test_what_the_script_needs_is_checked(study, tmp_path, monkeypatch):
    with pytest.raises(UserError, match=r"--train-script .*no such file; to get timm's: git clone"):
        external.find_script(str(tmp_path / "train.py"))
    path = tmp_path / "train.py"
    path.write_text("")
    script = external.find_script(str(path))
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\necho Traceback; echo no such thing; exit 1\n")
    python.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(python))
    first = set_up(replace(study, script=script), tmp_path / "study")
    with pytest.raises(UserError, match=r"timm's script ended with code 1: no such thing \(.*train\.log\)"):
        execute(first, tmp_path / "study")
    monkeypatch.setattr(external.timm, "__version__", "0.1")
    with pytest.raises(UserError, match=r"timm 0\.1 is installed here"):
        external.check_script(script)
    path.write_text("another")
    with pytest.raises(UserError, match="has changed since the study began"):
        external.check_script(script)


def test_processes_of_a_run_end_with_it_and_train_no_epoch_twice(study, tmp_path, monkeypatch):
    """That two processes resume bit-identical is tested of `train.py` itself."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    epochs = 5
    shared = replace(study, processes=2, recipe={**study.recipe, "epochs": epochs})
    first = set_up(shared, tmp_path / "study")
    folder, local = first.folder(tmp_path / "study"), Local([{}])
    begin(local, first, tmp_path / "study")

    def processes():
        found = []
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            with suppress(OSError):
                found += [path] if str(folder.parent).encode() in path.read_bytes() else []
        return found

    wait_for(lambda: len(processes()) == 4)  # the run's, torchrun's, and two that train
    wait_for(lambda: (folder / "summary.csv").exists())
    (slot,) = local._slots
    slot.process.kill()
    assert "SIGKILL" in wait_for(lambda: local.wait(5))[0][1]
    wait_for(lambda: not processes())
    before = finished_epochs(folder)[0]
    assert 0 < before < epochs
    do_all(tmp_path / "study")
    result = json.loads((folder / "result.json").read_text())
    assert (result["elapsed_epochs"], result["test_images"]) == (epochs - before, 21)


def test_of_what_processes_print_the_error_of_ours_is_the_reason(tmp_path):
    log = tmp_path / "train.log"
    log.write_text(
        "train.py: error: of an earlier attempt\ntrain.py: error: the loss is nan\nprocess 1 ends\n"
        "E1128 torch/distributed/elastic/multiprocessing/api.py:1] failed (exitcode: 2)\n=====\n"
    )
    assert external._reason(log, 39) == "train.py: error: the loss is nan"


def test_the_script_resumes_from_what_it_half_renamed_and_keeps_the_better_best(tmp_path):
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


def test_each_gpu_is_a_slot_and_cpus_are_as_many_as_cores_allow(monkeypatch, tmp_path):
    smi = tmp_path / "nvidia-smi"
    smi.write_text(
        "#!/bin/sh\necho 'GPU 0: NVIDIA H200 (UUID: GPU-0a)'\n"
        "echo '  MIG 1g.18gb     Device  0: (UUID: MIG-1b)'\n"
        "echo '  MIG 1g.18gb     Device  1: (UUID: MIG-2c)'\n"
        "echo 'GPU 1: NVIDIA H200 (UUID: GPU-3d)'\n"
    )
    smi.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    gpus = [place["CUDA_VISIBLE_DEVICES"] for place in local_places("cuda", None, 1)]
    assert gpus == ["MIG-1b", "MIG-2c", "GPU-3d"]
    smi.unlink()
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    assert local_places("cuda", None, 1) == [{"CUDA_VISIBLE_DEVICES": gpu} for gpu in "012"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,GPU-7")
    assert local_places("cuda", None, 1) == [{"CUDA_VISIBLE_DEVICES": gpu} for gpu in ("5", "GPU-7")]
    assert local_places("cuda", 1, 1) == [{"CUDA_VISIBLE_DEVICES": "5"}]
    with pytest.raises(UserError, match="--jobs 3: a run takes a GPU, and 2 can be used here"):
        local_places("cuda", 3, 1)
    assert local_places("cuda:1", None, 1) == [{}]
    assert local_places("cuda", None, 1, 2) == [{"CUDA_VISIBLE_DEVICES": "5,GPU-7"}]
    with pytest.raises(UserError, match="--jobs 1: a run takes 3 GPUs, and 2 can be used here"):
        local_places("cuda", None, 1, 3)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,2,3,4")
    pairs = [place["CUDA_VISIBLE_DEVICES"] for place in local_places("cuda", None, 1, 2)]
    assert pairs == ["0,1", "2,3"]
    monkeypatch.setattr(engine.machine, "available_cores", lambda: 7)
    slots = [
        len(local_places("cpu", *jobs)) for jobs in ((None, 1), (None, 2), (None, 8), (4, 1), (None, 1, 3))
    ]
    assert slots == [7, 3, 1, 4, 2]
