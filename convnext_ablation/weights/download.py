"""Downloads and verifies files from a hub; every failure is a one-line error."""

from __future__ import annotations

import errno
import hashlib
import logging
import os
import re
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, wait
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

from huggingface_hub import (
    HfApi,
    constants,
    get_hf_file_metadata,
    get_token,
    hf_hub_download,
    hf_hub_url,
    try_to_load_from_cache,
)
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
)
from huggingface_hub.utils import get_session, hf_raise_for_status  # type: ignore[attr-defined]
from safetensors import SafetensorError, safe_open

from convnext_ablation.errors import UserError, first_line, system_error
from convnext_ablation.files import below, check_name, check_path, sha256_of

T = TypeVar("T")
_MOST = 1000  # maximum number of listed releases of a network
# seconds to wait for an answer, and minimum bytes per second of a download over that time
_SECONDS, _SLOWEST = 60.0, 1024
_SLOWEST_SENT = 64 << 10  # bytes per second; slower uploads are given up
_LONGEST_WAIT = 600  # seconds; hubs count requests per five minutes
_logger = logging.getLogger(__name__)
_CLASSIFIERS = ("head.fc.weight", "head.weight", "fc.weight")  # ours and timm's, ConvNeXt's, torchvision's


@contextmanager
def hub_errors(what: str) -> Iterator[None]:
    """Converts any exception of the hub's client to a `UserError` about `what`."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        if isinstance(error, OSError) and (error.filename or error.errno in (errno.ENOSPC, errno.EDQUOT)):
            raise system_error(error, constants.HF_HUB_CACHE) from error  # not a network error
        told = (HfHubHTTPError, HFValidationError, OfflineModeIsEnabled)
        cause: BaseException = error
        while cause.__cause__ is not None and not isinstance(cause, told):
            cause = cause.__cause__
        reason = " ".join(str(cause).partition("For more details")[0].split()) or type(cause).__name__
        reason = re.sub(r" for url: \S+", "", reason)  # redundant with `what`
        if not isinstance(cause, told):  # from the HTTP library, which depends on the client's version
            reason = f"{constants.ENDPOINT} can't be reached ({reason}); check the network and HF_ENDPOINT"
        elif isinstance(cause, HfHubHTTPError):
            reason = _explained(cause) or reason
        raise UserError(f"{what}: {reason}") from error


def _explained(error: HfHubHTTPError) -> str | None:
    """Advice for HTTP errors that the client doesn't explain; None for others."""
    if isinstance(error, GatedRepoError):
        login = "" if get_token() else "log in with `hf auth login` and "
        return f"the repository is gated; {login}ask for access on its page at {constants.ENDPOINT}"
    status = getattr(error.response, "status_code", None)
    if status == 401 and get_token():
        return (
            f"{constants.ENDPOINT} refuses the token, which may have expired; log in again with "
            "`hf auth login`, or unset HF_TOKEN for what is public"
        )
    if status == 429:
        seconds = _seconds_to_wait(error)
        when = "later" if seconds is None else f"in {seconds} seconds"
        return f"{constants.ENDPOINT} has had too many requests; try again {when}"
    return None


def asked(ask: Callable[[], T], folder: Path | None = None, sends: int = 0) -> T:
    """Sends a request by `in_time`; if rate-limited, waits as long as the hub says and retries once."""
    try:
        return in_time(ask, folder, sends)
    except HfHubHTTPError as error:
        seconds = _seconds_to_wait(error)
        if seconds is None or seconds > _LONGEST_WAIT:
            raise
        _logger.warning("%s has had too many requests; waiting %d s", constants.ENDPOINT, seconds)
        time.sleep(seconds)
    return in_time(ask, folder, sends)


def _seconds_to_wait(error: HfHubHTTPError) -> int | None:
    """Seconds that a rate-limiting hub asks to wait; None if it doesn't say."""
    if getattr(error.response, "status_code", None) != 429:
        return None
    headers = error.response.headers
    said = f"{headers.get('Retry-After', '')};{headers.get('RateLimit', '')}"
    found = re.match(r"(\d+);", said) or re.search(r";t=(\d+)", said)
    return int(found[1]) if found else None


def fetch(repository: str, file: str, cache_dir: str | Path | None = None, sha256: str | None = None) -> Path:
    """Downloads a file, or finds it in the hub's cache, and verifies its hash.

    Args:
        repository: ``namespace/name``, optionally with ``@revision``.
        file: Path in the repository.
        cache_dir: Cache folder; by default the hub's.
        sha256: Expected hash; None takes the hash given by the hub.

    Returns:
        The path in the cache, ``.../snapshots/<commit>/<file>``; a file with another hash is deleted.
    """
    name, _, revision = repository.partition("@")
    at, what = revision or None, f"{repository}: {file}"
    for said in (file, at or "main"):
        check_path(said, name)
    cache = Path(cache_dir or constants.HF_HUB_CACHE)
    with hub_errors(what):
        cached = isinstance(try_to_load_from_cache(name, file, cache, at), str)
        offline = cached and bool(re.fullmatch("[0-9a-f]{40}", revision))
        offline = offline or not _answers(name, hf_hub_url(name, file, revision=at), cached)
        get = partial(hf_hub_download, name, file, revision=at, cache_dir=cache, local_files_only=offline)
        blobs = cache / f"models--{name.replace('/', '--')}" / "blobs"
        path = Path(asked(get, blobs))
    home = path.parents[len(Path(file).parts) + 1]  # the repository's folder in the cache
    try:
        below(home, path.relative_to(home).as_posix(), what)
    except UserError:
        path.unlink(missing_ok=True)
        raise
    expected = sha256 or _hash_on_hub(path, name, file)
    if expected is None:
        _logger.warning("%s: nothing says which hash %s must have; it is not checked", repository, file)
        return path
    try:
        check_hash(path, expected, what)
    except UserError as error:
        path.resolve().unlink(missing_ok=True)  # the link's target too, to force a new download
        path.unlink(missing_ok=True)
        raise UserError(f"{error}; it was removed from the cache, so try again") from error
    return path


def in_time(ask: Callable[[], T], folder: Path | None = None, sends: int = 0) -> T:
    """Runs a hub request with an overall time limit, which the hub's client lacks.

    Args:
        ask: The request.
        folder: Download folder; the limit is extended while its files grow.
        sends: Size of an upload in bytes, which extends the limit.

    Raises:
        TimeoutError: No data arrived for a while, or the upload took too long.
    """
    future: Future[T] = Future()

    def answer() -> None:
        try:
            with _limits_raised():
                future.set_result(ask())
        except BaseException as error:
            future.set_exception(error)

    had = _size(folder)
    threading.Thread(target=answer, daemon=True).start()
    # during an upload, the client itself may wait for a rate limit
    seconds = _LONGEST_WAIT + sends / _SLOWEST_SENT if sends else _SECONDS
    while not wait([future], seconds).done:
        if sends:
            raise TimeoutError(f"{sends:,} bytes were not sent in {seconds:.0f} s")
        has = _size(folder)
        if has < had + _SECONDS * _SLOWEST:
            raise TimeoutError(f"less than {_SLOWEST} bytes a second for {_SECONDS:.0f} s")
        had = has
    return future.result()


@contextmanager
def _limits_raised() -> Iterator[None]:
    """Makes the client raise at once in this thread when the hub limits its rate.

    By default the client sleeps silently, possibly for longer than the limit of `in_time`.
    """
    thread = threading.get_ident()

    def note(response: Any) -> None:
        if response.status_code == 429 and threading.get_ident() == thread:
            hf_raise_for_status(response)

    hooks = getattr(get_session(), "event_hooks", {}).get("response", [])  # older clients don't sleep
    hooks.append(note)
    try:
        yield
    finally:
        hooks.remove(note)


def _size(folder: Path | None) -> int:
    size = 0
    for path in folder.glob("*") if folder else ():
        with suppress(OSError):  # just renamed
            size += path.stat().st_size
    return size


def _answers(name: str, url: str, cached: bool) -> bool:
    """Whether a hub has a file, by a single request; a download would retry for minutes.

    The client's cache names files by the ETag and commit in the answer, so these are validated first.
    """
    ask = partial(get_hf_file_metadata, url, timeout=constants.HF_HUB_ETAG_TIMEOUT)
    try:
        answer = in_time(ask) if cached else asked(ask)
    except EntryNotFoundError:
        raise
    except Exception:
        if cached:
            return False
        raise
    now = urlsplit(answer.location).path.partition("/resolve/")[0].strip("/")
    if now.lower() != name.lower() and answer.location.startswith(constants.ENDPOINT):
        _logger.warning("%s is called %s now; use that name", name, now)
    for said in (answer.etag, answer.commit_hash):
        if said is not None:
            check_name(said, f"{url}: the hub's name of the file")
    return True


def _hash_on_hub(path: Path, name: str, file: str) -> str | None:
    """The hub's hash of a file; None if unknown.

    The cached path links to a file named by the hash; in a cache without links (Windows), the hub is asked.
    """
    etag: str | None = os.path.basename(os.readlink(path)) if path.is_symlink() else None
    if etag is None:
        with suppress(Exception):
            etag = get_hf_file_metadata(hf_hub_url(name, file, revision=path.parent.name)).etag
    return etag if etag and re.fullmatch("[0-9a-f]{64}|[0-9a-f]{40}", etag) else None


def check_hash(path: Path, expected: str, name: str) -> None:
    """Raises a `UserError` unless a file has the expected SHA-256 or, for small files of hubs, git SHA-1."""
    if len(expected) == 64:
        found = sha256_of(path)
    else:
        content = path.read_bytes()
        found = hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()
    if found != expected:
        hashes = f"its hash is {found[:12]}..., published is {expected[:12]}..."
        raise UserError(f"{name}: refused: {hashes}; it is damaged, or not the one that was published")


def check_safetensors(path: Path, name: str, num_classes: int | None = None) -> None:
    """Raises a `UserError` for a pickle, a damaged file or another number of classes; executes nothing."""
    try:
        with safe_open(path, framework="pt") as file:
            classifier = next((key for key in _CLASSIFIERS if key in set(file.keys())), None)
            found = file.get_slice(classifier).get_shape()[0] if classifier else num_classes
    except SafetensorError as error:
        reason = f"not a safetensors file, or a damaged one ({first_line(error)})"
        raise UserError(f"{name}: refused: {reason}; have it published again") from error
    if num_classes not in (None, found):
        raise UserError(f"{name}: has {found} classes, its config says {num_classes}; publish it again")


def releases_on_hub(namespace: str, model: str, cache_dir: str | Path | None = None) -> list[str]:
    """Lists the releases of a network, ``model.<tag>``, on the hub or, if unreachable, in its cache."""
    name, api = f"{namespace}/{model}", HfApi()
    start = f"{name}.".lower()  # hubs ignore case
    try:
        with hub_errors(name):
            with suppress(RepositoryNotFoundError):  # unlike a listing, this request reports rate limits
                asked(lambda: api.model_info(name))
            ask = partial(api.list_models, author=namespace, search=f"{model}.", limit=_MOST)
            names = [info.id for info in asked(lambda: list(ask()))]
    except UserError:
        folders = Path(cache_dir or constants.HF_HUB_CACHE).glob("models--*--*")
        names = [path.name.removeprefix("models--").replace("--", "/", 1) for path in folders]
        if not any(name.lower().startswith(start) for name in names):
            raise
    return sorted({name.partition("/")[2] for name in names if name.lower().startswith(start)})
