"""What a design consists of: networks, contrasts of their accuracies, and groups of components."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

from convnext_ablation.errors import UserError, unknown_name
from convnext_ablation.models.components import (
    ALL_ON,
    CONVNEXT_TINY,
    FAMILIES,
    RESNET_50,
    WORDS,
    Components,
)

T = TypeVar("T", bound=Hashable)
Kind = Literal["difference", "main effect", "interaction", "shapley"]
Groups = Mapping[str, tuple[str, ...]]  # components that are switched together, by the group's name

WIDTHS = {"full": "", "atto": "_atto"}
FREE_NETWORK = "resnet_to_convnext"  # its switches are arguments
_ROUNDING = 1e-9  # what weights may miss zero by
_GROUP = re.compile(r"[a-z][a-z0-9_]*")

VARIANTS = {name: variant for family in FAMILIES.values() for name, variant in family.items()}
_NAMES = {variant.components: name for name, variant in reversed(VARIANTS.items())}  # the first of several


@dataclass(frozen=True)
class Point:
    """One network of a design."""

    # its name in the design, fit for a file's name: the registered one, such as model_iii_atto, where there
    # is one, so that designs share runs; else one such as screening_07_atto
    key: str
    model: str  # its name in timm's registry; of a network without a name of its own, the free network's
    label: str  # its display name
    adds: str  # what it changes, in a few words
    components: Components | None  # None for a model that is not of the road
    # switches of a free network that differ from ResNet-50's; empty for a registered one
    model_kwargs: Mapping[str, Any] = field(default_factory=dict, hash=False)


@dataclass(frozen=True)
class Contrast:
    """A question that a design answers: a weighted sum of its networks' accuracies."""

    name: str  # unique in its design
    label: str  # its display name
    weights: Mapping[str, float] = field(hash=False)  # by `Point.key`; they sum to 0
    kind: Kind
    primary: bool = True  # whether it is one of those that Holm's correction is over
    baseline: str = ""  # of a difference: key of the network with weight -1
    switch: str = ""  # the component that it is about, if it is about a single one


@dataclass(frozen=True)
class Design:
    """Networks to train, and what is asked of them."""

    name: str
    points: tuple[Point, ...]
    contrasts: tuple[Contrast, ...]
    notes: tuple[str, ...] = ()  # what a reader must know to read the answers

    def __post_init__(self) -> None:
        """Checks that names are unique and that contrasts are contrasts, of networks that are there."""
        keys = [point.key for point in self.points]
        if same := repeated([point.components for point in self.points if point.components is not None]):
            one, other = [point.label for point in self.points if point.components == same][:2]
            raise UserError(f"{other!r} and {one!r} are the same network; leave one")
        for what, names in (("network", keys), ("contrast", [each.name for each in self.contrasts])):
            if twice := repeated(names):
                raise UserError(f"{what} {twice!r} appears twice; leave one, or rename one")
        for contrast in self.contrasts:
            if unknown := set(contrast.weights) - set(keys):
                raise UserError(f"{contrast.name} weighs {min(unknown)!r}, which isn't there")
            total = sum(contrast.weights.values())
            if abs(total) > _ROUNDING:
                raise UserError(
                    f"the weights of {contrast.name} sum to {total:g}, not to 0; what is "
                    "compared must weigh as much as what it is compared with (1/3 may be written so)"
                )

    @property
    def family(self) -> int:
        """How many contrasts Holm's correction is over."""
        return sum(contrast.primary for contrast in self.contrasts)


def repeated(values: Sequence[T]) -> T | None:
    """The first value that appears twice, or None."""
    return next((value for value, count in Counter(values).items() if count > 1), None)


def make_point(components: Components, suffix: str, key: str, label: str, adds: str) -> Point:
    """Makes a network of a design, under its registered name if it has one, else under `key`."""
    if components in _NAMES:
        name = _NAMES[components] + suffix
        return Point(name, name, label, adds, components)
    switches = {name: here for name, (_, here) in components.changed_from(RESNET_50).items()}
    return Point(key + suffix, FREE_NETWORK + suffix, label, adds, components, switches)


def make_difference(treated: Point, baseline: Point, label: str) -> Contrast:
    """Makes the contrast of a network with another."""
    changed = []
    if treated.components and baseline.components:
        changed = list(treated.components.changed_from(baseline.components))
    return Contrast(
        name=f"{treated.key}-{baseline.key}",
        label=label,
        weights={treated.key: 1.0, baseline.key: -1.0},
        kind="difference",
        baseline=baseline.key,
        switch=changed[0] if len(changed) == 1 else "",
    )


def main_effect(name: str, components: Sequence[str], on: Mapping[str, bool]) -> Contrast:
    """Makes the main effect of a group of components, from whether it is on in each network by its key."""
    return Contrast(
        name=name,
        label=group_label(name, components),
        weights={key: (1 if is_on else -1) * 2 / len(on) for key, is_on in on.items()},
        kind="main effect",
        switch=single_switch(components),
    )


def switched_on(switches: Iterable[str]) -> Components:
    """ResNet-50 with some components."""
    return RESNET_50.with_(**{name: getattr(ALL_ON, name) for name in switches})


def words_of(components: Components) -> str:
    """Says in which components a network differs from ResNet-50, in words."""
    if components == RESNET_50:
        return "ResNet-50"
    if components == CONVNEXT_TINY:
        return "ConvNeXt-T"
    words = []
    for name, (_, here) in components.changed_from(RESNET_50).items():
        if here == getattr(ALL_ON, name):
            words.append(WORDS[name].convnext)
        else:
            words.append(f"{name.removesuffix('_size')} {here}")
    return ", ".join(words)


def parse_groups(texts: Iterable[str]) -> dict[str, list[str]]:
    """Reads groups as a command line gives them: ``NAME=COMPONENT,COMPONENT``, or ``COMPONENT`` alone.

    Raises:
        UserError: A group is given twice.
    """
    groups: dict[str, list[str]] = {}
    for text in texts:
        name, equals, components = text.partition("=")
        if name in groups:
            raise UserError(f"--groups {text}: the group {name!r} is given twice; give it another name")
        groups[name] = components.split(",") if equals else [name]
    return groups


def checked_groups(groups: Mapping[str, Sequence[str]], most: int, where: str) -> Groups:
    """Returns components by group, having checked that a design with room for `most` can be made of them.

    Raises:
        UserError: No design can be; `where` says what they were given to.
    """
    if not 1 <= len(groups) <= most:
        raise UserError(f"{where}: {len(groups)} groups; give 1 to {most}")
    known = ALL_ON.changed_from(RESNET_50)
    for name, components in groups.items():
        if not isinstance(name, str) or not _GROUP.fullmatch(name):
            raise UserError(f"{where}: group {name!r}: write its name in small letters, digits and _")
        if not isinstance(components, (list, tuple)) or not components:
            raise UserError(f"{where}: group {name!r} is {components!r}; give it a list of components")
        for component in components:
            if component not in known:
                raise unknown_name(f"component in {where}, group {name!r},", str(component), known)
    if twice := repeated([component for components in groups.values() for component in components]):
        raise UserError(f"{where}: component {twice!r} is in the groups twice; leave it in one of them")
    return {name: tuple(components) for name, components in groups.items()}


def single_switch(components: Sequence[str]) -> str:
    """The component of a group of one; nothing for a larger group."""
    return components[0] if len(components) == 1 else ""


def group_label(name: str, components: Sequence[str]) -> str:
    """A group's display name: in words where it is a single component."""
    only = single_switch(components)
    return WORDS[only].convnext if only else name.replace("_", " ")


def group_notes(groups: Groups) -> tuple[str, ...]:
    """Says what each group of several components holds."""
    return tuple(
        f"Group {name}: {', '.join(WORDS[component].convnext for component in components)}."
        for name, components in groups.items()
        if len(components) > 1
    )
