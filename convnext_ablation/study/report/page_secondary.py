"""The page's secondary results: what other methods say of the effects, and which classes gain or lose."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from html import escape

from convnext_ablation.study.report.answer import p_text
from convnext_ablation.study.report.figures import percent_points
from convnext_ablation.study.report.inputs import PageExtras
from convnext_ablation.study.report.parts import MISSING, Column, known, long_table
from convnext_ablation.study.report.second_opinions import ClassOpinion, Opinion
from convnext_ablation.study.report.tables import EffectLine
from convnext_ablation.study.stats.bootstrap import CAVEAT
from convnext_ablation.study.stats.effects import ALPHA

__all__ = ["secondary_part"]

_INTRODUCTION = (
    "No claim of this page rests on what stands here. It is for holding other methods against the effects "
    "above. None of its p-values is adjusted for the number of effects."
)
_CLASSES = "Classes that gain or lose"
# what each method of second_opinions.csv is called, and what it can't tell
_METHODS = {
    "McNemar": (
        "McNemar's test",
        "Exact test of the images that only one of two runs of the same seed tells rightly. A small p says "
        "that these two runs differ, not that the networks do: another seed may turn it round.",
    ),
    "beyond ImageNet": (
        "Beyond what ImageNet predicts",
        "What is left of an effect after what the networks' accuracies on ImageNet let expect, by a straight "
        "line through the networks. Intervals are over seeds and images; that other networks would have "
        "given another line is not in them.",
    ),
    "bootstrap": ("Hierarchical bootstrap", CAVEAT),
    "linear model": (
        "Linear model",
        "Least squares on the accuracies of the runs, with seeds as blocks. Its p-values leave out that "
        "other test images would have come out otherwise.",
    ),
}
_UNKNOWN = {
    "beyond ImageNet": "Not told: it takes accuracies on ImageNet of three networks or more, which study "
    "report takes from --imagenet FILE.csv.",
}


def secondary_part(effects: Sequence[EffectLine], extras: PageExtras) -> str:
    """The whole section.

    Args:
        effects: Of the study, for their labels.
        extras: Has the opinions.
    """
    labels = {effect.contrast: effect.label for effect in effects}
    parts = [_words(_INTRODUCTION)]
    for method, (heading, says) in _METHODS.items():
        mine = [opinion for opinion in extras.opinions if opinion.method == method]
        if mine:
            parts.append(_heading(heading) + _words(says) + _opinions(heading, mine, labels))
        elif method in _UNKNOWN:
            parts.append(_heading(heading) + _words(_UNKNOWN[method]))
    if extras.class_opinions:
        parts.append(_heading(_CLASSES) + _classes(extras.class_opinions, labels))
    return "".join(parts)


def _heading(text: str) -> str:
    return f"<h3>{escape(text)}</h3>"


def _words(text: str) -> str:
    return f"<p>{escape(text)}</p>"


def _effect(labels: Mapping[str, str]) -> Column:
    return Column("effect", lambda row: labels.get(row.effect, row.effect))


def _interval(row: Opinion | ClassOpinion) -> str:
    if math.isnan(row.low):
        return MISSING
    return f"[{percent_points(row.low)}, {percent_points(row.high)}]"


def _number(heading: str, name: str, text: Callable[[float], str]) -> Column:
    """A column of an attribute that may not be known."""
    return Column(heading, lambda row: known(text, getattr(row, name)), lambda row: float(getattr(row, name)))


def _opinions(heading: str, opinions: Sequence[Opinion], labels: Mapping[str, str]) -> str:
    """The table of one method, without the columns that it has nothing for."""
    columns = [_effect(labels)]
    if any(opinion.seed for opinion in opinions):
        columns.append(Column("seed", lambda row: row.seed))
    columns.append(_number("points", "estimate", percent_points))
    if any(not math.isnan(opinion.low) for opinion in opinions):
        columns.append(Column("95 % interval", _interval, lambda row: row.high - row.low))
    if any(not math.isnan(opinion.p_value) for opinion in opinions):
        columns.append(_number("p", "p_value", p_text))
    if any(opinion.note for opinion in opinions):
        columns.append(Column("in detail", lambda row: row.note))
    return long_table(
        f"{heading} in numbers", f"{heading}, effects in percent points (second_opinions.csv)",
        columns, opinions,
    )  # fmt: skip


def _classes(opinions: Sequence[ClassOpinion], labels: Mapping[str, str]) -> str:
    """The classes that stand out from the others of their effect."""
    tested = [opinion for opinion in opinions if not math.isnan(opinion.q_value)]
    found = [opinion for opinion in tested if opinion.q_value < ALPHA]
    if not tested:
        return _words("Not told: it takes two seeds or more, and classes of two test images or more.")
    gain = sum(opinion.estimate > 0 for opinion in found)
    doubt = f", of which {ALPHA:.0%} are expected to be wrong" if found else ""
    says = (
        f"Each class of each difference of two networks was looked at, {len(tested):,} in all "
        f"(class_differences.csv). {gain:,} gain and {len(found) - gain:,} lose at a false discovery rate of "
        f"{ALPHA:.0%} over the classes of a difference (q below {ALPHA:g}){doubt}."
    )
    columns = [
        _effect(labels),
        Column("class", lambda row: row.class_name),
        _number("images", "images", "{:.0f}".format),
        _number("points", "estimate", percent_points),
        Column("95 % interval", _interval, lambda row: row.high - row.low),
        _number("p", "p_value", p_text),
        _number("q", "q_value", p_text),
    ]
    caption = f"Classes that gain or lose, q below {ALPHA:g} (class_differences.csv)"
    return _words(says) + long_table("These classes in numbers", caption, columns, found)
