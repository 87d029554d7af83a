"""Runs timm's own scripts from a checkout of its repository, if TIMM_REPO names one."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from conftest import ONE_THREAD

FOLDER = Path(os.environ.get("TIMM_REPO", "")).resolve()
needs_timm_repo = pytest.mark.skipif(
    not os.environ.get("TIMM_REPO"),
    reason="set TIMM_REPO to a checkout of timm's repository (`stock.clone_command` makes it)",
)
STOCK = ("-m", "convnext_ablation.stock")


def stock(folder: Path, script: str, *arguments: str | Path) -> str:
    """Runs one of timm's scripts, with our networks, in a folder and returns what it printed."""
    done = run([sys.executable, *STOCK, FOLDER / script, *arguments], folder)
    assert done.returncode == 0, done.stderr
    return done.stdout


def run(command: Sequence[str | Path], folder: Path) -> subprocess.CompletedProcess[str]:
    """Runs a command in a folder to its end."""
    words = [str(part) for part in command]
    return subprocess.run(words, cwd=folder, capture_output=True, text=True, timeout=900, env=ONE_THREAD)
