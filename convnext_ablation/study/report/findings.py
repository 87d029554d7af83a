"""What a study found, as data that tables, figures and page show: networks, and effects.

Every effect is a linear contrast of networks' accuracies (see `convnext_ablation.study.designs.design`), over
the seeds that all of its networks have.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from convnext_ablation.console import counted
from convnext_ablation.errors import UserError
from convnext_ablation.study.designs.design import Contrast
from convnext_ablation.study.report.evidence import NetworkResult, Seeds
from convnext_ablation.study.stats.effects import (
    ALPHA,
    Answers,
    Difference,
    Interval,
    accuracy,
    contrast,
    holm,
)
from convnext_ablation.study.stats.power import level_of, on_one_set
from convnext_ablation.study.stats.variance import Scatter, measured_scatter

_FINDINGS = {
    "unclear": "not significant",
    "corrected": "not significant after Holm's correction",
    "untested": "not tested",
}
RESOLVED = 0.01  # the size that an effect which isn't significant is judged against, a fraction


@dataclass(frozen=True)
class StudyFacts:
    """What a reader must know to judge a study's figures."""

    title: str
    design: str
    data_name: str
    image_size: int
    test_images: int
    classes: int
    precision: str
    threads: int  # of each process
    epochs: int
    machine: str
    versions: dict[str, str]
    command: str  # repeats the study
    warnings: list[str] = field(default_factory=list)
    pretrained: bool = False
    fault: str = ""  # what is known to be wrong with the data for these networks
    origin: str = ""  # where the runs come from, if they were made for another design
    notes: tuple[str, ...] = ()  # what one must know of the design to read its effects
    image_height: int = 0  # px; 0: as wide as high
    split: str = "test"  # that accuracies are of
    processes: int = 1  # that train a run together

    @property
    def pixels(self) -> str:
        """The size of the images, for people."""
        height = self.image_height or self.image_size
        return f"{self.image_size} px" if height == self.image_size else f"{height} x {self.image_size} px"


@dataclass(frozen=True)
class Power:
    """What such a study can find of an effect, by how much chance there is in this one."""

    draws: int  # seeds that the effect is over
    unit: str  # what these are: ``"seed"``, or ``"pre-training"`` where there are several
    detectable: float  # the smallest effect that 80 of 100 such studies find, a fraction
    seeds_needed: int | None  # for 80 of 100 to find the size that is asked about; None: no number will do

    @property
    def takes(self) -> str:
        """What an effect of the size that is asked about takes, for people."""
        return counted(self.seeds_needed, self.unit) if self.seeds_needed else "more test images"


def verdict(difference: Difference | None) -> str:
    """Sorts a difference into ``"raised"``, ``"lowered"`` or ``"unclear"``.

    ``"untested"`` is one without a p-value: measured with one seed, of a network at chance, or without a
    baseline.
    """
    if difference is None or difference.p_holm != difference.p_holm:
        return "untested"
    if difference.p_holm >= ALPHA:
        return "unclear"
    return "raised" if difference.estimate > 0 else "lowered"


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """The estimate of a contrast, or of how much it differs between data sets."""

    contrast: Contrast
    difference: Difference
    runs: int  # of each of its networks, that it is over
    of: int  # runs that its networks have at most
    at_chance: tuple[str, ...] = ()  # labels of its networks that are not above chance; not tested then
    power: Power | None = None  # of one that is not significant, where it can be told
    size: float = RESOLVED  # that one which isn't significant is judged against, a fraction

    @property
    def label(self) -> str:
        """What it is about, for people."""
        return self.contrast.label

    @property
    def verdict(self) -> str:
        """What `verdict` says, or of an unclear one why it is, where that is known.

        It is smaller than `size` if all of its interval is. If its interval excludes 0, it is not significant
        for Holm's correction alone: ``"corrected"``. Else a study that finds less than 80 of 100 effects of
        that size could not have detected it. How large the estimate is does not count.
        """
        found, d = verdict(self.difference), self.difference
        if found != "unclear":
            return found
        if max(-d.low, d.high) < self.size:
            return "smaller"
        if d.low > 0 or d.high < 0:
            return "corrected"
        return "undetectable" if self.power and self.power.detectable > self.size else found

    @property
    def finding(self) -> str:
        """The verdict, for people."""
        if self.verdict == "smaller":
            return f"smaller than {size_text(self.size)}"
        if self.verdict == "undetectable" and self.power:
            return f"could not have been detected: {self.power.takes} needed for {size_text(self.size)}"
        return _FINDINGS.get(self.verdict, self.verdict)


def size_text(size: float) -> str:
    """A size of effects for people, such as ``1 point``."""
    return "1 point" if size == RESOLVED else f"{100 * size:g} points"


@dataclass(frozen=True, kw_only=True)
class Effect(Estimate):
    """The estimate of a contrast; p-values of primary contrasts are adjusted over all primary ones.

    One of a network that is not above chance has no p-value, and counts for no other's.
    """

    shape: tuple[int, ...]  # of its runs: (seeds,) or (pre-trainings, seeds)


@dataclass(frozen=True)
class Row:
    """One network of the report's table."""

    number: int  # from 1
    network: NetworkResult
    top1: Interval
    baseline: str  # label of the network that `difference` compares with; empty where there is none
    follows: bool  # whether that is the row above
    difference: Difference | None  # None where the design compares it with no single network
    above_chance: bool  # whether all of the interval of its accuracy is

    @property
    def label(self) -> str:
        """The network's display name."""
        return self.network.label

    @property
    def runs(self) -> int:
        """How many runs the network has."""
        return len(self.network.runs)


@dataclass(frozen=True)
class Findings:
    """What a study found."""

    rows: list[Row]  # the networks that have a result, in the design's order
    effects: list[Effect]  # the contrasts whose networks all have a result
    missing: list[Contrast]  # the others

    @property
    def test_images(self) -> int:
        """How many test images they are of."""
        return len(self.rows[0].network.runs[0].correct)

    def networks_of(self, contrast: Contrast) -> list[NetworkResult]:
        """The networks that a contrast weighs, in its order."""
        by_name = {row.network.name: row.network for row in self.rows}
        return [by_name[key] for key in contrast.weights if key in by_name]

    def effect(self, contrast: Contrast) -> Effect | None:
        """What is estimated of a contrast; None where runs are missing."""
        return next((each for each in self.effects if each.contrast == contrast), None)

    @property
    def primary(self) -> list[Effect]:
        """The effects that p-values are adjusted over."""
        return [effect for effect in self.effects if effect.contrast.primary]

    @property
    def shown_by_rows(self) -> bool:
        """Whether the rows' differences say all that the effects say."""
        return {effect.contrast.name for effect in self.effects} <= set(_by_network(self.effects).values())


def compare(
    results: Sequence[NetworkResult], contrasts: Iterable[Contrast], classes: int, size: float = RESOLVED
) -> Findings:
    """Estimates each contrast of a design from the networks that have runs, in the design's order.

    Those that aren't significant are judged against a `size`, a fraction.

    Raises:
        UserError: There is no result, or the networks of a contrast have no run of the same seeds.
    """
    if not results:
        raise UserError("no run of this study is finished; nothing to report")
    by_name = {result.name: result for result in results}
    top1 = {name: accuracy(_shared_tables([result])[1][0]) for name, result in by_name.items()}
    above = [name for name in by_name if top1[name].low > 1 / classes]
    declared = list(contrasts)
    known = [each for each in declared if by_name.keys() >= each.weights.keys()]
    effects = _adjusted([_effect(by_name, each, above, size) for each in known])
    asked = {key for each in known for key in each.weights}  # others may have other seeds
    effects = _with_power(effects, [by_name[name] for name in above if name in asked])
    rows = [
        _row(results, place, effects, top1[result.name], result.name in above)
        for place, result in enumerate(results)
    ]
    return Findings(rows, effects, [each for each in declared if each not in known])


def _adjusted(effects: list[Effect]) -> list[Effect]:
    tested = [effect.difference.p_value if effect.contrast.primary else math.nan for effect in effects]
    return [
        replace(effect, difference=replace(effect.difference, p_holm=p))
        if effect.contrast.primary
        else effect
        for effect, p in zip(effects, holm(tested), strict=True)
    ]


def _effect(
    by_name: Mapping[str, NetworkResult], wanted: Contrast, above: Sequence[str], size: float
) -> Effect:
    networks = [by_name[key] for key in wanted.weights]
    shared, tables = _shared_tables(networks)
    difference = contrast(tables, list(wanted.weights.values()))
    below = [by_name[key].label for key, weight in wanted.weights.items() if weight and key not in above]
    if below:
        difference = replace(difference, p_value=math.nan, p_holm=math.nan, p_better=math.nan)
    most = max(len(network.runs) for network in networks)
    return Effect(
        contrast=wanted,
        difference=difference,
        runs=len(shared),
        of=most,
        at_chance=tuple(below),
        size=size,
        shape=tables[0].shape[:-1],
    )


def _with_power(effects: list[Effect], networks: Sequence[NetworkResult]) -> list[Effect]:
    """Says of effects that aren't significant what could have been found, by the scatter of networks."""
    scatter = measured_in(networks)
    if scatter is None:
        return effects
    family = sum(effect.contrast.primary and effect.difference.p_holm >= ALPHA for effect in effects)
    images = len(networks[0].runs[0].correct)
    return [
        replace(effect, power=_power(effect, scatter, images, family))
        if effect.difference.p_holm >= ALPHA
        else effect
        for effect in effects
    ]


def measured_in(networks: Sequence[NetworkResult]) -> Scatter | None:
    """How much chance there is in the runs that networks share; None where these can't tell.

    Those of balanced accuracy can't, as the model is of answers that are right or wrong.
    """
    if not networks or networks[0].runs[0].balanced:
        return None
    try:
        return measured_scatter(_shared_tables(networks)[1], "this study")
    except UserError:  # too few networks, or runs in common, or none of them ever errs
        return None


def _power(effect: Effect, scatter: Scatter, images: int, family: int) -> Power:
    weights, level = list(effect.contrast.weights.values()), level_of(effect.contrast.primary, family)
    question, draws = on_one_set(scatter, images, weights, level), effect.shape[0]
    unit = "pre-training" if len(effect.shape) > 1 else "seed"
    return Power(draws, unit, question.detectable(draws), question.seeds_needed(effect.size))


def _shared_tables(
    networks: Sequence[NetworkResult],
) -> tuple[list[Seeds], list[Answers]]:
    """The runs that all of some networks have, and their tables as `effects.contrast` takes them."""
    scores = [{run.seeds: run.scores for run in network.runs} for network in networks]
    shared = [seeds for seeds in scores[0] if all(seeds in other for other in scores)]
    if not shared:
        names = " and ".join(network.name for network in networks[:2])
        raise UserError(f"{names} have no seed in common; run both with the same seeds")
    shared, shape = _balanced(shared)
    return shared, [np.stack([found[seeds] for seeds in shared]).reshape(*shape, -1) for found in scores]


def _balanced(runs: Sequence[Seeds]) -> tuple[list[Seeds], tuple[int, ...]]:
    """The runs that have the same seeds in each pre-training, and how many of each there are.

    Their shape is (seeds,) where there is one pre-training, else (pre-trainings, seeds).
    """
    seeds_of: dict[int, list[int]] = {}
    for pretraining, seed in runs:
        seeds_of.setdefault(pretraining, []).append(seed)
    first, *others = seeds_of.values()
    seeds = [seed for seed in first if all(seed in other for other in others)]
    if not seeds:
        raise UserError(
            f"pre-trainings {', '.join(map(str, seeds_of))} have no seed in common; run each with the same "
            "seeds"
        )
    balanced = [(pretraining, seed) for pretraining in seeds_of for seed in seeds]
    return balanced, (len(seeds),) if not others else (len(seeds_of), len(seeds))


def _row(
    results: Sequence[NetworkResult], place: int, effects: Iterable[Effect], top1: Interval, above: bool
) -> Row:
    result = results[place]
    name = _by_network(effects).get(result.name)
    effect = next((effect for effect in effects if effect.contrast.name == name), None)
    labels = {other.name: other.label for other in results}
    baseline = "" if effect is None else _other(effect.contrast, result.name)
    return Row(
        number=place + 1,
        network=result,
        top1=top1,
        baseline=labels.get(baseline, ""),
        follows=place > 0 and baseline == results[place - 1].name,
        difference=None if effect is None else _seen_from(result.name, effect),
        above_chance=above,
    )


def _by_network(effects: Iterable[Effect]) -> dict[str, str]:
    """For networks that are compared with one other: the name of the contrast that does.

    That is the network with the positive weight, unless it is so in many, as a whole is beside its parts.
    """
    pairs = [effect.contrast for effect in effects if effect.contrast.baseline]
    treated = [_other(pair, pair.baseline) for pair in pairs]
    found: dict[str, str] = {}
    for pair, key in zip(pairs, treated, strict=True):
        whole = treated.count(key) > 1 and pair.baseline not in treated
        found.setdefault(pair.baseline if whole else key, pair.name)
    return found


def _other(pair: Contrast, key: str) -> str:
    return next(other for other in pair.weights if other != key)


def _seen_from(key: str, effect: Effect) -> Difference:
    """A difference of two networks, as that of one of them to the other."""
    d = effect.difference
    if effect.contrast.weights[key] > 0:
        return d
    return replace(d, estimate=-d.estimate, low=-d.high, high=-d.low, p_better=1 - d.p_better)
