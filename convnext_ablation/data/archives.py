"""Archives from their official homes, and files of a data set where they lie: in a folder or an archive."""

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
_SECONDS = 60  # without a byte, and how long a download may be slower than so many bytes a second
_SLOWEST = 1024
_MOST = 512 << 30  # bytes of an archive; that of ImageNet has 138 GiB


@dataclass(frozen=True)
class Published:
    """What is known of an archive as its authors publish it."""

    file: str
    url: str  # empty where one has to log in
    digest: str  # SHA-256 or MD5, in hex
    unpacked: str = ""  # the folder that it unpacks to, if to one of its own
    only_for: str = ""  # the option that needs it, if it isn't always needed

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
        """Fetches the archive into a folder, unless it is there; incomplete it is called ``<file>.part``."""
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
        except (http.client.HTTPException, OSError) as error:  # urllib's own are OSErrors
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
    """Archives of one home by their options: file, digest, folder (by default ``x`` of ``x.tgz``), and so on.

    Their names follow `url`, which is empty where one has to log in.
    """
    found = {}
    for which, (file, digest, *rest) in archives.items():
        own = re.fullmatch(r"(.*)\.(tgz|tar\.gz)", file)
        found[which] = Published(file, url and url + file, digest, *(rest or [own[1] if own else ""]))
    return found


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
    with answer, Progress(part.stem, unit="B") as progress:
        resumed = answer.status == http.client.PARTIAL_CONTENT
        have = have if resumed else 0
        total = have + (answer.length or 0)  # 0 if it isn't announced
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
    """The files of a folder or an archive by their paths, with forward slashes.

    One who unpacks on macOS may get names in another Unicode form than the lists have: here all are in NFC.
    """

    def __init__(self, path: Path, pieces: Mapping[str, Piece]) -> None:
        super().__init__()
        self.path = path
        for name, piece in pieces.items():
            if (nfc := unicodedata.normalize("NFC", name)) in self:
                raise UserError(f"{path} has two files {nfc!a}, in two Unicode forms; rename one")
            self[nfc] = piece

    def below(self, landmark: str) -> Source:
        """The files of the folder in which a file stands that every such data set has."""
        found = [name for name in self if name == landmark or name.endswith(f"/{landmark}")]
        if not found:
            raise UserError(f"{self.path} has no {landmark}; is it the right archive or folder?")
        top = min(found, key=lambda name: (name.count("/"), name)).removesuffix(landmark)
        inside = {name.removeprefix(top): self[name] for name in self if name.startswith(top)}
        return Source(self.path, inside)

    def file(self, name: str, listed_by: str = "") -> Piece:
        """A file that must be there, since another one lists it or every such data set has it."""
        if name not in self:
            why = f", which {listed_by} lists" if listed_by else ""
            raise UserError(f"{self.path} has no {name}{why}; is it the right archive or folder, and whole?")
        return self[name]

    def text(self, name: str) -> str:
        """A text file in UTF-8, in NFC."""
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
    """Lists the files of a folder or an archive, which may be unpacked to the folder `scratch`.

    Links to nothing are files without content, unless `dangling` is false. `encoding` is that of names in
    an archive that doesn't say it.

    Raises:
        UserError: There is nothing at `path`, or the archive is not the published one, or `walk` or
            `list_archive` refuses what is there, or two names differ in their Unicode form alone.
    """
    path = path.expanduser()
    if path.is_dir():
        return Source(path, {name: piece_of(path / name) for name in files_below(path, dangling=dangling)})
    if not path.is_file():
        raise UserError(f"{path}: no such file or folder")
    if published is not None:
        published.check(path)
    return Source(path, list_archive(path, scratch, encoding))
