"""What the machine is said to be."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from convnext_ablation.machine import available_cores, processor_name


def test_cores_are_those_this_process_may_use(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {3, 5, 8}, raising=False)
    assert available_cores() == 3


def test_cores_are_counted_without_affinity(monkeypatch):
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    assert available_cores() == os.cpu_count()


@pytest.mark.skipif(not Path("/proc/cpuinfo").is_file(), reason="no /proc/cpuinfo on this system")
def test_the_processor_is_named_as_the_system_names_it():
    assert processor_name() in Path("/proc/cpuinfo").read_text(encoding="utf-8")
    assert processor_name()
