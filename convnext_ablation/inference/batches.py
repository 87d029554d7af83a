"""How many images a section of a network takes at a time.

A layer's output for 16 images at 224 px is up to 77 MB: it goes to memory and comes back for the next layer,
which takes longer than computing it. For two images it stays in the cache. Later stages have smaller outputs
and larger weights, and want more images. So each section has a number of its own, chosen by measurement and
never smaller than that of the section before, and images pass through them part by part, depth first.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from statistics import median

import torch
from torch import nn
from tqdm import tqdm

from convnext_ablation.inference.convs import FusedConv

_ROUNDS = 3


class PartByPart(nn.Module):
    """Runs sections one after the other, each on a number of images of its own.

    Args:
        sections: The sections.
        at_a_time: Images that each takes at a time, never fewer than the section before.
    """

    def __init__(self, sections: Sequence[nn.Module], at_a_time: Sequence[int]) -> None:
        super().__init__()
        self.sections = nn.ModuleList(sections)
        self.at_a_time = list(at_a_time)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """``(B, C, H, W) -> (B, num_classes)``."""
        return self._through(len(self.at_a_time) - 1, x)

    def _through(self, last: int, x: torch.Tensor) -> torch.Tensor:
        """The images' way through the sections up to `last`."""
        if last < 0:
            return x
        most = self.at_a_time[last]
        if len(x) > most:
            return torch.cat([self._through(last, part) for part in x.split(most)])
        return self.sections[last](self._through(last - 1, x))


def choose(sections: Sequence[nn.Module], x: torch.Tensor) -> list[int]:
    """Measures how many images each section takes at a time at best.

    Args:
        sections: The sections; convs among them stay as they were last prepared.
        x: Images as they will come, ``(B, C, H, W)``.
    """
    numbers = [2**power for power in range(len(x).bit_length()) if 2**power < len(x)] + [len(x)]
    seconds: list[list[float]] = []
    for section in tqdm(sections, desc="measuring", disable=None, leave=False):
        rounds = [[_seconds_of(section, x.split(number)) for number in numbers] for _ in range(_ROUNDS)]
        seconds.append(undisturbed(rounds))
        x = section(x)
    return [numbers[index] for index in cheapest_ascent(seconds)]


def _seconds_of(section: nn.Module, parts: Sequence[torch.Tensor]) -> float:
    """What a section takes for parts of one size, once its convs are prepared for that size."""
    prepare(section, keep=True)
    section(parts[0])
    start = time.perf_counter()
    for part in parts:
        section(part)
    return time.perf_counter() - start


def undisturbed(rounds: Sequence[Sequence[float]]) -> list[float]:
    """What each of those that took turns takes when the machine does nothing else.

    A machine that others use is slow for seconds on end. The shortest of a few calls would favour whoever had
    a turn when it was not; what slows a whole round doesn't change the shares that they have of it.

    Args:
        rounds: Of each round, what each took.
    """
    shares = [[taken / sum(one) for taken in one] for one in rounds]
    fastest = min(sum(one) for one in rounds)
    return [fastest * median(share) for share in zip(*shares, strict=True)]


def prepare(section: nn.Module, keep: bool) -> None:
    """Has each conv prepare itself for the next input's size (see `FusedConv.prepare`)."""
    for module in section.modules():
        if isinstance(module, FusedConv):
            module.prepare(keep)


def cheapest_ascent(costs: Sequence[Sequence[float]]) -> list[int]:
    """A column for each row, never to the left of the one before, with the smallest sum of costs."""
    best: list[tuple[float, list[int]]] = [(0.0, [])] * len(costs[0])
    for row in costs:
        cheapest, following = (float("inf"), [0]), []
        for column, cost in enumerate(row):
            cheapest = min(cheapest, best[column])
            following.append((cheapest[0] + cost, [*cheapest[1], column]))
        best = following
    return min(best)[1]


def shortest_seconds(run: Callable[[], object], rounds: int) -> float:
    """The shortest of some calls, the first not counted: what else the machine does can only lengthen one."""
    run()
    seconds = []
    for _ in range(rounds):
        start = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - start)
    return min(seconds)
