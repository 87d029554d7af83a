"""Seconds of processor time that a study spends in each phase, outside of training steps above all.

    convnext-ablation prepare characters data/characters
    python benchmarks/study_profile.py --output results/study_profile.csv

A study in miniature, in one process: what its driver does, each run as a worker does it, and the report.
A phase's seconds are without those of phases within it. Those of a run are means over all runs but the first,
whose phases also import what they need. The last row is by the clock, the median of five: from the start of
`train.py` to the line that it prints after its first step.
"""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from statistics import median
from typing import Any

from common import MACHINE, SHORT, VERSIONS, parsed, parser_of, small_data, write_rows

# what is timed: a module's function, or a class's method, as "module:name" after the package's name
PHASES = {
    "study.setup:plan_phases": "study: plan and checks",
    "study.store:save_phases": "study: write its definition",
    "cli.study_report:report": "report: results and statistics",
    "cli.study_report:write_tables": "report: tables",
    "cli.study_report:write_charts": "report: figures",
    "cli.study_report:write_page": "report: page",
    "study.run:main": "run: find it, lock, clean up",
    "study.run:execute": "run: result, figures of the network",
    "study.run:listing": "run: names and times of the images",
    "study.run:check_folder": "run: check of the data",
    "study.run:Trainer": "run: network, optimizer, images",
    "training.parts:dry_run": "run: check of the arguments",
    "training.loop:Trainer.run": "run: load training images, log",
    "training.loop:Trainer.step": "run: training steps",
    "training.loop:Trainer.evaluate": "run: validation and test",
    "training.loop:load_checkpoint": "run: read checkpoints",
    "training.loop:save_checkpoint": "run: write checkpoints",
    "study.run:without_optimizer": "run: write checkpoints",
}


class Clock:
    """Adds up each phase's processor time, without that of phases within it."""

    def __init__(self) -> None:
        self.seconds: Counter[str] = Counter()
        self._phases, self._since = ["other"], time.process_time()

    def turn(self) -> None:
        """Adds what has passed to the current phase."""
        now = time.process_time()
        self.seconds[self._phases[-1]] += now - self._since
        self._since = now

    def watch(self, where: str, phase: str) -> None:
        """Times a function by its name where it is used."""
        module, _, name = where.partition(":")
        owner: Any = importlib.import_module(f"convnext_ablation.{module}")
        for part in name.split(".")[:-1]:
            owner = getattr(owner, part)
        name = name.rpartition(".")[2]
        work = getattr(owner, name)

        def timed(*args: Any, **options: Any) -> Any:
            self.turn()
            self._phases.append(phase)
            try:
                return work(*args, **options)
            finally:
                self.turn()
                self._phases.pop()

        setattr(owner, name, timed)


def seconds_to_first_step(data: str, recipe: str, folder: Path) -> float:
    """Seconds from the start of `train.py` to the end of its first training step."""
    words = ["-c", recipe, "--model", "model_iv_atto", "--device", "cpu", "--output", str(folder)]
    command = [sys.executable, str(Path(__file__).parents[1] / "train.py"), data, *words]
    start = time.monotonic()
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout is not None
        next(line for line in process.stdout if line.startswith("epoch 0 [1/"))
        process.kill()
        return time.monotonic() - start


def main() -> None:
    """Profiles one study, and writes a row a phase."""
    parser = parser_of(__doc__)
    parser.add_argument("--data", type=Path, default=Path("data/characters"))
    parser.add_argument("--recipe", default="characters")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    options = parsed(parser, recipe="typefaces")
    from convnext_ablation.cli import asked, study_report
    from convnext_ablation.cli import main as command_line
    from convnext_ablation.study import run, setup, store

    imported, clock = time.process_time(), Clock()
    for where, phase in PHASES.items():
        clock.watch(where, phase)
    per_run: list[Counter[str]] = []
    with tempfile.TemporaryDirectory() as name:
        data, output = small_data(Path(name)) if SHORT else str(options.data), Path(name) / "study"
        words = ["study", "--data", data, "--recipe", options.recipe, "--output", str(output), "--seeds"]
        args = command_line.parsed([*words, *map(str, options.seeds)])
        asked.study_run(args)
        phases = store.save_phases(output, [study for study, _ in setup.plan_phases(args)])
        for each in phases[0].runs():
            before = clock.seconds.copy()
            if run.main([str(each.folder(output))]):
                raise SystemExit(f"{each.name} failed")
            per_run.append(clock.seconds - before)
        study_report.report(phases, output)
        clock.turn()
        rounds = range(1 if SHORT else 5)
        first = [seconds_to_first_step(data, options.recipe, Path(name) / str(each)) for each in rounds]
    later = per_run[1:]
    found = {"process: start and imports": imported}
    found |= {phase: clock.seconds[phase] for phase in PHASES.values() if not phase.startswith("run")}
    found |= {
        phase: sum(each[phase] for each in later) / len(later)
        for phase in PHASES.values()
        if phase.startswith("run")
    }
    found["train.py: start to first step, by the clock"] = median(first)
    facts = {"runs": len(per_run), "recipe": options.recipe, "machine": f"{MACHINE}, 1 thread", **VERSIONS}
    rows = [{"phase": phase, "seconds": f"{seconds:.3f}", **facts} for phase, seconds in found.items()]
    for row in rows:
        print(row["phase"], row["seconds"])
    write_rows(options.output, rows)


if __name__ == "__main__":
    main()
