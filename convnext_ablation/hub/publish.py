"""Releases published in a folder or on a hub, all of one or nothing; those of a study name each other."""

from __future__ import annotations

import filecmp
import os
import re
import sys
from collections.abc import Mapping
from pathlib import Path, PurePath
from typing import Any

from huggingface_hub import CommitOperationAdd, HfApi, constants, get_token
from huggingface_hub.errors import RepositoryNotFoundError
from huggingface_hub.utils.tqdm import disable_progress_bars

from convnext_ablation.errors import UserError, in_one_line
from convnext_ablation.hub.card import Sibling, recipe_of
from convnext_ablation.hub.draft import FILES, Target, target_of
from convnext_ablation.hub.finished_run import FinishedRun, read_run, saved_arguments
from convnext_ablation.study.store import RESULT, load_result
from convnext_ablation.version import __version__
from convnext_ablation.weights.download import hub_errors
from convnext_ablation.weights.release import HUB

__all__ = ["client", "into_folder", "members_of", "onto_hub", "siblings_of"]

_VARIED = ("seed", "initial_checkpoint", "pretrained_path")  # between the runs of a network


def into_folder(release: Path, folder: Path) -> str:
    """Puts a release into its folder, unless that holds something else; returns what was done, in a line."""
    held = {path.name for path in folder.iterdir()} if folder.exists() else set()
    if held and held != set(FILES):
        other = min(held - set(FILES), default="half a release")
        raise UserError(f"{folder}: holds {other}; publish into a folder of the release's own")
    if held and all(filecmp.cmp(folder / name, release / name, shallow=False) for name in FILES):
        return f"{folder} holds just this already; nothing to do"
    with in_one_line(f"{folder.parent}: can't be made"):
        folder.parent.mkdir(parents=True, exist_ok=True)
    before = release.with_name("before")
    if held:
        os.replace(folder, before)
    try:
        os.replace(release, folder)
    except BaseException:
        if held:
            os.replace(before, folder)
        raise
    return f"published {folder}"


def client() -> HfApi:
    """The hub's client, with a token."""
    if not get_token():
        raise UserError("no token for the hub; log in with `hf auth login`, or set HF_TOKEN")
    if not sys.stderr.isatty():
        disable_progress_bars()
    return HfApi(library_name="convnext_ablation", library_version=__version__)


def onto_hub(release: Path, repository: str, api: HfApi, public: bool = False) -> str:
    """Publishes a release by one commit, into a new repository or as a new revision.

    Returns:
        What was done, in a line. If it raises, the hub holds what it held before.
    """
    with hub_errors(repository):
        try:
            info = api.model_info(repository)
        except RepositoryNotFoundError:
            return f"published {HUB}{repository}@{_into_new(release, repository, api, public)}"
        others = {sibling.rfilename for sibling in info.siblings or ()} - {*FILES, ".gitattributes"}
        if others:
            raise UserError(f"{repository}: holds {min(others)}, no part of a release; take another name")
        if not info.private and not public:
            raise UserError(f"{repository}: is public; give --public to publish there")
        commit = _commit(release, repository, api, info.sha)
    if commit == info.sha:  # the client makes no commit that changes nothing
        return f"{HUB}{repository}@{commit} is just this already; nothing was sent"
    return f"published {HUB}{repository}@{commit}"


def _commit(release: Path, repository: str, api: HfApi, parent: str | None) -> str:
    commit = api.create_commit(
        repository,
        [CommitOperationAdd(name, release / name) for name in FILES],
        commit_message="Publish a release",
        parent_commit=parent,  # refused if another commit came between
    )
    return commit.oid


def _into_new(release: Path, repository: str, api: HfApi, public: bool) -> str:
    """Makes the repository, and removes it again if the commit fails; returns the commit."""
    api.create_repo(repository, private=not public)
    try:
        return _commit(release, repository, api, None)
    except BaseException:
        try:
            api.delete_repo(repository)
        except Exception:  # the hub is gone, most likely
            page = f"{constants.ENDPOINT}/{repository}"
            print(f"an empty repository may be left; remove it at {page}", file=sys.stderr)
        raise


def members_of(study: Path, to: str, tag: str, data: Path | None) -> dict[Target, FinishedRun]:
    """Reads the runs of a study that are published, and says where each goes.

    Without a tag, data set and image size are it. `data` is as of `read_run`.
    """
    runs = {network: read_run(folder, data) for network, folder in _best_runs(study).items()}
    return {target_of(f"{to}/{network}.{tag or _tag(run)}"): run for network, run in runs.items()}


def _tag(run: FinishedRun) -> str:
    size = (run.arguments.input_size or (run.arguments.img_size or 224,))[-1]
    return f"{re.sub('[^a-z0-9]+', '_', run.data.name.lower()).strip('_')}_{size}"


def _best_runs(study: Path) -> dict[str, Path]:
    """The folder of the run of each network with the best top-1 on validation, of equals the lowest seed."""
    best: dict[str, tuple[float, int, Path]] = {}
    settings: dict[str, tuple[Any, Path]] = {}
    for path in sorted(study.glob(f"runs/*/{RESULT}")):
        folder, result = path.parent, load_result(path)
        if "test_top1" not in result:  # it only tuned a learning rate
            continue
        network, seed = str(result["network"]), int(result["seed"])
        saved = recipe_of(saved_arguments(folder))
        recipe = {name: value for name, value in saved.items() if name not in _VARIED}
        known, other = settings.setdefault(network, (recipe, folder))
        if known != recipe:
            raise UserError(
                f"{folder} and {other.name} are of one network with other settings; publish one of them alone"
            )
        candidate = (-float(result["val_top1"]), seed, folder)
        best[network] = min(best.get(network, candidate), candidate)
    if not best:
        raise UserError(f"{study}: has no finished run; name the output folder of a study")
    return {network: best[network][2] for network in sorted(best)}


def siblings_of(target: Target, members: Mapping[Target, FinishedRun]) -> list[Sibling]:
    """The other networks, for the card of one."""
    others = {PurePath(other).name: run.results for other, run in members.items() if other != target}
    start = f"https://huggingface.co/{PurePath(target).parent}" if isinstance(target, str) else ".."
    return [(name, f"{start}/{name}", results) for name, results in others.items()]
