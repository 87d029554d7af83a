"""The machine that this runs on, and processes that don't outlive the one that started them."""

from __future__ import annotations

import multiprocessing
import os
import platform
import threading
import time
from pathlib import Path

_SECONDS_BETWEEN_LOOKS = 0.5


def available_cores() -> int:
    """Cores that this process may use, which on a shared machine is not all."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def processor_name() -> str:
    """The processor's name, as far as the system tells it."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        for line in cpuinfo.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def end_with_parent() -> None:
    """Has this process end when the one that started it is killed, instead of working on."""
    parent = multiprocessing.parent_process()
    started_by = os.getppid()

    def wait() -> None:
        if parent:
            parent.join()
        else:  # not started by Python's multiprocessing
            while os.getppid() == started_by:
                time.sleep(_SECONDS_BETWEEN_LOOKS)
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()
