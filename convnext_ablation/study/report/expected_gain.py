"""What a component adds on a data set beyond what its gain on ImageNet lets expect.

Networks that are better on ImageNet tend to be better on other data after fine-tuning (Kornblith et al., "Do
Better ImageNet Models Transfer Better?", CVPR 2019). A straight line of accuracy here on accuracy there,
through the networks of the study, says how much an ImageNet difference is worth here on average; what a
component adds beyond that is

    (difference here) - slope x (difference on ImageNet).

With ImageNet accuracies taken as known this is one more linear contrast of the networks' accuracies here,
and so is the slope. Its interval is that of `effects.contrast`, over seeds and images, with what the slope
owes to them. Where every pre-training seed has ImageNet accuracies of its own, it has a line of its own.

What this can't show, above all with five networks:

- Whether the line holds. Five networks leave three degrees of freedom, and these five are one family on one
  way, not a sample of networks. The interval knows seeds and images only: that other networks would have
  given another line is not in it.
- Much about a network that shapes the line itself. One at an end of the ImageNet scale pulls the slope
  towards its own gain, and so hides a part of what it adds beyond.
- A cause. A gain beyond expectation may come from resolution, from a learning rate that suits the network
  here, or from test images that ImageNet contains (all of Stanford Dogs, some of CUB-200-2011).
- Anything from ImageNet accuracies that are noisy themselves or were measured at another resolution or with
  another recipe: noise flattens the line, which lets too little be expected.

All values are fractions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from convnext_ablation.errors import UserError
from convnext_ablation.study.stats.effects import BoolArray, Difference, FloatArray, estimated, over_units

__all__ = ["ExpectedGain", "gain_beyond_imagenet"]

SMALLEST_RANGE = 1e-4  # of ImageNet accuracies that a line is drawn through: five images of 50,000


@dataclass(frozen=True)
class ExpectedGain:
    """A gain here, held against the one on ImageNet.

    Attributes:
        gain: The difference here.
        imagenet: The difference on ImageNet, mean over pre-training seeds.
        slope: What one point on ImageNet is worth here, over the networks given.
        beyond: `gain` minus slope x `imagenet`.
        networks: How many the line was drawn through.
    """

    gain: Difference
    imagenet: float
    slope: Difference
    beyond: Difference
    networks: int


def gain_beyond_imagenet(
    tables: Sequence[BoolArray], imagenet: FloatArray, weights: Sequence[float]
) -> ExpectedGain:
    """Estimates a contrast of networks here, and what it is beyond the same contrast on ImageNet.

    Args:
        tables: Whether each image here is classified rightly, for each network of the line: see
            `effects.contrast`.
        imagenet: Top-1 of each network on ImageNet, fractions: (networks,), or (networks, units) where every
            pre-training seed has its own.
        weights: The contrast, one weight per network, summing to 0.

    Raises:
        UserError: Fewer than three networks, ImageNet accuracies that don't differ, or tables that can't be
            paired.
    """
    units = over_units(tables)
    imagenet, signs = np.asarray(imagenet, np.float64), np.asarray(weights, np.float64)
    known = np.broadcast_to(imagenet[:, None] if imagenet.ndim == 1 else imagenet, units.shape[:2])
    if abs(signs.sum()) > 1e-9 or signs.shape != known.shape[:1]:
        raise ValueError(f"expected a weight for each of {len(known)} networks, summing to 0")
    if len(known) < 3:
        raise UserError(
            f"a line needs at least three networks with known ImageNet accuracies, not {len(known)}"
        )
    if not np.isfinite(known).all():
        raise UserError("the ImageNet accuracy of a network isn't known; leave it out of the line")
    if np.ptp(known, axis=0).min() < SMALLEST_RANGE:
        raise UserError("the networks are equally good on ImageNet; no line can be drawn through them")
    centred = known - known.mean(axis=0)
    slopes = centred / (centred**2).sum(axis=0)  # weights of the slope, (networks, units)
    there = signs @ known
    gains = np.broadcast_to(signs[:, None], known.shape)
    return ExpectedGain(
        gain=estimated(units, gains),
        imagenet=float(there.mean()),
        slope=estimated(units, slopes),
        beyond=estimated(units, gains - there * slopes),
        networks=len(known),
    )
