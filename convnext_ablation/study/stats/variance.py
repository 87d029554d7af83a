"""How much chance there is in a study's accuracies: assumed, or measured in a finished study.

An answer (right or wrong) of network k, trained with seed s, on image i is taken to be

    accuracy of k + seed's effect + image's effect on k + the rest,

where images' effects are in part common to all networks, and alike for all networks in size. Of a contrast,
weights w summing to 0, the common part cancels. What is left of the variance of one network's answers is
multiplied by the sum of w squared: by 2 for a difference of two networks, by 1/4 for a main effect from 16.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from convnext_ablation.errors import UserError
from convnext_ablation.study.stats import ACCURACY, SEED_SD
from convnext_ablation.study.stats.effects import Answers, BoolArray, by_unit, mean_squares

# Of two runs' errors, the share that only one of them makes: what independent mistakes would come near 2 in,
# and the same mistakes 0. In a study of ours (typefaces, five stages, 3 seeds, 2 epochs from scratch) it is
# 0.6 to 0.9 for two seeds; networks trained to the end, or from pre-trained weights, agree more.
SEED_DISAGREEMENT, NETWORK_DISAGREEMENT = 0.5, 0.7
DEFAULTS = (
    "assumed: seeds vary more than those of networks trained to the end (SD 0.1 to 0.2 points, Picard, "
    "arXiv:2109.08203) and less than in a study of ours of 2 epochs (typefaces, 0.8); of the errors, half "
    "are not shared by two seeds of a network, and 0.7 not by two networks; --like STUDY measures all this"
)


@dataclass(frozen=True)
class Scatter:
    """What chance makes of a network's answers."""

    accuracy: float  # share of the images that are right
    seed_sd: float  # standard deviation of a network's true accuracy between seeds, a fraction
    seed_disagreement: float  # share of the images that just one of two seeds of a network gets right
    network_disagreement: float  # the same of two networks that are equally good
    source: str  # where these figures come from
    # mean accuracy by network and pre-training, where an experiment has measured it on several sets
    by_start: Mapping[tuple[str, int], float] = field(default_factory=dict, compare=False)

    def __post_init__(self) -> None:
        """Checks that there can be such networks."""
        if not 0 < self.accuracy < 1:
            raise UserError(
                f"an accuracy of {100 * self.accuracy:g} % was given; it takes 0 to 100, exclusive"
            )
        if not 0 <= self.seed_sd < 0.5:
            raise UserError(f"a seed SD of {100 * self.seed_sd:g} points was given; it takes 0 to 50")


def assumed_scatter(accuracy: float = ACCURACY, seed_sd: float = SEED_SD) -> Scatter:
    """Assumes what is not known before the first study; both arguments are fractions.

    Raises:
        UserError: There can't be such networks.
    """
    source = DEFAULTS if (accuracy, seed_sd) == (ACCURACY, SEED_SD) else f"as given; the rest {DEFAULTS}"
    most = 2 * accuracy * (1 - accuracy)  # of networks whose mistakes are independent
    seeds, networks = (
        min(share * (1 - accuracy), most) for share in (SEED_DISAGREEMENT, NETWORK_DISAGREEMENT)
    )
    return Scatter(accuracy, seed_sd, seeds, networks, source)


def measured_scatter(tables: Sequence[Answers], source: str) -> Scatter:
    """Estimates it from mean squares of all pairs' differences.

    Args:
        tables: Each network's answers, (seeds, images) or (pre-training seeds, fine-tuning seeds, images),
            where pre-trainings count as seeds: see `effects.contrast`.
        source: What they are from.

    Raises:
        UserError: There are fewer than two networks or two seeds.
    """
    numbers = [by_unit(table) for table in tables]
    seeds, images = numbers[0].shape if numbers else (0, 0)
    if len(tables) < 2 or seeds < 2:
        raise UserError(
            f"{source}: it takes two or more networks with two or more seeds in common, and there are "
            f"{len(tables)} with {seeds}; finish more runs, or name another study"
        )
    pairs = [mean_squares(one - other) for one, other in itertools.combinations(numbers, 2)]
    parts = [(seed - rest / images, image - rest / seeds, rest) for seed, image, rest in pairs]
    by_seed, by_image, rest = np.mean(parts, axis=0)
    accuracy = float(np.mean(tables))
    most = 2 * accuracy * (1 - accuracy)
    seed_disagreement = min(float(rest), most)
    return Scatter(
        accuracy=accuracy,
        seed_sd=float(np.sqrt(max(0.0, by_seed) / 2)),
        seed_disagreement=seed_disagreement,
        network_disagreement=min(seed_disagreement + max(0.0, float(by_image)), most),
        source=source,
    )


def scatter_of_single_runs(answers: Sequence[BoolArray], source: str) -> Scatter:
    """Estimates in which images networks differ, from a run of each, (images,); seeds are as if all alike.

    Raises:
        UserError: There are fewer than two networks, or they are right on all images or none.
    """
    if len(answers) < 2:
        raise UserError(f"{source}: it takes two or more networks, and there is {len(answers)}")
    numbers = [np.asarray(each, np.float64) for each in answers]
    disagreements = [(one - other).var(ddof=1) for one, other in itertools.combinations(numbers, 2)]
    return Scatter(float(np.mean(numbers)), 0.0, 0.0, float(np.mean(disagreements)), source)
