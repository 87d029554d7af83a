"""How sure a top-1 accuracy, or a contrast of several, is: intervals over seeds and images.

A study trains each network with S seeds and tests every run on the same N images. What is measured of a
contrast of networks (a difference, a main effect, an interaction: any weighted sum) is a table of S x N
values, the weighted sums of right-or-wrong answers. Two things in it are chance: which seeds were drawn and
which images. With seeds and images as two crossed random effects, three mean squares

    A = var(seed means) / S,    B = var(image means) / N,    C = interaction mean square / (S N)

estimate the variance of the table's mean as A + max(0, B - C): A and B both contain the interaction. A has
S - 1 degrees of freedom, while B - C, from thousands of images, is all but known. The half-width of the
interval at level p is Banerjee's (Sankhya 22, 1960),

    sqrt(A t(p, S - 1)^2 + max(0, B - C) t(p, N - 1)^2),

with Student's two-sided quantiles t. For two independent variances it covers at least 1 - p at every p, which
is what Holm's correction, working far below p = 5 %, needs. The p-value is the p whose interval just touches
0, and P(better) comes from the same distribution: 1 - p / 2, or p / 2 where the estimate is below 0.

Coverage of the 95 % interval in simulated differences, percent, lowest and highest of nine settings: 500,
2000 and 6000 images, and seeds of a network that disagree on 5, 8 and 17 % of them (4000 studies a setting,
which measure it to +- 0.7). The columns are standard deviations between a network's seeds, in points of
top-1:

    seeds        none            0.3            0.7            1.5
        2    96.8 to 99.0   96.6 to 98.7   96.0 to 98.9   94.8 to 97.9
        3    96.7 to 97.8   96.7 to 97.9   95.8 to 97.7   95.7 to 97.5
        5    95.5 to 96.8   95.8 to 97.0   95.2 to 96.9   95.2 to 96.7

Five seeds are within 93 to 97 % throughout. Three are where seeds disagree on 17 % of the images, or where
the seeds' part of the variance outweighs that of the images (1.5 points with 2000 images or more, 0.7 with
6000), and up to 97.9 % elsewhere; two are up to 99.0 %: the price of not knowing from so few that seeds
hardly differ. If nothing at all has an effect, at most 4.7 % of the studies have a Holm-significant
contrast (40,000 each of 2, 3 and 5 seeds, 4 to 15 contrasts, seed variance from none to 100 times that of
the images).

A contrast of four networks or more, such as a main effect, has more to tell A from: the seeds of each of its
networks. There A is the sum over networks of weight^2 var(seed means of the network) / S, with
Satterthwaite's degrees of freedom, up to S - 1 for each network; runs of different networks are taken as
independent, though they share the numbers of their seeds. With three seeds and 16 networks that makes
intervals 0.6 to 0.7 times as wide as S - 1 degrees of freedom would, and 0.3 times at the level of the
smallest of 15 p-values. Coverage of the 95 % interval where 4, 8 or 16 networks are compared half and half,
500 or 2000 images, seeds of 0 to 1.5 points, alike or four times as different for a quarter of the networks:
95.2 to 99.2 % with two seeds, 93.9 to 97.7 % with three, 93.4 to 97.0 % with five (500 to 1000 studies a
setting, +- 0.9). With two or three networks of which one has far noisier seeds it would be as low as 92.0 %,
so these go by S - 1.

What was tried instead:

- Cochran's weighted mean of the two quantiles covers closer to 95 % (94.9 to 97.1 % with three seeds), but
  too little at the levels that Holm works at: with 15 contrasts and no effect, 7.7 % of the studies of
  three seeds and 15 % of those of two had a significant one.
- Taking the variance as no less than B, so that no interval is narrower than the images alone would make it,
  covers up to 99.2 % with three seeds and 98.5 % with five. Without it an interval can be, where seeds agree
  by chance: any t-interval over few seeds is too narrow at times and too wide at others.
- Satterthwaite's approximation covers as little as 87 % with two seeds and 92 % with three, because a
  variance that came out too small by chance also claims more degrees of freedom than it has.
- A percentile bootstrap: see `bootstrap`.

`tests/test_study_effects.py` repeats a part of that.

All values are fractions (0.01 is one percent point).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from scipy import optimize, special

from convnext_ablation.errors import UserError

__all__ = [
    "Difference",
    "Interval",
    "accuracy",
    "contrast",
    "estimated",
    "holm",
    "over_units",
    "paired_difference",
    "seed_freedom",
]

ALPHA = 0.05  # intervals are for 1 - ALPHA
ROUNDING = 1e-9  # weights that sum to 0 or 1 do so up to this
MANY = 4  # networks in a contrast from which on their seeds are told apart

BoolArray = npt.NDArray[np.bool_]
FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Interval:
    """An estimate with its 95 % interval, in fractions."""

    estimate: float
    low: float
    high: float


@dataclass(frozen=True)
class Difference:
    """A contrast of accuracies, most often a difference of two, with its 95 % interval, in fractions.

    Attributes:
        p_value: Two-sided, for this contrast alone; NaN where there is one seed, which supports no claim.
        p_holm: The same, adjusted for all contrasts that are looked at together.
        p_better: Probability that the contrast is above 0, from the distribution that the interval comes
            from; NaN where `p_value` is.
    """

    estimate: float
    low: float
    high: float
    p_value: float
    p_holm: float
    p_better: float = math.nan


def accuracy(correct: BoolArray) -> Interval:
    """Estimates the mean top-1 of a network, with a 95 % interval over seeds and images.

    The interval is Wilson's for as many independent images as would give the estimated variance. Unlike
    estimate +- error it stays within 0 and 1 and has a width where every answer is right.

    Args:
        correct: Whether each image is classified rightly, (seeds, images), or (pre-training seeds,
            fine-tuning seeds, images). With one seed the interval is over images only.
    """
    values = _by_unit(correct)
    mean = float(values.mean())
    spread = _spread(values)
    binomial = mean * (1 - mean)
    # Where all answers are alike the variance is `_spread`'s floor, 1 / N^2: as many images as there are.
    ratio = spread.half_width(ALPHA) ** 2 / (binomial or 1 / values.shape[1])
    centre = (mean + ratio / 2) / (1 + ratio)
    half = math.sqrt(ratio * binomial + ratio**2 / 4) / (1 + ratio)
    # The bounds enclose the mean; min and max take the rounding away where they coincide with it.
    return Interval(mean, max(0.0, min(mean, centre - half)), min(1.0, max(mean, centre + half)))


def contrast(tables: Sequence[BoolArray], weights: Sequence[float]) -> Difference:
    """Estimates a weighted sum of networks' accuracies, paired by seed and image.

    ``p_holm`` is the p-value itself: there is one contrast here. `holm` adjusts several.

    Args:
        tables: Whether each image is classified rightly, for each network: (seeds, images), or (pre-training
            seeds, fine-tuning seeds, images), where a pre-training seed counts as one draw and the mean over
            its fine-tuning seeds as its answer. Where there is one pre-training seed the fine-tuning seeds
            are the draws, and what is found holds for that one pre-training. All networks have the same
            seeds and images in the same order.
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
    units = over_units([tables[int(index)] for index in used])
    found = estimated(units, np.broadcast_to(signs[used, None], units.shape[:2]))
    if abs(total) > ROUNDING:
        return replace(found, p_value=math.nan, p_holm=math.nan, p_better=math.nan)
    return found


def paired_difference(treated: BoolArray, baseline: BoolArray) -> Difference:
    """Estimates how much higher the top-1 of one network is than another's: see `contrast`."""
    return contrast([treated, baseline], [1.0, -1.0])


def seed_freedom(variances: Sequence[float] | FloatArray, seeds: int) -> float:
    """Degrees of freedom of the part of a contrast's variance that seeds have.

    Args:
        variances: What each network with a weight contributes: weight^2 times the variance of its seeds.
        seeds: Of each network.
    """
    parts = np.asarray(variances, np.float64)
    if len(parts) < MANY or not parts.any():
        return seeds - 1
    return float(parts.sum() ** 2 / (parts**2).sum()) * (seeds - 1)


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjusts p-values for their number by Holm's step-down method, in the order given.

    The chance that any of the true null hypotheses gets an adjusted value below 0.05 is at most 5 %,
    however the tests depend on one another. NaN is no test: it stays NaN and doesn't count.
    """
    tested = sorted((p, index) for index, p in enumerate(p_values) if not math.isnan(p))
    adjusted = [math.nan] * len(p_values)
    largest = 0.0
    for rank, (p, index) in enumerate(tested):
        largest = max(largest, min(1.0, (len(tested) - rank) * p))
        adjusted[index] = largest
    return adjusted


def over_units(tables: Sequence[BoolArray]) -> FloatArray:
    """Gives each network's answers by the seeds that count as draws, (networks, units, images).

    A unit is a pre-training seed where there are several, and its answer the mean over fine-tuning seeds;
    else a fine-tuning seed.

    Args:
        tables: As in `contrast`.

    Raises:
        UserError: The tables were not measured on the same seeds and images.
    """
    for table in tables[1:]:
        if np.shape(table) != np.shape(tables[0]):
            raise UserError(
                f"cannot pair predictions of {_shape(tables[0])} with {_shape(table)}; "
                "evaluate all networks with the same seeds on the same test images"
            )
    return np.stack([_by_unit(table) for table in tables])


def estimated(units: FloatArray, weights: FloatArray) -> Difference:
    """Estimates a weighted sum of networks, with weights that may differ between seeds.

    Args:
        units: What `over_units` gives, (networks, units, images).
        weights: (networks, units).
    """
    values = np.einsum("nu,nui->ui", weights, units)
    mean = float(values.mean())
    spread = _spread(values, resolution=float(np.abs(weights).max()))
    used = weights[:, 0] != 0
    if len(values) > 1 and used.sum() >= MANY and (weights == weights[:, :1]).all():
        spread = _with_seeds_apart(spread, units[used], weights[used, 0])
    half = spread.half_width(ALPHA)
    lowest = float(np.minimum(weights, 0).sum(axis=0).mean())
    highest = float(np.maximum(weights, 0).sum(axis=0).mean())
    p_value = spread.p_value(mean) if len(values) > 1 else math.nan
    p_better = 1 - p_value / 2 if mean > 0 else p_value / 2
    return Difference(mean, max(lowest, mean - half), min(highest, mean + half), p_value, p_value, p_better)


@dataclass(frozen=True)
class _Spread:
    """The variance of a mean by where it comes from, and the degrees of freedom of either part.

    Attributes:
        seeds: A in the module's docstring; 0 where there is one seed.
        seed_freedom: S - 1, or more where there are many networks.
        images: max(0, B - C); B where there is one seed.
        image_freedom: N - 1.
    """

    seeds: float
    seed_freedom: float
    images: float
    image_freedom: int

    def half_width(self, p: float) -> float:
        """Gives the distance from the mean that is exceeded with probability `p`, at the most."""
        by_image = self.images * float(special.stdtrit(self.image_freedom, p / 2)) ** 2
        if self.seeds == 0:
            return math.sqrt(by_image)
        return math.sqrt(self.seeds * float(special.stdtrit(self.seed_freedom, p / 2)) ** 2 + by_image)

    def p_value(self, mean: float) -> float:
        """Gives the `p` whose interval just touches 0, so that p-value and interval always agree."""
        distance = abs(mean)
        if distance == 0:
            return 1.0
        smallest = -50.0  # natural logarithm; what lies below is beyond any approximation
        if self.half_width(math.exp(smallest)) <= distance:
            return math.exp(smallest)
        log_p = optimize.brentq(
            lambda log_p: self.half_width(math.exp(log_p)) - distance, smallest, 0.0, xtol=1e-13
        )
        return math.exp(log_p)


def _spread(values: FloatArray, resolution: float = 1.0) -> _Spread:
    """Estimates the variance of the mean of `values`, (units, images).

    Args:
        values: One row for each seed that counts as a draw.
        resolution: By how much one answer of one network changes a value.
    """
    units, images = values.shape
    by_unit, by_image = values.mean(axis=1), values.mean(axis=0)
    b = float(by_image.var(ddof=1)) / images
    # No variance at all can't be believed of a finite test set: one image more or less is always possible.
    floor = (resolution / images) ** 2
    if units == 1:
        return _Spread(0.0, 0, max(b, floor), images - 1)
    a = float(by_unit.var(ddof=1)) / units
    interaction = values - by_unit[:, None] - by_image + values.mean()
    c = float((interaction**2).sum()) / ((units - 1) * (images - 1)) / (units * images)
    return _Spread(a, units - 1, max(b - c, floor - a, 0.0), images - 1)


def _with_seeds_apart(spread: _Spread, units: FloatArray, weights: FloatArray) -> _Spread:
    """Estimates the seeds' part of the variance from each network's own, by Satterthwaite's rule."""
    count = units.shape[1]
    parts = weights**2 * units.mean(axis=2).var(axis=1, ddof=1) / count
    return replace(spread, seeds=float(parts.sum()), seed_freedom=seed_freedom(parts, count))


def _by_unit(correct: BoolArray) -> FloatArray:
    """Turns a network's answers into numbers, a row for each seed that counts as a draw: see `over_units`."""
    correct = np.asarray(correct)
    if correct.dtype != np.bool_:
        raise TypeError(f"expected an array of bool (seeds, images), got {correct.dtype}")
    if correct.ndim not in (2, 3) or 0 in correct.shape or correct.shape[-1] < 2:
        raise UserError(f"expected at least one seed and two test images, got {_shape(correct)}")
    if correct.ndim == 2:
        return correct.astype(np.float64)
    return correct[0].astype(np.float64) if len(correct) == 1 else correct.mean(axis=1)


def _shape(correct: BoolArray) -> str:
    axes = "pre-training seeds x seeds x images" if np.ndim(correct) == 3 else "seeds x images"
    return " x ".join(str(size) for size in np.shape(correct)) + f" ({axes})"
