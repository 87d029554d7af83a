"""Two processes that train together under torchrun's agent, forked from one that has torch imported."""

from __future__ import annotations

import json
import multiprocessing
import os
import sys
import time
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any
from unittest import mock

import torch.distributed as dist
from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from convnext_ablation import stock
from convnext_ablation.cli import train as train_command
from convnext_ablation.training.arguments import TrainingArguments
from convnext_ablation.training.distributed import make_deterministic, start_processes
from convnext_ablation.training.loop import Trainer

_FORKED = multiprocessing.get_context("forkserver")
_FORKED.set_forkserver_preload([train_command.__name__, elastic_launch.__module__])


def start(log: Path, work: Callable[..., None], *arguments: Any, processes: int = 2) -> BaseProcess:
    """Starts an agent whose processes do some work, and returns it; what they print goes to a file."""
    from conftest import ONE_THREAD  # the processes themselves need none of it

    log.touch()
    agent = _FORKED.Process(target=_agent, args=(log, work, arguments, processes))
    with mock.patch.dict(os.environ, ONE_THREAD, clear=True):
        agent.start()
    return agent


def finished(agent: BaseProcess, log: Path, seconds: float = 600.0) -> str:
    """Waits for the end of an agent, and returns what its processes have printed."""
    agent.join(seconds)
    text = log.read_text()
    if agent.exitcode is None:
        agent.kill()
        raise AssertionError(f"not done after {seconds} s: {text}")
    return text


def wait_for(agent: BaseProcess, log: Path, words: str) -> None:
    """Waits until the processes of an agent have printed some words."""
    while words not in log.read_text():
        assert agent.is_alive(), log.read_text()
        time.sleep(0.02)


def _agent(log: Path, work: Callable[..., None], arguments: tuple[Any, ...], processes: int) -> None:
    output = os.open(log, os.O_WRONLY | os.O_APPEND)
    os.dup2(output, sys.stdout.fileno())
    os.dup2(output, sys.stderr.fileno())
    # as `torchrun --standalone --nproc-per-node` has it
    options = {"rdzv_backend": "c10d", "rdzv_endpoint": "localhost:0", "run_id": log.name, "max_restarts": 0}
    options |= {"logs_specs": DefaultLogsSpecs(os.devnull), "start_method": "fork"}  # logs would stay
    elastic_launch(LaunchConfig(1, 1, processes, **options), work)(*arguments)


def train(*arguments: str) -> None:
    """What `train.py` does."""
    code = train_command.main(arguments)
    if code:
        sys.exit(code)


def run_script(folder: Path, *arguments: str) -> None:
    """What `python -m convnext_ablation.stock` does in a folder."""
    os.chdir(folder)
    sys.exit(stock.main(arguments))


def train_cases(folder: Path) -> None:
    """Trains by the settings in a folder's ``cases.json``, and evaluates by those of ``test``."""
    make_deterministic(threads=1)
    processes = start_processes("cpu")
    for name, settings in json.loads((folder / "cases.json").read_text()).items():
        trainer = Trainer(TrainingArguments(**settings), folder / name, processes)
        if name != "test":
            trainer.run()
            continue
        predictions = trainer.evaluate("test")
        if processes.is_first:
            predictions.save(folder / "test.npz")
    if processes.world_size > 1:
        dist.destroy_process_group()
