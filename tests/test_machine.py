"""What the machine is said to be."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from convnext_ablation import machine
from convnext_ablation.machine import KEEP_MEMORY, available_cores, device_name, processor_name

_on_glibc = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="not glibc")


def test_cores_are_those_this_process_may_use(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {3, 5, 8}, raising=False)
    assert available_cores() == 3


@pytest.mark.skipif(not Path("/proc/cpuinfo").is_file(), reason="no /proc/cpuinfo on this system")
def test_the_processor_is_named_as_the_system_names_it():
    assert processor_name() in Path("/proc/cpuinfo").read_text(encoding="utf-8")
    assert processor_name()
    assert device_name("cpu") == processor_name()


# loads the one module, without torch; prints pages fetched from the system before and behind the call
_FAULTS = """
import resource, runpy, sys
import numpy as np

def faults(sizes):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        tensors = [np.ones(size) for size in sizes]
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

sizes = [2**20 * (1 + number) for number in range(3)]
faults(sizes)
before = faults(sizes)
kept = runpy.run_path(sys.argv[1])["keep_memory"]() if sys.argv[1:] else None
faults(sizes)
print(kept, before, faults(sizes))
"""


def _faults(*module: str, **environment: str) -> tuple[str, int, int]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_"))}
    environment = {**clean, **environment, "NUMPY_MADVISE_HUGEPAGE": "0"}  # how many are huge varies
    command = [sys.executable, "-c", _FAULTS, *module]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    kept, before, behind = done.stdout.split()
    return kept, int(before), int(behind)


@_on_glibc
def test_memory_that_was_freed_is_used_again():
    kept, before, behind = _faults(machine.__file__)
    assert kept == "True"
    assert before > 10_000
    assert behind < before / 4


@_on_glibc
def test_what_the_environment_says_of_memory_wins():
    assert _faults(**KEEP_MEMORY)[2] < 1_000
    kept, before, behind = _faults(machine.__file__, GLIBC_TUNABLES="glibc.malloc.mmap_threshold=65536")
    assert kept == "False"
    assert behind > 0.9 * before > 9_000


def test_what_torch_compiles_is_removed_at_the_end(tmp_path):
    program = (
        "import os, torch; from convnext_ablation.machine import compile_network\n"
        "compile_network(torch.nn.Identity(), backend='eager')(torch.ones(1))\n"
        "folder = os.environ['TORCHINDUCTOR_CACHE_DIR']\n"
        "open(os.path.join(folder, 'kernel'), 'w').close(); print(folder)"
    )
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    environment.pop("TORCHINDUCTOR_CACHE_DIR", None)
    command = [sys.executable, "-c", program]
    told = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert told.stdout.startswith(str(tmp_path))
    assert not list(tmp_path.iterdir())


def test_a_folder_for_compiled_networks_that_is_given_is_kept(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(machine.atexit, "register", lambda *_, **__: pytest.fail("it would be removed"))
    monkeypatch.setattr("torch.compile", lambda model: model)
    assert machine.compile_network("network") == "network"
    assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == str(tmp_path)
