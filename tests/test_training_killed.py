"""Runs of `train.py` in two processes that are killed or asked to stop, and resume."""

from __future__ import annotations

import os
import random
import signal
import time
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest
import torch
from two_processes import finished, start, train, wait_for

from convnext_ablation.training.checkpoints import load_checkpoint
from convnext_ablation.training.history import LAST, SUMMARY

# seconds after the first line of a run; more by hand: KILLS=20 pytest tests/test_training_killed.py
MOMENTS = [random.Random(number).uniform(0.0, 1.0) for number in range(int(os.environ.get("KILLS", "1")))]


class Run:
    """A run of `train.py` in processes of its own."""

    def __init__(self, folder: Path, image_folder: Path, recipe_file: Path) -> None:
        self.folder, self.log = folder / "run", folder / "log"
        self.arguments = [str(image_folder), "-c", str(recipe_file), "--model", "model_iv_atto"]
        self.arguments += ["--device", "cpu", "--workers", "1", "-b", "4", "--epochs", "3", "--mixup", "0.2"]
        self.arguments += ["--reprob", "0.3", "--model-ema", "--log-interval", "1"]
        self.arguments += ["--output", str(folder), "--experiment", "run"]

    def start(self, *more: str) -> BaseProcess:
        """Starts it anew, or resumes it, up to its first line about the training."""
        self.log.unlink(missing_ok=True)
        agent = start(self.log, train, *self.arguments, *more)
        wait_for(agent, self.log, "] loss ")
        return agent

    def finish(self, *more: str) -> None:
        agent = self.start(*more)
        output = finished(agent, self.log)
        assert agent.exitcode == 0, output

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
        agent = run.start(*resuming)
        time.sleep(seconds)
        agent.kill()  # as torchrun itself: its processes must end by themselves
        agent.join()
    agent = run.start(*resuming)
    agent.terminate()
    output = finished(agent, run.log)
    assert "resume with the same command and --resume auto" in output
    run.finish(*resuming)
    assert_same(run, undisturbed)
    assert not list(run.folder.glob("recovery-*"))


def test_a_process_that_dies_brings_the_run_down_with_its_own_error(tmp_path, image_folder, recipe_file):
    run = Run(tmp_path, image_folder, recipe_file)
    agent = run.start()
    children = Path(f"/proc/{agent.pid}/task/{agent.pid}/children").read_text().split()
    os.kill(int(children[-1]), signal.SIGKILL)
    output = finished(agent, run.log, seconds=60)
    assert agent.exitcode != 0
    assert "another process of the run" in output or "Signal 9" in output
