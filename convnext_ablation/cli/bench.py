"""`convnext-ablation bench`: how fast networks are on this machine, side by side in one run."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch

from convnext_ablation.bench import processes, rendering
from convnext_ablation.bench.configuration import (
    ALLOCATORS,
    DTYPES,
    FORMS,
    INFERENCE,
    MODES,
    Configuration,
    configurations,
)
from convnext_ablation.bench.roofline import checked_cost
from convnext_ablation.bench.rows import Row, machine_of, read_rows, rows_of, write_rows
from convnext_ablation.console import Progress
from convnext_ablation.errors import UserError
from convnext_ablation.files import write_text
from convnext_ablation.machine import available_cores

__all__ = ["add_arguments", "run"]

CSV, PAGE, FIGURE = "bench.csv", "bench.md", "bench.svg"
_KERNELS, _CALLS = 5, 3  # turns of the machine's own kernels; of a contestant, beside its rounds


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    parser.epilog = "what is in OUTPUT already isn't measured again: a stopped command resumes there"
    add = parser.add_argument
    add("models", nargs="+", metavar="MODEL", help="any of our networks, and any of timm's")
    add("--mode", nargs="+", choices=MODES, default=[INFERENCE], help="default: inference")
    add("--batch-size", nargs="+", type=int, default=[16], metavar="N", help="images at a time; default: 16")
    add("--img-size", nargs="+", type=int, default=[224], metavar="N", help="their side; default: 224")
    add("--dtype", nargs="+", choices=DTYPES, default=["float32"], help="in training, of autocast")
    add("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="default: %(default)s")
    add("--rounds", type=int, default=7, metavar="N", help="measurements of each; default: %(default)s")
    add("--threads", type=int, default=available_cores(), metavar="N", help="default: %(default)s")
    add(
        "--forms",
        nargs="+",
        choices=FORMS[INFERENCE],
        default=list(FORMS[INFERENCE]),
        help="plain is what timm.create_model gives; default: all that the mode has",
    )
    add(
        "--allocator",
        nargs="+",
        choices=ALLOCATORS,
        help="glibc's setting, each measured in a process of its own; default: both, on a CPU",
    )
    add(
        "--baseline",
        metavar="MODEL[:FORM[:DTYPE]]",
        help="what to compare with; default: the first model in its first form",
    )
    add("--no-memory", dest="memory", action="store_false", help="don't measure peak memory")
    add("--output", type=Path, default=Path("bench"), metavar="FOLDER", help="default: %(default)s")


def run(args: argparse.Namespace) -> None:
    """Runs the command.

    Raises:
        UserError: What is asked for can't be measured here.
    """
    asked = configurations(args)
    networks = sorted({(one.model, each.img_size) for each in asked for one in each.contestants})
    costs = {network: checked_cost(*network) for network in networks}
    machine = machine_of(args.device)
    rows = _rows_in(args.output)
    done = {row["configuration"] for row in rows}
    left = [one for one in asked if one.identity(machine) not in done]
    if len(left) < len(asked):
        print(f"{len(asked) - len(left)} of {len(asked)} are in {args.output} already")
    turns = 0
    with Progress("measuring", sum(map(_turns, left)), "turns") as progress:

        def turn(name: str) -> None:
            progress.note(name if ":" in name else "the machine's best")
            progress.update()

        for configuration in left:
            try:
                found = processes.measured(configuration, turn)
            except processes.ProcessDiedError as error:
                raise UserError(f"{configuration.title}: {error}") from error
            new = rows_of(configuration, found, costs, machine)
            rows = [*rows, *new]
            _write(args.output, rows)
            turns += _turns(configuration)
            progress.move(turns)
            progress.line(f"\n{rendering.screen(new)}\n")
    if not left:
        _write(args.output, rows)
        identities = [one.identity(machine) for one in asked]
        for together in rendering.groups([row for row in rows if row["configuration"] in identities]):
            print(f"\n{rendering.screen(together)}")
    figure = f", {FIGURE}" if _draw(args.output, rows) else "; matplotlib is missing, hence no figure"
    print(f"\nwritten to {args.output}: {CSV}, {PAGE}{figure}")


def _rows_in(folder: Path) -> list[Row]:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--output {folder} can't be made: {error.strerror}") from error
    return read_rows(folder / CSV)


def _write(folder: Path, rows: Sequence[Row]) -> None:
    write_rows(folder / CSV, rows)
    write_text(folder / PAGE, rendering.page(rows))
    _draw(folder, rows)


def _draw(folder: Path, rows: Sequence[Row]) -> bool:
    """Whether there is what it takes to draw."""
    try:
        rendering.plot(rows, folder / FIGURE)
    except ImportError:
        return False
    return True


def _turns(configuration: Configuration) -> int:
    """About how many turns a configuration takes."""
    calls = configuration.rounds + _CALLS
    return len(configuration.contestants) * (calls + configuration.memory) + _KERNELS * calls
