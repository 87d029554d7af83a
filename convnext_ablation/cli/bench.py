"""`convnext-ablation bench`: how fast networks are on this machine, side by side in one run."""

from __future__ import annotations

import argparse
from pathlib import Path
from tempfile import TemporaryFile

import torch

from convnext_ablation.bench import contestants
from convnext_ablation.bench.contestants import DTYPES, FORMS, INFERENCE, MODES, configurations
from convnext_ablation.bench.roofline import checked_cost
from convnext_ablation.bench.rows import COLUMNS, machine_of, page, read_rows, rows_of, screen
from convnext_ablation.console import Progress
from convnext_ablation.errors import in_one_line
from convnext_ablation.files import locked, write_csv, write_text
from convnext_ablation.machine import available_cores

__all__ = ["add_arguments", "run"]

CSV, PAGE = "bench.csv", "bench.md"
_CALLS = 3  # turns of a contestant beside its rounds: to prepare it, to warm up, to time a call


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
        "--baseline",
        metavar="MODEL[:FORM[:DTYPE]]",
        help="what to compare with; default: the first model in its first form",
    )
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
    with in_one_line(f"--output {args.output} can't be made"):
        args.output.mkdir(parents=True, exist_ok=True)
        TemporaryFile(dir=args.output).close()  # measuring takes long; can it be written?
    rows = read_rows(args.output / CSV)
    known = {row["configuration"] for row in rows}
    left = [one for one in asked if one.identity(machine) not in known]
    if len(left) < len(asked):
        print(f"{len(asked) - len(left)} of {len(asked)} are in {args.output} already")
    turns = sum(len(one.contestants) * (one.rounds + _CALLS) for one in left)
    with Progress("measuring", turns, "turns") as progress:

        def turn(name: str) -> None:
            progress.note(name)
            progress.update()

        for configuration in asked:
            identity = configuration.identity(machine)
            if configuration in left:
                results, peaks = contestants.measure(configuration, turn)
                # read again: another command may have written some meanwhile
                with locked(args.output / ".lock", f"{args.output}: another command writes", wait=True):
                    rows = [row for row in read_rows(args.output / CSV) if row["configuration"] != identity]
                    rows += rows_of(configuration, results, peaks, costs, machine)
                    write_csv(args.output / CSV, COLUMNS, [list(row.values()) for row in rows])
                    write_text(args.output / PAGE, page(rows))
            progress.line(f"\n{screen([row for row in rows if row['configuration'] == identity])}\n")
    print(f"\nwritten to {args.output}: {CSV}, {PAGE}")
