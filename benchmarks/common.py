"""Shared code of the benchmarks: options, CSV files, times and ratios, processes, synthetic photographs."""

from __future__ import annotations

import argparse
import atexit
import csv
import multiprocessing
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import timm
import torch
from PIL import Image, ImageFilter

from convnext_ablation.files import write_csv
from convnext_ablation.machine import (
    available_cores,
    end_with_parent,
    instruction_set,
    keep_memory,
    processor_name,
)
from convnext_ablation.timing import Ratio, Times

MACHINE = f"{processor_name()} ({instruction_set()}), {available_cores()} cores"
VERSIONS = {"torch": torch.__version__, "timm": timm.__version__}
SIZE = (500, 375)  # of a photograph, in pixels
DIFFERENT = 200  # distinct photographs; the other files are copies
_NOISE = 16.0  # makes JPEGs of quality 90 as large as in CUB-200-2011, about 100 kB

Row = Mapping[str, Any]

SHORT = "--short" in sys.argv[1:]


def parser_of(doc: str, output: bool = True) -> argparse.ArgumentParser:
    """A parser with `--short` and, but for `output`, `--output`; `doc` is a module's docstring."""
    parser = argparse.ArgumentParser(description=doc.splitlines()[0])
    parser.add_argument("--short", action="store_true", help="as `make bench`: small, keeps no file")
    if output:
        parser.add_argument("--output", type=Path, required=not SHORT, help="CSV file to write")
    return parser


def parsed(parser: argparse.ArgumentParser, **short: Any) -> argparse.Namespace:
    """The options; with `--short` those that aren't given are `short`, and `--output` is a temporary file."""
    if SHORT:
        folder = tempfile.mkdtemp(prefix="benchmark-")
        atexit.register(shutil.rmtree, folder)
        parser.set_defaults(output=Path(folder) / "short.csv", **short)
    options = parser.parse_args()
    if "timm" in options and options.timm is None:
        left_out("needs timm's repository: make bench TIMM_REPO=path")
    return options


def add_timm(parser: argparse.ArgumentParser) -> None:
    """Adds `--timm`, without which a short form is left out."""
    found = os.environ.get("TIMM_REPO") or None
    about = "timm's repository; $TIMM_REPO if not given"
    parser.add_argument("--timm", type=Path, default=found, required=not (SHORT or found), help=about)


def left_out(why: str) -> NoReturn:
    """Ends the short form of a benchmark that lacks something, in one line."""
    print(f"left out: {why}")
    sys.exit()


def small_data(folder: Path) -> str:
    """Prepares a few typefaces in a folder, as data of a short form."""
    data = str(folder / "typefaces")
    few = ["--train", "8", "--val", "1", "--test", "2"]
    _command("convnext_ablation.cli.main", "prepare", "typefaces", data, *few)
    return data


def small_run(folder: Path) -> Path:
    """Trains a small network for an epoch, as a run of a short form."""
    settings = "-c typefaces --model model_v_atto --epochs 1 --device cpu -j 0 --experiment run".split()
    _command("convnext_ablation.cli.train", small_data(folder), *settings, "--output", str(folder))
    return folder / "run"


def _command(module: str, *arguments: str) -> None:
    subprocess.run([sys.executable, "-m", module, *arguments], check=True, stdout=subprocess.DEVNULL)


def read_rows(path: Path) -> list[Row]:
    """The rows of a CSV file; empty if there is no file."""
    if not path.exists():
        return []
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def write_rows(path: Path, rows: Sequence[Row]) -> None:
    """Writes rows with equal columns as a CSV file."""
    write_csv(path, list(rows[0]), [list(row.values()) for row in rows])


def missing(jobs: Iterable[Any], rows: Iterable[Row]) -> list[Any]:
    """The jobs (named tuples) whose values no row has."""
    jobs, rows = list(jobs), list(rows)
    done = {tuple(row[name] for name in jobs[0]._fields) for row in rows} if jobs else set()
    return [job for job in jobs if tuple(map(str, job)) not in done]


def in_processes(
    work: Callable[..., Any], jobs: Sequence[Sequence[Any]], at_once: int
) -> Iterator[tuple[int, Any]]:
    """Runs `work` on each job in single-threaded processes; yields job numbers and results as they finish."""
    os.environ["OMP_NUM_THREADS"] = "1"
    with ProcessPoolExecutor(at_once, multiprocessing.get_context("spawn"), _start) as pool:
        numbers = {pool.submit(work, *job): number for number, job in enumerate(jobs)}
        for future in as_completed(numbers):
            yield numbers[future], future.result()


def _start() -> None:
    end_with_parent()
    keep_memory()


def in_turn(ways: Mapping[str, Callable[[], float]], rounds: int) -> dict[str, Times]:
    """Times each way in seconds once per round, so that all get the same share of the machine."""
    taken: dict[str, list[float]] = {way: [] for way in ways}
    for number in range(rounds):
        for way, seconds in ways.items():
            taken[way].append(seconds())
        print(f"round {number}:", *(f"{way} {times[-1]:.4g} s" for way, times in taken.items()), flush=True)
    return {way: Times(tuple(times)) for way, times in taken.items()}


def ratio_columns(ratio: Ratio, names: Sequence[str], digits: int = 3) -> dict[str, str]:
    """A ratio and its interval, under three column names."""
    return {
        name: f"{value:.{digits}f}"
        for name, value in zip(names, (ratio.median, ratio.lowest, ratio.highest), strict=True)
    }


def time_columns(times: Times, digits: int = 1) -> dict[str, str]:
    """The median, shortest and longest time, in milliseconds."""
    return {
        f"{name}_ms": f"{1e3 * getattr(times, name):.{digits}f}" for name in ("median", "lowest", "highest")
    }


def photograph(seed: int) -> Image.Image:
    """A synthetic image that takes as long to decode as a photograph: smooth, with edges and noise."""
    rng = np.random.default_rng(seed)
    width, height = SIZE
    coarse = Image.fromarray(rng.integers(0, 256, (12, 16, 3), np.uint8)).resize(
        SIZE, Image.Resampling.BICUBIC
    )
    shapes = Image.fromarray(rng.integers(0, 256, (6, 8, 3), np.uint8)).resize(SIZE, Image.Resampling.NEAREST)
    edges = Image.fromarray(rng.integers(0, 2, (24, 32), np.uint8) * 255)
    mask = edges.resize(SIZE, Image.Resampling.BILINEAR).point(lambda value: 255 * (value > 127))
    image = Image.composite(coarse, shapes, mask).filter(ImageFilter.GaussianBlur(0.7))
    noisy = np.asarray(image, np.int16) + rng.normal(0, _NOISE, (height, width, 3)).astype(np.int16)
    return Image.fromarray(noisy.clip(0, 255).astype(np.uint8))


def write_photographs(paths: Sequence[Path], quality: int, size: tuple[int, int] = SIZE) -> float:
    """Writes JPEGs of `size`, with copies beyond `DIFFERENT`; returns their mean file size in kB."""
    files = []
    for seed in range(min(DIFFERENT, len(paths))):
        image = photograph(seed)
        image = image if size == SIZE else image.resize(size, Image.Resampling.BILINEAR)
        paths[seed].parent.mkdir(parents=True, exist_ok=True)
        image.save(paths[seed], quality=quality)
        files.append(paths[seed].read_bytes())
    for number, path in enumerate(paths):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(files[number % len(files)])
    return sum(map(len, files)) / len(files) / 1000
