"""Runs of the real `train.py` in two processes that are killed or asked to stop, and resume."""

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

from convnext_ablation.cli import train as train_command
from convnext_ablation.training.checkpoints import LAST, load_checkpoint
from convnext_ablation.training.history import SUMMARY

ROOT = Path(__file__).parents[1]
# seconds after the first line of a run; more by hand: KILLS=20 pytest tests/test_training_killed.py
MOMENTS = [random.Random(number).uniform(0.0, 1.0) for number in range(int(os.environ.get("KILLS", "1")))]
TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]


class Run:
    """A run of `train.py` in processes of its own."""

    def __init__(self, folder: Path, image_folder: Path, recipe_file: Path) -> None:
        self.folder = folder / "run"
        self.arguments = [str(ROOT / "train.py"), str(image_folder), "-c", str(recipe_file)]
        self.arguments += ["--model", "model_iv_atto", "--device", "cpu", "--workers", "1", "-b", "4"]
        self.arguments += ["--epochs", "4", "--mixup", "0.2", "--reprob", "0.3", "--model-ema"]
        self.arguments += ["--output", str(folder), "--experiment", "run", "--log-interval", "1"]

    def start(self, *more: str) -> subprocess.Popen[str]:
        command = [sys.executable, *TORCHRUN, *self.arguments, *more]
        environment = {**ONE_THREAD, "PYTHONUNBUFFERED": "1"}
        return subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment
        )

    def finish(self, *more: str) -> None:
        process = self.start(*more)
        output = process.communicate(timeout=300)[0]
        assert process.returncode == 0, output

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
    run.finish()
    return run


def test_two_processes_killed_or_stopped_at_any_moment_end_with_the_weights_of_an_undisturbed_run(
    undisturbed, tmp_path, image_folder, recipe_file
):
    run = Run(tmp_path, image_folder, recipe_file)
    resuming = ("--resume", "auto", "--recovery-interval", "2")
    for seconds in MOMENTS:
        process = run.start(*resuming)
        wait_for(process, "] loss ")
        time.sleep(seconds)
        process.kill()  # torchrun alone: its processes must end by themselves
        process.wait()
        process.stdout.close()
    process = run.start(*resuming)
    wait_for(process, "] loss ")
    process.terminate()
    output = process.communicate(timeout=60)[0]
    assert "resume with the same command and --resume auto" in output
    run.finish(*resuming)
    assert_same(run, undisturbed)
    assert not list(run.folder.glob("recovery-*"))


def test_a_run_of_other_processes_is_not_resumed(undisturbed, capsys):
    assert train_command.main([*undisturbed.arguments[1:], "--resume", "auto", "--epochs", "5"]) == 2
    assert "was written by 2 processes, and now there are 1; start 2" in capsys.readouterr().err


def test_a_process_that_dies_brings_the_run_down_with_its_own_error(tmp_path, image_folder, recipe_file):
    run = Run(tmp_path, image_folder, recipe_file)
    start = time.monotonic()
    process = run.start()
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
