"""Files that are written whole or not at all."""

from __future__ import annotations

import csv
import errno
import hashlib
import io
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from convnext_ablation.errors import UserError


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """Gives a temporary path to write to, and puts it in place of `path` once it is safely on disk.

    If the body raises, or the process dies, whatever stood at `path` before stands there still. The file gets
    the permissions that the umask gives, whatever the writer sets: safetensors lets the owner alone read.

    Raises:
        UserError: The disk is full.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with told_of_full_disk(path):
            temporary.touch()
            mode = temporary.stat().st_mode
            yield temporary
            if temporary.stat().st_mode != mode:
                temporary.chmod(mode)
            with open(temporary, "rb") as file:
                os.fsync(file.fileno())
            os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def remove_unfinished(folder: Path) -> None:
    """Removes what `written_whole` leaves when its process is killed; nobody may write there now."""
    for path in folder.glob(".*.tmp"):
        if re.fullmatch(r"\..+\.\d+\.tmp", path.name):
            path.unlink(missing_ok=True)


@contextmanager
def told_of_full_disk(path: Path) -> Iterator[None]:
    """Makes one line of a disk that is full while a file is written.

    Raises:
        UserError: It is.
    """
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise UserError(
                f"{path}: the disk is full; what was finished stays valid: "
                "make room and run the same command again"
            ) from error
        raise


def sha256_of(path: Path) -> str:
    """Returns the SHA-256 of a file's content, in hex, without holding the file in memory."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def write_text(path: Path, text: str) -> None:
    """Writes a text file in UTF-8, whole or not at all; names of files in it need not be in UTF-8."""
    with written_whole(path) as temporary:
        temporary.write_text(text, encoding="utf-8", errors="surrogateescape")


def write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Writes a CSV file, whole or not at all."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    write_text(path, text.getvalue())
