"""Files of a hub, fetched by its own client and checked; every failure is one line."""

from __future__ import annotations

import hashlib
import logging
import os
import re
from collections.abc import Iterator, Sequence
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
from safetensors import SafetensorError, safe_open

from convnext_ablation.errors import UserError, first_line
from convnext_ablation.files import sha256_of

__all__ = ["NotThereError", "check_hash", "check_safetensors", "fetch", "hub_errors", "repositories"]

_logger = logging.getLogger(__name__)
_CLASSIFIERS = ("head.fc.weight", "head.weight", "fc.weight")  # ours and timm's, ConvNeXt's, torchvision's


# what the client raises, the first that fits; of the rest, of its HTTP library too, the reason is told
_LOG_IN = "log in with `hf auth login` or set HF_TOKEN"
_TOLD: tuple[tuple[type[Exception], str], ...] = (
    (GatedRepoError, f"its owner has to let you in: ask on its page at {{hub}}, then {_LOG_IN}"),
    (
        RepositoryNotFoundError,
        f"no such repository on {{hub}}, or a private one: check the name, or {_LOG_IN}",
    ),
    (RevisionNotFoundError, "no such revision; name a commit, tag or branch"),
    (HFValidationError, "can't be the name of a repository; it is NAMESPACE/NAME"),
    (LocalEntryNotFoundError, ""),
    (EntryNotFoundError, "no such file; pickles are not read, have the weights published as safetensors"),
)


class NotThereError(UserError):
    """The repository isn't there, or nothing of it is in the cache of a machine that is offline."""


@contextmanager
def hub_errors(what: str) -> Iterator[None]:
    """Makes one line of whatever the hub's client raises.

    Args:
        what: What is asked for, a repository first.

    Raises:
        UserError: Something was raised; a `NotThereError` if there is no such repository.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        if constants.HF_HUB_OFFLINE and isinstance(error, (LocalEntryNotFoundError, OfflineModeIsEnabled)):
            hint = "not in the hub's cache, and HF_HUB_OFFLINE is set; unset it to ask the hub"
            raise NotThereError(f"{what}: {hint}") from error
        told = next((told for kind, told in _TOLD if isinstance(error, kind)), "") or _reason(error)
        missing = isinstance(error, RepositoryNotFoundError) and not isinstance(error, GatedRepoError)
        kind = NotThereError if missing else UserError
        raise kind(f"{what}: {told.replace('{hub}', constants.ENDPOINT)}") from error


def _reason(error: BaseException) -> str:
    """What the client says went wrong, in a line, and what to do.

    Its HTTP library was requests, then httpx, then httpx2, so its errors can't be named.
    """
    while error.__cause__ is not None and not hasattr(error, "response"):
        error = error.__cause__
    status = getattr(getattr(error, "response", None), "status_code", None)
    hint = {
        401: "the token is not valid: log in with `hf auth login`",
        403: "the token may not do that: take a namespace and a token that may",
    }.get(status or 0, "check the network and HF_ENDPOINT, and try again")
    reason = " ".join(str(error).split())[:200] or type(error).__name__  # the hub's words are on later lines
    return f"{{hub}} refused or can't be reached ({reason}); {hint}"


def fetch(repository: str, file: str, cache_dir: str | Path | None = None, sha256: str | None = None) -> Path:
    """Fetches a file, or finds it in the hub's cache, and checks it.

    Args:
        repository: ``namespace/name``, with ``@revision`` if not the newest is wanted.
        file: Its path in there.
        cache_dir: Another cache than the hub's own.
        sha256: What it must be; None for the hash by which the hub names it.

    Returns:
        Its path in the cache: ``.../snapshots/<commit>/<file>``.

    Raises:
        NotThereError: There is no such repository.
        UserError: The file can't be had, or is another; such a one is removed from the cache.
    """
    name, _, revision = repository.partition("@")
    with hub_errors(f"{repository}: {file}"):
        path = Path(hf_hub_download(name, file, revision=revision or None, cache_dir=cache_dir))
    expected = sha256 or _hash_on_hub(path, name, file)
    if expected is None:
        _logger.warning("%s: nothing says which hash %s must have; it is not checked", repository, file)
        return path
    try:
        check_hash(path, expected, f"{repository}: {file}")
    except UserError as error:
        _forget(path)
        raise UserError(f"{error}; it was removed from the cache, so try again") from error
    return path


def _hash_on_hub(path: Path, name: str, file: str) -> str | None:
    """The hash by which the hub names a file; None if that can't be found out.

    A path in the cache links to a file of that name; in a cache without links (Windows), the hub is asked.
    """
    etag: str | None = os.path.basename(os.readlink(path)) if path.is_symlink() else None
    if etag is None:
        with suppress(Exception):
            etag = get_hf_file_metadata(hf_hub_url(name, file, revision=path.parent.name)).etag
    return etag if etag and re.fullmatch("[0-9a-f]{64}|[0-9a-f]{40}", etag) else None


def _forget(path: Path) -> None:
    """Removes a file from the hub's cache, links and all, so that it is fetched anew."""
    links = [path]
    while links[-1].is_symlink():
        links.append(links[-1].parent / os.readlink(links[-1]))
    for link in links:
        link.unlink(missing_ok=True)


def check_hash(path: Path, expected: str, name: str) -> None:
    """Checks a file against a hash.

    Args:
        path: The file.
        expected: SHA-256 in hex, or git's SHA-1, by which hubs name small files.
        name: How the message calls it.

    Raises:
        UserError: It is another file.
    """
    if len(expected) == 64:
        found = sha256_of(path)
    else:
        content = path.read_bytes()
        found = hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()
    if found != expected:
        raise UserError(
            f"{name}: refused: its hash is {found[:12]}..., published is {expected[:12]}...; the file is "
            "damaged or not the one that was published"
        )


def check_safetensors(path: Path, name: str, num_classes: int | None = None) -> None:
    """Checks that a file is safetensors and whole, which a pickle is not; nothing in it is executed.

    Raises:
        UserError: It isn't, or its classifier is of another number of classes.
    """
    try:
        with safe_open(path, framework="pt") as file:
            keys: Any = file.keys()
            classifier = next((key for key in _CLASSIFIERS if key in keys), None)
            found = file.get_slice(classifier).get_shape()[0] if classifier else num_classes
    except SafetensorError as error:
        raise UserError(
            f"{name}: refused: not a safetensors file, or a damaged one ({first_line(error)}); have it "
            "published again"
        ) from error
    if num_classes not in (None, found):
        raise UserError(
            f"{name}: has {found} classes, its config says {num_classes}; have it published again"
        )


def repositories(namespace: str, models: Sequence[str], cache_dir: str | Path | None = None) -> list[str]:
    """Names the repositories ``namespace/model.<tag>``, on the hub or, if it can't be asked, in its cache.

    Raises:
        UserError: The hub can't be asked and the cache has none.
    """
    starts = tuple(f"{namespace}/{model}." for model in models)
    try:
        with hub_errors(f"{namespace}/{models[0]}"):
            listed = [HfApi().list_models(author=namespace, search=f"{model}.") for model in models]
            names = [info.id for infos in listed for info in infos]
    except UserError:
        folders = Path(cache_dir or constants.HF_HUB_CACHE).glob("models--*--*")
        names = [path.name.removeprefix("models--").replace("--", "/", 1) for path in folders]
        if not any(name.startswith(starts) for name in names):
            raise
    return sorted(name for name in names if name.startswith(starts))
