"""Hardware of this machine, and processes that end with their parent.

`python machine.py MODULE ARGS...` runs a module until its standard input is closed. It is run as a file
because the package takes seconds to import.
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

# signals that stop a run or a study; some clusters send SIGUSR1 before the time limit, Windows lacks it
STOPPING = (signal.SIGINT, signal.SIGTERM, *([signal.SIGUSR1] if hasattr(signal, "SIGUSR1") else []))
VISIBLE_GPUS = "CUDA_VISIBLE_DEVICES"
_COMPILED = "TORCHINDUCTOR_CACHE_DIR"
_SECONDS_BETWEEN_LOOKS = 0.5
# M_MMAP_THRESHOLD and M_TRIM_THRESHOLD of glibc's <malloc.h>; -1 disables trimming
_MALLOC_SETTINGS = {-3: 2**31 - 1, -1: -1}
# environment variables by which oneDNN and MKL use less than the processor has
_INSTRUCTION_LIMITS = ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA", "MKL_ENABLE_INSTRUCTIONS")
# environment variables that make third-party programs do what `keep_memory` does
KEEP_MEMORY = MappingProxyType(
    {"MALLOC_MMAP_THRESHOLD_": str(2**31 - 1), "MALLOC_TRIM_THRESHOLD_": "1000000000000"}
)


def available_cores() -> int:
    """Number of CPU cores that this process may use, which may be fewer than the machine has."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def available_gpus() -> list[str]:
    """Names of the GPUs or MIG instances, as `VISIBLE_GPUS` takes them."""
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
    import torch  # slow to import, and only some functions need it

    return [str(number) for number in range(torch.cuda.device_count())]


def compile_network(model: Any, **options: Any) -> Any:
    """Calls `torch.compile` in this process's `own_compile_cache`."""
    import torch  # slow to import, and only some functions need it

    own_compile_cache()
    return torch.compile(model, **options)


def own_compile_cache() -> None:
    """Has torch compile into a folder of this process, which is removed at exit.

    torch's default cache in the temporary folder grows with every network. A ``TORCHINDUCTOR_CACHE_DIR``
    elsewhere is used and kept.
    """
    if remove_empty_cache():
        os.environ[_COMPILED] = folder = tempfile.mkdtemp(prefix="compiled_")
        atexit.register(shutil.rmtree, folder, ignore_errors=True)


def remove_empty_cache() -> bool:
    """Removes torch's default compile cache, an empty folder that importing torchvision creates.

    Returns:
        Whether this process would compile into that folder.
    """
    temporary = Path(tempfile.gettempdir())
    folder = Path(os.environ.get(_COMPILED) or temporary / "torchinductor_")
    is_torchs = folder.parent == temporary and folder.name.startswith("torchinductor_")
    if is_torchs:
        with suppress(OSError):
            folder.rmdir()
    return is_torchs


def default_device() -> str:
    """``cuda`` if torch can use a GPU, else ``cpu``."""
    import torch  # slow to import, and only some functions need it

    return "cuda" if torch.cuda.is_available() else "cpu"


def is_first_process() -> bool:
    """Whether this is the rank-0 or only process, known before the process group is initialised.

    As timm does, it reads the variables that torchrun, srun and mpirun set.
    """
    size = os.environ.get("WORLD_SIZE", os.environ.get("SLURM_NTASKS", "1"))
    ranks = (os.environ.get(name) for name in ("RANK", "PMI_RANK", "SLURM_PROCID", "OMPI_COMM_WORLD_RANK"))
    return size == "1" or next(filter(None, ranks), "0") == "0"


def processor_name() -> str:
    """The CPU's model name, or else its architecture."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        for line in cpuinfo.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def instruction_set() -> str:
    """The instruction set that torch uses on the CPU, such as ``AVX2``, and the environment's limits."""
    import torch  # slow to import, and only some functions need it

    limits = [f"{name}={os.environ[name]}" for name in _INSTRUCTION_LIMITS if os.environ.get(name)]
    return " ".join([torch.backends.cpu.get_cpu_capability(), *limits])


def device_name(device: str) -> str:
    """The name of the GPU, or of the CPU for other devices."""
    import torch  # slow to import, and only some functions need it

    kind = torch.device(device).type
    return getattr(torch, kind).get_device_name(device) if kind in ("cuda", "xpu") else processor_name()


def keep_memory() -> bool:
    """Makes glibc keep freed memory for later allocations; returns whether that succeeded.

    By default, glibc returns large tensors to the system when freed. The next step then allocates the pages
    again, zeroed first. Forked processes inherit the setting. Settings in the environment take precedence;
    without glibc nothing changes.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    if any(name in os.environ for name in KEEP_MEMORY) or "malloc" in os.environ.get("GLIBC_TUNABLES", ""):
        return False
    mallopt = ctypes.CDLL(None).mallopt
    return all(mallopt(number, value) == 1 for number, value in _MALLOC_SETTINGS.items())


def end_with_parent() -> None:
    """Ends this process when its parent process ends."""
    started_by = os.getppid()

    def wait() -> None:
        while os.getppid() == started_by:
            time.sleep(_SECONDS_BETWEEN_LOOKS)
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def end_with_input() -> None:
    """Ends this process when its standard input is closed, as it is when the writing process dies."""

    def wait() -> None:
        while os.read(0, 1):
            pass
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


if __name__ == "__main__":
    end_with_input()
    if hasattr(signal, "SIGUSR2"):
        signal.signal(signal.SIGUSR2, signal.SIG_IGN)  # Slurm's warning is for the parent process
    keep_memory()
    sys.path[0] = os.getcwd()  # as for `python -m`
    del sys.argv[0]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
