"""`convnext-ablation timm-scripts`: where timm's own scripts are, and whether a checkout fits."""

from __future__ import annotations

import argparse
import ast
import importlib
import re
from collections.abc import Iterator
from pathlib import Path

import timm

from convnext_ablation.errors import UserError

REPOSITORY = "https://github.com/huggingface/pytorch-image-models"
SCRIPTS = ("train.py", "validate.py", "benchmark.py", "inference.py", "onnx_export.py", "avg_checkpoints.py")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    parser.add_argument("checkout", nargs="?", type=Path, help="a checkout of timm's repository to look at")
    parser.add_argument("--version", action="store_true", help="print the git tag that fits, nothing else")


def run(args: argparse.Namespace) -> None:
    """Runs the command.

    Raises:
        UserError: The checkout has not all of the scripts, or they need another timm than the installed one.
    """
    if args.version:
        print(tag())
    elif args.checkout:
        for line in check(args.checkout):
            print(line)
    else:
        print(f"timm {timm.__version__} is installed; its scripts are in its repository, not in its wheel:")
        print(command())


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
    """The git command that fetches the scripts of a released version.

    Raises:
        UserError: It isn't a released version.
    """
    return f"git clone --depth 1 --branch {tag(version)} {REPOSITORY} timm-{version}"


def check(checkout: Path) -> list[str]:
    """Checks that a checkout has timm's scripts and that the installed timm has what they import.

    Args:
        checkout: Folder of the checkout.

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
            "that's no checkout of timm's repository"
        )
    for name in SCRIPTS:
        for module, attribute in _imports_from_timm(checkout / name):
            if not _has(module, attribute):
                raise UserError(
                    f"{checkout / name}: made for timm {version}, imports {attribute} from {module}, which "
                    f"the installed timm {timm.__version__} hasn't; {_advice()}"
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
    found = re.search(
        r"__version__\s*=\s*['\"]([^'\"]+)['\"]", file.read_text(encoding="utf-8", errors="replace")
    )
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
