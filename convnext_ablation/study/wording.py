"""How a study's numbers are put into words."""

from __future__ import annotations

from collections.abc import Sequence


def counted(number: int, what: str) -> str:
    """A number of things, such as ``1 seed`` or ``3 seeds``."""
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def seeds_text(seeds: Sequence[int]) -> str:
    """Which seeds there are, such as ``seed 0`` or ``seeds 0, 1, 2``."""
    return f"seed{'s' if len(seeds) > 1 else ''} {', '.join(map(str, seeds))}"
