"""Timing in turn, ratios and the interval of their median."""

from __future__ import annotations

import pytest
import torch.utils.benchmark
from scipy.stats import binom

from convnext_ablation.timing import Ratio, Times, interleaved, median_interval


class Clock:
    """A clock that only contestants move."""

    def __init__(self) -> None:
        self.now = 0.0
        self.calls: list[str] = []

    def contestant(self, name: str, *durations: float):
        def call() -> None:
            mine = self.calls.count(name)
            self.calls.append(name)
            self.now += durations[min(mine, len(durations) - 1)]

        return call


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(torch.utils.benchmark, "timer", lambda: clock.now)  # the one that waits for GPUs
    return clock


def test_contestants_are_timed_in_turn_after_warming_up(clock: Clock):
    contestants = {
        "slow": clock.contestant("slow", 50.0, 50.0, 4.0, 6.0, 5.0),
        "fast": clock.contestant("fast", 2.0),
    }
    turns: list[str] = []
    times = interleaved(contestants, rounds=3, turn=turns.append)
    assert clock.calls[:4] == ["slow", "slow", "fast", "fast"]  # warm-up
    assert clock.calls[4:] == ["slow", "fast", "fast", "slow", "slow", "fast"]
    assert turns == ["slow", "fast", *clock.calls[4:]]
    assert times == {"slow": Times((4.0, 6.0, 5.0)), "fast": Times((2.0, 2.0, 2.0))}
    assert (times["slow"].median, times["slow"].lowest, times["slow"].highest) == (5.0, 4.0, 6.0)


def test_ratio_is_paired_by_round():
    baseline, ours = Times((2.0, 20.0, 4.0)), Times((1.0, 10.0, 1.0))
    ratio = ours.times_faster_than(baseline)
    assert (ratio, str(ratio)) == (Ratio(2.0, 2.0, 4.0), "2.00 [2.00, 4.00]")
    with pytest.raises(ValueError, match="argument 2 is longer"):
        ours.times_faster_than(Times((1.0, 2.0)))


def test_interval_of_a_median_covers_it_as_often_as_scipy_says():
    assert median_interval([1.0]) == (1.0, 1.0)
    assert median_interval(range(15, 0, -1)) == (4, 12)  # Conover's table A3 for p = 0.5
    for rounds in range(6, 60):
        first, last = median_interval(range(1, rounds + 1))
        assert last == rounds + 1 - first
        assert binom.cdf(first - 1, rounds, 0.5) <= 0.025 < binom.cdf(first, rounds, 0.5)


def test_short_calls_are_repeated(clock: Clock):
    interleaved({"short": clock.contestant("short", 5.0, 0.25)}, 3, warm_up=1, at_least=2.0)
    assert clock.calls.count("short") == 2 + 3 * 8


def test_a_contestant_that_fails_is_left_out(clock: Clock):
    def fails() -> None:
        raise MemoryError("too large")

    def fails_later() -> None:
        clock.now += 1
        if clock.now > 9:
            raise ValueError("later")

    told: list[str] = []
    contestants = {"bad": fails, "good": clock.contestant("good", 1.0), "late": fails_later}
    times = interleaved(contestants, 5, failed=lambda name, error: told.append(f"{name}: {error}"))
    assert times == {"good": Times((1.0,) * 5)}
    assert told == ["bad: too large", "late: later"]
    with pytest.raises(MemoryError):
        interleaved(contestants, 3)
