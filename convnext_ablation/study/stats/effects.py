"""How sure a top-1 accuracy, or a contrast of several, is: intervals over seeds and images.

What is measured of a contrast of networks is a table of S seeds x N images. With seeds and images as two
crossed random effects, three mean squares

    A = var(seed means) / S,    B = var(image means) / N,    C = interaction mean square / (S N)

estimate the variance of the table's mean as A + max(0, B - C), and the half-width of the interval at level p
is Banerjee's (Sankhya 22, 1960), with Student's two-sided quantiles t:

    sqrt(A t(p, S - 1)^2 + max(0, B - C) t(p, N - 1)^2).

The p-value is the p whose interval just touches 0. A contrast of four networks or more takes A from each
network's own seeds, with Satterthwaite's degrees of freedom.

Over several data sets d, whose weights are v_d, each has its table, and the half-width is over all parts,
sqrt(A t(p, f)^2 + sum of v_d^2 max(0, B_d - C_d) t(p, N_d - 1)^2). Seeds of sets are independent, but for the
pre-trainings that they start from. P > 1 of these are the draws of all sets: A is var(u_p) / P with P - 1
degrees of freedom, where u_p sums v_d x (mean of row p of d's table). Of one pre-training A sums v_d^2 A_d.

`docs/statistics.md` has the reasons, the coverage in simulated studies and what was tried instead. All values
are fractions (0.01 is a percent point).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import optimize, special

from convnext_ablation.errors import UserError

ALPHA = 0.05  # intervals are for 1 - ALPHA
ROUNDING = 1e-9  # weights that sum to 0 or 1 do so up to this
MANY = 4  # networks in a contrast from which on each has a seed variance of its own

BoolArray = npt.NDArray[np.bool_]
FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int_]
Answers = npt.NDArray[Any]  # of bool, right or wrong, or of float64 whose mean over images is the accuracy


@dataclass(frozen=True)
class Interval:
    """An estimate with its 95 % interval, in fractions."""

    estimate: float
    low: float
    high: float


@dataclass(frozen=True)
class Difference:
    """A contrast of accuracies, most often a difference of two, with its 95 % interval, in fractions."""

    estimate: float
    low: float
    high: float
    p_value: float  # two-sided, for this contrast alone; NaN with one seed, which supports no claim
    p_holm: float  # adjusted for all contrasts that are looked at together
    p_better: float = math.nan  # probability that the contrast is above 0; NaN where `p_value` is


def accuracy(correct: Answers) -> Interval:
    """Estimates the mean top-1 of a network, with a 95 % interval over seeds and images.

    The interval is Wilson's for as many independent images as would give the estimated variance. Unlike
    estimate +- error it stays within 0 and 1 and has a width where every answer is right. With one seed it
    is over images only. `correct` is a table as in `contrast`.
    """
    values = by_unit(correct)
    mean = float(values.mean())
    spread = Spread(spread_of(values))
    binomial = mean * (1 - mean)
    # Where all answers are alike the variance is `spread_of`'s floor, 1 / N^2: as many images as there are.
    ratio = spread.half_width(ALPHA) ** 2 / (binomial or 1 / values.shape[1])
    centre = (mean + ratio / 2) / (1 + ratio)
    half = math.sqrt(ratio * binomial + ratio**2 / 4) / (1 + ratio)
    # The bounds enclose the mean; min and max take the rounding away where they coincide with it.
    return Interval(mean, max(0.0, min(mean, centre - half)), min(1.0, max(mean, centre + half)))


def contrast(tables: Sequence[Answers], weights: Sequence[float]) -> Difference:
    """Estimates a weighted sum of networks' accuracies, paired by seed and image.

    ``p_holm`` is the p-value itself: there is one contrast here. `holm` adjusts several.

    Args:
        tables: Whether each image is classified rightly, or values whose mean over images is the accuracy.
            For each network (seeds, images), or (pre-training seeds, fine-tuning seeds, images), where a
            pre-training seed counts as one draw and the mean over its fine-tuning seeds as its answer. Where
            there is one pre-training seed the fine-tuning seeds are the draws, and what is found holds for
            that one pre-training. All networks have the same seeds and images in the same order.
        weights: One per network. They sum to 0, or to 1 for a mean of accuracies, of which no p-value is
            given.

    Raises:
        UserError: The tables were not measured on the same seeds and images, or the weights sum to neither.
    """
    signs = np.asarray(weights, np.float64)
    total = float(signs.sum())
    if len(signs) != len(tables) or min(abs(total), abs(total - 1)) > ROUNDING:
        raise UserError(
            f"{len(signs)} weights that sum to {total:g} are no contrast of {len(tables)} networks; "
            "give each network one, so that they sum to 0"
        )
    used = np.flatnonzero(signs)
    if not len(used):
        raise UserError("every weight of the contrast is 0; give at least two networks another")
    units, signs = over_units([tables[int(index)] for index in used]), signs[used]
    values = np.einsum("n,nui->ui", signs, units)
    by_seed, by_image = spread_of(values, resolution=float(np.abs(signs).max()))
    if len(values) > 1 and len(signs) >= MANY:
        parts = signs**2 * units.mean(axis=2).var(axis=1, ddof=1) / len(values)
        by_seed = float(parts.sum()), seed_freedom(parts, len(values))
    tested = abs(total) <= ROUNDING and len(values) > 1
    return Spread((by_seed, by_image)).difference(float(values.mean()), signs, tested)


def contrast_across(
    tables: Sequence[Sequence[BoolArray]], weights: Sequence[float], set_weights: Sequence[float]
) -> Difference:
    """Estimates a weighted sum, over data sets, of the same contrast of networks.

    Args:
        tables: For each data set and network, whether each image is classified rightly: (pre-trainings,
            images) of the pre-trained networks themselves, or (pre-trainings, fine-tuning seeds, images).
            All sets have the same pre-trainings in the same order; seeds and images are each set's own.
        weights: One per network, summing to 0.
        set_weights: One per data set, such as 1 and -1 for how much larger an effect is on the first, or 1,
            1/2 and 1/2 for a mean.

    Returns:
        As `contrast` does. With a single pre-training, what is found holds for that alone, and the networks
        that were not fine-tuned have no seed that could be drawn again. There is no p-value where a set was
        fine-tuned with a single seed from it, or no set was fine-tuned.

    Raises:
        UserError: The tables don't fit each other, or the weights are no contrast.
    """
    signs, factors = np.asarray(weights, np.float64), np.asarray(set_weights, np.float64)
    if len(tables) != len(factors) or any(len(each) != len(signs) for each in tables):
        raise UserError(
            f"{len(factors)} data sets with {len(signs)} networks have weights, and {len(tables)} with "
            f"{', '.join(str(len(each)) for each in tables)} have tables; give each network's of each set"
        )
    if abs(signs.sum()) > ROUNDING or not signs.any() or not factors.any():
        raise UserError(
            f"weights of networks that sum to {signs.sum():g}, or are all 0, are no contrast between data "
            "sets; let them sum to 0"
        )
    used, sets = np.flatnonzero(signs), np.flatnonzero(factors)
    chosen = [[tables[int(d)][int(k)] for k in used] for d in sets]
    signs, factors, pretrainings = signs[used], factors[sets], len(chosen[0][0])
    if others := {len(each[0]) for each in chosen} - {pretrainings}:
        raise UserError(
            f"data sets were tested with {pretrainings} and {min(others)} pre-trainings; compare them over "
            "the pre-trainings that they share"
        )
    weighted = [
        factor * signs[:, None, None] * over_units(each)  # (networks, draws, images)
        for factor, each in zip(factors, chosen, strict=True)
    ]
    images = [
        spread_of(each.sum(axis=0), resolution=float(np.abs(factor * signs).max()))[1]
        for factor, each in zip(factors, weighted, strict=True)
    ]
    means = [each.mean(axis=2) for each in weighted]  # (networks, draws)
    if pretrainings > 1:
        draws, tested = [np.sum(means, axis=0)], True
    else:
        finetuned = [mean for mean, each in zip(means, chosen, strict=True) if each[0].ndim == 3]
        draws = [mean for mean in finetuned if mean.shape[1] > 1]
        tested = bool(draws) and len(draws) == len(finetuned)
    estimate = float(sum(mean.sum(axis=0).mean() for mean in means))
    bounds = np.outer(factors, signs).ravel()
    return Spread((*_over_seeds(draws), *images)).difference(estimate, bounds, tested)


def _over_seeds(draws: list[FloatArray]) -> list[tuple[float, float]]:
    """Variance and degrees of freedom of what independent draws, each (networks, seeds), change.

    From `MANY` networks times sets on, each has a variance of its own.
    """
    if sum(map(len, draws)) < MANY:
        return [(float(each.sum(axis=0).var(ddof=1)) / each.shape[1], each.shape[1] - 1) for each in draws]
    parts = np.concatenate([each.var(axis=1, ddof=1) / each.shape[1] for each in draws])
    seeds = np.repeat([each.shape[1] for each in draws], [len(each) for each in draws])
    return [(float(parts.sum()), seed_freedom(parts, seeds))]


def paired_difference(treated: Answers, baseline: Answers) -> Difference:
    """Estimates how much higher the top-1 of one network is than another's: see `contrast`."""
    return contrast([treated, baseline], [1.0, -1.0])


def seed_freedom(variances: Sequence[float] | FloatArray, seeds: int | Sequence[int] | IntArray) -> float:
    """Degrees of freedom of the part of a contrast's variance that seeds have, by Satterthwaite's rule.

    Args:
        variances: What each network with a weight contributes: weight^2 times the variance of its seeds.
        seeds: Of each network; one number where all have as many.
    """
    parts = np.asarray(variances, np.float64)
    freedoms = np.broadcast_to(np.asarray(seeds) - 1, parts.shape)
    first = float(freedoms[0])
    if len(parts) < MANY or not parts.any():
        return first
    return float(parts.sum() ** 2 / (parts**2 * (first / freedoms)).sum()) * first


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjusts p-values for their number by Holm's step-down method; NaN is no test and doesn't count."""
    from statsmodels.stats.multitest import multipletests  # takes seconds, and only reports need it

    adjusted = np.array(p_values, np.float64)
    tested = ~np.isnan(adjusted)
    if tested.any():
        adjusted[tested] = multipletests(adjusted[tested], method="holm")[1]
    return [float(p) for p in adjusted]


def over_units(tables: Sequence[Answers]) -> FloatArray:
    """Gives each network's answers by the seeds that count as draws, (networks, units, images)."""
    for table in tables[1:]:
        if np.shape(table) != np.shape(tables[0]):
            raise UserError(
                f"cannot pair predictions of {_shape(tables[0])} with {_shape(table)}; "
                "evaluate all networks with the same seeds on the same test images"
            )
    return np.stack([by_unit(table) for table in tables])


@dataclass(frozen=True)
class Spread:
    """The variance of an estimate: independent parts, and the degrees of freedom that each is known with."""

    parts: tuple[tuple[float, float], ...]

    def half_width(self, p: float) -> float:
        """Gives the distance from the estimate that is exceeded with probability `p`, at the most."""
        squares = [
            variance * float(special.stdtrit(freedom, p / 2)) ** 2
            for variance, freedom in self.parts
            if variance
        ]
        return math.sqrt(sum(squares))

    def p_value(self, estimate: float) -> float:
        """Gives the `p` whose interval just touches 0, so that p-value and interval always agree."""
        distance = abs(estimate)
        if distance == 0:
            return 1.0
        smallest = -50.0  # natural logarithm; what lies below is beyond any approximation
        if self.half_width(math.exp(smallest)) <= distance:
            return math.exp(smallest)
        log_p = optimize.brentq(
            lambda log_p: self.half_width(math.exp(log_p)) - distance, smallest, 0.0, xtol=1e-13
        )
        return math.exp(log_p)

    def difference(self, estimate: float, signs: FloatArray, tested: bool) -> Difference:
        """Makes the interval, within what accuracies weighted by `signs` can be, and the p-value."""
        half = self.half_width(ALPHA)
        low = max(float(np.minimum(signs, 0).sum()), estimate - half)
        high = min(float(np.maximum(signs, 0).sum()), estimate + half)
        if not tested:
            return Difference(estimate, low, high, math.nan, math.nan)
        p_value = self.p_value(estimate)
        p_better = 1 - p_value / 2 if estimate > 0 else p_value / 2
        return Difference(estimate, low, high, p_value, p_value, p_better)


def spread_of(values: FloatArray, resolution: float = 1.0) -> tuple[tuple[float, float], tuple[float, float]]:
    """Estimates the variance of the mean of (units, images): the part of the units, and that of the images.

    One answer changes a value by `resolution`. The units' part of a single unit is 0.
    """
    units, images = values.shape
    # No variance at all can't be believed of a finite test set: one image more or less is always possible.
    floor = (resolution / images) ** 2
    if units == 1:
        b = float(values[0].var(ddof=1)) / images
        return (0.0, 0), (max(b, floor), images - 1)
    seed, image, rest = mean_squares(values)
    a, b, c = seed / units, image / images, rest / (units * images)
    return (a, units - 1), (max(b - c, floor - a, 0.0), images - 1)


def mean_squares(values: FloatArray) -> tuple[float, float, float]:
    """Variances of the rows' and of the columns' means, and the interaction's mean square."""
    units, images = values.shape
    rows, columns = values.mean(axis=1), values.mean(axis=0)
    interaction = values - rows[:, None] - columns + values.mean()
    rest = float((interaction**2).sum()) / ((units - 1) * (images - 1))
    return float(rows.var(ddof=1)), float(columns.var(ddof=1)), rest


def by_unit(correct: Answers) -> FloatArray:
    """Turns a network's answers into numbers, a row for each seed that counts as a draw: see `contrast`."""
    correct = np.asarray(correct)
    if correct.dtype not in (np.bool_, np.float64):
        raise TypeError(f"expected an array of bool (seeds, images), got {correct.dtype}")
    if correct.ndim not in (2, 3) or 0 in correct.shape or correct.shape[-1] < 2:
        raise UserError(f"expected at least one seed and two test images, got {_shape(correct)}")
    if correct.ndim == 2:
        return correct.astype(np.float64)
    return correct[0].astype(np.float64) if len(correct) == 1 else correct.mean(axis=1)


def _shape(correct: Answers) -> str:
    axes = "pre-training seeds x seeds x images" if np.ndim(correct) == 3 else "seeds x images"
    return " x ".join(str(size) for size in np.shape(correct)) + f" ({axes})"
