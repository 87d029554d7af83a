"""Releases published in a folder or on a hub, all of one or nothing; a whole study's tied together."""

from __future__ import annotations

import filecmp
import os
import re
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import CommitOperationAdd, HfApi, constants, get_token
from huggingface_hub.errors import RepositoryNotFoundError
from huggingface_hub.utils.tqdm import disable_progress_bars

from convnext_ablation.errors import UserError
from convnext_ablation.files import write_text
from convnext_ablation.hub.card import Sibling, recipe_of
from convnext_ablation.hub.draft import CARD, FILES, Draft, Target
from convnext_ablation.hub.finished_run import FinishedRun, Which, read_run, saved_arguments
from convnext_ablation.page import render
from convnext_ablation.study.store import RESULT, load_result
from convnext_ablation.version import __version__
from convnext_ablation.weights.download import hub_errors
from convnext_ablation.weights.release import HUB

__all__ = [
    "RULE",
    "Member",
    "client",
    "into_folder",
    "members_of",
    "onto_hub",
    "siblings_of",
    "tie",
]

_VARIED = ("seed", "initial_checkpoint", "pretrained_path")  # between the runs of a network
RULE = "of each network, the run with the best top-1 on validation, of equals the one with the lowest seed"


def into_folder(draft: Draft) -> str:
    """Puts a release into its folder; returns what was done, in a line.

    Raises:
        UserError: The folder holds something else.
    """
    assert draft.target.folder is not None
    folder = draft.target.folder.resolve()
    held = {path.name for path in folder.iterdir()} if folder.exists() else set()
    if not held:
        os.replace(draft.folder, folder)
        return f"published {folder}"
    if held != set(FILES):
        raise UserError(
            f"{folder}: holds {', '.join(sorted(held - set(FILES))[:3]) or 'half a release'}; "
            "publish into a folder of the release's own"
        )
    if all(filecmp.cmp(folder / name, draft.folder / name, shallow=False) for name in FILES):
        return f"{folder} holds just this already; nothing to do"
    before = draft.folder.with_name("before")
    os.replace(folder, before)
    try:
        os.replace(draft.folder, folder)
    except BaseException:
        os.replace(before, folder)
        raise
    shutil.rmtree(before, ignore_errors=True)
    return f"published {folder} anew, in place of what it held"


def client() -> HfApi:
    """The hub's client.

    Raises:
        UserError: There is no token.
    """
    if not get_token():
        raise UserError(
            "no token for the hub; log in with `hf auth login`, or set HF_TOKEN, and publish again"
        )
    if not sys.stderr.isatty():
        disable_progress_bars()
    return HfApi(library_name="convnext_ablation", library_version=__version__)


def onto_hub(draft: Draft, api: HfApi, public: bool = False) -> str:
    """Publishes a release by one commit, into a new repository or as a new revision.

    Returns:
        What was done, in a line.

    Raises:
        UserError: It could not be published; the hub holds what it held before.
    """
    repository = draft.target.repository
    with hub_errors(repository):
        try:
            info = api.model_info(repository)
        except RepositoryNotFoundError:
            return f"published {HUB}{repository}@{_into_new(draft, api, public)}"
        others = {sibling.rfilename for sibling in info.siblings or ()} - {*FILES, ".gitattributes"}
        if others:
            raise UserError(
                f"{repository}: holds {min(others)}, which is no part of a release; take another name, or "
                "remove it"
            )
        if not info.private and not public:
            raise UserError(f"{repository}: is public; give --public to publish there")
        commit = _commit(draft, api, info.sha)
    if commit == info.sha:  # the client makes no commit that changes nothing
        return f"{HUB}{repository}@{commit} is just this already; nothing was sent"
    return f"published {HUB}{repository}@{commit}"


def _commit(draft: Draft, api: HfApi, parent: str | None) -> str:
    commit = api.create_commit(
        draft.target.repository,
        [CommitOperationAdd(name, draft.folder / name) for name in FILES],
        commit_message=f"Publish {draft.target.name}, epoch {draft.run.best.epoch}",
        parent_commit=parent,  # refused if another commit came between
    )
    return commit.oid


def _into_new(draft: Draft, api: HfApi, public: bool) -> str:
    """Makes the repository, and removes it again if the commit fails; returns the commit."""
    repository = draft.target.repository
    api.create_repo(repository, private=not public)
    try:
        with hub_errors(repository):
            return _commit(draft, api, None)
    except BaseException as error:
        try:
            api.delete_repo(repository)
            left = "nothing is left of it there"
        except Exception:  # the hub is gone, most likely
            left = f"an empty repository may be left; remove it at {constants.ENDPOINT}/{repository}"
        if not isinstance(error, UserError):
            print(f"{repository}: not published; {left}", file=sys.stderr)
            raise
        raise UserError(f"{error}; not published, {left}") from error


@dataclass(frozen=True)
class Member:
    """A run, alone or of a study, and where its release goes."""

    run: FinishedRun
    target: Target

    @property
    def is_found(self) -> bool:
        """Whether `pretrained=True` finds it, as ``MODEL.TAG``."""
        return self.target.name.startswith(f"{self.run.arguments.model.partition('.')[0]}.")


def members_of(study: Path, to: str, tag: str, which: Which, data: Path | None) -> list[Member]:
    """Reads the runs of a study that are published, and says where each goes.

    Args:
        study: The study's folder.
        to: Namespace on the hub, or a path.
        tag: What stands behind the networks' names; empty for the data set and the size of its images.
        which: Which weights.
        data: Folder of the data set, if it isn't where the study had it.

    Raises:
        UserError: A run can't be read, or the name is neither.
    """
    to_hub = bool(re.fullmatch(rf"({HUB})?[A-Za-z0-9][\w.-]*", to))
    if to_hub and not to.startswith(HUB) and Path(to).is_dir():
        raise UserError(f"{to}: write ./{to} for the folder, or {HUB}{to} for the namespace")
    namespace, members = to.removeprefix(HUB), []
    for network, folder in _best_runs(study).items():
        run = read_run(folder, which, data)
        name = f"{network}.{tag or _tag(run)}"
        target = Target(f"{namespace}/{name}") if to_hub else Target(folder=Path(to).expanduser() / name)
        members.append(Member(run, target))
    return members


def _tag(run: FinishedRun) -> str:
    size = (run.arguments.input_size or (run.arguments.img_size or 224,))[-1]
    return f"{re.sub('[^a-z0-9]+', '_', run.data.name.lower()).strip('_')}_{size}"


def _best_runs(study: Path) -> dict[str, Path]:
    """The folder of the run of each network that is published, by `RULE`; never by the test.

    Raises:
        UserError: There is no finished run, or some of a network were trained otherwise than others.
    """
    best: dict[str, tuple[float, int, Path]] = {}
    settings: dict[str, tuple[Any, Path]] = {}
    for path in sorted(study.glob(f"runs/*/{RESULT}")):
        folder, result = path.parent, load_result(path)
        if "test_top1" not in result:  # it only tuned a learning rate
            continue
        network, seed = str(result["network"]), int(result["seed"])
        recipe = {
            name: value for name, value in recipe_of(saved_arguments(folder)).items() if name not in _VARIED
        }
        known, other = settings.setdefault(network, (recipe, folder))
        if known != recipe:
            raise UserError(
                f"{folder} and {other.name} are of the same network with other settings; remove what is no "
                "part of the study, or publish the runs one by one"
            )
        candidate = (-float(result["val_top1"]), seed, folder)
        best[network] = min(best.get(network, candidate), candidate)
    if not best:
        raise UserError(f"{study}: has no finished run; name the output folder of a study")
    return {network: best[network][2] for network in sorted(best)}


def siblings_of(member: Member, members: Sequence[Member]) -> list[Sibling]:
    """The other networks, for a network's card."""
    others = [other for other in members if other is not member]
    return [(other.target.name, other.target.link, other.run.results) for other in others]


def tie(study: str, members: Sequence[Member], api: HfApi | None, public: bool) -> str:
    """Ties the releases of a study together: by a collection on the hub, or a card beside their folders.

    Returns:
        What was done, in a line.

    Raises:
        UserError: The hub refuses.
    """
    first = members[0].target
    if api is None:
        assert first.folder is not None
        path = first.folder.parent / CARD
        write_text(path, render("study_card.md", study=study, rule=RULE, members=members))
        return f"wrote {path}"
    namespace = first.repository.partition("/")[0]
    about = f"Networks of one study, {len(members)} in all; {RULE.partition(',')[0]} one run"
    with hub_errors(f"the collection {study} of {namespace}"):
        collection = api.create_collection(
            study[:59], namespace=namespace, description=about[:150], private=not public, exists_ok=True
        )
        for member in members:
            note = next((f"{result.split}: top-1 {result.percent} %" for result in member.run.results), None)
            api.add_collection_item(
                collection.slug, member.target.repository, "model", note=note, exists_ok=True
            )
    return f"they are in the collection {collection.slug}"
