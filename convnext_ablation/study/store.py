"""The folder of a study or experiment: its definition, the runs' files, and locks."""

from __future__ import annotations

import errno
import json
import os
import platform
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from convnext_ablation.console import counted
from convnext_ablation.errors import UserError
from convnext_ablation.files import check_name, remove_unfinished, write_text
from convnext_ablation.models.components import Components
from convnext_ablation.study.designs.contrasts import Contrast, Design, Point
from convnext_ablation.study.experiment import TEST_SPLIT, TUNING_SEED, Run, Script, Study, Weights
from convnext_ablation.training.history import LAST, SUMMARY

STUDY_FILE, EXPERIMENT_FILE = "study.json", "experiment.json"
FORMAT = 2  # format 1 lacked what is needed to recreate the runs
RESULT, PREDICTIONS, FAILURE = "result.json", "predictions.npz", "failure.txt"
LOCK = ".lock"
LOGS = "logs"  # folder of the runs' output
_WITHOUT_UNIT = {"val_top1", "test_top1", "test_top5", "top1", "top5"}  # keys in results of earlier versions
_ONLY_WHILE_OPEN = (LAST, FAILURE, LOCK)
# keys of `study.json` and attributes of `Study`: those that must not change, and those that may
_FIXED = {
    "data set": "data_name", "data fingerprint": "data_fingerprint", "recipe": "recipe",
    "recipes of networks": "own_recipes", "learning rates": "learning_rates",
    "tuned learning rates": "tuning", "precision": "precision", "device": "device", "threads": "threads",
    "processes": "processes", "test split": "test_split",
}  # fmt: skip
_MAY_CHANGE = {
    "seeds": "seeds", "published weights": "published", "data folder": "data_dir",
    "recipe name": "recipe_name", "command": "command", "workers": "workers", "phase": "phase",
}  # fmt: skip
# values for keys that earlier versions didn't write
_NOT_SAID: Mapping[str, Any] = {"processes": 1, "test split": TEST_SPLIT, "recipes of networks": {}}
# consecutive failures without a finished epoch before a failure is final (see `note_failure`)
MOST_FAILURES, MOST_DEATHS = 2, 3


@dataclass(frozen=True)
class Holder:
    """The process that holds a folder: a driver, or a run that started with `epochs` finished epochs."""

    where: str
    since: float
    epochs: int = 0


class HeldError(Exception):
    """Another process holds the folder's lock."""

    def __init__(self, holder: Holder) -> None:
        super().__init__(f"in use by {holder.where}")
        self.holder = holder


@contextmanager
def held(folder: Path, timeout: float = 0, epochs: int = 0) -> Iterator[None]:
    """Creates and locks a folder until the block, or the process, ends.

    Raises:
        HeldError: Another process still holds the lock after `timeout` seconds.
        UserError: The file system has no locks.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / LOCK, fallback_to_soft=False)
    try:
        lock.acquire(timeout=timeout, poll_interval=0.2)
    except Timeout:
        raise HeldError(_read_holder(folder)) from None
    except (NotImplementedError, OSError) as error:
        if isinstance(error, OSError) and error.errno not in (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP):
            raise
        raise UserError(
            f"{folder}: its file system has no file locks ({error}); give an --output on one that has"
        ) from error
    job = os.environ.get("SLURM_JOB_ID")
    where = f"{platform.node()} (process {os.getpid()}{f', Slurm job {job}' if job else ''})"
    try:
        remove_unfinished(folder)
        (folder / LOCK).write_text(json.dumps(asdict(Holder(where, time.time(), epochs))))
        yield
    finally:
        lock.release()


def holder_of(folder: Path) -> Holder | None:
    """The process that holds a folder's lock; None if there is none."""
    if not (folder / LOCK).exists():
        return None
    lock = FileLock(folder / LOCK, fallback_to_soft=False)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return _read_holder(folder)
    except OSError:  # no permission: another user's folder
        return None
    lock.release()
    return None


def _read_holder(folder: Path) -> Holder:
    with suppress(OSError, TypeError, ValueError):  # not written yet
        return Holder(**json.loads((folder / LOCK).read_text()))
    return Holder("another process", time.time())


def folder_of(phase: Study, folder: Path) -> Path:
    """The folder of a phase: a subfolder, unless `folder` itself holds a single study."""
    return folder if (folder / STUDY_FILE).is_file() else folder / phase.phase


def save_phases(folder: Path, phases: Sequence[Study]) -> list[Study]:
    """Saves an experiment's phases, or adds new seeds to the saved ones; returns the saved phases.

    Raises:
        UserError: The folder holds another experiment; the message names the difference.
    """
    names, known = [phase.phase for phase in phases], _names(folder)
    if known not in (None, names):
        held, asked = (
            f"an experiment with the phases {', '.join(each)}" if each != [""] else "a single study"
            for each in (known or [], names)
        )
        raise UserError(f"{folder}: holds {held}, not {asked}; give another --output")
    saved: dict[str, Study] = {}
    for phase in phases:
        start = saved.get(phase.start.phase) if phase.start else None
        saved[phase.phase] = save_study(folder_of(phase, folder), replace(phase, start=start))
    if names != [""] and known is None:
        write_text(folder / EXPERIMENT_FILE, json.dumps({"phases": names}) + "\n")
    return list(saved.values())


def read_phases(folder: Path) -> list[Study]:
    """Reads the phases of an experiment, or a single study as a list of one."""
    return [read_study(folder / name) for name in _names(folder) or [""]]


def _names(folder: Path) -> list[str] | None:
    """Names of the phases in a folder: ``[""]`` for a single study, None for an empty folder."""
    path, single = folder / EXPERIMENT_FILE, (folder / STUDY_FILE).exists()
    if not path.is_file():
        return [""] if single else None
    if single:
        raise UserError(f"{folder}: holds an experiment and a study; move one of them away")
    try:
        names = json.loads(path.read_text(encoding="utf-8"))["phases"]
        return [check_name(str(name), str(path)) for name in names]
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path}: damaged ({error!r}); give another --output") from error


def save_study(folder: Path, study: Study) -> Study:
    """Writes `study.json`, or adds new seeds to the existing file; returns the saved study.

    Raises:
        UserError: The folder holds another study; the message names the difference.
    """
    saved = _read_content(folder)
    if saved is not None:
        before = _study(saved, folder)
        _check_same(folder, saved, study)
        study = _with_seeds(folder, before, study)
    if saved is None or _content(study) != saved:
        folder.mkdir(parents=True, exist_ok=True)
        write_text(folder / STUDY_FILE, json.dumps(_content(study), indent=1) + "\n")
    return study


def read_study(folder: Path) -> Study:
    """Reads a folder's study; raises `UserError` if there is none or its file is damaged."""
    content = _read_content(folder)
    if content is None:
        raise UserError(
            f"{folder}: no study is there; `convnext-ablation study --output {folder} ...` begins one"
        )
    return _study(content, folder)


def _read_content(folder: Path) -> dict[str, Any] | None:
    path = folder / STUDY_FILE
    if not path.is_file():
        there = folder.is_dir() and any(not each.name.startswith(".") for each in folder.iterdir())
        if there or folder.is_file():
            raise UserError(f"{folder}: holds something else than a study; give another --output")
        return None
    try:
        content = dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: damaged ({error}); give another --output") from error
    found = content.get("format", 1)
    if found != FORMAT:
        raise UserError(
            f"{path}: of format {found}, and this version works with format {FORMAT}; give another --output"
        )
    return content


def _check_same(folder: Path, saved: Mapping[str, Any], study: Study) -> None:
    old = {**_NOT_SAID, **saved["study"]}
    for key, value in _content(study)["study"].items():
        if key == "notes" or _unnamed(old.get(key)) == _unnamed(value):  # labels and notes don't affect runs
            continue
        done = counted(len([*folder.glob("runs/*/result.json")]), "finished run")
        lost = f"{done}, and what starts from them, would not" if study.phase else f"{done} would not"
        raise UserError(
            f"{folder}: holds another study: {_changed(key, old.get(key), value)}; its {lost} count; "
            "give another --output"
        )


def _unnamed(value: Any) -> Any:
    """Drops the display labels of networks and contrasts."""
    if not isinstance(value, list):
        return value
    return [
        {name: each[name] for name in each.keys() - {"label", "adds"}} if isinstance(each, dict) else each
        for each in value
    ]


def _changed(key: str, old: Any, new: Any) -> str:
    """Describes the first difference between two values of a key."""
    if isinstance(old, dict) and isinstance(new, dict):
        name = next(name for name in {**old, **new} if old.get(name) != new.get(name))
        return f"{name} of its {key} is {_brief(old.get(name))}, not {_brief(new.get(name))}"
    return f"its {key} is {_brief(old)}, not {_brief(new)}"


def _with_seeds(folder: Path, saved: Study, study: Study) -> Study:
    before = {(each.network, each.pretraining_seed): each for each in saved.weights}
    known = dict(before)
    for each in study.weights:
        old = known.setdefault((each.network, each.pretraining_seed), each)
        if old.sha256 != each.sha256:
            raise UserError(
                f"{folder}: holds another study: {each.network} starts from {old.path} with SHA-256 "
                f"{old.sha256[:12]}, not {each.sha256[:12]}; give another --output"
            )
    if len(known) > len(before) and any(seed is None for _, seed in before):
        raise UserError(f"{folder}: its study has no pre-training seeds; give another --output")
    for model, digest in study.published.items():
        old_digest = saved.published.get(model, digest)
        if old_digest != digest:
            raise UserError(
                f"{folder}: the published weights of {model} have changed since the study began (SHA-256 "
                f"{digest[:12]}, not {old_digest[:12]}); give another --output"
            )
    seeds = list(dict.fromkeys([*saved.seeds, *study.seeds]))
    published = {**saved.published, **study.published}
    return replace(study, seeds=seeds, weights=tuple(known.values()), published=published)


def _content(study: Study) -> dict[str, Any]:
    """The content of `study.json` as JSON reads it back: lists instead of tuples."""
    fixed = {
        "design": study.design.name,
        "networks": [
            asdict(point) | {"components": point.components and point.components.determining()}
            for point in study.points
        ],
        "questions": [asdict(contrast) for contrast in study.design.contrasts],
        "notes": study.design.notes,
        **{key: getattr(study, name) for key, name in _FIXED.items()},
        "start": study.start.phase if study.start else "weights" if study.weights else "recipe",
        "training script": asdict(study.script) | {"path": None} if study.script else None,
    }
    content = {
        "format": FORMAT,
        "study": fixed,
        **{key: getattr(study, name) for key, name in _MAY_CHANGE.items()},
        "weights": [asdict(each) for each in study.weights],
        "script path": study.script.path if study.script else "",
        "tuning seed": TUNING_SEED,
        "starts from phase": study.start.phase if study.start else "",
    }
    return dict(json.loads(json.dumps(content)))


def _study(content: Mapping[str, Any], folder: Path) -> Study:
    path = folder / STUDY_FILE
    try:
        fixed, start = {**_NOT_SAID, **content["study"]}, content.get("starts from phase")
        keys = [point["key"] for point in fixed["networks"]]
        for name in filter(None, (start, content.get("phase"), *keys)):
            check_name(name, str(path))  # they become folder names
        points = (
            Point(**{**point, "components": point["components"] and Components(**point["components"])})
            for point in fixed["networks"]
        )
        contrasts = (Contrast(**contrast) for contrast in fixed["questions"])
        script = fixed["training script"]
        return Study(
            design=Design(fixed["design"], tuple(points), tuple(contrasts), tuple(fixed["notes"])),
            weights=tuple(Weights(**each) for each in content["weights"]),
            script=Script(**{**script, "path": content["script path"]}) if script else None,
            start=read_study(folder.parent / start) if start else None,
            **{name: fixed[key] for key, name in _FIXED.items()},
            **{name: content[key] for key, name in _MAY_CHANGE.items() if key in content},
        )
    except (AttributeError, KeyError, RecursionError, TypeError, ValueError) as error:
        raise UserError(f"{path}: damaged ({error!r}); give another --output") from error


def _brief(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "..."


def is_done(run: Run, study_folder: Path) -> bool:
    """Whether a run has finished; `result.json` is its last file."""
    return (run.folder(study_folder) / RESULT).is_file()


def remove_what_resumes(folder: Path) -> None:
    """Deletes the files that only an unfinished run needs."""
    for name in _ONLY_WHILE_OPEN:
        (folder / name).unlink(missing_ok=True)


def load_result(path: Path) -> dict[str, Any]:
    """Reads a run's `result.json` or `test.json`; raises `UserError` if it is damaged."""
    try:
        found = dict(json.loads(path.read_text(encoding="utf-8")))
        return {f"{name}_percent" if name in _WITHOUT_UNIT else name: value for name, value in found.items()}
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: can't be read ({error}); delete the folder to do the run again") from error


def finished_epochs(folder: Path) -> tuple[int, float]:
    """Number of a run's finished epochs, and the last one's end as Unix time of the file system's clock."""
    path = folder / SUMMARY
    with suppress(OSError, ValueError):
        last = path.read_text(encoding="utf-8").rstrip().rpartition("\n")[2]
        return int(last.partition(",")[0]) + 1, path.stat().st_mtime
    return 0, 0.0


@dataclass(frozen=True)
class Failure:
    """A run's most recent failure."""

    reason: str
    times: int = 1  # consecutive failures without a finished epoch
    epochs: int = 0  # finished when it failed
    final: bool = False  # no retry without --retry-failed


def note_failure(folder: Path, reason: str, details: str, killed: bool = False) -> Failure:
    """Records a failure: its reason, the number of consecutive failures, and details (traceback or log tail).

    The second failure for the same reason is final, else the third; kills never count as the same reason.
    """
    before, epochs, reason = read_failure(folder), finished_epochs(folder)[0], " ".join(reason.split())
    again = before is not None and before.epochs == epochs
    times = before.times + 1 if before and again else 1
    alike = before is not None and again and before.reason == reason and not killed
    failure = Failure(reason, times, epochs, times >= (MOST_FAILURES if alike else MOST_DEATHS))
    counts = json.dumps({"times": times, "epochs": epochs, "final": failure.final})
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / FAILURE, f"{reason}\n{counts}\n\n{details}\n")
    return failure


def read_failure(folder: Path) -> Failure | None:
    """Reads a run's most recent failure; None if there is none."""
    try:
        reason, _, rest = (folder / FAILURE).read_text(encoding="utf-8").partition("\n")
    except OSError:
        return None
    with suppress(TypeError, ValueError):
        return Failure(reason, **json.loads(rest.partition("\n")[0]))
    return Failure(reason)  # from an earlier version
