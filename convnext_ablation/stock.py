"""Runs one of timm's own scripts, unchanged, with this package's networks registered.

    python -m convnext_ablation.stock SCRIPT ARGS...
    torchrun --nproc-per-node=2 -m convnext_ablation.stock SCRIPT ARGS...

timm doesn't look for plugins, and of its scripts only train.py can be told to import one. Here the package is
imported first; then the script runs as `python SCRIPT ARGS...` would run it.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import timm

from convnext_ablation.cli.timm_scripts import version_beside
from convnext_ablation.errors import UserError

MODULE = "convnext_ablation.stock"  # __name__ is "__main__"
USAGE = "usage: python -m convnext_ablation.stock SCRIPT ARGS..."
_SCRIPT = (
    "CONVNEXT_ABLATION_STOCK_SCRIPT"  # tells processes started by multiprocessing what the main program is
)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the script named first in the arguments with the others as its own.

    Args:
        argv: The arguments, those of the process if None.

    Returns:
        The exit code: 0, or 2 if there is no such script. The script's own exits pass through.
    """
    argv = sys.argv[1:] if argv is None else list(argv)
    if not argv or argv[0] in ("-h", "--help"):
        print(USAGE, file=sys.stdout if argv else sys.stderr)
        return 0 if argv else 2
    try:
        script = _existing(argv[0])
    except UserError as error:
        print(f"{MODULE}: error: {error}", file=sys.stderr)
        return 2
    if os.environ.get("RANK", "0") == "0":  # one of torchrun's processes is enough
        print(f"{MODULE}: {which_timm(script)}", file=sys.stderr, flush=True)
    sys.path[:] = search_path(sys.path, script, Path(timm.__file__).parents[1])
    sys.argv[:] = argv
    os.environ[_SCRIPT] = str(script.resolve())
    module = ModuleType("__main__")
    # processes that multiprocessing spawns import the main program by this name: the networks are there, too
    module.__spec__ = importlib.util.find_spec(MODULE)
    sys.modules["__main__"] = module
    _execute(script, vars(module))
    return 0


def which_timm(script: Path) -> str:
    """Says which timm a script runs with, and whether another one, beside the script, is left out."""
    used = Path(timm.__file__).parent
    line = f"{script.name} runs with timm {timm.__version__} ({used})"
    beside = version_beside(script.parent)
    if beside and used.resolve() != (script.parent / "timm").resolve():
        line += f", not with the timm {beside} beside it; `convnext-ablation timm-scripts` says if they fit"
    return line


def search_path(path: Sequence[str], script: Path, timm_folder: Path) -> list[str]:
    """Where `python SCRIPT` would look for modules, but with one timm for all processes.

    A checkout of timm's repository holds a timm of its own. It comes last, else the processes that load data
    would find that one, and this process has the other.

    Args:
        path: `sys.path` as `python -m` made it, with the working directory first.
        script: The script.
        timm_folder: The folder that this process found timm in.
    """
    if getattr(sys.flags, "safe_path", False):  # `python -P` puts nothing in front
        return list(path)
    working_directory, rest = Path(path[0]).resolve(), list(path[1:])
    folder, timm_folder = script.resolve().parent, timm_folder.resolve()
    if timm_folder == working_directory:
        rest = [str(timm_folder), *rest]
    if folder == timm_folder:
        return [str(folder), *(entry for entry in rest if entry != str(folder))]
    return [*rest, str(folder)] if version_beside(folder) else [str(folder), *rest]


def _existing(name: str) -> Path:
    script = Path(name)
    if script.is_file():
        return script
    problem = "is a folder, not a script" if script.is_dir() else "no such script"
    raise UserError(f"{name}: {problem}; `convnext-ablation timm-scripts` says where to get timm's")


def _execute(script: Path, namespace: dict[str, Any]) -> None:
    namespace["__file__"] = str(script)
    exec(compile(script.read_bytes(), str(script), "exec", dont_inherit=True), namespace)


if __name__ == "__main__":
    sys.exit(main())
if __name__ == "__mp_main__":  # in a process that multiprocessing started: define what the script defines
    _execute(Path(os.environ[_SCRIPT]), globals())
