"""The files of a run that say how far it is."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

from convnext_ablation.errors import UserError
from convnext_ablation.files import write_text
from convnext_ablation.study.experiment import Run

RESULT, PREDICTIONS, FAILURE = "result.json", "predictions.npz", "failure.txt"
SUMMARY = "summary.csv"


def is_done(run: Run, study_folder: Path) -> bool:
    """Whether a run has finished; its result is the last thing that it writes."""
    return (run.folder(study_folder) / RESULT).is_file()


def read_result(run: Run, study_folder: Path) -> dict[str, Any]:
    """Reads a finished run's `result.json`.

    Raises:
        UserError: It is missing or damaged.
    """
    return load_result(run.folder(study_folder) / RESULT)


def load_result(path: Path) -> dict[str, Any]:
    """Reads a `result.json`.

    Raises:
        UserError: It is missing or damaged.
    """
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: can't be read ({error}); delete the folder to do the run again") from error


def finished_epochs(folder: Path) -> tuple[int, float]:
    """How many epochs of a run are finished, and when the last one was, by the file system's clock."""
    path = folder / SUMMARY
    with suppress(OSError, ValueError):
        last = path.read_text(encoding="utf-8").rstrip().rpartition("\n")[2]
        return int(last.partition(",")[0]) + 1, path.stat().st_mtime
    return 0, 0.0


def write_failure(folder: Path, reason: str, details: str = "") -> None:
    """Notes that a run failed: the reason in the first line, the traceback below."""
    write_text(folder / FAILURE, f"{' '.join(reason.split())}\n\n{details}")


def reason_of(folder: Path) -> str:
    """Why a run failed, in a line."""
    try:
        return (folder / FAILURE).read_text(encoding="utf-8").partition("\n")[0]
    except OSError:  # it is tried again just now
        return ""
