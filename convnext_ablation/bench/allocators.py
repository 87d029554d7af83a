"""How the C library's allocator is set, which it reads when a process starts.

glibc gives large blocks back to the system as soon as they are free and takes them again page by page, which
on a CPU costs a network up to half of its time. Told to keep them ("tuned"), it doesn't. No ratio compares
one setting with the other.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping

from convnext_ablation.machine import KEEP_MEMORY

__all__ = ["DEFAULT", "OTHER", "TUNED", "environment", "is_tunable", "setting"]

DEFAULT, TUNED = "default", "tuned"
OTHER = "other"  # neither, e.g. an allocator that is loaded in the place of glibc's


def is_tunable() -> bool:
    """Whether the C library is one that reads the setting."""
    return platform.libc_ver()[0] == "glibc"


def environment(allocator: str, threads: int) -> dict[str, str]:
    """The environment of a process that has an allocator set.

    Args:
        allocator: `DEFAULT` or `TUNED`.
        threads: What the process's libraries may use.
    """
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("MALLOC_") and name != "GLIBC_TUNABLES"
    }
    return {**kept, "OMP_NUM_THREADS": str(threads), **(KEEP_MEMORY if allocator == TUNED else {})}


def setting(variables: Mapping[str, str] | None = None) -> str:
    """How a process has its allocator set, by its environment.

    Args:
        variables: The environment; this process's if None.
    """
    found = os.environ if variables is None else variables
    malloc = {name: value for name, value in found.items() if name.startswith("MALLOC_")}
    if (
        "malloc" in found.get("LD_PRELOAD", "")
        or "GLIBC_TUNABLES" in found
        or (malloc and malloc != dict(KEEP_MEMORY))
    ):
        return OTHER
    return TUNED if malloc else DEFAULT
