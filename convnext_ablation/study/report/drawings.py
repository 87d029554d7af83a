"""Which figures the page has, what of the tables is in them, and how to read them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from convnext_ablation.study.report.classes import ClassGain
from convnext_ablation.study.report.figures import draw_classes, draw_cost, draw_curves, draw_forest
from convnext_ablation.study.report.tables import CurveLine, EffectLine, NetworkLine
from convnext_ablation.study.stats.effects import ALPHA

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Plan", "planned"]

MOST_EFFECTS, MOST_PANELS = 80, 36  # in a figure
CLASS_CONTRASTS, CLASSES = 4, 5  # contrasts in the figure of classes, and classes at either end of each


class Plan(NamedTuple):
    """A figure to be drawn: name of its file, what it shows, and how to read it."""

    name: str
    draw: Callable[[], Figure]
    title: str
    caption: str


def planned(
    networks: Sequence[NetworkLine],
    effects: Sequence[EffectLine],
    curves: Sequence[CurveLine],
    gains: Sequence[ClassGain],
) -> list[Plan]:
    """The figures that there is something for."""
    plans = []
    if effects:
        plans.append(_forest(effects))
    plans.append(
        Plan(
            "cost",
            partial(draw_cost, networks),
            "Top-1 against training speed and against multiply-accumulates",
            "Each network by its number: top-1 with its 95 % interval. Training speed is the median over "
            "runs; it was measured on a machine that may have done other things meanwhile.",
        )
    )
    if curves:
        plans.append(_curves(curves, {each.network: each.label for each in networks}))
    surest = _surest(effects, gains)
    if surest:
        plans.append(_classes(surest, gains))
    return plans


def _forest(effects: Sequence[EffectLine]) -> Plan:
    shown = effects[:MOST_EFFECTS]
    if len(shown) < len(effects):
        shown = sorted(effects, key=lambda effect: not effect.primary)[:MOST_EFFECTS]
    return Plan(
        "effects",
        partial(draw_forest, shown),
        "Forest plot: effect of each component on top-1",
        "Effects in percent points with their 95 % intervals. Diamonds are primary effects, circles "
        "secondary ones. A filled mark holds up after Holm's correction (adjusted p < 0.05)."
        + _cut(len(shown), len(effects), "effects", "effects.csv"),
    )


def _cut(shown: int, there: int, what: str, file: str) -> str:
    return f" {shown} of {there} {what} are shown; all are in {file}." if shown < there else ""


def _curves(curves: Sequence[CurveLine], labels: dict[str, str]) -> Plan:
    there = {point.network: labels.get(point.network, point.network) for point in curves}
    shown = dict(list(there.items())[:MOST_PANELS])
    first = next(iter(shown.values()))
    return Plan(
        "curves",
        partial(draw_curves, curves, shown),
        "Learning curves: validation top-1 by epoch of each network",
        f"Mean over runs, and the range of all of them as a band; dashed: {first}. Validation images, not "
        "test images: the best epoch was picked by these."
        + _cut(len(shown), len(there), "networks", "curves.csv"),
    )


def _surest(effects: Sequence[EffectLine], gains: Sequence[ClassGain]) -> list[EffectLine]:
    """The effects whose classes are shown."""
    known = {gain.contrast for gain in gains}
    there = [effect for effect in effects if effect.contrast in known]
    there.sort(key=lambda effect: (effect.p_holm != effect.p_holm, effect.p_holm, -abs(effect.estimate)))
    return there[:CLASS_CONTRASTS]


def _classes(surest: Sequence[EffectLine], gains: Sequence[ClassGain]) -> Plan:
    groups = [_ends([gain for gain in gains if gain.contrast == effect.contrast]) for effect in surest]
    hold = sum(effect.p_holm < ALPHA for effect in surest)
    return Plan(
        "classes",
        partial(draw_classes, groups),
        "Classes that gain most and least with the surest effects",
        f"Of each of the {len(surest)} surest effects ({hold} of them hold up: adjusted p < {ALPHA:g}), the "
        f"{CLASSES} classes that gain most and the {CLASSES} that gain least: gain in top-1 on the images of "
        "the class, and its range over seeds. They were picked for being extreme among all classes, from few "
        "images each: expect less of them on other images.",
    )


def _ends(gains: Sequence[ClassGain]) -> Sequence[ClassGain]:
    """The classes that gain most and least, of gains in order."""
    return gains if len(gains) <= 2 * CLASSES else [*gains[:CLASSES], *gains[-CLASSES:]]
