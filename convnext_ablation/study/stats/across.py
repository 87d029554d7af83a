"""How sure a difference between data sets is: an interval for a contrast over several tables of answers.

On data set d, a contrast of networks is a table of draws x N_d images, as in `effects`. With weights v_d of
the sets, what is estimated is the sum of v_d x (mean of d's table). Images of different sets are independent.
So are the seeds of training on them, but for the pre-trainings that they start from:

- P > 1 pre-trainings: the draws of all sets. u_p, the sum of v_d x (mean of row p of d's table), has in it
  all that a pre-training changes on any set, and A = var(u_p) / P has P - 1 degrees of freedom.
- One pre-training: what is found holds for it alone. The draws of each fine-tuned set are its own seeds, and
  A is the sum over sets of v_d^2 A_d. The pre-trained networks themselves, tested on the general set, have no
  seed that could be drawn again, and add nothing to A.

Either way the variance is A + sum of v_d^2 max(0, B_d - C_d), and the half-width of the interval at level p
is Banerjee's over all parts, sqrt(A t(p, f)^2 + sum of v_d^2 max(0, B_d - C_d) t(p, N_d - 1)^2). Where four
or more networks (times sets, with one pre-training) are drawn independently, A is of each by itself, with
Satterthwaite's degrees of freedom, as in `effects`. `docs/statistics.md` has the coverage in simulations.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from convnext_ablation.errors import UserError
from convnext_ablation.study.stats.effects import (
    MANY,
    ROUNDING,
    BoolArray,
    Difference,
    FloatArray,
    Spread,
    over_units,
    seed_freedom,
    spread_of,
)


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
        As `effects.contrast` does. There is no p-value where a set was fine-tuned with a single seed from a
        single pre-training, or no set was fine-tuned from that.

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
    used, sets = np.flatnonzero(signs).tolist(), np.flatnonzero(factors).tolist()
    chosen = [[tables[d][k] for k in used] for d in sets]
    return _estimate(chosen, signs[used], factors[sets])


def _estimate(tables: list[list[BoolArray]], signs: FloatArray, factors: FloatArray) -> Difference:
    pretrainings = len(tables[0][0])
    if others := {len(each[0]) for each in tables} - {pretrainings}:
        raise UserError(
            f"data sets were tested with {pretrainings} and {min(others)} pre-trainings; compare them over "
            "the pre-trainings that they share"
        )
    units = [over_units(each) for each in tables]  # of each set (networks, draws, images)
    weighted = [factor * signs[:, None, None] * each for factor, each in zip(factors, units, strict=True)]
    images = [
        spread_of(each.sum(axis=0), resolution=float(np.abs(factor * signs).max()))[1]
        for factor, each in zip(factors, weighted, strict=True)
    ]
    means = [each.mean(axis=2) for each in weighted]  # (networks, draws)
    if pretrainings > 1:
        draws, tested = [np.sum(means, axis=0)], True
    else:
        finetuned = [mean for mean, each in zip(means, tables, strict=True) if each[0].ndim == 3]
        draws = [mean for mean in finetuned if mean.shape[1] > 1]
        tested = bool(draws) and len(draws) == len(finetuned)
    estimate = float(sum(mean.sum(axis=0).mean() for mean in means))
    bounds = np.outer(factors, signs).ravel()
    return Spread((*_over_seeds(draws), *images)).difference(estimate, bounds, tested)


def _over_seeds(draws: list[FloatArray]) -> list[tuple[float, float]]:
    """Variance and degrees of freedom of what independent draws, each (networks, seeds), change."""
    if sum(map(len, draws)) < MANY:
        return [(float(each.sum(axis=0).var(ddof=1)) / each.shape[1], each.shape[1] - 1) for each in draws]
    parts = np.concatenate([each.var(axis=1, ddof=1) / each.shape[1] for each in draws])
    seeds = np.repeat([each.shape[1] for each in draws], [len(each) for each in draws])
    return [(float(parts.sum()), seed_freedom(parts, seeds))]
