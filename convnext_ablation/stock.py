"""Runs one of timm's own scripts, unchanged, with this package's networks registered.

    python -m convnext_ablation.stock SCRIPT ARGS...
    torchrun --nproc-per-node=2 -m convnext_ablation.stock SCRIPT ARGS...

timm doesn't look for plugins, and of its scripts only train.py can be told to import one. Here the package is
imported first; then the script runs as `python SCRIPT ARGS...` would run it. The scripts are in timm's
repository, not in its wheel: `check` says whether a checkout fits the installed timm.
"""

from __future__ import annotations

import ast
import importlib.util
import os
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import timm

from convnext_ablation.errors import UserError

MODULE = "convnext_ablation.stock"  # __name__ is "__main__"
USAGE = "usage: python -m convnext_ablation.stock SCRIPT ARGS..."
# tells processes that multiprocessing starts what the main program is
_SCRIPT = "CONVNEXT_ABLATION_STOCK_SCRIPT"

REPOSITORY = "https://github.com/huggingface/pytorch-image-models"
SCRIPTS = ("train.py", "validate.py", "benchmark.py", "inference.py", "onnx_export.py", "avg_checkpoints.py")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the script named first in the arguments with the others as its own.

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


def tag(version: str = timm.__version__) -> str:
    """The git tag of a released version of timm.

    Raises:
        UserError: It isn't a released version; those have no tag.
    """
    if not re.fullmatch(r"\d+(\.\d+)*", version):
        raise UserError(
            f"timm {version} is not a released version and has no tag; "
            f"take the scripts from where it was installed from, or from {REPOSITORY}"
        )
    return f"v{version}"


def command(version: str = timm.__version__) -> str:
    """The git command that fetches the scripts of a released version."""
    return f"git clone --depth 1 --branch {tag(version)} {REPOSITORY} timm-{version}"


def check(checkout: Path) -> list[str]:
    """Checks that a checkout has timm's scripts and that the installed timm has what they import.

    Returns:
        What was found, a line each.

    Raises:
        UserError: A script is missing, or imports what the installed timm doesn't have.
    """
    if not checkout.is_dir():
        raise UserError(f"{checkout}: no such folder")
    missing = [name for name in SCRIPTS if not (checkout / name).is_file()]
    version = version_beside(checkout)
    if missing or version is None:
        raise UserError(
            f"{checkout}: {', '.join(missing) or 'timm/version.py'} missing; "
            "this is no checkout of timm's repository"
        )
    for name in SCRIPTS:
        for module, attribute in _imports_from_timm(checkout / name):
            if not _has(module, attribute):
                raise UserError(
                    f"{checkout / name}: made for timm {version}, imports {attribute} from {module}, which "
                    f"the installed timm {timm.__version__} doesn't have; {_advice()}"
                )
    if version == timm.__version__:
        fit = f"timm {version}, as installed"
    else:
        fit = (
            f"made for timm {version}, not for the installed {timm.__version__}: all that the scripts "
            f"import is there, but arguments may have changed; {_advice()}"
        )
    return [f"{checkout}: has {', '.join(SCRIPTS)}", f"{checkout}: {fit}"]


def version_beside(folder: Path) -> str | None:
    """Version of the timm that a folder holds as `timm/`, read without importing it, if it holds one."""
    file = folder / "timm" / "version.py"
    if not file.is_file():
        return None
    text = file.read_text(encoding="utf-8", errors="replace")
    found = re.search(r"__version__\s*=\s*['\"]([^'\"]+)['\"]", text)
    return found[1] if found else None


def _advice() -> str:
    try:
        return f"those that fit: {command()}"
    except UserError as error:
        return str(error)


def _imports_from_timm(script: Path) -> Iterator[tuple[str, str]]:
    """What a script imports from timm in its outermost lines: module and name."""
    try:
        tree = ast.parse(script.read_bytes())
    except (SyntaxError, ValueError) as error:
        raise UserError(f"{script}: not a Python script: {error}") from error
    for statement in tree.body:
        if isinstance(statement, ast.ImportFrom) and (statement.module or "").split(".")[0] == "timm":
            for alias in statement.names:
                yield str(statement.module), alias.name


def _has(module: str, attribute: str) -> bool:
    try:
        if hasattr(importlib.import_module(module), attribute):
            return True
        importlib.import_module(f"{module}.{attribute}")  # a module, not yet imported
    except ImportError:
        return False
    return True


if __name__ == "__main__":
    sys.exit(main())
if __name__ == "__mp_main__":  # in a process that multiprocessing started: define what the script defines
    _execute(Path(os.environ[_SCRIPT]), globals())
