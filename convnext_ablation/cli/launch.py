"""`distributed_train.sh`: torchrun on this machine, without its traceback when a process fails."""

from __future__ import annotations

import logging
import os
import signal
import sys
from collections.abc import Sequence

from convnext_ablation.errors import UserError, exit_code_of

PROGRAM = "distributed_train.sh"
HELP = f"""usage: ./{PROGRAM} N [arguments of train.py]

Trains with N processes of this machine, by torchrun, one a GPU. `python train.py --help` lists the arguments.

examples:
  ./{PROGRAM} 2 data/cub -c cub200_224 --model model_iv
  ./{PROGRAM} 2 data/cub -c cub200_224 --model model_iv --device cpu --experiment iv --resume auto"""


def main(argv: Sequence[str] | None = None) -> int:
    """Starts N processes, `N SCRIPT [ARGUMENTS]`; returns the exit code of the first that fails, else 0."""
    return exit_code_of(PROGRAM, lambda: _launch(*(sys.argv[1:] if argv is None else argv)))


def _launch(processes: str = "", script: str = "", *arguments: str) -> int:
    if processes in ("-h", "--help"):
        print(HELP)
        return 0
    if not (processes.isascii() and processes.isdigit() and int(processes)):
        raise UserError(f"{processes!r} is no number of processes; write {PROGRAM} N [arguments of train.py]")
    print(f"{PROGRAM}: loading PyTorch ...", file=sys.stderr, flush=True)
    from torch.distributed.elastic.multiprocessing import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.run import main as torchrun

    logging.disable(logging.CRITICAL)  # torchrun adds 40 lines to the processes' own errors
    try:
        torchrun(
            ["--standalone", f"--log-dir={os.devnull}", f"--nproc-per-node={processes}", script, *arguments]
        )
    except SignalException as error:  # the processes also got the signal, and say how to resume
        return 128 + error.sigval
    except ChildFailedError as error:
        _, first = error.get_first_failure()
        if first.exitcode < 0:
            name = signal.Signals(-first.exitcode).name
            print(f"{PROGRAM}: process {first.local_rank} was ended by {name}", file=sys.stderr)
        return first.exitcode if first.exitcode > 0 else 128 - first.exitcode
    return 0


if __name__ == "__main__":
    sys.exit(main())
