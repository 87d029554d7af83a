"""Main effects and two-way interactions of a factorial design by ordinary least squares, seeds as blocks.

The model is fitted to the runs' accuracies: one term per factor, one per pair of factors, and one per seed,
which takes up what all networks of a seed have in common. With every factor coded -1/2 and +1/2,

- a main effect is the mean accuracy with the component minus the mean without it;
- an interaction, the product of two such columns, is how much more the one adds with the other than without.

In a balanced design these are the study's own contrasts, to rounding. What differs is the error: here it is
the scatter of runs about the model, on the test images at hand. That other images would have given another
effect doesn't count, and all networks are pooled, which gains degrees of freedom if they scatter alike and
nothing of higher order than the terms matters. A claim rests on `effects.contrast`; this is a check on it.

All values are fractions. statsmodels is imported when a model is fitted.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from convnext_ablation.errors import UserError
from convnext_ablation.study.stats.effects import ALPHA, FloatArray

__all__ = ["FactorEffect", "factorial_effects"]


@dataclass(frozen=True)
class FactorEffect:
    """A term of the fitted model, with its 95 % interval, in fractions.

    Attributes:
        name: The factor, or two factors joined by ``:``.
        standard_error: NaN, as are the interval and the p-value, where no degree of freedom is left for it.
        p_value: Two-sided, for this term alone; NaN with one seed, which supports no claim.
        freedom: Degrees of freedom of the residual.
    """

    name: str
    estimate: float
    standard_error: float
    low: float
    high: float
    p_value: float
    freedom: int


def factorial_effects(
    accuracies: FloatArray,
    levels: npt.NDArray[np.bool_],
    names: Sequence[str],
    interactions: bool = True,
) -> list[FactorEffect]:
    """Fits the effects of a design's factors to the accuracies of its runs.

    Args:
        accuracies: Top-1 of each run, a fraction, (networks, seeds); NaN where a run is missing.
        levels: Whether each network has each component, (networks, factors).
        names: Of the factors.
        interactions: Whether to fit a term for each pair of factors, too.

    Raises:
        UserError: statsmodels is missing, or the finished runs can't tell the terms apart.
    """
    accuracies, levels = np.asarray(accuracies, np.float64), np.asarray(levels, np.bool_)
    if levels.shape != (len(accuracies), len(names)) or accuracies.ndim != 2:
        raise ValueError(f"{accuracies.shape} accuracies don't fit {levels.shape} levels of {len(names)}")
    terms, columns = _terms(levels, names, interactions)
    networks, seeds = accuracies.shape
    blocks = np.eye(seeds)[:, 1:]  # of the first seed there is no column: the constant stands for it
    design = np.column_stack(
        [
            np.ones(networks * seeds),
            np.repeat(columns, seeds, axis=0),
            np.tile(blocks, (networks, 1)),
        ]
    )
    done = ~np.isnan(accuracies).ravel()
    design, response = design[done], accuracies.ravel()[done]
    design = design[:, design.any(axis=0)]  # a seed without a run has no column
    if np.linalg.matrix_rank(design) < design.shape[1]:
        raise UserError(
            f"{len(response)} finished runs can't tell {len(terms)} effects and {seeds} seeds apart; "
            "leave interactions out or finish more of the design's networks"
        )
    return _fit(response, design, terms, claims=seeds > 1)


def _terms(
    levels: npt.NDArray[np.bool_], names: Sequence[str], interactions: bool
) -> tuple[list[str], FloatArray]:
    """Gives each term's name and its column, (networks, terms)."""
    coded = np.where(levels, 0.5, -0.5)
    pairs = list(itertools.combinations(range(len(names)), 2)) if interactions else []
    products = [coded[:, first] * coded[:, second] for first, second in pairs]
    return (
        [*names, *(f"{names[first]}:{names[second]}" for first, second in pairs)],
        np.column_stack([coded, *products]),
    )


def _fit(response: FloatArray, design: FloatArray, terms: Sequence[str], claims: bool) -> list[FactorEffect]:
    try:
        from statsmodels.regression.linear_model import OLS
    except ImportError as error:
        raise UserError("a linear model needs statsmodels; pip install 'convnext_ablation[study]'") from error
    fitted = OLS(response, design).fit()
    freedom = round(fitted.df_resid)
    known = freedom > 0
    bounds = fitted.conf_int(ALPHA) if known else np.full((design.shape[1], 2), math.nan)
    return [
        FactorEffect(
            name,
            estimate=float(fitted.params[column]),
            standard_error=float(fitted.bse[column]) if known else math.nan,
            low=float(bounds[column, 0]),
            high=float(bounds[column, 1]),
            p_value=float(fitted.pvalues[column]) if known and claims else math.nan,
            freedom=freedom,
        )
        for column, name in enumerate(terms, start=1)
    ]
