"""What an experiment can find, before it is run: effects, and differences of effects between data sets.

An effect is found if its p-value, by the rule of `effects`, is below the level. In terms of
`variance`, with c the sum of the contrast's squared weights, the variance of an estimate has the parts

    A      = c (seed variance + seed disagreement / 2 / N) / S
    B - C  = c (network disagreement - seed disagreement) / 2 / N

of each data set, multiplied by the square of the set's own weight. A varies as chi-squared, and what an
estimate must exceed varies with it; power is an average over that. A pre-training may move the accuracies on
all sets the same way, which makes differences easier to find. An experiment measures A for all sets together;
where none has, they are taken as independent.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import optimize, special

from convnext_ablation.study.stats.effects import ALPHA, MANY, FloatArray, seed_freedom
from convnext_ablation.study.stats.variance import Scatter

POWER = 0.8
MOST_SEEDS = 1000
_QUANTILES = (np.arange(500) + 0.5) / 500  # of the chi-squared distribution that is averaged over


def level_of(primary: bool, family: int) -> float:
    """The level of a contrast's test: if it is primary, Holm's for the smallest p-value of its family.

    In a finished study the others are known: `family` is then how many are not significant, as Holm's method
    asks the smallest p-value among those to be below `ALPHA` / `family`.
    """
    return ALPHA / family if primary else ALPHA


@dataclass(frozen=True)
class PlannedSet:
    """A data set that effects are to be measured on."""

    weight: float  # of its effect in what is asked; 1 where there is no other set
    scatter: Scatter
    images: int  # of its test split
    drawn: bool = True  # False for networks of a single pre-training, tested as they are: no seed varies


@dataclass(frozen=True)
class Asked:
    """A contrast of networks on one data set, or the difference of such between several."""

    sets: Sequence[PlannedSet]
    weights: Sequence[float]  # of the networks
    level: float  # of its test: see `level_of`
    shared: bool = True  # whether seeds are pre-trainings, which all sets share; else each set has its own
    # between seeds, of one network's accuracies weighted over the sets, as measured for all sets together;
    # None takes the sets as independent
    seed_variance: float | None = None

    def power(self, effect: float, seeds: int) -> float:
        """Chance that an effect of this true size, a fraction, is found with the right sign."""
        threshold, error = self._threshold(seeds)
        return float(special.ndtr((abs(effect) - threshold) / error).mean())

    def detectable(self, seeds: int) -> float:
        """The smallest effect found with a chance of `POWER`, a fraction; NaN with a single seed.

        It is no bound: an effect above 1, which there can't be, says that no effect would do.
        """
        if seeds < 2:
            return math.nan
        threshold, error = self._threshold(seeds)

        def missing(effect: float) -> float:
            return float(special.ndtr((effect - threshold) / error).mean()) - POWER

        return float(optimize.brentq(missing, 0.0, float(threshold.max()) + 10 * error, xtol=1e-9))

    def seeds_needed(self, effect: float) -> int | None:
        """Fewest seeds that find an effect with a chance of `POWER`; None if `MOST_SEEDS` won't do."""
        seeds = range(2, MOST_SEEDS + 1)
        place = bisect.bisect_left(seeds, POWER, key=lambda number: self.power(effect, number))
        return seeds[place] if place < len(seeds) else None

    def _threshold(self, seeds: int) -> tuple[FloatArray, float]:
        """How large an estimate must be to be called found, at quantiles of A; its true standard error."""
        squares = np.square([weight for weight in self.weights if weight])
        total = float(squares.sum())
        by_seed = np.array([_by_seed(each, seeds) for each in self.sets])
        cells = squares if self.shared else np.outer(by_seed[by_seed > 0], squares).ravel()
        freedom, expected = seed_freedom(cells, seeds), float(by_seed.sum())
        if self.seed_variance is not None:
            expected = self.seed_variance / seeds
        # special.chdtri takes the chance of a larger value
        drawn = expected * special.chdtri(freedom, 1 - _QUANTILES) / freedom
        judged = judged_freedom(freedom, len(cells), seeds)
        reach, variance = drawn * _quantile(judged, self.level) ** 2, expected
        for each in self.sets:
            by_image = _by_image(each)
            # variance that `effects` takes where nothing varies
            floor = each.weight**2 / (each.images**2 * total)
            seen = np.maximum(by_image, floor - drawn)
            reach = reach + seen * _quantile(each.images - 1, self.level) ** 2
            variance += max(by_image, floor - expected)
        return math.sqrt(total) * np.sqrt(reach), math.sqrt(total * variance)


def on_one_set(scatter: Scatter, images: int, weights: Sequence[float], level: float) -> Asked:
    """A contrast of networks on one data set."""
    return Asked([PlannedSet(1.0, scatter, images)], weights, level)


def judged_freedom(freedom: float, networks: int, seeds: int) -> float:
    """Degrees of freedom that Satterthwaite's rule comes to from variances that are estimated themselves.

    The rule squares them, and the square of a variance from few seeds is too large on average: by a factor of
    1 + 2 / (seeds - 1). So it comes to fewer than the `freedom` that the true variances have.
    """
    if networks < MANY:
        return freedom
    excess, ratio = 2 / (seeds - 1), freedom / (seeds - 1)
    return (seeds - 1) * (ratio + excess) / (1 + excess)


def _by_seed(each: PlannedSet, seeds: int) -> float:
    """A of a set, for weights of networks whose squares sum to 1."""
    if not each.drawn:
        return 0.0
    scatter = each.scatter
    return each.weight**2 * (scatter.seed_sd**2 + scatter.seed_disagreement / 2 / each.images) / seeds


def _by_image(each: PlannedSet) -> float:
    """B - C of a set, or B where nothing of it is drawn again."""
    scatter = each.scatter
    unshared = scatter.network_disagreement - (scatter.seed_disagreement if each.drawn else 0.0)
    return each.weight**2 * unshared / 2 / each.images


def _quantile(freedom: float, level: float) -> float:
    return -float(special.stdtrit(freedom, level / 2))
