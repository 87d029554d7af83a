"""Runs one of timm's own scripts, unchanged, with this package's networks registered.

    python -m convnext_ablation.stock SCRIPT ARGS...
    torchrun --nproc-per-node=2 -m convnext_ablation.stock SCRIPT ARGS...

timm has no plugin mechanism, and only its train.py can import another module. This one imports the package,
then runs the script as `python SCRIPT ARGS...` would. The scripts are in timm's repository, not in its wheel.
"""

from __future__ import annotations

import importlib.util
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from convnext_ablation import register_networks

MODULE = "convnext_ablation.stock"  # __name__ is "__main__"
USAGE = "usage: python -m convnext_ablation.stock SCRIPT ARGS..."
# passes the script's path to processes that multiprocessing spawns
_SCRIPT = "CONVNEXT_ABLATION_STOCK_SCRIPT"


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the script `argv[0]` with the remaining arguments; returns 2 if there is no such script."""
    argv = sys.argv[1:] if argv is None else list(argv)
    if not argv or argv[0] in ("-h", "--help"):
        print(f"{USAGE}\nto get timm's scripts: {clone_command()}", file=sys.stdout if argv else sys.stderr)
        return 0 if argv else 2
    script = Path(argv[0])
    if not script.is_file():
        print(f"{MODULE}: error: {script}: no such script; to get timm's: {clone_command()}", file=sys.stderr)
        return 2
    timm = _timm()
    if os.environ.get("RANK", "0") == "0":  # only once under torchrun
        _say_which_timm(script, timm)
    register_networks()
    sys.path[:] = search_path(sys.path, script, timm.parent)
    sys.argv[:] = argv
    os.environ[_SCRIPT] = str(script.resolve())
    module = ModuleType("__main__")
    # spawned processes import the main module by this name, and so register the networks too
    module.__spec__ = importlib.util.find_spec(MODULE)
    sys.modules["__main__"] = module
    _execute(script, vars(module))
    return 0


def _timm() -> Path:
    """The folder of timm, found without importing it, which takes seconds."""
    spec = importlib.util.find_spec("timm")
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError("timm is missing; pip install timm", name="timm")
    return Path(spec.origin).parent


def _say_which_timm(script: Path, used: Path) -> None:
    beside = _version_beside(script.parent)
    line = f"{MODULE}: {script.name} runs with timm {_version_beside(used.parent)} ({used})"
    if beside and used.resolve() != (script.parent / "timm").resolve():
        line += f", not with the timm {beside} beside it"
    print(line, file=sys.stderr, flush=True)


def search_path(path: Sequence[str], script: Path, timm_folder: Path) -> list[str]:
    """Returns `sys.path` for a script, such that all processes import the same timm.

    A checkout of timm's repository contains timm itself. The script's folder comes last; otherwise worker
    processes of data loaders would import that copy instead of the one in `timm_folder`. The working
    directory, which `python -m` puts first, is kept only if this process imports timm from it.
    """
    if getattr(sys.flags, "safe_path", False):  # `python -P` prepends nothing
        return list(path)
    working_directory, *rest = path
    here = Path(working_directory).resolve() == timm_folder.resolve()
    return [*([working_directory] if here else ()), *rest, str(script.resolve().parent)]


def _execute(script: Path, namespace: dict[str, Any]) -> None:
    namespace["__file__"] = str(script)
    exec(compile(script.read_bytes(), str(script), "exec", dont_inherit=True), namespace)


def clone_command() -> str:
    """The git command that clones the scripts matching the installed timm."""
    repository, version = (
        "https://github.com/huggingface/pytorch-image-models",
        _version_beside(_timm().parent),
    )
    return f"git clone --depth 1 --branch v{version} {repository} timm-{version}"


def _version_beside(folder: Path) -> str | None:
    """Version of the timm in `folder/timm/`, read without importing it; None if there is none."""
    file = folder / "timm" / "version.py"
    text = file.read_text(encoding="utf-8", errors="replace") if file.is_file() else ""
    found = re.search(r"__version__\s*=\s*['\"]([^'\"]+)['\"]", text)
    return found[1] if found else None


if __name__ == "__main__":
    sys.exit(main())
if __name__ == "__mp_main__":  # in a spawned process, define what the script defines
    _execute(Path(os.environ[_SCRIPT]), globals())
