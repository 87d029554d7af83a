"""What `prepare` leaves out, by reason and ending and whole in ``skipped.csv``, and what it changes."""

from __future__ import annotations

import csv
import os
from collections import Counter, defaultdict
from collections.abc import Mapping
from pathlib import Path

from convnext_ablation.data.folder import DESCRIPTION, read_description
from convnext_ablation.files import csv_text, write_csv

SKIPPED = "skipped.csv"
CHANGED = "changed"  # in ``dataset.json``: how many images `pictures.as_seen` changed in each way
_NAMED = 10  # of each reason


def write_skipped(folder: Path, skipped: Mapping[str, str]) -> None:
    """Writes ``skipped.csv`` with names and reasons, if there are any."""
    if skipped:
        write_csv(folder / SKIPPED, ("name", "reason"), sorted(skipped.items()))


def read_skipped(folder: Path) -> dict[str, str]:
    """What a folder's ``skipped.csv`` says, reasons by name; nothing without one."""
    if not (folder / SKIPPED).exists():
        return {}
    with open(folder / SKIPPED, encoding="utf-8", errors="surrogateescape", newline="") as file:
        return {csv_text(row["name"]): csv_text(row["reason"]) for row in csv.DictReader(file)}


def skipped_lines(skipped: Mapping[str, str]) -> list[str]:
    """A line for each reason: how many of each ending, and some of their names."""
    by_reason: dict[str, list[str]] = defaultdict(list)
    for name, reason in sorted(skipped.items()):
        by_reason[reason.partition(":")[0]].append(name)
    lines = []
    for reason, names in sorted(by_reason.items(), key=lambda item: (-len(item[1]), item[0])):
        endings = Counter(_ending(name) for name in names)
        counts = ", ".join(f"{count} {ending}".strip() for ending, count in endings.most_common())
        more = ", ..." if len(names) > _NAMED else ""
        lines.append(f"{reason}: {counts} ({', '.join(map(_shown, names[:_NAMED]))}{more})")
    return lines


def changed_line(changed: Mapping[str, int]) -> str:
    """How many images were changed in each way."""
    return "changed: " + ", ".join(f"{kind}: {count:,}" for kind, count in changed.items())


def told(folder: Path) -> list[str]:
    """What a prepared folder says of the images that were changed or left out, a line each."""
    changed, lines = read_description(folder / DESCRIPTION).get(CHANGED), []
    if changed:
        lines.append(changed_line(changed))
    return lines + [f"skipped: {line}" for line in skipped_lines(read_skipped(folder))]


def _ending(name: str) -> str:
    return ascii(os.path.splitext(name)[1].lower())[1:-1][:20]


def _shown(name: str) -> str:
    """A name on one line of any terminal."""
    return repr(name) if name.isprintable() else ascii(name)
