"""`study.json`: all that a process must know to work on a study, from any machine that sees its folder."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from convnext_ablation.errors import UserError
from convnext_ablation.files import write_text
from convnext_ablation.models.components import Components
from convnext_ablation.study.claims import take
from convnext_ablation.study.designs.contrasts import Contrast, Design, Point
from convnext_ablation.study.experiment import TUNING_SEED, Script, Study
from convnext_ablation.study.file_clock import FileClock
from convnext_ablation.study.weights import Weights

STUDY_FILE = "study.json"
FORMAT = 2  # 1 held what must not change, and not what the runs are made from
_LONGEST_WAIT = 300.0  # seconds


def claim_folder(folder: Path, study: Study) -> Study:
    """Makes a folder the study's, or finds that it is already, and adds the seeds that are new.

    Returns:
        The study with all seeds that the folder's study has.

    Raises:
        UserError: It holds another study; the message says what differs.
    """
    read_content(folder)  # before anything is written there
    folder.mkdir(parents=True, exist_ok=True)
    with _alone(folder):
        saved = read_content(folder)
        if saved is not None:
            _check_same(folder, saved, study)
            study = _with_seeds(folder, _study(saved), study)
        if saved is None or _content(study) != saved:
            write_text(folder / STUDY_FILE, json.dumps(_content(study), indent=1) + "\n")
    return study


def read_study(folder: Path) -> Study:
    """Reads what study a folder holds.

    Raises:
        UserError: It holds none, one of another version, or a damaged one.
    """
    content = read_content(folder)
    if content is None:
        raise UserError(
            f"{folder}: no study is there; `convnext-ablation study --output {folder} ...` begins one"
        )
    try:
        return _study(content)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"{folder / STUDY_FILE}: damaged ({error!r}); give another --output") from error


def read_content(folder: Path) -> dict[str, Any] | None:
    """Reads a folder's `study.json`, or None if there is none.

    Raises:
        UserError: The folder holds something else than a study, or one of another version, or it is damaged.
    """
    path = folder / STUDY_FILE
    if not path.is_file():
        if folder.is_file() or (folder.is_dir() and any(_is_foreign(each.name) for each in folder.iterdir())):
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


def _is_foreign(name: str) -> bool:
    """Whether a file is none of those that are there before `study.json` is."""
    return not name.startswith((".", "claim."))


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Waits until no other process is changing `study.json`, and keeps others from it meanwhile."""
    clock, waited = FileClock(folder), 0.0
    while (claim := take(folder, clock)) is None:
        if waited > _LONGEST_WAIT:
            raise UserError(f"{folder}: another process is at its {STUDY_FILE} for minutes; end that one")
        time.sleep(0.1)
        waited += 0.1
    with claim:
        yield
        claim.remove()


def _check_same(folder: Path, saved: Mapping[str, Any], study: Study) -> None:
    description = _plain(study.description())
    for key, value in description.items():
        old = saved["study"].get(key)
        if old != value:
            raise UserError(
                f"{folder}: holds another study: its {key} is {_brief(old)}, not {_brief(value)}; "
                "give another --output"
            )


def _with_seeds(folder: Path, saved: Study, study: Study) -> Study:
    known = {(each.network, each.pretraining_seed): each for each in saved.weights}
    for each in study.weights:
        old = known.setdefault((each.network, each.pretraining_seed), each)
        if old.sha256 != each.sha256:
            raise UserError(
                f"{folder}: holds another study: {each.network} starts from {old.path} with SHA-256 "
                f"{old.sha256[:12]}, not {each.sha256[:12]}; give another --output"
            )
    seeds = list(dict.fromkeys([*saved.seeds, *study.seeds]))
    if set(known) - {(each.network, each.pretraining_seed) for each in saved.weights} and any(
        each.pretraining_seed is None for each in saved.weights
    ):
        raise UserError(f"{folder}: its study has no pre-training seeds; give another --output")
    return replace(study, seeds=seeds, weights=tuple(known.values()))


def _content(study: Study) -> dict[str, Any]:
    """What `study.json` holds, as it is read back."""
    return _plain(
        {
            "format": FORMAT,
            "study": study.description(),
            "seeds": list(study.seeds),
            "weights": [asdict(each) for each in study.weights],
            "data folder": study.data_dir,
            "recipe name": study.recipe_name,
            "script path": study.script.path if study.script else "",
            "gmacs": dict(study.gmacs),
            "tuning seed": TUNING_SEED,
            "command": study.command,
        }
    )


def _plain(value: dict[str, Any]) -> dict[str, Any]:
    """Through JSON, so that two sides that are compared hold lists and not tuples."""
    return dict(json.loads(json.dumps(value)))


def _study(content: Mapping[str, Any]) -> Study:
    fixed = content["study"]
    design = Design(
        name=fixed["design"],
        points=tuple(
            Point(**{**point, "components": Components(**point["components"])}) for point in fixed["networks"]
        ),
        contrasts=tuple(Contrast(**contrast) for contrast in fixed["questions"]),
        notes=tuple(fixed["notes"]),
    )
    script = fixed["training script"]
    return Study(
        design=design,
        data_name=fixed["data set"],
        data_dir=content["data folder"],
        data_fingerprint=fixed["data fingerprint"],
        recipe_name=content["recipe name"],
        recipe=fixed["recipe"],
        learning_rates=fixed["learning rates"],
        seeds=content["seeds"],
        precision=fixed["precision"],
        device=fixed["device"],
        threads=fixed["threads"],
        tuning=tuple(fixed["tuned learning rates"]),
        weights=tuple(Weights(**each) for each in content["weights"]),
        script=Script(**{**script, "path": content["script path"]}) if script else None,
        gmacs=content["gmacs"],
        command=content["command"],
    )


def _brief(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "..."
