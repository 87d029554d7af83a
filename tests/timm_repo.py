"""Runs timm's own scripts from a checkout of its repository, if TIMM_REPO names one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

FOLDER = Path(os.environ.get("TIMM_REPO", "")).resolve()
needs_timm_repo = pytest.mark.skipif(
    not os.environ.get("TIMM_REPO"),
    reason="set TIMM_REPO to a checkout of timm's repository (convnext-ablation timm-scripts says which)",
)

# torch and timm are imported once; each order then runs in a fork of its own
_SERVER = """
import json, os, sys, traceback
from convnext_ablation import stock

for line in sys.stdin:
    order = json.loads(line)
    child = os.fork()
    if not child:
        log = os.open(order["log"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(log, 1)
        os.dup2(log, 2)
        os.chdir(order["folder"])
        code = 1
        try:
            code = stock.main(order["argv"])
        except SystemExit as exit:
            code = exit.code or 0
        except BaseException:
            traceback.print_exc()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code if isinstance(code, int) else 1)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


@dataclass(frozen=True)
class Stock:
    """Runs a script as `python -m convnext_ablation.stock SCRIPT ARGS...` does, without its start-up time."""

    server: subprocess.Popen[str]

    def __call__(self, folder: Path, script: str, *arguments: str | Path) -> str:
        """Runs one of timm's scripts in a folder and returns what it printed."""
        log = folder / f"{script}.log"
        argv = [str(FOLDER / script), *map(str, arguments)]
        order = {"folder": str(folder), "argv": argv, "log": str(log)}
        print(json.dumps(order), file=self.server.stdin, flush=True)
        code = self.server.stdout.readline().strip()
        assert code == "0", log.read_text()
        return log.read_text()


@contextmanager
def started() -> Iterator[Stock]:
    """Starts the server, and ends it."""
    server = subprocess.Popen(
        [sys.executable, "-c", _SERVER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    yield Stock(server)
    server.stdin.close()
    server.stdout.close()
    assert server.wait(60) == 0


def run(command: Sequence[str | Path], folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs a command in a folder to its end."""
    return subprocess.run(
        [str(part) for part in command],
        cwd=folder,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=900,
    )
