"""Designs: which networks a study compares, in which order."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from convnext_ablation.components import STAGES
from convnext_ablation.errors import unknown_name

WIDTHS = {"full": "", "atto": "_atto"}


@dataclass(frozen=True)
class Point:
    """One network of a design.

    Attributes:
        model: Its name in timm's registry.
        label: Its name for people.
        adds: What it adds to the point before, in a few words.
    """

    model: str
    label: str
    adds: str


def _stages(suffix: str) -> list[Point]:
    return [Point(name + suffix, stage.label, stage.adds) for name, stage in STAGES.items()]


DESIGNS: dict[str, Callable[[str], list[Point]]] = {"stages": _stages}


def points_of(design: str, width: str) -> list[Point]:
    """Returns the networks of a design.

    Args:
        design: A name in `DESIGNS`.
        width: A name in `WIDTHS`.

    Raises:
        UserError: There is no such design or width.
    """
    if design not in DESIGNS:
        raise unknown_name("design", design, DESIGNS)
    if width not in WIDTHS:
        raise unknown_name("width", width, WIDTHS)
    return DESIGNS[design](WIDTHS[width])
