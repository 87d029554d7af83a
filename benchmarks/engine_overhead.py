"""Overhead of an engine per run, measured with many runs that do nothing.

    python benchmarks/engine_overhead.py local
    python benchmarks/engine_overhead.py slurm
    python benchmarks/engine_overhead.py ray ADDRESS

A run's process only writes its result. The overhead is the engine's time per run, times the number of slots,
minus the process's own time. The latter is measured by starting as many processes one after another.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path

from common import SHORT, parsed, parser_of

from convnext_ablation.machine import available_cores, processor_name
from convnext_ablation.study import clusters, engine
from convnext_ablation.study.designs.design import design_of
from convnext_ablation.study.experiment import Study
from convnext_ablation.study.status import RunState, StudyProgress
from convnext_ablation.study.store import save_study

NOTHING = """
import os, sys
os.makedirs(sys.argv[1])
with open(sys.argv[1] + "/.result", "w") as file:
    file.write('{"val_top1_percent": 1.0, "train_seconds": 0.0}')
os.rename(sys.argv[1] + "/.result", sys.argv[1] + "/result.json")
"""
NETWORKS = 5


def command_of(run: RunState) -> list[str]:
    """The command of a run."""
    return [sys.executable, "-S", "-c", NOTHING, str(run.folder)]


def study_of(runs: int) -> Study:
    """A study with this many runs."""
    design = design_of("stages", "atto")
    return Study(
        design=design,
        data_name="nothing",
        data_dir="nowhere",
        data_fingerprint="",
        recipe_name="none",
        recipe={},
        learning_rates={point.key: 0.001 for point in design.points},
        seeds=list(range(runs // NETWORKS)),
        precision="float32",
        device="cpu",
        threads=1,
    )


def main() -> None:
    """Measures one engine."""
    parser = parser_of(__doc__, output=False)
    parser.add_argument(
        "engine", nargs="?" if SHORT else None, choices=("local", "slurm", "ray"), default="local"
    )
    parser.add_argument("address", nargs="?", default="auto", help="of Ray's cluster")
    parser.add_argument("--slots", type=int, default=1, help="runs at the same time")
    parser.add_argument("--runs", type=int, default=200, help=f"a multiple of {NETWORKS}; default: 200")
    args = parsed(parser, runs=NETWORKS)
    if args.runs < 1 or args.runs % NETWORKS:
        parser.error(f"--runs {args.runs}: takes a multiple of {NETWORKS}")
    for module in (engine, clusters):
        vars(module)["command_of"] = command_of
    study = study_of(args.runs)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name:
        folder = Path(name)
        begun = time.monotonic()
        for number in range(args.runs):
            subprocess.run([sys.executable, "-S", "-c", NOTHING, str(folder / f"bare{number}")], check=True)
        alone = (time.monotonic() - begun) / args.runs
        save_study(folder / "study", study)
        begun = time.monotonic()
        made: engine.Engine
        if args.engine == "slurm":
            made = clusters.Slurm(study, folder / "study", args.slots, [])
        elif args.engine == "ray":
            made = clusters.RayCluster(study, folder / "study", args.slots, args.address)
        else:
            made = engine.Local([{}] * args.slots)
        start = time.monotonic() - begun
        states = engine.drive([study], folder / "study", made, StudyProgress(quiet=True))
        each = (time.monotonic() - begun - start) * args.slots / args.runs
    assert {state.status for state in states} == {"done"}
    print(
        f"{args.engine}, {args.slots} at a time, {processor_name()}, {available_cores()} cores: "
        f"{args.runs} runs; {1000 * each:.1f} ms a run, {1000 * alone:.1f} ms of it the process's own; "
        f"the engine adds {1000 * (each - alone):.1f} ms, and {start:.1f} s at its start"
    )


if __name__ == "__main__":
    main()
