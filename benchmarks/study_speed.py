"""Images per second of a study against a shell loop over timm's unmodified `train.py`, in turn.

    convnext-ablation prepare characters data/characters
    python benchmarks/study_speed.py --timm path/to/timm/repository --output results/study_speed.csv

Both train the same networks with the same recipe and data, a process a core, one thread each: `study` by its
own workers, `train.py` by `xargs -P`, with a loader worker each, which it needs. The study also tests each
network and writes its report. `runs_ratio` leaves out the study's start and report, which take hardly longer
for more runs; `training_ratio` is of the seconds within training alone, `cpu_ratio` of processor time.
"""

from __future__ import annotations

import json
import os
import re
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

from common import MACHINE, VERSIONS, add_timm, parsed, parser_of, ratio_columns, small_data, write_rows

from convnext_ablation.machine import available_cores
from convnext_ablation.timing import Times
from convnext_ablation.training.settings import read_recipe
from convnext_ablation.yaml_files import built_in

LOOP = (
    'xargs -P {jobs} -L 1 sh -c \'"{python}" "{script}" -c "{recipe}" --device cpu '
    '--device-modules convnext_ablation --data-dir "{data}" --model "$0_atto" --seed "$1" -j 1 '
    '--output "{output}" --experiment "$0-$1" > "{output}/$0-$1.log" 2>&1\''
)


def run_study(
    networks: list[str], seeds: list[str], data: Path, recipe: str, folder: Path
) -> dict[str, float]:
    """Runs a study; returns seconds in all, before its first run, of its runs, and in training."""
    design = folder / "design.yaml"
    design.write_text(json.dumps({"networks": networks}))
    command = [sys.executable, "-m", "convnext_ablation.cli.main", "study", "--data", str(data)]
    command += ["--recipe", recipe, "--design", str(design), "--seeds", *seeds]
    start = time.time()
    found = _timed([*command, "--output", str(folder / "study")], "")
    runs = list((folder / "study" / "runs").iterdir())
    begun = min((run / "args.yaml").stat().st_mtime for run in runs)
    ended = max((run / "result.json").stat().st_mtime for run in runs)
    results = [json.loads((run / "result.json").read_text(encoding="utf-8")) for run in runs]
    return found | {
        "start": begun - start,
        "runs": ended - begun,
        "training": sum(each["train_seconds"] for each in results),
    }


def run_loop(
    networks: list[str], seeds: list[str], data: Path, recipe: str, folder: Path, script: Path
) -> dict[str, float]:
    """Runs timm's script for each network and seed; returns seconds in all, and in training."""
    words = {"python": sys.executable, "script": script, "recipe": built_in("recipes")[recipe]}
    loop = LOOP.format(**words, data=data, jobs=available_cores(), output=folder)
    found = _timed(["sh", "-c", loop], "".join(f"{name} {seed}\n" for seed in seeds for name in networks))
    training = 0.0
    for log in folder.glob("*.log"):
        updates, mean = re.findall(r"Train: 0 \[ *\d+/(\d+).*?\((\d+\.\d+)s,", log.read_text())[-1]
        training += float(mean) * int(updates)
    return found | {"runs": found["all"], "training": training}


def _timed(command: list[str], given: str) -> dict[str, float]:
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run(command, input=given, text=True, stdout=subprocess.DEVNULL, env=environment, check=True)
    seconds, after = time.monotonic() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"all": seconds, "cpu": cpu}


def row_of(taken: dict[str, list[dict[str, float]]], images: int) -> dict[str, object]:
    """Median seconds of each part, images a second, and ratios of the parts that both have."""
    row: dict[str, object] = {}
    for who, rounds in taken.items():
        parts = {part: median(each[part] for each in rounds) for part in rounds[0]}
        row[f"{who}_images_per_second"] = f"{images / parts['all']:.1f}"
        row |= {f"{who}_{part}_seconds": f"{seconds:.2f}" for part, seconds in parts.items()}
    for part in ("all", "runs", "training", "cpu"):
        ours, theirs = (Times(tuple(each[part] for each in rounds)) for rounds in taken.values())
        names = [f"{part}_{end}" for end in ("ratio", "lowest", "highest")]
        row |= ratio_columns(ours.times_faster_than(theirs), names)
    return row


def main() -> None:
    """Times both in turn, and writes a row."""
    parser = parser_of(__doc__)
    add_timm(parser)
    parser.add_argument("--data", type=Path, default=Path("data/characters"))
    parser.add_argument("--recipe", default="characters", help="of one epoch")
    names = ["model_i", "model_ii", "model_iv", "model_v"]
    parser.add_argument("--networks", nargs="+", default=names, help="a quarter of the width of each")
    parser.add_argument("--seeds", nargs="+", default=["0"], help="of each network, in every round")
    parser.add_argument("--rounds", type=int, default=7)
    options = parsed(parser, rounds=1, networks=names[2:], recipe="typefaces")
    taken: dict[str, list[dict[str, float]]] = {"study": [], "timm": []}
    with tempfile.TemporaryDirectory() as name:
        data = Path(small_data(Path(name))) if options.short else options.data.resolve()
        for number in range(options.rounds):
            for who in taken if number % 2 else reversed(taken):
                folder = Path(name) / f"{who}{number}"
                folder.mkdir()
                same = options.networks, options.seeds, data, options.recipe, folder
                found = run_study(*same) if who == "study" else run_loop(*same, options.timm / "train.py")
                taken[who].append(found)
                said = [f"{part} {seconds:.2f} s" for part, seconds in found.items()]
                print(f"round {number}, {who}:", *said, flush=True)
        batch = read_recipe(options.recipe)["batch_size"]
        runs = len(options.networks) * len(options.seeds)
        images = runs * (sum(1 for _ in (data / "train").glob("*/*.png")) // batch * batch)
    row = {"recipe": options.recipe, "networks": " ".join(options.networks), "runs": runs, "images": images}
    row |= row_of(taken, images)
    row |= {"rounds": options.rounds, "machine": f"{MACHINE}, a process a core, 1 thread each", **VERSIONS}
    print(row)
    write_rows(options.output, [row])


if __name__ == "__main__":
    main()
