"""Files of a hub, checked against the hashes by which it names them; every failure is one line."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, ModelInfo, constants, get_hf_file_metadata, hf_hub_download, hf_hub_url
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
        _ask(name, file, revision)
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


def _ask(name: str, file: str, revision: str) -> str | None:
    """Asks the hub for a file's hash; raises whatever the client does."""
    patience = constants.HF_HUB_ETAG_TIMEOUT if "HF_HUB_ETAG_TIMEOUT" in os.environ else _SECONDS
    return get_hf_file_metadata(hf_hub_url(name, file, revision=revision or None), timeout=patience).etag


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
    with suppress(Exception):
        etag = _ask(repository.partition("@")[0], file, path.parent.name) or ""
        return etag if is_hash(etag) else None
    return None


def forget(path: Path) -> None:
    """Removes a file from the hub's cache, links and all, so that it is fetched anew."""
    links = [path]
    while links[-1].is_symlink():
        links.append(links[-1].parent / os.readlink(links[-1]))
    for link in links:
        link.unlink(missing_ok=True)


def repositories(namespace: str, models: Sequence[str], cache_dir: str | Path | None = None) -> list[str]:
    """Names the repositories ``namespace/model.<tag>``, on the hub or, if it can't be asked, in its cache.

    Args:
        namespace: The namespace.
        models: Names of networks.
        cache_dir: Another cache than the hub's own.

    Raises:
        UserError: The namespace can't be one, or the hub can't be asked and the cache has none.
    """
    with _told(f"{namespace}/{models[0]}", "what there is of it"):
        try:
            _ask(f"{namespace}/{models[0]}", "config.json", "")
        except (RepositoryNotFoundError, RevisionNotFoundError, EntryNotFoundError):
            pass  # so it does answer
        except Exception:
            found = _cached_repositories(namespace, models, cache_dir)
            if not found:
                raise
            return found
        listed = [info.id for model in models for info in _listed(namespace, model)]
    return sorted(name for name in listed if name.startswith(_starts(namespace, models)))


def _listed(namespace: str, model: str) -> Iterable[ModelInfo]:
    return HfApi().list_models(author=namespace, search=f"{model}.")


def _cached_repositories(namespace: str, models: Sequence[str], cache_dir: str | Path | None) -> list[str]:
    folders = Path(cache_dir or constants.HF_HUB_CACHE).glob("models--*--*")
    names = [path.name.removeprefix("models--").replace("--", "/", 1) for path in folders]
    return sorted(name for name in names if name.startswith(_starts(namespace, models)))


def _starts(namespace: str, models: Sequence[str]) -> tuple[str, ...]:
    return tuple(f"{namespace}/{model}." for model in models)
