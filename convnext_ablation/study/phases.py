"""An experiment's phases: studies in a folder each, that may start from what an earlier one trained."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from convnext_ablation.errors import UserError
from convnext_ablation.files import check_name, write_text
from convnext_ablation.study.experiment import Run, Study, Weights
from convnext_ablation.study.store import STUDY_FILE, is_done, read_study, save_study
from convnext_ablation.study.tuning import chosen_rates
from convnext_ablation.training.history import BEST

EXPERIMENT_FILE = "experiment.json"


def folder_of(phase: Study, folder: Path) -> Path:
    """Where a phase's files go: a folder of its own, unless `folder` itself is that of the study."""
    return folder if (folder / STUDY_FILE).is_file() else folder / phase.phase


def save_phases(folder: Path, phases: Sequence[Study]) -> list[Study]:
    """Writes what an experiment's folder holds, or adds new seeds to what is there; returns what it holds.

    Raises:
        UserError: It holds another experiment; the message says what differs.
    """
    names = [phase.phase for phase in phases]
    known = [""] if (folder / STUDY_FILE).exists() else _names(folder)
    if known is not None and known != names:
        held, asked = (_title(each) for each in (known, names))
        raise UserError(f"{folder}: holds {held}, not {asked}; give another --output")
    saved: list[Study] = []
    for phase in phases:
        start = next((each for each in saved if phase.start and each.phase == phase.start.phase), None)
        saved.append(save_study(folder_of(phase, folder), replace(phase, start=start)))
    if names != [""] and known is None:
        write_text(folder / EXPERIMENT_FILE, json.dumps({"phases": names}) + "\n")
    return saved


def read_phases(folder: Path) -> list[Study]:
    """Reads the phases of an experiment, or the one study that a folder holds."""
    names = _names(folder)
    return [read_study(folder / name) for name in names] if names else [read_study(folder)]


def _title(names: Sequence[str]) -> str:
    return f"an experiment with the phases {', '.join(names)}" if names != [""] else "a single study"


def _names(folder: Path) -> list[str] | None:
    path = folder / EXPERIMENT_FILE
    if not path.is_file():
        return None
    if (folder / STUDY_FILE).exists():
        raise UserError(f"{folder}: holds an experiment and a study; move one of them away")
    try:
        return [
            check_name(str(name), str(path))
            for name in json.loads(path.read_text(encoding="utf-8"))["phases"]
        ]
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path}: damaged ({error!r}); give another --output") from error


def started(study: Study, folder: Path) -> Study:
    """A study as it can be done by now: a phase has the weights of those runs before it that are done."""
    if study.start is None:
        return study
    before = folder.parent / study.start.phase
    start = started(study.start, before)
    done = [run for run in start.runs(chosen_rates(start, before)) if is_done(run, before)]
    return with_weights(study, done, before)


def with_weights(study: Study, runs: Iterable[Run], folder: Path) -> Study:
    """A phase whose networks start from the runs of another, which are done; `folder` is the other's."""
    weights = tuple(
        Weights(
            run.point.key,
            run.arguments.seed,
            str(run.folder(folder) / BEST),
            run.identity,
            f"phase {run.phase}",
        )
        for run in runs
    )
    return replace(study, weights=weights)
