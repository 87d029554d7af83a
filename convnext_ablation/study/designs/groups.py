"""Groups of components that a design switches together."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

from convnext_ablation.errors import UserError, unknown_name
from convnext_ablation.models.components import SWITCHES, WORDS, Components
from convnext_ablation.study.designs.contrasts import repeated, switched_on

Groups = Mapping[str, tuple[str, ...]]

_NAME = re.compile(r"[a-z][a-z0-9_]*")


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


def checked_groups(groups: Mapping[str, Sequence[str]], base: Components, most: int, where: str) -> Groups:
    """Returns the groups, having checked that a design can be made of them.

    Args:
        groups: Components by group.
        base: The network that they are switched on in.
        most: How many groups the design has room for.
        where: What the groups were given to, for the message.

    Raises:
        UserError: There are none or too many, or a group has an odd name, nothing in it, an unknown
            component, one of another group, or one that the base has already.
    """
    if not 1 <= len(groups) <= most:
        raise UserError(f"{where}: {len(groups)} groups; give 1 to {most}")
    for name, components in groups.items():
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise UserError(f"{where}: group {name!r}: write its name in small letters, digits and _")
        if not isinstance(components, (list, tuple)) or not components:
            raise UserError(f"{where}: group {name!r} is {components!r}; give it a list of components")
        for component in components:
            if component not in SWITCHES:
                raise unknown_name(f"component in {where}, group {name!r},", str(component), SWITCHES)
            if switched_on(base, [component]) == base:
                raise UserError(
                    f"{where}: group {name!r}: the base network has {component} as ConvNeXt-T has it; "
                    "take it out of the group"
                )
    if twice := repeated([component for components in groups.values() for component in components]):
        raise UserError(f"{where}: component {twice!r} is in the groups twice; leave it in one of them")
    return {name: tuple(components) for name, components in groups.items()}


def single_switch(components: Sequence[str]) -> str:
    """The component of a group of one; nothing for a larger group."""
    return components[0] if len(components) == 1 else ""


def group_label(name: str, components: Sequence[str]) -> str:
    """A group's name for people: in words where it is a single component."""
    only = single_switch(components)
    return WORDS[only].convnext if only else name.replace("_", " ")


def group_notes(groups: Groups) -> tuple[str, ...]:
    """Says what each group of several components holds."""
    return tuple(
        f"Group {name}: {', '.join(WORDS[component].convnext for component in components)}."
        for name, components in groups.items()
        if len(components) > 1
    )
