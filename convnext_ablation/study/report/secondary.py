"""Secondary comparisons of two networks: McNemar's test of two runs, and differences class by class.

Neither replaces `effects.contrast`. McNemar's test takes one run of each network and asks whether these two
runs differ on other images; it can't tell a better network from a luckier seed. Classes are many and have few
images each, so their differences are searched, not tested: of what stands out at a false discovery rate of
5 %, one in twenty is expected to be wrong.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from scipy import stats

from convnext_ablation.errors import UserError
from convnext_ablation.study.stats.effects import BoolArray, paired_difference

__all__ = ["ClassDifference", "McNemar", "benjamini_hochberg", "class_differences", "mcnemar"]


@dataclass(frozen=True)
class McNemar:
    """How two runs differ on the same images.

    Attributes:
        gained: Images that only the treated run classifies rightly.
        lost: Images that only the baseline's run does.
        p_exact: Two-sided, from the binomial distribution; its error rate never exceeds the level.
        p_mid: The same with the observed outcome counted half, less conservative (Fagerland et al., 2013).
    """

    gained: int
    lost: int
    p_exact: float
    p_mid: float


@dataclass(frozen=True)
class ClassDifference:
    """Difference of two networks' accuracies on the images of one class, fractions.

    Attributes:
        target: Number of the class.
        images: Its test images.
        low: Of the 95 % interval, NaN, as is `high`, where the class has fewer than two images.
        p_value: NaN also with one seed.
        q_value: The p-value adjusted for the false discovery rate over all classes.
    """

    target: int
    images: int
    estimate: float
    low: float
    high: float
    p_value: float
    q_value: float


def mcnemar(treated: npt.NDArray[np.bool_], baseline: npt.NDArray[np.bool_]) -> McNemar:
    """Compares two runs on the images that exactly one of them classifies rightly.

    Args:
        treated: Whether each image is classified rightly, (images,).
        baseline: The same of the run to compare with.

    Raises:
        UserError: The runs were tested on different numbers of images.
    """
    treated, baseline = np.asarray(treated), np.asarray(baseline)
    if treated.shape != baseline.shape or treated.ndim != 1:
        raise UserError(
            f"McNemar's test pairs two runs image by image, but one has {treated.shape} answers and "
            f"the other {baseline.shape}; evaluate both on the same test images"
        )
    gained, lost = int((treated & ~baseline).sum()), int((~treated & baseline).sum())
    fewer, discordant = min(gained, lost), gained + lost
    observed = float(stats.binom.pmf(fewer, discordant, 0.5))
    if gained == lost:  # the outcome is one, in the middle, and not one in each tail
        return McNemar(gained, lost, 1.0, 1.0 - observed / 2 if discordant else 1.0)
    exact = 2 * float(stats.binom.cdf(fewer, discordant, 0.5))
    return McNemar(gained, lost, min(1.0, exact), exact - observed)


def class_differences(
    treated: BoolArray, baseline: BoolArray, targets: npt.NDArray[np.int64], classes: int
) -> list[ClassDifference]:
    """Compares two networks class by class, paired by seed and image.

    Args:
        treated: Whether each image is classified rightly: (seeds, images), or (pre-training seeds,
            fine-tuning seeds, images).
        baseline: The same of the network to compare with.
        targets: Class of each image, (images,).
        classes: How many there are.

    Returns:
        One per class, in the order of their numbers.
    """
    treated, baseline, targets = np.asarray(treated), np.asarray(baseline), np.asarray(targets)
    if treated.shape[-1:] != targets.shape:
        raise UserError(
            f"{treated.shape[-1]} predictions don't fit {len(targets)} targets; "
            "evaluate both networks on the same images"
        )
    differences = [_class_difference(treated, baseline, targets, target) for target in range(classes)]
    adjusted = benjamini_hochberg([difference.p_value for difference in differences])
    return [
        replace(difference, q_value=q_value)
        for difference, q_value in zip(differences, adjusted, strict=True)
    ]


def benjamini_hochberg(p_values: Sequence[float]) -> list[float]:
    """Adjusts p-values for the false discovery rate, in the order given.

    Of those whose adjusted value is below 0.05, at most 5 % are false on average, if the tests are
    independent or positively dependent. NaN is no test: it stays NaN and doesn't count.
    """
    given = np.asarray(p_values, np.float64)
    adjusted = np.full(len(given), math.nan)
    tested = ~np.isnan(given)
    adjusted[tested] = stats.false_discovery_control(given[tested])
    return adjusted.tolist()


def _class_difference(
    treated: BoolArray, baseline: BoolArray, targets: npt.NDArray[np.int64], target: int
) -> ClassDifference:
    members = np.flatnonzero(targets == target)
    here, there = treated[..., members], baseline[..., members]
    if len(members) < 2:
        estimate = float(here.mean() - there.mean()) if len(members) else math.nan
        return ClassDifference(target, len(members), estimate, *[math.nan] * 4)
    found = paired_difference(here, there)
    return ClassDifference(
        target, len(members), found.estimate, found.low, found.high, found.p_value, math.nan
    )
