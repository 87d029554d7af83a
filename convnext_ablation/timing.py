"""Interleaved timing of callables, robust to other load on the machine.

Each round calls every contestant once and starts with a different one. Ratios are paired by round, so that a
slowdown of a whole round cancels out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

__all__ = ["Ratio", "Times", "interleaved", "median_interval"]

_FEWEST_OF_AN_INTERVAL = 6  # the smallest n with 2 / 2**n below 5 %


@dataclass(frozen=True)
class Ratio:
    """Speed-up of one contestant over another: the median of the per-round ratios."""

    median: float  # above 1 is faster
    lowest: float  # ends of the median's 95 % interval, see `median_interval`
    highest: float

    def __str__(self) -> str:
        """The ratio with its interval."""
        return f"{self.median:.2f} [{self.lowest:.2f}, {self.highest:.2f}]"


@dataclass(frozen=True)
class Times:
    """Seconds per call of a contestant, one value per round."""

    seconds: tuple[float, ...]

    @property
    def median(self) -> float:
        """The median round in seconds."""
        return median(self.seconds)

    @property
    def lowest(self) -> float:
        """The fastest round in seconds."""
        return min(self.seconds)

    @property
    def highest(self) -> float:
        """The slowest round in seconds."""
        return max(self.seconds)

    def times_faster_than(self, baseline: Times) -> Ratio:
        """Returns the speed-up over a baseline timed in the same rounds."""
        pairs = zip(baseline.seconds, self.seconds, strict=True)
        ratios = [theirs / ours for theirs, ours in pairs]
        return Ratio(median(ratios), *median_interval(ratios))


def median_interval(values: Sequence[float]) -> tuple[float, float]:
    """The distribution-free 95 % confidence interval of a median.

    It spans the k-th smallest to the k-th largest value, with k from the binomial distribution; k is 1 for up
    to eight values. With fewer than six values, coverage is below 95 %.
    """
    if len(values) < _FEWEST_OF_AN_INTERVAL:
        return min(values), max(values)
    from scipy.stats import quantile_test  # slow to import, and used only here

    found = quantile_test(values, p=0.5).confidence_interval(confidence_level=0.95)
    return float(found.low), float(found.high)


def interleaved(
    contestants: Mapping[str, Callable[[], object]],
    rounds: int,
    warm_up: int = 2,
    at_least: float = 0.0,
    failed: Callable[[str, Exception], object] | None = None,
    turn: Callable[[str], object] | None = None,
) -> dict[str, Times]:
    """Times contestants in turn, with torch's timer, which synchronises the GPU.

    Args:
        contestants: Callables by name.
        rounds: Measurements of each contestant.
        warm_up: Untimed calls of each contestant beforehand.
        at_least: Minimum seconds of a measurement; shorter calls are repeated.
        failed: Called with the name and exception of a failed contestant, which is then dropped; None raises.
        turn: Called with a contestant's name before its warm-up and before each of its measurements.

    Returns:
        The times of each contestant that didn't fail, in the given order.
    """
    from torch.utils.benchmark import timer  # not needed to compare times

    taken: dict[str, list[float]] = {name: [] for name in contestants}

    def attempt(name: str, calls: int) -> float | None:
        """Mean seconds per call; None if a call failed."""
        if turn:
            turn(name)
        try:
            start = timer()
            for _ in range(calls):
                contestants[name]()
            return (timer() - start) / calls
        except Exception as error:
            if failed is None:
                raise
            del taken[name]
            failed(name, error)
            return None

    repeats = dict.fromkeys(contestants, 1)
    for name in contestants:
        if warm_up:
            attempt(name, warm_up)
        if at_least and name in taken and (once := attempt(name, 1)):  # timed after the warm-up
            repeats[name] = max(1, round(at_least / once))
    for done in range(rounds):
        names = list(taken)
        first = done % max(1, len(names))
        for name in (*names[first:], *names[:first]):
            if (took := attempt(name, repeats[name])) is not None:
                taken[name].append(took)
    return {name: Times(tuple(each)) for name, each in taken.items()}
