"""What a design consists of: networks, and contrasts of their accuracies."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from convnext_ablation.models.components import CONVNEXT_TINY, FAMILIES, RESNET_50, WORDS, Components

Kind = Literal["difference", "main effect", "interaction", "shapley"]

WIDTHS = {"full": "", "atto": "_atto"}
FREE_NETWORK = "resnet_to_convnext"  # its switches are arguments
_ROUNDING = 1e-9  # what weights may miss zero by

_names: dict[Components, str] = {}
for _variants in FAMILIES.values():
    for _name, _variant in _variants.items():
        _names.setdefault(_variant.components, _name)


@dataclass(frozen=True)
class Point:
    """One network of a design.

    Attributes:
        key: Its name in the design, fit for a file's name: the registered one, such as ``model_iii_atto``,
            where there is one, so that designs share runs; else one such as ``screening_07_atto``.
        model: Its name in timm's registry; of a network without a name of its own, the free network's.
        label: Its name for people.
        adds: What it changes, in a few words.
        components: What it is.
        model_kwargs: The switches of a free network that differ from ResNet-50's; empty for a registered one.
    """

    key: str
    model: str
    label: str
    adds: str
    components: Components
    model_kwargs: Mapping[str, Any] = field(default_factory=dict, hash=False)


@dataclass(frozen=True)
class Contrast:
    """A question that a design answers: a weighted sum of its networks' accuracies.

    Attributes:
        name: Unique in its design.
        label: Its name for people.
        weights: By `Point.key`; they sum to 0.
        kind: What sort of question it is.
        primary: Whether it is one of those that Holm's correction is over.
        baseline: Of a difference: key of the network with weight -1; the one with +1 is compared with it.
        switch: The component that it is about, if it is about a single one.
    """

    name: str
    label: str
    weights: Mapping[str, float] = field(hash=False)
    kind: Kind
    primary: bool = True
    baseline: str = ""
    switch: str = ""


@dataclass(frozen=True)
class Design:
    """Networks to train, and what is asked of them.

    Attributes:
        name: Its name.
        points: The networks.
        contrasts: The questions.
        notes: What a reader must know to read the answers, one sentence or two each.
    """

    name: str
    points: tuple[Point, ...]
    contrasts: tuple[Contrast, ...]
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Checks that names are unique and that contrasts are contrasts, of networks that are there."""
        keys = [point.key for point in self.points]
        for what, names in (("network", keys), ("contrast", [each.name for each in self.contrasts])):
            if twice := repeated(names):
                raise ValueError(f"{self.name}: {what} {twice!r} is there twice")
        for contrast in self.contrasts:
            if unknown := set(contrast.weights) - set(keys):
                raise ValueError(f"{self.name}: {contrast.name} weighs {min(unknown)!r}, which isn't there")
            if abs(sum(contrast.weights.values())) > _ROUNDING:
                raise ValueError(f"{self.name}: the weights of {contrast.name} don't sum to 0")

    @property
    def family(self) -> int:
        """How many contrasts Holm's correction is over."""
        return sum(contrast.primary for contrast in self.contrasts)


def repeated(names: Sequence[str]) -> str:
    """The first name that is there twice, or nothing."""
    return next((name for name, count in Counter(names).items() if count > 1), "")


def make_point(components: Components, suffix: str, key: str, label: str, adds: str) -> Point:
    """Makes a network of a design, under its registered name if it has one.

    Args:
        components: The network.
        suffix: A value of `WIDTHS`.
        key: Its name, without suffix, if it has no registered one.
        label: Its name for people.
        adds: What it changes, in a few words.
    """
    if components in _names:
        name = _names[components] + suffix
        return Point(name, name, label, adds, components)
    switches = {name: here for name, (_, here) in components.changed_from(RESNET_50).items()}
    return Point(key + suffix, FREE_NETWORK + suffix, label, adds, components, switches)


def make_difference(treated: Point, baseline: Point, label: str) -> Contrast:
    """Makes the contrast of a network with another."""
    changed = list(treated.components.changed_from(baseline.components))
    return Contrast(
        name=f"{treated.key}-{baseline.key}",
        label=label,
        weights={treated.key: 1.0, baseline.key: -1.0},
        kind="difference",
        baseline=baseline.key,
        switch=changed[0] if len(changed) == 1 else "",
    )


def switched_on(base: Components, switches: Iterable[str]) -> Components:
    """Returns components with some switches set as in ConvNeXt-T."""
    return base.with_(**{name: getattr(CONVNEXT_TINY, name) for name in switches})


def words_of(components: Components) -> str:
    """Says in which components a network differs from ResNet-50, in words."""
    if components == RESNET_50:
        return "ResNet-50"
    if components == CONVNEXT_TINY:
        return "ConvNeXt-T"
    words = []
    for name, (_, here) in components.changed_from(RESNET_50).items():
        if here == getattr(CONVNEXT_TINY, name):
            words.append(WORDS[name].convnext)
        else:
            words.append(f"{name.removesuffix('_size')} {here}")
    return ", ".join(words)
