"""Archives from their official homes: resumed where a download broke off, and checked by their hash."""

from __future__ import annotations

import http.client
import os
import urllib.error
import urllib.request
from pathlib import Path

from tqdm import tqdm

from convnext_ablation.data.archives import Published
from convnext_ablation.errors import UserError
from convnext_ablation.files import told_of_full_disk

__all__ = ["download"]

_BLOCK = 1 << 20
_TRIES = 5
_SECONDS = 60  # without a byte


def download(published: Published, folder: Path) -> Path:
    """Fetches an archive, unless it is there.

    Args:
        published: Says where from, and its hash.
        folder: Where it goes; while it is incomplete it is called ``<file>.part``.

    Returns:
        Its path.

    Raises:
        UserError: It can't be had, or isn't what was published.
    """
    path = folder / published.file
    if path.exists():
        return path
    folder.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.part")
    for left in reversed(range(_TRIES)):
        try:
            with told_of_full_disk(part):
                _fetch(published.url, part)
            break
        except (http.client.HTTPException, OSError) as error:  # urllib's own are OSErrors
            if not left or isinstance(error, urllib.error.HTTPError):
                raise UserError(
                    f"{published.url} can't be had ({error}); start again to go on, or fetch it yourself"
                ) from error
    try:
        published.check(part)
    except UserError:
        part.unlink()
        raise
    os.replace(part, path)
    return path


def _fetch(url: str, part: Path) -> None:
    """Fetches what is missing of a file."""
    have = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    try:
        answer = urllib.request.urlopen(request, timeout=_SECONDS)
    except urllib.error.HTTPError as error:
        if error.code == http.client.REQUESTED_RANGE_NOT_SATISFIABLE and have:
            return  # there is nothing beyond what is there
        raise
    with answer:
        goes_on = answer.status == http.client.PARTIAL_CONTENT
        have = have if goes_on else 0
        total = have + int(answer.headers.get("Content-Length", 0))
        bar = tqdm(desc=part.stem, initial=have, total=total or None, unit="B", unit_scale=True, disable=None)
        with open(part, "ab" if goes_on else "wb") as file, bar:
            while block := answer.read(_BLOCK):
                file.write(block)
                bar.update(len(block))
            if total and file.tell() < total:
                raise http.client.IncompleteRead(b"", total - file.tell())
