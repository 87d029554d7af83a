"""The processes of one run: who each is, and how they agree."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from timm.utils import is_distributed_env, world_info_from_env
from timm.utils.distributed import init_distributed_device_so

from convnext_ablation.errors import UserError
from convnext_ablation.machine import end_with_parent


class SharedError(UserError):
    """A user's error that every process of the run meets at the same time; one of them says it."""


@dataclass(frozen=True)
class Processes:
    """One of the processes that train together, and how it reaches the others.

    Whatever is not a gradient goes over the CPU, so that a GPU never waits for it.

    Attributes:
        device: The device of this process.
        rank: Its number, from 0.
        world_size: How many there are.
        group: The group that talks over the CPU; None where there is one process.
    """

    device: torch.device
    rank: int = 0
    world_size: int = 1
    group: Any = None

    @property
    def is_first(self) -> bool:
        """Whether this process is the one that writes files and prints."""
        return self.rank == 0

    def sum(self, values: Sequence[float]) -> list[float]:
        """Adds up the values of all processes, place by place, in float64."""
        if self.world_size == 1:
            return list(values)
        total = torch.tensor(values, dtype=torch.float64)
        dist.all_reduce(total, group=self.group)
        return total.tolist()

    def any(self, flag: bool) -> bool:
        """Whether any process says yes."""
        return flag if self.world_size == 1 else self.sum([float(flag)])[0] > 0

    def gather(self, value: Any) -> list[Any]:
        """Returns every process's value to all, in the order of ranks."""
        if self.world_size == 1:
            return [value]
        values = [None] * self.world_size
        dist.all_gather_object(values, value, group=self.group)
        return values

    def stop(self) -> None:
        """Leaves the others."""
        if self.world_size > 1:
            dist.destroy_process_group()


def start_processes(device: str) -> Processes:
    """Joins the other processes of the run, if torchrun or Slurm started several.

    Args:
        device: Kind of device: ``cpu`` or ``cuda``, or one device such as ``cuda:1`` for a single process.

    Raises:
        UserError: There is no such device here.
    """
    check_device(device)
    started = init_distributed_device_so(device=device)
    group = None
    if started["distributed"]:
        end_with_parent()  # a killed torchrun leaves its processes behind, and a new one may do their work
        on_cpu = dist.get_backend() == "gloo"
        group = dist.group.WORLD if on_cpu else dist.new_group(backend="gloo")
    return Processes(torch.device(started["device"]), started["global_rank"], started["world_size"], group)


def check_device(device: str) -> None:
    """Makes sure that a device is here.

    Raises:
        UserError: It isn't.
    """
    try:
        kind = torch.device(device).type
    except RuntimeError as error:
        raise UserError(f"device is {device!r}; it takes cpu or cuda") from error
    if kind != "cuda":
        return
    if not torch.cuda.is_available():
        raise UserError("device is cuda, but there is no GPU here that torch can use; give --device cpu")
    local_rank, count = world_info_from_env()[0], torch.cuda.device_count()
    if is_distributed_env() and local_rank >= count:
        raise UserError(f"process {local_rank} of this machine has no GPU: there are {count}; start {count}")


def is_first_process() -> bool:
    """Whether this is the first process of the run, before any has joined the others."""
    return not is_distributed_env() or world_info_from_env()[1] == 0
