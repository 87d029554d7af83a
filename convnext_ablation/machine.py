"""The machine that this runs on, and processes that don't outlive the one that started them.

`python machine.py MODULE ARGS...` runs a module until its standard input is closed. It is started as a file,
since the package takes seconds to import.
"""

from __future__ import annotations

import atexit
import ctypes
import os
import platform
import re
import runpy
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import suppress
from pathlib import Path
from types import MappingProxyType
from typing import Any

# what stops a training or a study; some clusters send SIGUSR1 before a job's time is over, Windows has none
STOPPING = (signal.SIGINT, signal.SIGTERM, *([signal.SIGUSR1] if hasattr(signal, "SIGUSR1") else []))
VISIBLE_GPUS = "CUDA_VISIBLE_DEVICES"
_COMPILED = "TORCHINDUCTOR_CACHE_DIR"
_SECONDS_BETWEEN_LOOKS = 0.5
# M_MMAP_THRESHOLD and M_TRIM_THRESHOLD of glibc's <malloc.h>; a threshold of -1 is never reached
_MALLOC_SETTINGS = {-3: 2**31 - 1, -1: -1}
# the environment of a program of others that is to do what `keep_memory` does
KEEP_MEMORY = MappingProxyType(
    {"MALLOC_MMAP_THRESHOLD_": str(2**31 - 1), "MALLOC_TRIM_THRESHOLD_": "1000000000000"}
)


def available_cores() -> int:
    """Cores that this process may use, which on a shared machine is not all."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def available_gpus() -> list[str]:
    """What each GPU, or each part of one that is divided by MIG, is called in `VISIBLE_GPUS`."""
    if os.environ.get(VISIBLE_GPUS):
        return os.environ[VISIBLE_GPUS].split(",")
    listed = ""
    with suppress(OSError):
        listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True).stdout
    names = []
    for gpu in listed.split("\nGPU "):
        names += re.findall(r"UUID: (MIG-[\w/-]+)", gpu) or re.findall(r"UUID: (GPU-[\w-]+)", gpu)
    if names:
        return names
    import torch  # takes a second, and all else here does without

    return [str(number) for number in range(torch.cuda.device_count())]


def compile_network(model: Any, **options: Any) -> Any:
    """Compiles a network by torch, in a folder of this process's own that is removed at its end.

    torch's own in the temporary folder grows with every network and stays. A ``TORCHINDUCTOR_CACHE_DIR``
    elsewhere is used and kept.
    """
    import torch  # takes a second, and all else here does without

    if remove_empty_cache():
        os.environ[_COMPILED] = folder = tempfile.mkdtemp(prefix="compiled_")
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return torch.compile(model, **options)


def remove_empty_cache() -> bool:
    """Removes what importing torchvision leaves, an empty folder for compiled networks of all processes.

    Returns:
        Whether what this process compiles would go to that folder.
    """
    temporary = Path(tempfile.gettempdir())
    folder = Path(os.environ.get(_COMPILED) or temporary / "torchinductor_")
    is_torchs = folder.parent == temporary and folder.name.startswith("torchinductor_")
    if is_torchs:
        with suppress(OSError):
            folder.rmdir()
    return is_torchs


def default_device() -> str:
    """``cuda`` if there is a GPU that torch can use, else ``cpu``."""
    import torch  # takes a second, and all else here does without

    return "cuda" if torch.cuda.is_available() else "cpu"


def is_first_process() -> bool:
    """Whether this is the first process of a run, or its only one, before any has joined the others.

    timm reads the same variables, which torchrun, srun and mpirun set.
    """
    size = os.environ.get("WORLD_SIZE", os.environ.get("SLURM_NTASKS", "1"))
    ranks = (os.environ.get(name) for name in ("RANK", "PMI_RANK", "SLURM_PROCID", "OMPI_COMM_WORLD_RANK"))
    return size == "1" or next(filter(None, ranks), "0") == "0"


def processor_name() -> str:
    """The processor's name, if the system has it."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        for line in cpuinfo.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def device_name(device: str) -> str:
    """The name of the GPU, or of the processor where torch's device is none."""
    import torch  # takes a second, and all else here does without

    kind = torch.device(device).type
    return getattr(torch, kind).get_device_name(device) if kind in ("cuda", "xpu") else processor_name()


def keep_memory() -> bool:
    """Has the C library keep memory that was freed, for what is allocated next; returns whether it does.

    glibc gives large tensors back to the system as soon as they are freed, and the next step takes them again
    page by page, each filled with zeros first. Processes forked from this one keep theirs, too. What the
    environment says of these settings wins; without glibc nothing is done.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    if any(name in os.environ for name in KEEP_MEMORY) or "malloc" in os.environ.get("GLIBC_TUNABLES", ""):
        return False
    mallopt = ctypes.CDLL(None).mallopt
    return all(mallopt(number, value) == 1 for number, value in _MALLOC_SETTINGS.items())


def end_with_parent() -> None:
    """Has this process end when the one that started it is killed, instead of working on."""
    started_by = os.getppid()

    def wait() -> None:
        while os.getppid() == started_by:
            time.sleep(_SECONDS_BETWEEN_LOOKS)
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def end_with_input() -> None:
    """Has this process end when whoever holds the other end of its standard input ends, however it does."""

    def wait() -> None:
        while os.read(0, 1):
            pass
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


if __name__ == "__main__":
    end_with_input()
    if hasattr(signal, "SIGUSR2"):
        signal.signal(signal.SIGUSR2, signal.SIG_IGN)  # Slurm's warning is for the process that started this
    keep_memory()
    sys.path[0] = os.getcwd()  # as for `python -m`
    del sys.argv[0]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
