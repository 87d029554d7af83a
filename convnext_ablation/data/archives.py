"""Downloads official archives, and lists the files of a data set in a folder or an archive."""

from __future__ import annotations

import hashlib
import http.client
import os
import re
import shutil
import time
import unicodedata
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from convnext_ablation.console import Progress
from convnext_ablation.data.packed import list_archive
from convnext_ablation.data.walk import Piece, files_below, piece_of
from convnext_ablation.errors import UserError
from convnext_ablation.files import locked

_BLOCK = 1 << 20
_SECONDS = 60  # socket timeout, and the interval over which the download speed is checked
_SLOWEST = 1024  # bytes per second; slower downloads are given up
_MOST = 512 << 30  # bytes of an archive; ImageNet's has 138 GiB


@dataclass(frozen=True)
class Published:
    """An archive as published by the authors of a data set."""

    file: str
    url: str  # empty if it requires a login
    digest: str  # SHA-256 or MD5, in hex
    unpacked: str = ""  # its top-level folder, if it has one
    only_for: str = ""  # the option that needs it; empty if always needed

    def check(self, path: Path) -> None:
        """Raises a `UserError` if a file isn't this archive."""
        digest = hashlib.new("md5" if len(self.digest) == 32 else "sha256")
        with open(path, "rb") as file, Progress(path.name, path.stat().st_size, "B") as progress:
            while block := file.read(_BLOCK):
                digest.update(block)
                progress.update(len(block))
        if digest.hexdigest() != self.digest:
            raise UserError(
                f"{path} is not the published {self.file} ({digest.name} {digest.hexdigest()[:12]}..., not "
                f"{self.digest[:12]}...); download it again, or say --unofficial if you mean another one"
            )

    def download(self, folder: Path) -> Path:
        """Downloads and checks the archive unless it is in `folder`; a partial download ends in ``.part``."""
        path = folder / self.file
        if not path.exists():
            with locked(folder / f".{self.file}.lock", f"{path}: another process downloads it", wait=True):
                if not path.exists():
                    self._download(path)
        return path

    def _download(self, path: Path) -> None:
        part = path.with_name(f"{path.name}.part")
        try:
            _fetch(self.url, part)
        except (http.client.HTTPException, OSError) as error:  # urllib's errors are OSErrors
            raise UserError(
                f"{self.url} can't be downloaded ({error}); run the same command to resume"
            ) from error
        try:
            self.check(part)
        except UserError:
            part.unlink()
            raise
        os.replace(part, path)


def published_at(url: str, **archives: Sequence[str]) -> dict[str, Published]:
    """Describes archives of one site, by option: file, digest, folder (by default ``x`` of ``x.tgz``), ...

    The file name is appended to `url`, which is empty if the site requires a login.
    """
    found = {}
    for which, (file, digest, *rest) in archives.items():
        own = re.fullmatch(r"(.*)\.(tgz|tar\.gz)", file)
        found[which] = Published(file, url and url + file, digest, *(rest or [own[1] if own else ""]))
    return found


def _fetch(url: str, part: Path) -> None:
    """Downloads a file, or the rest of a partial one."""
    have = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    try:
        answer = urllib.request.urlopen(request, timeout=_SECONDS)
    except urllib.error.HTTPError as error:
        if error.code == http.client.REQUESTED_RANGE_NOT_SATISFIABLE and have:
            return  # already complete
        raise
    with answer, Progress(part.stem, unit="B") as progress:
        resumed = answer.status == http.client.PARTIAL_CONTENT
        have = have if resumed else 0
        total = have + (answer.length or 0)  # length is None if not announced
        most = min(_MOST, have + shutil.disk_usage(part.parent).free)
        progress.begin(total, have)
        since, then = time.monotonic(), have
        with open(part, "ab" if resumed else "wb") as file:
            while block := answer.read1(_BLOCK) if max(total, have) <= most else b"":
                file.write(block)
                have += len(block)
                progress.update(len(block))
                if time.monotonic() > since + _SECONDS:
                    if have - then < _SLOWEST * _SECONDS:
                        raise TimeoutError(f"less than {_SLOWEST} bytes a second for {_SECONDS} s")
                    since, then = time.monotonic(), have
        if max(total, have) > most:
            part.unlink()
            what = f"has more than {most >> 20:,} MiB, which is too much"
            raise UserError(f"{url} {what}; make room or ask why")
        if have < total:
            raise http.client.IncompleteRead(b"", total - have)


class Source(dict[str, Piece]):
    """The files of a folder or an archive by path, with forward slashes.

    Paths are normalised to NFC, since files unpacked on macOS may be in another Unicode form than the lists.
    """

    def __init__(self, path: Path, pieces: Mapping[str, Piece]) -> None:
        super().__init__()
        self.path = path
        for name, piece in pieces.items():
            if (nfc := unicodedata.normalize("NFC", name)) in self:
                raise UserError(f"{path} has two files {nfc!a}, in two Unicode forms; rename one")
            self[nfc] = piece

    def below(self, landmark: str) -> Source:
        """The files below the folder that contains `landmark`, a file of every copy of the data set."""
        found = [name for name in self if name == landmark or name.endswith(f"/{landmark}")]
        if not found:
            raise UserError(f"{self.path} has no {landmark}; is it the right archive or folder?")
        top = min(found, key=lambda name: (name.count("/"), name)).removesuffix(landmark)
        inside = {name.removeprefix(top): self[name] for name in self if name.startswith(top)}
        return Source(self.path, inside)

    def file(self, name: str, listed_by: str = "") -> Piece:
        """Returns a file, named by the list `listed_by` if given; raises a `UserError` if it is missing."""
        if name not in self:
            why = f", which {listed_by} lists" if listed_by else ""
            raise UserError(f"{self.path} has no {name}{why}; is it the right archive or folder, and whole?")
        return self[name]

    def text(self, name: str) -> str:
        """Reads a UTF-8 text file, normalised to NFC."""
        try:
            return unicodedata.normalize("NFC", self.file(name).read().decode())
        except UnicodeDecodeError as error:
            raise UserError(f"{self.path}: {name} is not a text in UTF-8; get it again") from error


def open_source(
    path: Path,
    scratch: Path,
    published: Published | None = None,
    dangling: bool = True,
    encoding: str | None = None,
) -> Source:
    """Lists the files of a folder or an archive; compressed tars are unpacked to `scratch`.

    Broken links count as empty files unless `dangling` is false. `encoding` is the encoding of names in an
    archive that doesn't declare it.

    Raises:
        UserError: `path` doesn't exist, the archive differs from the published one, `walk` or
            `list_archive` refuses its content, or two names differ only in Unicode form.
    """
    path = path.expanduser()
    if path.is_dir():
        return Source(path, {name: piece_of(path / name) for name in files_below(path, dangling=dangling)})
    if not path.is_file():
        raise UserError(f"{path}: no such file or folder")
    if published is not None:
        published.check(path)
    return Source(path, list_archive(path, scratch, encoding))
