"""Files of a hub, checked against the hashes by which it names them; every failure is one line."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, constants, get_hf_file_metadata, hf_hub_download, hf_hub_url
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from convnext_ablation.errors import UserError
from convnext_ablation.weights.integrity import check_content, is_hash, linked_hash

__all__ = ["NotThereError", "fetch", "forget", "repositories"]

_logger = logging.getLogger(__name__)
_SECONDS = 5  # for the hub to answer a first question, unless HF_HUB_ETAG_TIMEOUT says otherwise


class NotThereError(UserError):
    """The repository isn't there, or nothing of it is in the cache of a machine that is offline."""


def fetch(repository: str, file: str, cache_dir: str | Path | None = None) -> Path:
    """Fetches a file, or finds it in the hub's cache, and checks that it is the hub's.

    Args:
        repository: ``namespace/name``, with ``@revision`` if not the newest is wanted.
        file: Its path in there.
        cache_dir: Another cache than the hub's own.

    Returns:
        Its path in the cache: ``.../snapshots/<commit>/<file>``.

    Raises:
        NotThereError: There is no such repository.
        UserError: The file can't be had, or isn't what the hub says it is; such a one is removed.
    """
    with _told(repository, file):
        path = Path(_fetched(repository, file, cache_dir))
    _check(path, repository, file)
    return path


def _fetched(repository: str, file: str, cache_dir: str | Path | None) -> str:
    name, _, revision = repository.partition("@")
    place: dict[str, Any] = {"revision": revision or None, "cache_dir": cache_dir}
    if re.fullmatch("[0-9a-f]{40}", revision):
        with suppress(LocalEntryNotFoundError):  # a commit never changes: no need to ask
            return hf_hub_download(name, file, local_files_only=True, **place)
    try:
        # asked here, since the client itself waits a minute and more for a hub that doesn't answer
        get_hf_file_metadata(hf_hub_url(name, file, revision=revision or None), timeout=_patience())
    except (RevisionNotFoundError, EntryNotFoundError, HFValidationError):
        raise
    except Exception as error:  # each version of the client has errors of its own for a network that is down
        return _cached(name, file, place, error)
    return hf_hub_download(name, file, **place)


def _cached(name: str, file: str, place: dict[str, Any], error: Exception) -> str:
    """The file in the cache, where the hub can't be asked; the error, where it isn't there either."""
    try:
        path = hf_hub_download(name, file, local_files_only=True, **place)
    except LocalEntryNotFoundError:
        raise error from None
    if not isinstance(error, OfflineModeIsEnabled):
        _logger.warning("%s: taken from the cache, since the hub didn't give it (%s)", name, _reason(error))
    return path


def _patience() -> float:
    return constants.HF_HUB_ETAG_TIMEOUT if "HF_HUB_ETAG_TIMEOUT" in os.environ else _SECONDS


@contextmanager
def _told(repository: str, file: str) -> Iterator[None]:
    """Makes one line of whatever the client raises."""
    name, _, revision = repository.partition("@")
    try:
        yield
    except GatedRepoError as error:
        raise UserError(
            f"{name}: its owner has to let you in; ask at {constants.ENDPOINT}/{name}, then log in with "
            "`hf auth login` or set HF_TOKEN"
        ) from error
    except RepositoryNotFoundError as error:
        raise NotThereError(
            f"{name}: no such repository on {constants.ENDPOINT}, or a private one; check the name, and if "
            "it is private log in with `hf auth login` or set HF_TOKEN"
        ) from error
    except RevisionNotFoundError as error:
        raise UserError(f"{name}: has no revision {revision!r}; name a commit, tag or branch") from error
    except LocalEntryNotFoundError as error:
        raise UserError(f"{name}: {file} can't be had ({_reason(error)}); try again") from error
    except EntryNotFoundError as error:
        hint = "; pickles are not read, have it published as safetensors" if "safetensors" in file else ""
        raise UserError(f"{name}: has no file {file}{hint}") from error
    except OfflineModeIsEnabled as error:
        raise NotThereError(
            f"{name}: {file} isn't in the hub's cache, and HF_HUB_OFFLINE is set; load it once without that"
        ) from error
    except HFValidationError as error:
        raise UserError(f"{name!r} can't be the name of a repository; it is NAMESPACE/NAME") from error
    except Exception as error:
        raise UserError(
            f"{name}: {file} can't be had from {constants.ENDPOINT} ({_reason(error)}) and isn't in the "
            "cache; check the network and HF_ENDPOINT, and try again"
        ) from error


def _reason(error: Exception) -> str:
    text = " ".join(str(error).split())[:160]
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _check(path: Path, repository: str, file: str) -> None:
    """Checks a file of the cache against the hash that the hub names it by."""
    expected = linked_hash(path) or _asked_hash(path, repository, file)
    if expected is None:
        _logger.warning("%s: nothing says which hash %s must have; it is not checked", repository, file)
        return
    try:
        check_content(path, expected, f"{repository}: {file}")
    except UserError as error:
        forget(path)
        raise UserError(f"{error}; it was removed from the cache, so try again") from error


def _asked_hash(path: Path, repository: str, file: str) -> str | None:
    """The hash of a file in a cache without links (Windows); None if the hub can't be asked."""
    url = hf_hub_url(repository.partition("@")[0], file, revision=path.parent.name)
    with suppress(Exception):
        etag = get_hf_file_metadata(url, timeout=_patience()).etag or ""
        return etag if is_hash(etag) else None
    return None


def forget(path: Path) -> None:
    """Removes a file from the hub's cache, links and all, so that it is fetched anew."""
    links = [path]
    while links[-1].is_symlink():
        links.append(links[-1].parent / os.readlink(links[-1]))
    for link in links:
        link.unlink(missing_ok=True)


def repositories(namespace: str, model: str, cache_dir: str | Path | None = None) -> list[str]:
    """Names the repositories ``namespace/model.<tag>``, on the hub or else in its cache.

    Raises:
        UserError: The namespace can't be one.
    """
    start = f"{namespace}/{model}."
    try:
        found = [info.id for info in HfApi().list_models(author=namespace, search=f"{model}.")]
    except Exception as error:  # offline, or down
        _logger.info("%s can't be listed (%s); the cache is searched", namespace, _reason(error))
        folder = Path(cache_dir or constants.HF_HUB_CACHE)
        cached = folder.glob(f"models--{namespace}--{model}.*")
        found = [path.name.removeprefix("models--").replace("--", "/", 1) for path in cached]
    return sorted(name for name in found if name.startswith(start))
