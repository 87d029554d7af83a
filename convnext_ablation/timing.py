"""Times what can be called, in turn, so that all get the same share of a machine that others use too.

Each round calls every contestant once and starts with another one. Ratios are paired: a round's time of the
one against the same round's of the other, so that what slows a whole round down cancels out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

__all__ = ["Ratio", "Times", "interleaved", "median_interval"]

_FEWEST_OF_AN_INTERVAL = 6  # 2 / 2**6 is the first below 5 %


@dataclass(frozen=True)
class Ratio:
    """How many times faster than another a contestant is: the median of the rounds' ratios."""

    median: float  # above 1 is faster
    lowest: float  # ends of the median's 95 % interval, see `median_interval`
    highest: float

    def __str__(self) -> str:
        """The ratio with its interval."""
        return f"{self.median:.2f} [{self.lowest:.2f}, {self.highest:.2f}]"


@dataclass(frozen=True)
class Times:
    """Seconds that a call of a contestant took, by round."""

    seconds: tuple[float, ...]

    @property
    def median(self) -> float:
        """The rounds' median."""
        return median(self.seconds)

    @property
    def lowest(self) -> float:
        """The fastest round."""
        return min(self.seconds)

    @property
    def highest(self) -> float:
        """The slowest round."""
        return max(self.seconds)

    def times_faster_than(self, baseline: Times) -> Ratio:
        """Compares with what another contestant took in the same rounds."""
        pairs = zip(baseline.seconds, self.seconds, strict=True)
        ratios = [theirs / ours for theirs, ours in pairs]
        return Ratio(median(ratios), *median_interval(ratios))


def median_interval(values: Sequence[float]) -> tuple[float, float]:
    """The 95 % confidence interval of a median, whatever the values' distribution.

    It goes from the k-th smallest value to the k-th largest, with k from the binomial distribution: up to
    eight values from the smallest to the largest. Of fewer than six, even these cover less than 95 %.
    """
    if len(values) < _FEWEST_OF_AN_INTERVAL:
        return min(values), max(values)
    from scipy.stats import quantile_test  # takes a second, and nothing else here needs it

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
    """Times contestants in turn, by torch's clock, which waits until a GPU has finished.

    Args:
        contestants: What to time, by name.
        rounds: Measurements of each.
        warm_up: Calls of each before, which don't count.
        at_least: A measurement repeats a call that is shorter than so many seconds until it lasts as long.
        failed: Is called with what a contestant raised, which is then left out; if None, that is raised.
        turn: Is called with a contestant's name before its warm-up and before each of its measurements.

    Returns:
        What each took, in the contestants' order, without those that failed.
    """
    from torch.utils.benchmark import timer  # what only compares times does without

    taken: dict[str, list[float]] = {name: [] for name in contestants}

    def attempt(name: str, calls: int) -> float | None:
        """Seconds of a call; None if it failed."""
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
        if at_least and name in taken and (once := attempt(name, 1)):  # warm, unlike those before
            repeats[name] = max(1, round(at_least / once))
    for done in range(rounds):
        names = list(taken)
        first = done % max(1, len(names))
        for name in (*names[first:], *names[:first]):
            if (took := attempt(name, repeats[name])) is not None:
                taken[name].append(took)
    return {name: Times(tuple(each)) for name, each in taken.items()}
