"""Designs: which networks a study compares, and which questions it asks of them."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from convnext_ablation.errors import UserError, unknown_name
from convnext_ablation.models.components import (
    ADD_ONE_IN,
    CONVNEXT_TINY,
    LEAVE_ONE_OUT,
    RESNET_50,
    ROADMAP,
    STAGES,
    WAY,
    WORDS,
    Variant,
)
from convnext_ablation.study.designs.contrasts import (
    WIDTHS,
    Contrast,
    Design,
    Point,
    make_difference,
    make_point,
)
from convnext_ablation.study.designs.factorial import factorial
from convnext_ablation.study.designs.screening import screening
from convnext_ablation.study.designs.yaml_design import read_design
from convnext_ablation.yaml_files import ENDINGS

__all__ = ["DESIGNS", "GROUPED", "WIDTHS", "Contrast", "Design", "Point", "design_of"]

_ONE_ORDER = "Components are changed in one order, the paper's; in another order their effects may differ."
_KERNELS = "Kernels 9 and 11, which the paper tries and doesn't keep, are compared with kernel 7."
_LOST = (
    "An effect is ConvNeXt-T minus ConvNeXt-T without the component: above 0 the component helps. All "
    "effects share ConvNeXt-T, so chance in its runs moves all of them together."
)
_GAINED = (
    "An effect is ResNet-50 with the component minus ResNet-50. All effects share ResNet-50, so chance in "
    "its runs moves all of them together."
)


def _points(variants: Mapping[str, Variant], suffix: str) -> dict[str, Point]:
    return {
        name: make_point(variant.components, suffix, name, variant.label, variant.adds)
        for name, variant in variants.items()
    }


def _way(name: str, variants: Mapping[str, Variant], suffix: str, *notes: str) -> Design:
    """Networks that each change something in one before."""
    points = _points(variants, suffix)
    contrasts = [
        make_difference(
            points[key],
            points[variant.baseline],
            f"{variant.label} after {variants[variant.baseline].label} ({variant.adds})",
        )
        for key, variant in variants.items()
        if variant.baseline
    ]
    return Design(name, tuple(points.values()), tuple(contrasts), notes)


def _leave_one_out(suffix: str) -> Design:
    whole = make_point(CONVNEXT_TINY, suffix, "model_v", "ConvNeXt-T", "all components")
    points = _points(LEAVE_ONE_OUT, suffix).values()
    labels = [f"{WORDS[name].convnext} in ConvNeXt-T" for name in WAY]
    contrasts = map(make_difference, itertools.repeat(whole), points, labels)
    return Design("leave-one-out", (whole, *points), tuple(contrasts), (_LOST,))


def _add_one_in(suffix: str) -> Design:
    bare = make_point(RESNET_50, suffix, "model_i", "ResNet-50", "no component")
    points = _points(ADD_ONE_IN, suffix).values()
    labels = [f"{WORDS[name].convnext} in ResNet-50" for name in WAY]
    contrasts = map(make_difference, points, itertools.repeat(bare), labels)
    return Design("add-one-in", (bare, *points), tuple(contrasts), (_GAINED,))


def with_models(design: Design, models: Mapping[str, Mapping[str, Any]], alone: bool = False) -> Design:
    """A design with models of timm beside its networks, or `alone`: trained and tested, in no contrast.

    Args:
        design: The networks that effects are of.
        models: Each one's model kwargs, by its name.
        alone: Whether to leave those networks out.

    Raises:
        UserError: The design has one of them.
    """
    others = tuple(Point(name, name, name, "", None, kwargs) for name, kwargs in models.items())
    if alone:
        return Design(f"{design.name}, other models", others, ())
    return replace(design, points=(*design.points, *others))


_FIXED: Mapping[str, Callable[[str], Design]] = {
    "stages": lambda suffix: _way("stages", STAGES, suffix, _ONE_ORDER),
    "roadmap": lambda suffix: _way("roadmap", ROADMAP, suffix, _ONE_ORDER, _KERNELS),
    "leave-one-out": _leave_one_out,
    "add-one-in": _add_one_in,
}
# designs over components of one's choice, or groups of them
GROUPED: Mapping[str, Callable[[str, Mapping[str, Sequence[str]] | None], Design]] = {
    "factorial": factorial,
    "screening": screening,
    "screening-fold-over": partial(screening, fold_over=True),
}
DESIGNS = (*_FIXED, *GROUPED)


def design_of(name_or_file: str, width: str, groups: Mapping[str, Sequence[str]] | None = None) -> Design:
    """Returns a design.

    Args:
        name_or_file: A name in `DESIGNS`, or path of a YAML file with a design of one's own.
        width: A name in `WIDTHS`.
        groups: Of a factorial or screening design: the components that are switched together, by name.

    Raises:
        UserError: There is no such design, width or component, or the file isn't a design.
    """
    if width not in WIDTHS:
        raise unknown_name("width", width, WIDTHS)
    suffix = WIDTHS[width]
    if name_or_file in GROUPED:
        return GROUPED[name_or_file](suffix, groups)
    if groups is not None:
        raise UserError(f"--design {name_or_file}: takes no groups; {', '.join(GROUPED)} do")
    if name_or_file in _FIXED:
        return _FIXED[name_or_file](suffix)
    if name_or_file.endswith(ENDINGS):
        return read_design(name_or_file, suffix)
    raise unknown_name("design", name_or_file, DESIGNS)
