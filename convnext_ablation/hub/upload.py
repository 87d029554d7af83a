"""A release put on a hub by one commit; nothing stays of a first publication that fails."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from huggingface_hub import CommitOperationAdd, HfApi, ModelInfo, constants, get_token
from huggingface_hub.errors import HFValidationError, RepositoryNotFoundError
from huggingface_hub.utils.tqdm import disable_progress_bars

from convnext_ablation.errors import UserError
from convnext_ablation.hub.publish import FILES, Draft
from convnext_ablation.version import __version__
from convnext_ablation.weights.release import WEIGHTS

__all__ = ["client", "log_in", "onto_hub", "told"]

_MADE_BY_HUB = {".gitattributes"}


def client() -> HfApi:
    """The hub's client."""
    return HfApi(library_name="convnext_ablation", library_version=__version__)


def log_in(api: HfApi) -> None:
    """Checks that there is a token and that the hub takes it.

    Raises:
        UserError: There is none, it is refused, or the hub can't be asked.
    """
    if not get_token():
        raise UserError(
            "no token for the hub; log in with `hf auth login`, or set HF_TOKEN, and publish again"
        )
    with told(api.endpoint):
        api.whoami()


@contextmanager
def told(what: str) -> Iterator[None]:
    """Makes one line of whatever the client raises: its errors, and those of its HTTP library.

    That library was requests, then httpx, then httpx2, so its errors can't be named.

    Raises:
        UserError: Something was raised.
    """
    try:
        yield
    except UserError:
        raise
    except HFValidationError as error:
        raise UserError(f"{what}: can't be the name of a repository; it is NAMESPACE/NAME") from error
    except Exception as error:
        reason, status = _told_by(error)
        hint = {
            401: "; the token is not valid: log in with `hf auth login`",
            403: "; the token may not write there: take a namespace and a token that may",
        }.get(status or 0, "")
        raise UserError(
            f"{what}: {constants.ENDPOINT} refused or can't be reached: {reason}{hint}"
        ) from error


def _told_by(error: BaseException) -> tuple[str, int | None]:
    """What the client says went wrong, in a line, and the HTTP status that the hub answered, if it did."""
    if isinstance(error, RuntimeError) and error.__cause__ is not None:  # "error while uploading"
        error = error.__cause__
    status = getattr(getattr(error, "response", None), "status_code", None)
    return " ".join(str(error).split())[:200] or type(error).__name__, status


def onto_hub(draft: Draft, api: HfApi, public: bool = False) -> str:
    """Publishes a release by one commit, into a new repository or as a new revision.

    Args:
        draft: The release.
        api: The hub's client, logged in.
        public: Make a new repository public.

    Returns:
        What was done, in a line.

    Raises:
        UserError: It could not be published; the hub holds what it held before.
    """
    repository = draft.target.repository
    if not sys.stderr.isatty():
        disable_progress_bars()
    with told(repository):
        info = _information(api, repository)
        if info is None:
            return f"published hf-hub:{repository}@{_into_new(draft, api, public)}"
        _check(info, repository, public)
        if _hashes_there(info) == _hashes(draft):
            return f"hf-hub:{repository}@{info.sha} is just this already; nothing was sent"
        return f"published hf-hub:{repository}@{_commit(draft, api, info.sha)}"


def _information(api: HfApi, repository: str) -> ModelInfo | None:
    """What is in a repository; None if there is no such repository."""
    try:
        return api.model_info(repository, files_metadata=True)
    except RepositoryNotFoundError:
        return None


def _check(info: ModelInfo, repository: str, public: bool) -> None:
    """Checks that a repository can take a release.

    Raises:
        UserError: Something else is in it, or others can read it and weren't meant to.
    """
    others = sorted(set(_hashes_there(info)) - set(FILES))
    if others:
        raise UserError(
            f"{repository}: holds {others[0]}, which is no part of a release; take another name, or remove it"
        )
    if not info.private and not public:
        raise UserError(f"{repository}: is public; give --public to publish there")


def _hashes_there(info: ModelInfo) -> dict[str, str]:
    """SHA-256 of the large files of a repository, git's hash of the others."""
    return {
        sibling.rfilename: str(sibling.lfs.sha256 if sibling.lfs else sibling.blob_id)
        for sibling in info.siblings or ()
        if sibling.rfilename not in _MADE_BY_HUB
    }


def _hashes(draft: Draft) -> dict[str, str]:
    """The same of a release's files."""
    hashes = {WEIGHTS: draft.config["weights"]["sha256"]}
    for name in set(FILES) - {WEIGHTS}:
        content = (draft.folder / name).read_bytes()
        whole = b"blob %d\0" % len(content) + content
        hashes[name] = hashlib.sha1(whole, usedforsecurity=False).hexdigest()
    return hashes


def _commit(draft: Draft, api: HfApi, parent: str | None) -> str:
    commit = api.create_commit(
        draft.target.repository,
        [CommitOperationAdd(name, draft.folder / name) for name in FILES],
        commit_message=f"Publish {draft.target.name}, epoch {draft.run.best.epoch}",
        parent_commit=parent,  # refused if another commit came between
    )
    return commit.oid


def _into_new(draft: Draft, api: HfApi, public: bool) -> str:
    """Makes the repository, and removes it again if the commit fails.

    Returns:
        The commit.
    """
    repository = draft.target.repository
    api.create_repo(repository, private=not public)
    try:
        return _commit(draft, api, None)
    except BaseException as error:
        try:
            info = _information(api, repository)
            if info is not None and _hashes_there(info) == _hashes(draft):  # just its answer was lost
                return str(info.sha)
            if info is not None:
                api.delete_repo(repository)
        except Exception:  # the hub is gone, most likely
            left = f"an empty repository may be left; remove it at {constants.ENDPOINT}/{repository}"
        else:
            left = "nothing is left of it there"
        if not isinstance(error, Exception):
            print(f"{repository}: not published; {left}", file=sys.stderr)
            raise
        raise UserError(f"{repository}: not published ({_told_by(error)[0]}); {left}") from error
