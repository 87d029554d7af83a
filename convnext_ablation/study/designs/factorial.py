"""Factorial designs: groups of components, each on or off, in every combination.

With factors coded -1/2 (off) and 1/2 (on), main effects and two-way interactions are the coefficients of the
linear model with all interactions. Shapley values (Shapley, 1953) share the difference between all on and all
off among the groups: each gets what it adds, averaged over all orders in which the groups can be switched on.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence

from convnext_ablation.study.designs.contrasts import (
    Contrast,
    Design,
    Groups,
    Point,
    checked_groups,
    group_label,
    group_notes,
    main_effect,
    make_point,
    single_switch,
    switched_on,
    words_of,
)

# In this order they lead from Model I by Model II and the paper's steps 6 and 8 to Model V. The convolution
# moves up together with the inversion: one without the other makes it four times as wide, and with kernel 7
# and without depthwise that costs 30 times the multiply-accumulates of ResNet-50.
STAGE_GROUPS: Groups = {
    "macro_resnext": ("stage_ratio", "patchify_stem", "depthwise", "wide"),
    "inverted": ("inverted", "moved_up"),
    "large_kernel": ("kernel_size",),
    "micro": ("gelu", "fewer_acts", "fewer_norms", "layer_norm", "downsampling", "layer_scale"),
}
MOST_GROUPS = 7  # 128 networks

_MAIN = (
    "A main effect is what a group adds on average over all combinations of the others; Holm's correction is "
    "over the main effects."
)
_INTERACTION = (
    "An interaction A:B is how much more A adds with B than without it; it and Shapley values are secondary, "
    "their p-values are not adjusted."
)
_SHAPLEY = (
    "Shapley values are what each group adds, averaged over all orders of switching the groups on; they sum "
    "to all groups on minus all off."
)


def factorial(
    suffix: str, groups: Mapping[str, Sequence[str]] | None = None, where: str = "factorial"
) -> Design:
    """Makes the design of all combinations of groups of components; by default those of the five stages.

    Raises:
        UserError: No design can be made of the groups; `where` says what they were given to.
    """
    groups = checked_groups(STAGE_GROUPS if groups is None else groups, MOST_GROUPS, where)
    subsets = [on for size in range(len(groups) + 1) for on in itertools.combinations(groups, size)]
    points = {frozenset(on): _point(on, groups, suffix) for on in subsets}
    contrasts = [
        main_effect(name, groups[name], {point.key: name in on for on, point in points.items()})
        for name in groups
    ]
    if len(groups) > 1:
        contrasts += [_interaction(pair, groups, points) for pair in itertools.combinations(groups, 2)]
        contrasts += [_shapley(name, groups, points) for name in groups]
    notes = (*group_notes(groups), _MAIN, *((_INTERACTION, _SHAPLEY) if len(groups) > 1 else ()))
    return Design("factorial", tuple(points.values()), tuple(contrasts), notes)


_On = frozenset[str]  # the groups that are on


def _point(on: Sequence[str], groups: Groups, suffix: str) -> Point:
    components = switched_on(component for name in on for component in groups[name])
    label = " + ".join(group_label(name, groups[name]) for name in on) or words_of(components)
    return make_point(components, suffix, "-".join(["factorial", *on]), label, words_of(components))


def _interaction(pair: tuple[str, str], groups: Groups, points: Mapping[_On, Point]) -> Contrast:
    quarter = len(points) / 4
    return Contrast(
        name=":".join(pair),
        label=" : ".join(group_label(name, groups[name]) for name in pair),
        weights={
            point.key: (1 if (pair[0] in on) == (pair[1] in on) else -1) / quarter
            for on, point in points.items()
        },
        kind="interaction",
        primary=False,
    )


def _shapley(name: str, groups: Groups, points: Mapping[_On, Point]) -> Contrast:
    others = len(groups) - 1
    weights = {}
    for on, point in points.items():
        before = len(on - {name})  # groups that are on when this one's turn comes
        share = math.factorial(before) * math.factorial(others - before) / math.factorial(others + 1)
        weights[point.key] = share if name in on else -share
    return Contrast(
        name=f"shapley({name})",
        label=f"{group_label(name, groups[name])}, Shapley value",
        weights=weights,
        kind="shapley",
        primary=False,
        switch=single_switch(groups[name]),
    )
