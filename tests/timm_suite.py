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
from collections.abc import Sequence
from pathlib import Path

import pytest
import timm

CACHE = Path(__file__).parents[1] / ".cache"
MODELS_VARIABLE = "CONVNEXT_ABLATION_TESTED_MODELS"
DEPTHS_VARIABLE = "CONVNEXT_ABLATION_TESTED_DEPTHS"
MARKERS = (
    "base", "forward", "backward", "cfg", "cfg_nonstd", "torchscript", "features", "fxforward", "fxbackward",
    "timeout",
)  # fmt: skip


TESTS_PER_MODEL = 10 if timm.__version__ == "1.0.20" else 11  # the oldest has no test of pruning yet


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


def run_timm_tests(models: Sequence[str], depths: Sequence[int] = ()) -> str:
    """Runs timm's tests on models of ours in a process of their own; returns what pytest prints.

    Args:
        models: Their names.
        depths: Blocks in each stage; without it as many as the networks have.
    """
    tests = timm_tests()
    command = [sys.executable, "-m", "pytest", str(tests), "-p", "timm_suite", "-q", "-p", "no:cacheprovider"]
    # our own settings, which make warnings errors, aren't timm's
    command += ["-c", os.devnull, "--rootdir", str(tests.parent)]
    unwanted = ("GITHUB_ACTIONS", "PYTEST_")  # on GitHub timm's tests leave some out
    environment = {name: value for name, value in os.environ.items() if not name.startswith(unwanted)}
    path = [str(Path(__file__).parent), *filter(None, [environment.get("PYTHONPATH")])]
    environment |= {
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join(path),
        MODELS_VARIABLE: " ".join(models),
        DEPTHS_VARIABLE: " ".join(map(str, depths)),
    }
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    return done.stderr + done.stdout


def pytest_configure(config: pytest.Config) -> None:
    """Puts our models into timm's place before its tests ask for them."""
    from convnext_ablation import Components

    if depths := tuple(map(int, os.environ[DEPTHS_VARIABLE].split())):
        Components.depths = depths
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


def pytest_collection_modifyitems(items: list[pytest.Item], config: pytest.Config) -> None:
    """Drops the tests of timm's models and those without a model; all of ours must have all tests."""
    tests = {name: [] for name in os.environ[MODELS_VARIABLE].split()}
    others = []
    for item in items:
        parameters = item.callspec.params if hasattr(item, "callspec") else {}
        tests.get(str(parameters.get("model_name", "")).partition(".")[0], others).append(item)
    if few := [name for name, found in tests.items() if len(found) < TESTS_PER_MODEL]:
        raise pytest.UsageError(f"these models have fewer than {TESTS_PER_MODEL} tests: {few}")
    config.hook.pytest_deselected(items=others)
    items[:] = [each for found in tests.values() for each in found]


def pytest_collection_finish() -> None:
    """Keeps all that was imported out of the garbage collector's way."""
    gc.enable()
    gc.collect()
    gc.freeze()
