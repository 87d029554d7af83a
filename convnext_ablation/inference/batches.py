"""Chunk size of the batch in each section of a network.

A layer's output for 16 images at 224 px is up to 77 MB. Writing it to memory and reading it back takes longer
than computing it; for two images it stays in the cache. Later stages have smaller outputs and larger weights,
so they prefer more images. Each section therefore has its own chunk size, chosen by measurement and never
smaller than that of the section before. Chunks pass through the sections depth-first.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from functools import partial

import torch
from torch import nn

from convnext_ablation.console import track
from convnext_ablation.inference.convs import prepare
from convnext_ablation.timing import interleaved

_ROUNDS = 3


class PartByPart(nn.Module):
    """Runs sections in sequence, each on chunks of at most `at_a_time` images, never decreasing."""

    def __init__(self, sections: Sequence[nn.Module], at_a_time: Sequence[int]) -> None:
        super().__init__()
        self.sections = nn.ModuleList(sections)
        self.at_a_time = list(at_a_time)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """``(B, C, H, W) -> (B, num_classes)``."""
        return self._through(len(self.at_a_time) - 1, x)

    def _through(self, last: int, x: torch.Tensor) -> torch.Tensor:
        """Runs the sections up to `last`."""
        if last < 0:
            return x
        most = self.at_a_time[last]
        if len(x) > most:
            return torch.cat([self._through(last, part) for part in x.split(most)])
        return self.sections[last](self._through(last - 1, x))


def choose(sections: Sequence[nn.Module], x: torch.Tensor) -> list[int]:
    """Measures the fastest chunk size of each section on these images, ``(B, C, H, W)``."""
    numbers = [2**power for power in range(len(x).bit_length()) if 2**power < len(x)] + [len(x)]
    costs: list[list[float]] = []
    for section in track(sections, "measuring", len(sections), "sections"):
        costs.append(_costs(section, x, numbers))
        x = section(x)
    return [numbers[index] for index in cheapest_ascent(costs)]


def _costs(section: nn.Module, x: torch.Tensor, numbers: Sequence[int]) -> list[float]:
    """Relative time of a section for each chunk size; slowdowns of whole rounds cancel out."""
    parts = {str(number): x.split(number) for number in numbers}

    def ready(number: str) -> None:
        prepare(section, keep=True)
        section(parts[number][0])  # packs the weights for this chunk size

    def run(number: str) -> None:
        for part in parts[number]:
            section(part)

    times = interleaved({number: partial(run, number) for number in parts}, _ROUNDS, warm_up=0, turn=ready)
    whole = times[str(len(x))]
    return [whole.lowest / each.times_faster_than(whole).median for each in times.values()]


def cheapest_ascent(costs: Sequence[Sequence[float]]) -> Sequence[int]:
    """The non-decreasing choice of columns, one per row, with the smallest sum of costs."""

    def total(ascent: Sequence[int]) -> float:
        return sum(row[column] for row, column in zip(costs, ascent, strict=True))

    return min(itertools.combinations_with_replacement(range(len(costs[0])), len(costs)), key=total)
