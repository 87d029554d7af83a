"""`convnext-ablation bench`: how fast networks are on this machine, side by side in one run."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import torch
from tqdm import tqdm

from convnext_ablation.bench import allocators, figure, plan, processes, report
from convnext_ablation.bench.configuration import FORMS, INFERENCE, MODES, Configuration
from convnext_ablation.bench.results import Row, machine_of, read_rows, rows_of, write_rows
from convnext_ablation.errors import UserError
from convnext_ablation.files import write_text
from convnext_ablation.machine import available_cores

__all__ = ["add_arguments", "run"]

CSV, PAGE, FIGURES = "bench.csv", "bench.md", ("bench.svg", "bench.png")
_KERNELS, _CALLS = 5, 3  # turns of the machine's own kernels; of a contestant, beside its rounds


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    parser.epilog = "what is in OUTPUT already isn't measured again: a stopped command goes on from there"
    add = parser.add_argument
    add("models", nargs="+", metavar="MODEL", help="any of our networks, and any of timm's")
    add("--mode", nargs="+", choices=MODES, default=[INFERENCE], help="default: inference")
    add("--batch-size", nargs="+", type=int, default=[16], metavar="N", help="images at a time; default: 16")
    add("--img-size", nargs="+", type=int, default=[224], metavar="N", help="their side; default: 224")
    add("--dtype", nargs="+", choices=plan.DTYPES, default=["float32"], help="in training, of autocast")
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
        choices=(allocators.DEFAULT, allocators.TUNED),
        help="glibc's setting, each measured in a process of its own; default: both, on a CPU",
    )
    add(
        "--baseline",
        metavar="MODEL[:FORM[:DTYPE]]",
        help="whom to compare with; default: the first model in its first form",
    )
    add("--no-memory", dest="memory", action="store_false", help="don't measure peak memory")
    add("--output", type=Path, default=Path("bench"), metavar="FOLDER", help="default: %(default)s")


def run(args: argparse.Namespace) -> None:
    """Runs the command.

    Raises:
        UserError: What is asked for can't be measured here.
    """
    configurations = plan.configurations(args)
    costs = plan.costs(configurations)
    machine = machine_of(args.device)
    rows = _rows_in(args.output)
    done = {row["configuration"] for row in rows}
    left = [one for one in configurations if one.identity(machine) not in done]
    if len(left) < len(configurations):
        print(f"{len(configurations) - len(left)} of {len(configurations)} are in {args.output} already")
    with closing(_Progress(left)) as progress:
        for configuration in left:
            progress.begin(configuration)
            try:
                found = processes.measured(configuration, progress.turn)
            except processes.ProcessDiedError as error:
                raise UserError(f"{configuration.title}: {error}") from error
            new = rows_of(configuration, found, costs, machine)
            rows = [*rows, *new]
            _write(args.output, rows)
            progress.end(report.screen(new))
    if not left:
        _write(args.output, rows)
        identities = [one.identity(machine) for one in configurations]
        for together in report.groups([row for row in rows if row["configuration"] in identities]):
            print(f"\n{report.screen(together)}")
    missing = "" if _draw(args.output, rows) else "; matplotlib is missing, hence no figure"
    print(f"\nwritten to {args.output}: {CSV}, {PAGE}{missing or ', ' + ', '.join(FIGURES)}")


def _rows_in(folder: Path) -> list[Row]:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--output {folder} can't be made: {error.strerror}") from error
    return read_rows(folder / CSV)


def _write(folder: Path, rows: Sequence[Row]) -> None:
    write_rows(folder / CSV, rows)
    write_text(folder / PAGE, report.page(rows))
    _draw(folder, rows)


def _draw(folder: Path, rows: Sequence[Row]) -> bool:
    """Whether there is what it takes to draw."""
    try:
        for name in FIGURES:
            figure.plot(rows, folder / name)
    except ImportError:
        return False
    return True


class _Progress:
    """A bar with the time left on a terminal, plain lines elsewhere.

    Args:
        configurations: What is measured.
    """

    def __init__(self, configurations: Sequence[Configuration]) -> None:
        self.turns = [_turns(one) for one in configurations]
        self.total = len(configurations)
        self.number = 0
        self.start = time.perf_counter()
        self.bar = tqdm(
            total=sum(self.turns),
            disable=not sys.stderr.isatty(),
            leave=False,
            bar_format="{percentage:3.0f}%|{bar}| {elapsed} gone, {remaining} left{postfix}",
        )

    def begin(self, configuration: Configuration) -> None:
        """Tells what comes next."""
        self.number += 1
        if self.bar.disable:
            print(f"[{self.number}/{self.total}] {configuration.title}", flush=True)

    def turn(self, name: str) -> None:
        """Moves the bar."""
        self.bar.set_postfix_str(name if ":" in name else "the machine's best", refresh=False)
        self.bar.update()

    def end(self, text: str) -> None:
        """Prints what was found, and in plain lines the time left."""
        done = sum(self.turns[: self.number])
        self.bar.update(done - self.bar.n)
        self.bar.write(f"\n{text}\n", file=sys.stdout)
        if self.bar.disable and done < sum(self.turns):
            left = (time.perf_counter() - self.start) * (sum(self.turns) - done) / done
            print(f"about {tqdm.format_interval(left)} left", flush=True)

    def close(self) -> None:
        """Leaves the terminal as it was."""
        self.bar.close()


def _turns(configuration: Configuration) -> int:
    """About how many turns a configuration takes."""
    calls = configuration.rounds + _CALLS
    return len(configuration.contestants) * (calls + configuration.memory) + _KERNELS * calls
