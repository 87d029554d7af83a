"""Command-line tools, one module per command; only modules that need torch import it."""

from __future__ import annotations

import sys

import convnext_ablation
from convnext_ablation.machine import is_first_process


def load_networks(program: str) -> None:
    """Imports torch, which takes seconds and is announced, and registers the networks."""
    if "torch" not in sys.modules and is_first_process():
        print(f"{program}: loading PyTorch ...", file=sys.stderr, flush=True)
    convnext_ablation.register_networks()
