"""Runs timm's own `tests/test_models.py` on our networks; a pytest plugin.

The tests are those of the timm that Python imports, from its source distribution, which is downloaded once
into `.cache`. Each takes its models from `timm.list_models`: the plugin puts a list of ours in its place, and
drops the tests of models that are timm's.
"""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import tarfile
import tempfile
import xml.etree.ElementTree as ElementTree
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
import timm

CACHE = Path(__file__).parents[1] / ".cache"
MODELS_VARIABLE = "CONVNEXT_ABLATION_TESTED_MODELS"
MARKERS = (
    "base", "forward", "backward", "cfg", "cfg_nonstd", "torchscript", "features", "fxforward", "fxbackward",
    "timeout",
)  # fmt: skip


@dataclass(frozen=True)
class Outcome:
    """What a run of timm's tests gave: their number by model, and the names of those that didn't pass."""

    tests: Counter[str]
    not_passed: list[str]
    output: str


def timm_tests() -> Path:
    """Returns the file with timm's tests of its models, downloaded on first use."""
    name = f"timm-{timm.__version__}"
    tests = CACHE / f"{name}-tests" / "test_models.py"
    if tests.exists():
        return tests
    with tempfile.TemporaryDirectory() as folder:
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", "timm"]
        subprocess.run([*pip, "--dest", folder, f"timm=={timm.__version__}"], check=True)
        with tarfile.open(Path(folder) / f"{name}.tar.gz") as archive:
            source = archive.extractfile(f"{name}/tests/test_models.py").read()
    tests.parent.mkdir(parents=True, exist_ok=True)
    partial = tests.with_suffix(f".{os.getpid()}")  # processes that share the cache may download at once
    partial.write_bytes(source)
    return partial.replace(tests)


def run_timm_tests(models: Sequence[str]) -> Outcome:
    """Runs timm's tests on models of ours in a process of their own."""
    tests = timm_tests()
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        command = [sys.executable, "-m", "pytest", str(tests), "-p", "timm_suite", "-q"]
        # our own settings, which make warnings errors, aren't timm's
        command += ["-c", os.devnull, "--rootdir", str(tests.parent), "-p", "no:cacheprovider"]
        command += ["--junitxml", str(report)]
        done = subprocess.run(command, env=_environment(models), capture_output=True, text=True)
        if not report.exists():
            raise RuntimeError(f"timm's tests didn't run:\n{done.stdout}{done.stderr}")
        return _read(report, done.stdout)


def _environment(models: Sequence[str]) -> dict[str, str]:
    unwanted = ("GITHUB_ACTIONS", "PYTEST_")  # on GitHub timm's tests leave some out
    path = [str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]
    return {
        **{name: value for name, value in os.environ.items() if not name.startswith(unwanted)},
        "OMP_NUM_THREADS": "1",  # other tests run beside these
        "PYTHONPATH": os.pathsep.join(filter(None, path)),
        MODELS_VARIABLE: " ".join(models),
    }


def _read(report: Path, output: str) -> Outcome:
    cases = list(ElementTree.parse(report).iter("testcase"))
    names = [case.get("name", "") for case in cases]
    models = [name.partition("[")[2].rstrip("]").split("-")[-1].partition(".")[0] for name in names]
    passed = [all(case.find(tag) is None for tag in ("skipped", "failure", "error")) for case in cases]
    others = [name for name, fine in zip(names, passed, strict=True) if not fine]
    return Outcome(Counter(models), others, output)


def pytest_configure(config: pytest.Config) -> None:
    """Puts our models into timm's place before its tests ask for them."""
    import convnext_ablation  # noqa: F401

    gc.disable()  # until all tests are collected
    for marker in MARKERS:
        config.addinivalue_line("markers", f"{marker}: timm's")
    list_registered = timm.list_models
    tested = set(os.environ[MODELS_VARIABLE].split())

    def list_models(filter="", module="", pretrained=False, **kwargs):
        if pretrained:
            return []  # weights are tested where they are made, and these tests would download them
        # timm's tests select some models by the names of its modules: any of them stands for ours
        named = list_registered(filter, module="zoo", **kwargs)
        return [name for name in named if name.partition(".")[0] in tested]

    timm.list_models = list_models


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Drops the tests of timm's models, and those that have no model."""
    tested = set(os.environ[MODELS_VARIABLE].split())

    def is_ours(item: pytest.Item) -> bool:
        parameters = item.callspec.params if hasattr(item, "callspec") else {}
        return str(parameters.get("model_name", "")).partition(".")[0] in tested

    ours = [item for item in items if is_ours(item)]
    config.hook.pytest_deselected(items=[item for item in items if not is_ours(item)])
    items[:] = ours


def pytest_collection_finish() -> None:
    """Keeps all that was imported out of the garbage collector's way."""
    gc.enable()
    gc.collect()
    gc.freeze()
