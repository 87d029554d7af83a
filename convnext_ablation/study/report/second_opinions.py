"""What other methods say of a study's effects, for a reader to hold against the report's own intervals.

Nothing here is corrected for the number of effects, and no claim of the report rests on it.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from convnext_ablation.errors import UserError
from convnext_ablation.files import write_csv
from convnext_ablation.study.report.answer import p_text
from convnext_ablation.study.report.comparison import Effect, Findings, NetworkResult, shared_tables
from convnext_ablation.study.report.expected_gain import gain_beyond_imagenet
from convnext_ablation.study.report.secondary import class_differences, mcnemar
from convnext_ablation.study.stats.bootstrap import bootstrap_interval, resampled_accuracies
from convnext_ablation.study.stats.linear_model import factorial_effects

__all__ = ["ClassOpinion", "Opinion", "class_opinions", "read_imagenet", "second_opinions", "write_opinions"]


class Opinion(NamedTuple):
    """What one method says of one effect; values are fractions, NaN where the method gives none.

    Attributes:
        effect: Name of the contrast.
        method: ``bootstrap``: hierarchical percentile interval over seeds and images, too narrow with few
            seeds (`bootstrap.CAVEAT`). ``linear model``: ordinary least squares on the accuracies of the
            runs with seeds as blocks, for factorial designs; its p-value leaves test images out.
            ``McNemar``: exact test of two runs of one seed, which knows one seed only. ``beyond ImageNet``:
            what is left of the effect after what the ImageNet difference predicts.
        seed: Of the runs, if it is about single ones.
        note: What else there is to say.
    """

    effect: str
    method: str
    seed: str
    estimate: float
    low: float
    high: float
    p_value: float
    note: str = ""


class ClassOpinion(NamedTuple):
    """What one class gains with a difference of two networks, fractions; NaN where it can't be told.

    Attributes:
        effect: Name of the contrast.
        images: Test images of the class.
        q_value: The p-value adjusted for the false discovery rate over the classes of this effect.
    """

    effect: str
    class_name: str
    images: int
    estimate: float
    low: float
    high: float
    p_value: float
    q_value: float


def second_opinions(
    results: Sequence[NetworkResult],
    findings: Findings,
    imagenet: Mapping[str, float] | None = None,
) -> list[Opinion]:
    """Asks every method that fits.

    Args:
        results: The networks.
        findings: What the report says of them.
        imagenet: Top-1 on ImageNet by network, fractions, where it is known.
    """
    by_name = {result.name: result for result in results}
    return [
        *_by_bootstrap(by_name, findings.effects),
        *_by_linear_model(by_name, findings.effects),
        *_by_mcnemar(by_name, findings.effects),
        *_beyond_imagenet(by_name, findings.effects, imagenet or {}),
    ]


def write_opinions(
    path: Path, kind: type[Opinion | ClassOpinion], opinions: Sequence[Opinion | ClassOpinion]
) -> Path:
    """Writes opinions of one kind as a CSV file, in full precision; what isn't known is empty."""
    lines = [
        ["" if isinstance(value, float) and math.isnan(value) else value for value in opinion]
        for opinion in opinions
    ]
    write_csv(path, kind._fields, lines)
    return path


def class_opinions(
    results: Sequence[NetworkResult],
    findings: Findings,
    targets: npt.NDArray[np.int64],
    classes: Sequence[str],
) -> list[ClassOpinion]:
    """Says for each difference of two networks how much each class gains.

    Args:
        results: The networks.
        findings: What the report says of them.
        targets: Class of each test image, (images,).
        classes: Their names.
    """
    by_name = {result.name: result for result in results}
    opinions = []
    for effect in findings.effects:
        if effect.contrast.kind != "difference":
            continue
        _, (treated, baseline) = shared_tables([by_name[key] for key in _treated_first(effect)])
        opinions += [
            ClassOpinion(
                effect.contrast.name,
                classes[found.target],
                found.images,
                found.estimate,
                found.low,
                found.high,
                found.p_value,
                found.q_value,
            )
            for found in class_differences(treated, baseline, targets, len(classes))
        ]
    return opinions


def read_imagenet(path: Path) -> dict[str, float]:
    """Reads top-1 on ImageNet from a CSV file with the columns ``network`` and ``top1`` (percent).

    Raises:
        UserError: It can't be read, or has other columns or values.
    """
    try:
        with open(path, newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        found = {row["network"]: float(row["top1"]) / 100 for row in rows}
        if not found:
            raise ValueError("it has no row")
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path}: needs columns network and top1, in percent ({error})") from error
    if bad := [name for name, top1 in found.items() if not 0 < top1 <= 1]:
        raise UserError(f"{path}: top1 of {bad[0]} is no percentage above 0")
    return found


def _by_bootstrap(by_name: Mapping[str, NetworkResult], effects: Sequence[Effect]) -> Iterator[Opinion]:
    """The networks that have the same runs are drawn anew together, so each group of them once."""
    drawn: dict[tuple[tuple[int, int], ...], dict[str, int]] = {}
    for name, network in by_name.items():
        group = drawn.setdefault(tuple(network.runs), {})
        group[name] = len(group)
    for group in drawn.values():
        wanted = [effect for effect in effects if effect.contrast.weights.keys() <= group.keys()]
        if not wanted:
            continue
        resampled = resampled_accuracies(shared_tables([by_name[name] for name in group])[1])
        for effect in wanted:
            names = [group[key] for key in effect.contrast.weights]
            low, high = bootstrap_interval(resampled[names], list(effect.contrast.weights.values()))
            estimate = effect.difference.estimate
            yield Opinion(effect.contrast.name, "bootstrap", "", estimate, low, high, math.nan)


def _by_linear_model(by_name: Mapping[str, NetworkResult], effects: Sequence[Effect]) -> Iterator[Opinion]:
    main = [effect.contrast for effect in effects if effect.contrast.kind == "main effect"]
    if not main or any(other.weights.keys() != main[0].weights.keys() for other in main):
        return
    keys = list(main[0].weights)
    runs, tables = shared_tables([by_name[key] for key in keys])
    accuracies = np.stack([table.mean(axis=-1).reshape(len(runs)) for table in tables])
    levels = np.array([[each.weights[key] > 0 for each in main] for key in keys])
    pairs = any(effect.contrast.kind == "interaction" for effect in effects)
    for term in factorial_effects(accuracies, levels, [each.name for each in main], interactions=pairs):
        note = f"standard error {100 * term.standard_error:.2f} points, {term.freedom} degrees of freedom"
        yield Opinion(term.name, "linear model", "", term.estimate, term.low, term.high, term.p_value, note)


def _by_mcnemar(by_name: Mapping[str, NetworkResult], effects: Sequence[Effect]) -> Iterator[Opinion]:
    for effect in effects:
        if effect.contrast.kind != "difference":
            continue
        treated, baseline = _treated_first(effect)
        runs, _ = shared_tables([by_name[treated], by_name[baseline]])
        pairs = zip(by_name[treated].answers(runs), by_name[baseline].answers(runs), strict=True)
        for (pretraining, seed), (here, there) in zip(runs, pairs, strict=True):
            found = mcnemar(here, there)
            which = f"{pretraining}/{seed}" if by_name[treated].pretraining_seeds else str(seed)
            estimate = (found.gained - found.lost) / len(here)
            note = f"gained {found.gained}, lost {found.lost}, mid-p {p_text(found.p_mid)}"
            yield Opinion(
                effect.contrast.name, "McNemar", which, estimate, math.nan, math.nan, found.p_exact, note
            )


def _treated_first(effect: Effect) -> list[str]:
    """The two networks of a difference, the one with the positive weight first."""
    weights = effect.contrast.weights
    return sorted(weights, key=weights.__getitem__, reverse=True)


def _beyond_imagenet(
    by_name: Mapping[str, NetworkResult], effects: Sequence[Effect], imagenet: Mapping[str, float]
) -> Iterator[Opinion]:
    known = [name for name in by_name if name in imagenet]
    if len(known) < 3:
        return
    _, tables = shared_tables([by_name[name] for name in known])
    for effect in effects:
        if not effect.contrast.weights.keys() <= set(known):
            continue
        weights = [effect.contrast.weights.get(name, 0.0) for name in known]
        found = gain_beyond_imagenet(tables, np.array([imagenet[name] for name in known]), weights)
        d = found.beyond
        note = (
            f"ImageNet {100 * found.imagenet:+.2f} points, slope {found.slope.estimate:.3f} over "
            f"{found.networks} networks"
        )
        yield Opinion(effect.contrast.name, "beyond ImageNet", "", d.estimate, d.low, d.high, d.p_value, note)
