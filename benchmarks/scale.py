"""Peak memory and time of training steps and inference by batch size, resolution and width, on a CPU.

    python benchmarks/scale.py --output results/scale.csv

One parameter varies at a time around batch 16, 224 px and full width, for each of the five stages. Each row
is measured in its own process: peak memory above that before the network was built, and median step time.
A step is forward, backward and fused AdamW in channels_last, with and without gradient checkpointing;
inference is the forward pass alone. Freed memory is kept, as in `train.py`. Rerunning the command adds the
missing rows. A figure of the same name is drawn beside the file.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import timm
import torch
from common import VERSIONS, Row, missing, parsed, parser_of, read_rows, time_columns, write_rows
from timm.optim import create_optimizer_v2
from torch.nn.functional import cross_entropy

import convnext_ablation.models.zoo  # noqa: F401  registers the networks
from convnext_ablation.machine import available_cores, keep_memory, processor_name
from convnext_ablation.models.components import STAGES
from convnext_ablation.timing import Times

KINDS = ("training", "training with checkpointing", "inference")


class Point(NamedTuple):
    """One point of the grid."""

    model: str
    kind: str
    batch: int
    size: int
    width: float


class Grid(NamedTuple):
    """The centre of the grid, and the values along each axis."""

    batch: int
    size: int
    width: float
    batches: tuple[int, ...]
    sizes: tuple[int, ...]
    widths: tuple[float, ...]


FULL = Grid(16, 224, 1.0, (1, 2, 4, 8, 16, 32), (64, 112, 160, 224, 320), (0.25, 0.5, 0.75, 1.0))
SMALL = Grid(2, 32, 0.25, (2,), (32,), (0.25,))  # of the short form
AXES = {"batch": "images in a batch", "size": "side of the images in pixels", "width": "factor on the width"}


def points(grid: Grid) -> Iterator[Point]:
    """The points of the grid, cheapest first."""
    middle = {"batch": grid.batch, "size": grid.size, "width": grid.width}
    values = {"batch": grid.batches, "size": grid.sizes, "width": grid.widths}
    star = {tuple({**middle, axis: value}.values()) for axis in AXES for value in values[axis]}
    for batch, size, width in sorted(star, key=lambda each: each[0] * each[1] ** 2 * each[2] ** 2):
        for model in STAGES:
            yield from (Point(model, kind, int(batch), int(size), width) for kind in KINDS)


def measure(point: Point, steps: int, threads: int) -> dict[str, Any]:
    """Measures one point in this process."""
    keep_memory()
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    _forget_peak()
    before = _memory("VmRSS")
    call = _inference(point) if point.kind == "inference" else _training(point)
    taken = []
    for _ in range(steps + 1):
        start = time.perf_counter()
        call()
        taken.append(time.perf_counter() - start)
    return {
        "peak_mb": f"{_memory('VmHWM') - before:.0f}",
        "before_mb": f"{before:.0f}",
        **time_columns(Times(tuple(taken[1:])), digits=2),
    }


def _network(point: Point) -> torch.nn.Module:
    model = timm.create_model(point.model, width_factor=point.width)
    return model.to(memory_format=torch.channels_last)


def _images(point: Point) -> torch.Tensor:
    images = torch.randn(point.batch, 3, point.size, point.size)
    return images.contiguous(memory_format=torch.channels_last)


def _training(point: Point) -> Any:
    model = _network(point).train()
    model.set_grad_checkpointing(point.kind == "training with checkpointing")
    optimizer = create_optimizer_v2(model, opt="adamw", lr=1e-4, weight_decay=0.05, fused=True)
    images, targets = _images(point), torch.randint(0, 1000, (point.batch,))

    def step() -> None:
        cross_entropy(model(images), targets).backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def _inference(point: Point) -> Any:
    model, images = _network(point).eval(), _images(point)
    return torch.inference_mode()(lambda: model(images))


def _memory(name: str) -> float:
    """A memory figure of this process in MB, from /proc."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name)) / 1024


def _forget_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")


def measured(point: Point, steps: int, threads: int) -> dict[str, Any] | None:
    """Measures a point in its own process; None if that was killed, most likely out of memory."""
    command = [sys.executable, __file__, "--one", json.dumps(point), "--output", "-"]
    command += ["--steps", str(steps), "--threads", str(threads)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    if done.returncode < 0:
        return None
    done.check_returncode()
    return json.loads(done.stdout.splitlines()[-1])


def draw(rows: list[Row], grid: Grid, path: Path) -> None:
    """Plots memory and time against each axis."""
    from matplotlib import pyplot as plt  # not imported in measuring processes

    figure, rooms = plt.subplots(2, 3, figsize=(13, 8), layout="constrained")
    middle = {"batch": grid.batch, "size": grid.size, "width": grid.width}
    for column, (axis, label) in enumerate(AXES.items()):
        here = [
            row for row in rows if all(float(row[name]) == middle[name] for name in middle if name != axis)
        ]
        for row, (figures, title) in enumerate(
            (("peak_mb", "peak memory in MB"), ("median_ms", "time of a step in ms"))
        ):
            room = rooms[row][column]
            for number, model in enumerate(STAGES):
                for kind, style in zip(KINDS, ("-", "--", ":"), strict=True):
                    line = sorted(
                        (float(each[axis]), float(each[figures]))
                        for each in here
                        if (each["model"], each["kind"]) == (model, kind)
                    )
                    room.plot(*zip(*line, strict=True), style, color=f"C{number}", marker=".") if line else ()
            room.set(xscale="log", yscale="log", xlabel=label, ylabel=title)
            ticks = sorted({float(each[axis]) for each in here})
            room.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
            room.tick_params(axis="x", which="minor", bottom=False, labelbottom=False)
    shown = [model for model in STAGES if any(row["model"] == model for row in rows)]
    handles = [plt.Line2D([], [], color=f"C{list(STAGES).index(model)}") for model in shown]
    handles += [plt.Line2D([], [], color="black", linestyle=style) for style in ("-", "--", ":")]
    labels = [STAGES[model].label for model in shown]
    figure.legend(handles, [*labels, *KINDS], loc="outside lower center", ncols=4, frameon=False)
    figure.suptitle(f"Batch {grid.batch} at {grid.size} px, width {grid.width:g}; one thing varies at a time")
    figure.savefig(path)


def main() -> None:
    """Measures the missing points, and plots all of them."""
    parser = parser_of(__doc__)
    parser.add_argument("--models", nargs="+", choices=STAGES, default=list(STAGES))
    parser.add_argument("--steps", type=int, default=3, help="steps that are timed, behind one that isn't")
    parser.add_argument("--threads", type=int, default=available_cores())
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parsed(parser, models=["model_v"], steps=1, threads=1)
    if options.one:
        print(json.dumps(measure(Point(*json.loads(options.one)), options.steps, options.threads)))
        return
    grid = SMALL if options.short else FULL
    rows = read_rows(options.output)
    left = missing((point for point in points(grid) if point.model in options.models), rows)
    versions = {"machine": processor_name(), **VERSIONS}
    for number, point in enumerate(left, start=1):
        found = measured(point, options.steps, options.threads)
        print(f"{number}/{len(left)}", *point, *(found or {"": "killed"}).values(), flush=True)
        if found is None:
            continue
        common = {"steps": options.steps, "threads": options.threads, **versions}
        rows.append({name: str(value) for name, value in {**point._asdict(), **found, **common}.items()})
        write_rows(options.output, rows)
    draw(rows, grid, options.output.with_suffix(".svg"))


if __name__ == "__main__":
    main()
