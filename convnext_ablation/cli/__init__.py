"""Command line tools: one module a command, which imports torch if the command needs it."""

from __future__ import annotations

import sys

import convnext_ablation
from convnext_ablation.machine import is_first_process


def load_networks(program: str) -> None:
    """Imports torch and registers the networks; a line says so before, as it takes seconds."""
    if "torch" not in sys.modules and is_first_process():
        print(f"{program}: loading PyTorch ...", file=sys.stderr, flush=True)
    convnext_ablation.register_networks()
