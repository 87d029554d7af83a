"""How sure a top-1 accuracy, or the difference of two, is: intervals over seeds and images.

A study trains each network with S seeds and tests every run on the same N images, so what is measured is
a table of S x N right-or-wrong answers. Two things in it are chance: which seeds were drawn and which
images. With seeds and images as two crossed random effects, the variance of the table's mean is estimated
from three mean squares,

    A = var(seed means) / S,    B = var(image means) / N,    C = interaction mean square / (S N),

as V = max(A, B, A + B - C): A and B both contain the interaction, hence the subtraction.

An interval needs a quantile for V's few degrees of freedom. The usual choices fail for two or three seeds.
Satterthwaite's approximation covers as little as 88 % with S = 2 and 92 % with S = 3, because a V that came
out too small by chance also claims more degrees of freedom than it has. A percentile bootstrap over seeds and
images says 95 % and covers 79 to 88 % with S = 3 and 2000 or 5000 images where the seeds of a network have a
standard deviation of 1.5 points in accuracy: three seeds resampled are still three seeds. Here the quantile
is Cochran's weighted mean of Student's t for seeds and for images,

    w t(S - 1) + (1 - w) t(N - 1),    w = min(1, A / V)

(Cochran and Cox, Experimental Designs, 1950, for two means with unequal variances). In simulations with 2, 3
and 5 seeds, 500 to 5000 images, 0 to 1.5 points standard deviation between seeds, and seeds that disagree on
5 to 20 % of the images it covers 95 % or more with three and five seeds, and 94 % or more with two. Where
seeds hardly differ in accuracy it covers up to 99.5 %: the price of not knowing that from so few of them.
`tests/test_study_effects.py` repeats a part of that.

All values are fractions (0.01 is one percent point).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import optimize, special

from convnext_ablation.errors import UserError

__all__ = ["Difference", "Interval", "accuracy", "holm", "paired_difference"]

ALPHA = 0.05  # intervals are for 1 - ALPHA

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
    """A difference of two accuracies with its 95 % interval, in fractions.

    Attributes:
        p_value: Two-sided, for this difference alone; NaN where there is one seed, which supports no claim.
        p_holm: The same, adjusted for all differences that are looked at together.
    """

    estimate: float
    low: float
    high: float
    p_value: float
    p_holm: float


def accuracy(correct: BoolArray) -> Interval:
    """Estimates the mean top-1 of a network, with a 95 % interval over seeds and images.

    The interval is Wilson's for as many independent images as would give the estimated variance. Unlike
    estimate +- error it stays within 0 and 1 and has a width where every answer is right.

    Args:
        correct: Whether each image is classified rightly, (seeds, images). With one seed the interval is
            over images only.
    """
    values = _as_table(correct)
    mean = float(values.mean())
    spread = _spread(values)
    binomial = mean * (1 - mean)
    images = binomial / spread.variance if binomial > 0 else float(values.shape[1])
    ratio = spread.critical(ALPHA) ** 2 / images
    centre = (mean + ratio / 2) / (1 + ratio)
    half = math.sqrt(ratio * binomial + ratio**2 / 4) / (1 + ratio)
    # The bounds enclose the mean; min and max take the rounding away where they coincide with it.
    return Interval(mean, max(0.0, min(mean, centre - half)), min(1.0, max(mean, centre + half)))


def paired_difference(treated: BoolArray, baseline: BoolArray) -> Difference:
    """Estimates how much higher the top-1 of one network is than another's, paired by seed and image.

    ``p_holm`` is the p-value itself: there is one difference here. `holm` adjusts several.

    Args:
        treated: Whether each image is classified rightly, (seeds, images).
        baseline: The same of the network to compare with: same seeds, same images, same order.

    Raises:
        UserError: The two were not measured on the same number of seeds and images.
    """
    if np.shape(treated) != np.shape(baseline):
        raise UserError(
            f"cannot pair predictions of {_shape(treated)} with {_shape(baseline)}; "
            "evaluate both networks with the same seeds on the same test images"
        )
    values = _as_table(treated) - _as_table(baseline)
    mean = float(values.mean())
    spread = _spread(values)
    half = spread.critical(ALPHA) * math.sqrt(spread.variance)
    p_value = spread.p_value(mean) if len(values) > 1 else math.nan
    return Difference(mean, max(-1.0, mean - half), min(1.0, mean + half), p_value, p_value)


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


@dataclass(frozen=True)
class _Spread:
    """The variance of a mean, and the distribution that its quantiles come from."""

    variance: float
    seed_share: float  # w in the module's docstring
    seed_freedom: int  # S - 1; 0 where there is one seed, and then seed_share is 0
    image_freedom: int  # N - 1

    def critical(self, p: float) -> float:
        """Gives the distance from 0, in standard errors, that is exceeded with probability `p`."""
        by_image = -float(special.stdtrit(self.image_freedom, p / 2))
        if self.seed_share == 0:
            return by_image
        by_seed = -float(special.stdtrit(self.seed_freedom, p / 2))
        return self.seed_share * by_seed + (1 - self.seed_share) * by_image

    def p_value(self, mean: float) -> float:
        """Gives the `p` whose interval just touches 0, so that p-value and interval always agree."""
        distance = abs(mean) / math.sqrt(self.variance)
        smallest = -50.0  # natural logarithm; what lies below is beyond any approximation
        if self.critical(math.exp(smallest)) <= distance:
            return math.exp(smallest)
        if distance == 0:
            return 1.0
        log_p = optimize.brentq(
            lambda log_p: self.critical(math.exp(log_p)) - distance, smallest, 0.0, xtol=1e-13
        )
        return math.exp(log_p)


def _spread(values: FloatArray) -> _Spread:
    """Estimates the variance of the mean of `values`, (seeds, images)."""
    seeds, images = values.shape
    by_seed, by_image = values.mean(axis=1), values.mean(axis=0)
    b = float(by_image.var(ddof=1)) / images
    # No variance at all can't be believed of a finite test set: one image more or less is always possible.
    floor = 1 / images**2
    if seeds == 1:
        return _Spread(max(b, floor), 0.0, 0, images - 1)
    a = float(by_seed.var(ddof=1)) / seeds
    interaction = values - by_seed[:, None] - by_image + values.mean()
    c = float((interaction**2).sum()) / ((seeds - 1) * (images - 1)) / (seeds * images)
    variance = max(a, b, a + b - c, floor)
    return _Spread(variance, a / variance, seeds - 1, images - 1)


def _as_table(correct: BoolArray) -> FloatArray:
    """Turns answers into numbers, (seeds, images) -> (seeds, images), after checking what they are."""
    correct = np.asarray(correct)
    if correct.dtype != np.bool_:
        raise TypeError(f"expected an array of bool (seeds, images), got {correct.dtype}")
    if correct.ndim != 2 or correct.shape[0] < 1 or correct.shape[1] < 2:
        raise UserError(f"expected at least one seed and two test images, got {_shape(correct)}")
    return correct.astype(np.float64)


def _shape(correct: BoolArray) -> str:
    return " x ".join(str(size) for size in np.shape(correct)) + " (seeds x images)"
