"""Runs of the real `train.py` that are killed or asked to stop, and go on."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from conftest import ONE_THREAD

from convnext_ablation.training.checkpoints import LAST, load_checkpoint
from convnext_ablation.training.history import SUMMARY

pytestmark = pytest.mark.xdist_group("killed")  # one process makes the runs that are compared
ROOT = Path(__file__).parents[1]
# more by hand: KILLS=20 pytest tests/test_training_killed.py
KILLS = int(os.environ.get("KILLS", "2"))
TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]


class Run:
    """A run of `train.py` in processes of its own."""

    def __init__(self, folder: Path, image_folder: Path, recipe_file: Path) -> None:
        self.folder = folder / "run"
        self.arguments = [str(ROOT / "train.py"), str(image_folder), "-c", str(recipe_file)]
        self.arguments += ["--model", "model_iv_atto", "--device", "cpu", "--workers", "1", "-b", "4"]
        self.arguments += ["--epochs", "4", "--mixup", "0.2", "--reprob", "0.3", "--model-ema"]
        self.arguments += ["--output", str(folder), "--experiment", "run", "--log-interval", "1"]

    def start(self, *more: str, torchrun: bool = False) -> subprocess.Popen[str]:
        command = [sys.executable, *(TORCHRUN if torchrun else []), *self.arguments, *more]
        environment = {**ONE_THREAD, "PYTHONUNBUFFERED": "1"}
        return subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment
        )

    def finish(self, *more: str, torchrun: bool = False) -> str:
        process = self.start(*more, torchrun=torchrun)
        output = process.communicate(timeout=300)[0]
        assert process.returncode == 0, output
        return output

    def state(self):
        state = load_checkpoint(self.folder / LAST)
        ours = state["convnext_ablation"]
        for epoch in ours["history"]:
            epoch["train_seconds"] = None
        tensors = {"weights": state["state_dict"], "average": state["state_dict_ema"]}
        tensors |= state["optimizer"]["state"]
        named = {
            f"{kind} {name}": value for kind, entries in tensors.items() for name, value in entries.items()
        }
        return {**named, "history": ours["history"]}


def assert_same(run: Run, other: Run) -> None:
    one, two = run.state(), other.state()
    assert one.keys() == two.keys()
    for name, value in one.items():
        same = torch.equal(value, two[name]) if isinstance(value, torch.Tensor) else value == two[name]
        assert same, name
    assert (run.folder / SUMMARY).read_text() == (other.folder / SUMMARY).read_text()


def wait_for(process: subprocess.Popen[str], words: str) -> None:
    """Reads what a process prints up to a line with some words."""
    for line in process.stdout:
        if words in line:
            return
    pytest.fail(f"the run ended without {words!r}")


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, image_folder, recipe_file):
    run = Run(tmp_path_factory.mktemp("undisturbed"), image_folder, recipe_file)
    run.finish(torchrun=True)
    return run


def test_two_processes_killed_at_any_moment_end_with_the_weights_of_an_undisturbed_run(
    undisturbed, tmp_path, image_folder, recipe_file
):
    run = Run(tmp_path, image_folder, recipe_file)
    moments = random.Random(0)
    go_on = ("--resume", "auto", "--recovery-interval", "2")
    for _ in range(KILLS):
        process = run.start(*go_on, torchrun=True)
        wait_for(process, "epoch")
        time.sleep(moments.uniform(0.0, 2.0))
        process.kill()  # torchrun alone: its processes must end by themselves
        process.wait()
        process.stdout.close()
    run.finish(*go_on, torchrun=True)
    assert_same(run, undisturbed)
    assert not list(run.folder.glob("recovery-*"))


@pytest.fixture(scope="module")
def undisturbed_alone(tmp_path_factory, image_folder, recipe_file):
    run = Run(tmp_path_factory.mktemp("undisturbed_alone"), image_folder, recipe_file)
    run.finish()
    return run


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
def test_a_run_that_is_asked_to_stop_saves_and_says_how_to_go_on(
    undisturbed_alone, tmp_path, image_folder, recipe_file, how
):
    run = Run(tmp_path, image_folder, recipe_file)
    process = run.start()
    wait_for(process, "epoch 1 [")
    process.send_signal(how)
    output = process.communicate(timeout=60)[0]
    assert process.returncode == 128 + how
    assert "resume with the same command and --resume auto" in output
    assert "Traceback" not in output
    assert len(list(run.folder.glob("recovery-1-*.pth.tar"))) == 1

    assert "resumed from" in run.finish("--resume", "auto")
    assert_same(run, undisturbed_alone)
    assert (run.folder / SUMMARY).read_text().count("train_loss") == 1


def test_torchrun_that_is_asked_to_stop_saves(undisturbed, tmp_path, image_folder, recipe_file):
    run = Run(tmp_path, image_folder, recipe_file)
    process = run.start(torchrun=True)
    wait_for(process, "epoch 1 [")
    process.terminate()
    output = process.communicate(timeout=60)[0]
    assert "resume with the same command and --resume auto" in output
    run.finish("--resume", "auto", torchrun=True)
    assert_same(run, undisturbed)


def test_a_run_of_other_processes_is_not_resumed(undisturbed):
    process = undisturbed.start("--resume", "auto", "--epochs", "5")
    output = process.communicate(timeout=60)[0]
    assert process.returncode == 2
    assert "was written by 2 processes, and now there are 1; start 2" in output


def test_a_process_that_dies_brings_the_run_down_with_its_own_error(tmp_path, image_folder, recipe_file):
    run = Run(tmp_path, image_folder, recipe_file)
    start = time.monotonic()
    process = run.start(torchrun=True)
    wait_for(process, "epoch 0 [")
    _kill_one_worker(process.pid)
    output = process.communicate(timeout=90)[0]
    assert process.returncode != 0
    assert time.monotonic() - start < 60
    assert "another process of the run" in output or "Signal 9" in output


def _kill_one_worker(parent: int) -> None:
    children = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
    ranked = [
        int(child)
        for child in children
        if b"\0RANK=1\0" in b"\0" + Path(f"/proc/{child}/environ").read_bytes() + b"\0"
    ]
    os.kill(ranked[0], signal.SIGKILL)
