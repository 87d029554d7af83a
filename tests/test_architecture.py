"""The package's structure: imports point one way, and what must stand alone does."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_imports_point_one_way():
    command = "from importlinter.cli import lint_imports_command; lint_imports_command()"
    arguments = ["--config", "pyproject.toml", "--no-cache"]
    # in a process of its own, as import-linter switches off the loggers that there are
    done = subprocess.run(
        [sys.executable, "-c", command, *arguments], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout
    assert "3 kept, 0 broken" in done.stdout
