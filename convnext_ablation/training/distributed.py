"""The processes of a run: start-up, communication, stop signals, seeds and determinism."""

from __future__ import annotations

import hashlib
import os
import random
import signal
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import reduce
from types import FrameType
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
import torch.utils.deterministic
from timm.utils import is_distributed_env, world_info_from_env
from timm.utils.distributed import init_distributed_device_so
from torch.utils.data import get_worker_info

from convnext_ablation.errors import UserError, in_one_line
from convnext_ablation.machine import STOPPING, end_with_parent, keep_memory


class SharedError(UserError):
    """A `UserError` that every process of the run raises together; only one reports it."""


@dataclass(frozen=True)
class Processes:
    """This process's place in a distributed run, and its communication with the others."""

    device: torch.device
    rank: int = 0
    world_size: int = 1
    group: Any = None  # Gloo on the CPU, so that GPUs wait for gradients only

    @property
    def is_first(self) -> bool:
        """Whether this is rank 0, which writes files and prints."""
        return self.rank == 0

    def sum(self, values: Sequence[float]) -> list[float]:
        """Element-wise sum over all processes, in float64."""
        if self.world_size == 1:
            return list(values)
        mine = torch.tensor(values, dtype=torch.float64)
        parts = [torch.empty_like(mine) for _ in range(self.world_size)]
        dist.all_gather(parts, mine, group=self.group)
        total: list[float] = reduce(torch.add, parts).tolist()  # always in rank order
        return total

    def any(self, flag: bool) -> bool:
        """Whether the flag is set in any process."""
        return flag if self.world_size == 1 else self.sum([float(flag)])[0] > 0

    def gather(self, value: Any) -> list[Any]:
        """Returns every process's value to all processes, in rank order."""
        if self.world_size == 1:
            return [value]
        values = [None] * self.world_size
        dist.all_gather_object(values, value, group=self.group)
        return values

    def together(self, make: Callable[[], Any]) -> Any:
        """Calls `make` in every process; if any raises `UserError`, all raise `SharedError`."""
        made, wrong = None, None
        try:
            made = make()
        except UserError as error:
            wrong = str(error)
        reasons = [reason for reason in self.gather(wrong) if reason]
        if reasons:
            raise SharedError("; ".join(dict.fromkeys(reasons)))
        return made


def start_processes(device: str) -> Processes:
    """Joins the other processes of the run, if torchrun or srun started several."""
    if "SLURM_NTASKS" in os.environ and os.environ.get("SLURM_STEP_NUM_TASKS", "1") == "1":
        os.environ.setdefault("WORLD_SIZE", "1")  # else timm waits for tasks that srun hasn't started
    check_device(device)
    with in_one_line("the processes of the run can't be joined"):
        started = init_distributed_device_so(device=device)
    group = None
    if started["distributed"]:
        end_with_parent()  # a killed torchrun leaves its processes running, in competition with a new run
        on_cpu = dist.get_backend() == "gloo"
        group = dist.group.WORLD if on_cpu else dist.new_group(backend="gloo")
    return Processes(torch.device(started["device"]), started["global_rank"], started["world_size"], group)


def check_device(device: str) -> None:
    """Raises `UserError` unless the device is available."""
    try:
        kind = torch.device(device).type
    except RuntimeError as error:
        raise UserError(f"device is {device!r}; it takes cpu, cuda, mps or xpu") from error
    if kind != "cuda":
        with in_one_line(f"device {device} can't be used here; give --device cpu"):
            torch.zeros(1, device=device).item()
        return
    if not torch.cuda.is_available():
        raise UserError("device is cuda, but there is no GPU here that torch can use; give --device cpu")
    local_rank, count = world_info_from_env()[0], torch.cuda.device_count()
    if (torch.device(device).index or 0) >= count:
        raise UserError(f"device is {device}, but there are {count} GPUs here, from cuda:0 on; give another")
    if is_distributed_env() and local_rank >= count:
        raise UserError(f"process {local_rank} of this machine has no GPU: there are {count}; start {count}")


def prepare_torch(device: torch.device) -> None:
    """Applies the settings of timm's script on a GPU; on a CPU, makes runs bit-reproducible.

    Freed memory is kept, which avoids page faults in CPU steps: benchmarks/training_step.py measures it.
    """
    keep_memory()
    if device.type == "cuda":
        torch.set_float32_matmul_precision("high")
        torch.backends.cudnn.benchmark = True
    elif device.type == "cpu":
        make_deterministic(torch.get_num_threads())


def make_deterministic(threads: int) -> None:
    """Restricts torch to deterministic algorithms on `threads` threads; sums depend on their number."""
    torch.use_deterministic_algorithms(True)
    # it would expose reads of uninitialized memory, but costs a pass over every new tensor
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    torch.set_num_threads(threads)


def seed_stream(*identity: object) -> None:
    """Seeds every random generator (Python, NumPy, torch) from values that identify the next image or step.

    Each image and each step has its own seed, so a resumed run draws the same numbers as an uninterrupted
    one.
    """
    digest = hashlib.sha256(repr(identity).encode()).digest()
    seed = int.from_bytes(digest[:4], "little")
    random.seed(seed)
    np.random.seed(seed)
    # `torch.manual_seed` checks every kind of device, which takes ten times as long as all else here
    torch.default_generator.manual_seed(seed)
    if torch.cuda.is_initialized():  # not in data workers
        torch.cuda.manual_seed_all(seed)
    if torch.xpu.is_initialized():
        torch.xpu.manual_seed_all(seed)
    if torch.backends.mps.is_available() and get_worker_info() is None:
        torch.mps.manual_seed(seed)


class StopRequest:
    """A context in which the signals `STOPPING` request a stop; a second Ctrl-C stops at once."""

    def __init__(self) -> None:
        self.signal = 0  # none received
        self._before: dict[int, Any] = {}

    def __enter__(self) -> StopRequest:
        """Installs the signal handlers."""
        for number in STOPPING:
            self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        """Restores the previous handlers."""
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def __call__(self) -> bool:
        """Whether to stop."""
        return self.signal != 0

    def _note(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and self.signal == signal.SIGINT:
            raise KeyboardInterrupt("checkpoints that were written are kept: --resume auto takes the newest")
        self.signal = number
