"""Studies drawn at random whose truth is known: networks, seeds and images that differ as much as told."""

import math

import numpy as np
from scipy import stats

# Latent correlation of two seeds that are right on 80 % of the images and disagree on a tenth of them.
AGREEMENT = 0.93


def simulated_studies(
    rng,
    studies,
    seeds,
    images,
    top1,
    seed_sd,
    agreement=AGREEMENT,
    shared=0.9,
    pretraining=None,
    pretraining_sd=0.0,
    pretraining_draws=None,
):
    """Draws what networks get right in many studies at once, (networks, studies, seeds, images).

    A run is right on an image if the image's ease, in units of its standard deviation, exceeds a threshold.
    The ease is made of three parts: what all networks share, what a network adds to that (the interaction of
    network and image), and what each run adds (that of seed and image). The threshold varies with the seed.

    A network has `seeds`, or so many of each of its `pretraining` seeds, which then are an axis before them.
    `seed_sd` and `pretraining_sd` are in accuracy; `agreement` is the correlation of two seeds of a network
    in an image's ease, `shared` the part of it that networks share, too. `pretraining_draws` are what
    pre-trainings change, (networks, studies, pretraining) in standard deviations, if they are known.
    """
    runs = (seeds,) if pretraining is None else (pretraining, seeds)
    pad = (1,) * len(runs)

    def normal(*shape):
        return rng.standard_normal(shape, dtype=np.float32)

    quantile = stats.norm.ppf(top1)
    seed_scale, pretraining_scale = (
        (sd / stats.norm.pdf(quantile)).astype(np.float32) for sd in (seed_sd, pretraining_sd)
    )
    # Averaged over seeds the threshold is spread out, which this makes up for: top1 is the truth.
    threshold = quantile * np.sqrt(1 + seed_scale**2 + pretraining_scale**2)
    threshold, seed_scale, pretraining_scale = (
        each.astype(np.float32).reshape(-1, 1, *pad, 1) for each in (threshold, seed_scale, pretraining_scale)
    )
    networks = len(top1)
    threshold = threshold + seed_scale * normal(networks, studies, *runs, 1)
    if pretraining is not None:
        shape = (networks, studies, pretraining)
        drawn = normal(*shape) if pretraining_draws is None else pretraining_draws
        threshold = threshold + pretraining_scale * drawn.reshape(*shape, 1, 1)
    ease = math.sqrt(shared) * normal(1, studies, *pad, images)
    ease = ease + math.sqrt(1 - shared) * normal(networks, studies, *pad, images)
    ease = math.sqrt(agreement) * ease
    by_run = normal(networks, studies, *runs, images)
    by_run *= math.sqrt(1 - agreement)
    by_run += ease
    return by_run > -threshold


def simulated_experiments(rng, experiments, pretraining, general, finetuned, together=0.5):
    """Draws what networks get right on a general set and on sets that they are fine-tuned on.

    A set is given by what `simulated_studies` takes: `images`, `top1`, `seed_sd`, `pretraining_sd`, and of a
    fine-tuned set `seeds`. `together` is the correlation between sets of what a pre-training changes.

    Returns, for each set, (networks, experiments, pretraining, images), with an axis of seeds before the
    images where it was fine-tuned.
    """
    shape = (len(general["top1"]), experiments, pretraining)
    common = rng.standard_normal(shape, dtype=np.float32)
    tables = []
    for each in ({**general, "seeds": 1, "seed_sd": 0.0}, *finetuned):
        own = rng.standard_normal(shape, dtype=np.float32)
        draws = math.sqrt(together) * common + math.sqrt(1 - together) * own
        tables.append(
            simulated_studies(rng, experiments, pretraining=pretraining, pretraining_draws=draws, **each)
        )
    return [tables[0][:, :, :, 0], *tables[1:]]
