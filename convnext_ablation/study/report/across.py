"""What an experiment found on several data sets: each effect on each set, and how it differs between sets.

The networks of a design are pre-trained on a general set, and from there fine-tuned on others. An effect's
difference is its size on a fine-tuned set, or its mean over them, minus its size on the general set: see
`stats.effects`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from convnext_ablation.errors import UserError
from convnext_ablation.study.designs.contrasts import Contrast
from convnext_ablation.study.report.evidence import NetworkResult
from convnext_ablation.study.report.findings import RESOLVED, Effect, Estimate, Findings, Power, measured_in
from convnext_ablation.study.stats.effects import ALPHA, BoolArray, contrast_across, holm, mean_squares
from convnext_ablation.study.stats.power import Asked, PlannedSet, level_of
from convnext_ablation.study.stats.variance import Scatter, scatter_of_single_runs

Keys = tuple[int | None, int]  # of a run: its pre-training, its seed
Named = tuple[str, Findings]  # a data set's name, and what its networks show by themselves


@dataclass(frozen=True, kw_only=True)
class Gap(Estimate):
    """How much larger an effect is on some sets than on the general one.

    Its p-value is adjusted over all gaps of the design's primary contrasts.
    """

    sets: tuple[str, ...]  # names of the fine-tuned sets whose mean is compared
    pretrainings: int  # that it is over; with one it holds for that one alone
    draws: int  # pre-trainings where there are several, else the fewest seeds of fine-tuning


@dataclass(frozen=True)
class EffectAcross:
    """One effect on all data sets."""

    contrast: Contrast
    effects: tuple[Effect | None, ...]  # on the general set, and on each of the others
    gaps: tuple[Gap, ...]  # of each other set, and of their mean where there are several

    @property
    def whole(self) -> Gap:
        """The gap between the general set and all the others."""
        return self.gaps[-1]


@dataclass(frozen=True)
class AcrossFindings:
    """What an experiment found on several data sets."""

    sets: tuple[str, ...]  # names; the general set first
    effects: list[EffectAcross]
    missing: list[Contrast]  # those that can't be compared yet


def compare_across(
    general: Named, others: Sequence[Named], contrasts: Iterable[Contrast], size: float = RESOLVED
) -> AcrossFindings:
    """Estimates each contrast of a design on each data set, and what it differs in.

    On the general set a run is a pre-training, and its seed is what runs that were fine-tuned from it have as
    their `pretraining_seed`; None there means the only pre-training. Differences that aren't significant are
    judged against a `size`, a fraction.

    Raises:
        UserError: There is no other set, or two sets have the same name.
    """
    sets = [general, *others]
    names = tuple(name for name, _ in sets)
    if not others or len(set(names)) < len(names):
        raise UserError(f"data sets {', '.join(names)}: effects are compared between two or more, once each")
    choices = [(each,) for each in others] + ([tuple(others)] if len(others) > 1 else [])
    compared, missing = [], []
    for contrast in contrasts:
        gaps = [_gap(general, chosen, contrast, size) for chosen in choices]
        if known := tuple(gap for gap in gaps if gap is not None):
            compared.append(EffectAcross(contrast, tuple(found.effect(contrast) for _, found in sets), known))
        if len(known) < len(gaps):
            missing.append(contrast)
    return AcrossFindings(names, _with_power(_adjusted(compared), sets), missing)


def _gap(general: Named, others: Sequence[Named], contrast: Contrast, size: float) -> Gap | None:
    """The gap between the general set and the mean of others; None where they share no pre-training."""
    sets = [found for _, found in (general, *others)]
    weighed = [each.networks_of(contrast) for each in sets]
    if any(len(of_set) < len(contrast.weights) for of_set in weighed):
        return None
    runs = _paired_runs(weighed[0], weighed[1:])
    shared = [set.intersection(*map(set, of_set)) for of_set in runs]
    pretrainings = _pretrainings(shared)
    seeds = [_seeds(keys, pretrainings) for keys in shared]
    if not all(seeds):
        return None
    tables = [
        [np.stack([[found[start, seed] for seed in mine] for start in pretrainings]) for found in of_set]
        for of_set, mine in zip(runs, seeds, strict=True)
    ]
    tables[0] = [table[:, 0] for table in tables[0]]
    difference = contrast_across(tables, list(contrast.weights.values()), _set_weights(len(others)))
    effects = [effect for each in sets if (effect := each.effect(contrast))]
    at_chance = tuple(dict.fromkeys(label for effect in effects for label in effect.at_chance))
    if at_chance:
        difference = replace(difference, p_value=math.nan, p_holm=math.nan, p_better=math.nan)
    return Gap(
        contrast=contrast,
        sets=tuple(name for name, _ in others),
        difference=difference,
        pretrainings=len(pretrainings),
        draws=len(pretrainings) if len(pretrainings) > 1 else min(map(len, seeds[1:])),
        runs=sum(len(pretrainings) * len(mine) for mine in seeds),
        of=sum(max(map(len, of_set)) for of_set in runs),
        at_chance=at_chance,
        size=size,
    )


def _paired_runs(
    general: Sequence[NetworkResult], others: Sequence[Sequence[NetworkResult]]
) -> list[list[dict[Keys, BoolArray]]]:
    """The runs of each set and network, by the pre-training that they are or start from, and their seed."""
    tuned = [[_runs(network) for network in of_set] for of_set in others]
    only = all(start is None for of_set in tuned for found in of_set for start, _ in found)
    if only and all(len(network.runs) == 1 for network in general):
        return [[{(None, 0): network.runs[0].correct} for network in general], *tuned]
    return [[{(run.seed, 0): run.correct for run in network.runs} for network in general], *tuned]


def _runs(network: NetworkResult) -> dict[Keys, BoolArray]:
    return {(run.pretraining_seed, run.seed): run.correct for run in network.runs}


def _pretrainings(found: Iterable[Iterable[Keys]]) -> list[int | None]:
    """The pre-trainings that several have runs of."""
    shared = set.intersection(*({start for start, _ in keys} for keys in found))
    return sorted(shared, key=lambda start: -1 if start is None else start)


def _seeds(keys: set[Keys], pretrainings: Sequence[int | None]) -> list[int]:
    """The seeds that there are of each pre-training."""
    found = [{seed for start, seed in keys if start == each} for each in pretrainings]
    return sorted(set.intersection(*found)) if found else []


def _set_weights(others: int) -> list[float]:
    return [-1.0, *[1 / others] * others]


def _mapped(effects: Sequence[EffectAcross], change: Callable[[Gap], Gap]) -> list[EffectAcross]:
    return [replace(each, gaps=tuple(change(gap) for gap in each.gaps)) for each in effects]


def _adjusted(effects: list[EffectAcross]) -> list[EffectAcross]:
    p_values = [gap.difference.p_value for each in effects for gap in each.gaps if each.contrast.primary]
    adjusted = iter(holm(p_values))

    def change(gap: Gap) -> Gap:
        if not gap.contrast.primary:
            return gap
        return replace(gap, difference=replace(gap.difference, p_holm=next(adjusted)))

    return _mapped(effects, change)


def _with_power(effects: list[EffectAcross], sets: Sequence[Named]) -> list[EffectAcross]:
    """Says of gaps that aren't significant what could have been found, by the scatter on and between sets."""
    asked = {key for each in effects for key in each.contrast.weights}
    scatters = {name: _scatter(name, found, asked) for name, found in sets}
    images = {name: found.test_images for name, found in sets}
    general = sets[0][0]
    primary = [gap for each in effects for gap in each.gaps if each.contrast.primary]
    open_ = sum(gap.difference.p_holm >= ALPHA for gap in primary)

    def change(gap: Gap) -> Gap:
        names = [general, *gap.sets]
        known = [scatter for name in names if (scatter := scatters[name])]
        if not gap.difference.p_holm >= ALPHA or len(known) < len(names):
            return gap
        several = gap.pretrainings > 1
        planned = [
            PlannedSet(weight, scatter, images[name], drawn=several or name != general)
            for weight, scatter, name in zip(_set_weights(len(gap.sets)), known, names, strict=True)
        ]
        weights, level = list(gap.contrast.weights.values()), level_of(gap.contrast.primary, open_)
        together = (
            _seed_variance([found for name, found in sets if name in names], asked) if several else None
        )
        question = Asked(planned, weights, level, shared=several, seed_variance=together)
        needed = question.seeds_needed(gap.size)
        unit = "pre-training" if several else "seed"
        return replace(gap, power=Power(gap.draws, unit, question.detectable(gap.draws), needed))

    return _mapped(effects, change)


def _seed_variance(sets: Sequence[Findings], asked: set[str]) -> float | None:
    """Variance, between pre-trainings, of a network's accuracy on the last sets minus that on the first.

    What a pre-training seed changes in all networks alike is left out, as contrasts don't have it. None where
    fewer than two networks share pre-trainings.
    """
    above = [{network.name: network for network in _above_chance(each, asked)} for each in sets]
    names = [name for name in above[0] if all(name in other for other in above)]
    general, *others = ([each[name] for name in names] for each in above)
    if len(names) < 2:
        return None
    runs = _paired_runs(general, others)
    starts = _pretrainings([found for of_set in runs for found in of_set])
    if len(starts) < 2:
        return None
    top1 = [[[_top1(found, start) for start in starts] for found in of_set] for of_set in runs]
    return mean_squares(np.tensordot(_set_weights(len(others)), top1, 1))[2]


def _top1(found: dict[Keys, BoolArray], start: int | None) -> float:
    """The mean accuracy of the runs of one pre-training."""
    return float(np.mean([correct.mean() for key, correct in found.items() if key[0] == start]))


def _above_chance(found: Findings, asked: set[str]) -> list[NetworkResult]:
    return [row.network for row in found.rows if row.above_chance and row.network.name in asked]


def _scatter(name: str, findings: Findings, asked: set[str]) -> Scatter | None:
    """How much chance there is on a set; of single runs, in which images networks have right."""
    above = _above_chance(findings, asked)
    if found := measured_in(above):
        return found
    try:
        return scatter_of_single_runs([network.runs[0].correct for network in above], name)
    except UserError:  # too few networks, or none of them ever errs
        return None


def set_name(sets: Sequence[str]) -> str:
    """What a set is called, or the mean of several."""
    return sets[0] if len(sets) == 1 else f"mean of {joined(sets)}"


def joined(parts: Sequence[str]) -> str:
    """Joins as in running text: a, b and c."""
    return " and ".join([", ".join(parts[:-1]), parts[-1]] if len(parts) > 1 else parts)
