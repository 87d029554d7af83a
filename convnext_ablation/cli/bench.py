"""`convnext-ablation bench`: the speed of networks on this machine, measured in interleaved rounds."""

from __future__ import annotations

import argparse

from convnext_ablation.bench import contestants
from convnext_ablation.bench.contestants import configurations
from convnext_ablation.bench.roofline import checked_cost
from convnext_ablation.bench.rows import COLUMNS, machine_of, page, read_rows, rows_of, screen
from convnext_ablation.console import Progress
from convnext_ablation.files import locked, write_csv, write_text

CSV, PAGE = "bench.csv", "bench.md"
_CALLS = 3  # turns per contestant besides its rounds: set-up, warm-up, timing one call


def run(args: argparse.Namespace) -> None:
    """Runs the command.

    Raises:
        UserError: This machine can't run the requested measurement.
    """
    asked = configurations(args.asked)
    networks = sorted({(one.model, each.img_size) for each in asked for one in each.contestants})
    costs = {network: checked_cost(*network) for network in networks}
    machine = machine_of(asked[0].device)
    with locked(args.output / ".lock", f"{args.output}: another command writes there; give another --output"):
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

            for one in asked:
                if one in left:
                    rows += rows_of(one, *contestants.measure(one, turn), costs, machine)
                    write_csv(args.output / CSV, COLUMNS, [list(row.values()) for row in rows])
                    write_text(args.output / PAGE, page(rows))
                identity = one.identity(machine)
                progress.line(f"\n{screen([row for row in rows if row['configuration'] == identity])}\n")
    print(f"\nwritten to {args.output}: {CSV}, {PAGE}")
