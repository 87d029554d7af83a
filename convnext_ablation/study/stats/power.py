"""What effect a study can find, before it is run.

An effect is found if its p-value, by the rule of `effects`, is below the level. In terms of `variance` and
`effects`, with c the sum of the contrast's squared weights, the variance of an estimate has the parts

    A      = c (seed variance + seed disagreement / 2 / N) / S
    B - C  = c (network disagreement - seed disagreement) / 2 / N

A varies as chi-squared, and what an estimate must exceed varies with it; power is an average over that.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from scipy import optimize, special

from convnext_ablation.study.stats.effects import ALPHA, FloatArray, seed_freedom
from convnext_ablation.study.stats.variance import Scatter

POWER = 0.8
MOST_SEEDS = 1000
_QUANTILES = (np.arange(500) + 0.5) / 500  # of the chi-squared distribution that is averaged over


def level_of(primary: bool, family: int) -> float:
    """The level of a contrast's test: if it is primary, Holm's for the smallest p-value of its family."""
    return ALPHA / family if primary else ALPHA


def power(
    effect: float, scatter: Scatter, seeds: int, images: int, weights: Sequence[float], level: float
) -> float:
    """Chance that an effect of this true size, a fraction, is found with the right sign."""
    threshold, error = _threshold(scatter, seeds, images, weights, level)
    return float(special.ndtr((abs(effect) - threshold) / error).mean())


def detectable(scatter: Scatter, seeds: int, images: int, weights: Sequence[float], level: float) -> float:
    """The smallest effect that is found with a chance of `POWER`, a fraction; NaN with a single seed.

    It is no bound: an effect above 1, which there can't be, says that no effect would do.
    """
    if seeds < 2:
        return math.nan
    threshold, error = _threshold(scatter, seeds, images, weights, level)

    def missing(effect: float) -> float:
        return float(special.ndtr((effect - threshold) / error).mean()) - POWER

    return float(optimize.brentq(missing, 0.0, float(threshold.max()) + 10 * error, xtol=1e-9))


def seeds_needed(
    effect: float, scatter: Scatter, images: int, weights: Sequence[float], level: float
) -> int | None:
    """Fewest seeds with which an effect is found with a chance of `POWER`; None if `MOST_SEEDS` won't do."""

    def does(seeds: int) -> bool:
        return power(effect, scatter, seeds, images, weights, level) >= POWER

    low, high = 1, 2  # more seeds find more: double, then halve what is left
    while not does(high):
        low, high = high, 2 * high
        if low >= MOST_SEEDS:
            return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if does(middle) else (middle, high)
    return high


def _threshold(
    scatter: Scatter, seeds: int, images: int, weights: Sequence[float], level: float
) -> tuple[FloatArray, float]:
    """How large an estimate must be to be called found, at quantiles of A; and its true standard error."""
    squares = np.square([weight for weight in weights if weight])
    freedom, total = seed_freedom(squares, seeds), float(squares.sum())
    by_seed = (scatter.seed_sd**2 + scatter.seed_disagreement / 2 / images) / seeds
    by_image = (scatter.network_disagreement - scatter.seed_disagreement) / 2 / images
    # special.chdtri takes the chance of a larger value
    drawn = by_seed * special.chdtri(freedom, 1 - _QUANTILES) / freedom
    floor = 1 / (images**2 * total)  # variance that `effects` takes where nothing varies
    seen = np.maximum(by_image, floor - drawn)
    reach = drawn * _quantile(freedom, level) ** 2 + seen * _quantile(images - 1, level) ** 2
    error = math.sqrt(max(by_seed + by_image, floor))
    return math.sqrt(total) * np.sqrt(reach), math.sqrt(total) * error


def _quantile(freedom: float, level: float) -> float:
    return -float(special.stdtrit(freedom, level / 2))
