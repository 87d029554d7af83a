"""Screening designs: a main effect of every component from about as many networks as components.

For 12 to 15 factors: 16 networks, a regular fractional factorial. Its 15 columns are the non-empty subsets
(bit masks) of four basic factors; the product of two columns is that of the exclusive or of their masks.
For 11 factors or fewer: 12 networks, the design of Plackett and Burman (1946). Both have resolution III: main
effects are clear of one another, but not of two-way interactions. Folded over, which is once more as many
networks with every factor the other way round, they have resolution IV: clear of two-way interactions too.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

from convnext_ablation.errors import UserError
from convnext_ablation.models.components import SWITCHES, WAY
from convnext_ablation.study.designs.contrasts import (
    Design,
    Groups,
    checked_groups,
    group_notes,
    main_effect,
    make_point,
    switched_on,
    words_of,
)

# Masks 1 and 2 stay free, so that the interactions of these neighbours touch no main effect:
# depthwise - kernel_size - moved_up - inverted - depthwise,
# gelu - fewer_acts - fewer_norms - layer_norm - gelu,
# stage_ratio - patchify_stem - downsampling - wide - stage_ratio.
_MASKS: Mapping[str, int] = {
    "layer_scale": 3,
    "depthwise": 4,
    "kernel_size": 5,
    "moved_up": 7,
    "inverted": 6,
    "gelu": 8,
    "fewer_acts": 9,
    "fewer_norms": 11,
    "layer_norm": 10,
    "stage_ratio": 12,
    "patchify_stem": 13,
    "downsampling": 15,
    "wide": 14,
}
# The factor that is on where its column is off: so a network with neither depthwise nor the small kernel has
# the convolution where the block is narrow (`inverted` and `moved_up` both on or both off). Elsewhere it is
# four times as wide: all networks together would cost 3.4 times as many multiply-accumulates.
_REVERSED = "kernel_size"
# They shape one convolution, and the product of their four columns is the same for all networks.
_ONE_CONVOLUTION = ("depthwise", "kernel_size", "moved_up", "inverted")
_PLACKETT_BURMAN_12 = (1, 1, 0, 1, 1, 1, 0, 0, 0, 1, 0)

Column = tuple[bool, ...]  # for each network, whether the factor is on

_MAIN = (
    "A main effect is what a component adds on average over the networks that differ in the others; Holm's "
    "correction is over all of them."
)
_CLEAR = (
    "Folded over: no main effect is aliased with an interaction of two components (resolution IV), but with "
    "those of three."
)


def screening(
    suffix: str, groups: Mapping[str, Sequence[str]] | None = None, fold_over: bool = False
) -> Design:
    """Makes a screening design of components by factor; by default each on the way to ConvNeXt-T is a factor.

    Raises:
        UserError: No design can be made of the groups.
    """
    name = "screening-fold-over" if fold_over else "screening"
    default = {switch: (switch,) for switch in WAY}
    groups = checked_groups(default if groups is None else groups, min(len(SWITCHES), 15), name)
    make = _regular if len(groups) > len(_PLACKETT_BURMAN_12) else _plackett_burman
    columns = make(tuple(groups))
    aliases = (*((_CLEAR,) if fold_over else _aliases(columns)), *_one_convolution(columns, groups))
    if fold_over:
        columns = {factor: (*column, *(not on for on in column)) for factor, column in columns.items()}
    networks = list(zip(*columns.values(), strict=True))
    if len(set(networks)) < len(networks):
        raise UserError(f"{name}: {len(groups)} groups are too few; take the design factorial")
    points = []
    for number, settings in enumerate(networks):
        on = itertools.compress(groups.values(), settings)
        components = switched_on(itertools.chain(*on))
        key, words = f"screening_{number:02d}", words_of(components)
        points.append(make_point(components, suffix, key, f"S{number:02d}: {words}", words))
    keys = [point.key for point in points]
    contrasts = [
        main_effect(factor, groups[factor], dict(zip(keys, columns[factor], strict=True)))
        for factor in groups
    ]
    return Design(name, tuple(points), tuple(contrasts), (*group_notes(groups), _MAIN, *aliases))


def _regular(factors: Sequence[str]) -> dict[str, Column]:
    """Columns of 16 networks."""
    others = dict(zip(factors, range(15, 0, -1), strict=False))
    masks = _MASKS if set(factors) <= set(_MASKS) else others
    return {
        factor: tuple(
            ((network & masks[factor]).bit_count() % 2 == 1) != (factor == _REVERSED) for network in range(16)
        )
        for factor in factors
    }


def _plackett_burman(factors: Sequence[str]) -> dict[str, Column]:
    """Columns of 12 networks, the first with all factors off, each other with the generating row shifted."""
    size = len(_PLACKETT_BURMAN_12)
    return {
        factor: (False, *(bool(_PLACKETT_BURMAN_12[(place - network) % size]) for network in range(size)))
        for place, factor in enumerate(factors)
    }


def _aliases(columns: Mapping[str, Column]) -> tuple[str, ...]:
    """Says which interactions are mixed into the main effects."""
    if len(next(iter(columns.values()))) == 12:
        return (
            "Resolution III: every main effect is aliased with a sixth of each interaction of two other "
            "components, with either sign. It holds as far as these are small.",
        )
    mixed = "; ".join(f"{factor} + ({_mixed_in(factor, columns)})/2" for factor in columns)
    return (
        "Resolution III: every main effect is aliased with half of some interactions of two other "
        "components. It holds as far as these are small; screening-fold-over takes twice as many networks "
        "and is free of them.",
        f"Measured are: {mixed}.",
    )


def _mixed_in(factor: str, columns: Mapping[str, Column]) -> str:
    """Interactions in a regular design's main effect: pairs whose product is its column, or the opposite."""
    terms = []
    for first, second in itertools.combinations(columns, 2):
        product = tuple(a == b for a, b in zip(columns[first], columns[second], strict=True))
        if product == columns[factor]:
            terms.append(f"+ {first}:{second}")
        elif all(a != b for a, b in zip(product, columns[factor], strict=True)):
            terms.append(f"- {first}:{second}")
    return " ".join(terms).removeprefix("+ ")


def _one_convolution(columns: Mapping[str, Column], groups: Groups) -> tuple[str, ...]:
    """Says which interactions of three that need not be small are in main effects; nothing if none are."""
    if any(groups.get(name) != (name,) for name in _ONE_CONVOLUTION):
        return ()
    four = zip(*(columns[name] for name in _ONE_CONVOLUTION), strict=True)
    products = {sum(settings) % 2 == 0 for settings in four}  # whether on (1) times off (-1) is 1
    if len(products) > 1:
        return ()
    sign = "plus" if products == {True} else "minus"
    mixed = "; ".join(
        f"{sign} {':'.join(other for other in _ONE_CONVOLUTION if other != name)} in {name}"
        for name in _ONE_CONVOLUTION
    )
    return (
        "Main effects are aliased with a quarter of interactions of three, too. Some need not be small, as "
        f"{', '.join(_ONE_CONVOLUTION)} shape one convolution and the design has 8 of their 16 combinations: "
        "dense with kernel 3 and depthwise with kernel 7 only where the block is wide, the others only where "
        f"it is narrow. These are: {mixed}. What is said of one of the four holds as far as the other three "
        "interact little; leave-one-out and add-one-in are free of them, each with all other components on "
        "or off.",
    )
