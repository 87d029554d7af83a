"""Atomic writes, and checks that untrusted file names stay inside their folder."""

from __future__ import annotations

import csv
import errno
import glob
import hashlib
import io
import os
import re
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath
from typing import Any

from convnext_ablation.errors import UserError, shown, system_error

_IDLE = 5.0  # seconds without a write after which a dead process's temporary file counts as abandoned
_LONGEST = 250  # bytes of a name; file systems allow 255, and temporary files append .tmp
_OUTSIDE = re.compile(r"[a-zA-Z]:|~(/|$)|.*[\\\0]", re.DOTALL)  # drive letter, home folder, backslash
CONTROLS = "\0-\x1f\x7f-\x9f\u2028\u2029"  # control characters and line separators, for a regex character set
_UNPRINTABLE = re.compile(f"[{CONTROLS}\ud800-\udfff]")
_FORMULA = re.compile("'*[=+\\-@\t\r]")
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?|[+-](inf|nan)?")
_RESERVED = re.compile(r"(con|prn|aux|nul|com[0-9¹²³]|lpt[0-9¹²³])\s*(\..*)?", re.IGNORECASE)


def leads_out(name: str) -> bool:
    """Whether a path with forward slashes could escape the folder it is joined to, on any system."""
    path = PurePosixPath(name)
    return path.is_absolute() or ".." in path.parts or bool(_OUTSIDE.match(name))


def check_path(name: str, where: str) -> str:
    """Returns an untrusted path with forward slashes if it is valid on every system.

    Args:
        name: Path of a file in a hub, an archive, a list, a release or a YAML file.
        where: Source of the path; begins the error message.

    Raises:
        UserError: The path is empty, may escape its folder, or is invalid on some system.
    """
    parts = PurePosixPath(name).parts
    faults = {
        "names no file": not parts,
        "leads out of its folder": leads_out(name),
        "holds a control character, or bytes that are not UTF-8": bool(_UNPRINTABLE.search(name)),
        "is a name that Windows reserves": any(_RESERVED.fullmatch(part) for part in parts),
        "ends in a dot or a space": any(part[-1] in ". " for part in parts),
        f"is longer than {_LONGEST} bytes": any(
            len(part.encode(errors="replace")) > _LONGEST for part in parts
        ),
    }
    for fault, holds in faults.items():
        if holds:
            raise UserError(f"{where}: {shown(name)} {fault}; it needs another name")
    return name


def check_name(name: str, where: str) -> str:
    """Returns an untrusted file or folder name; as `check_path`, but slashes are refused."""
    if "/" in check_path(name, where):
        raise UserError(f"{where}: {shown(name)} is a path, and must be a name")
    return name


def below(folder: Path, name: str, where: str) -> Path:
    """Joins an untrusted path to a folder; see `check_path`.

    Raises:
        UserError: The path is invalid, or a link leads out of the folder.
    """
    path = folder / check_path(name, where)
    try:
        inside = resolved(path).is_relative_to(resolved(folder))
    except OSError as error:
        raise UserError(f"{where}: {shown(name)} can't be followed: {system_error(error)}") from error
    if not inside:
        raise UserError(f"{where}: {shown(name)} is a link that leads out of {folder}; remove the link")
    return path


def resolved(path: Path) -> Path:
    """The absolute path with symbolic links resolved.

    Raises:
        OSError: The links form a loop, for which Python up to 3.12 raises a RuntimeError.
    """
    try:
        return path.resolve()
    except RuntimeError as error:
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(path)) from error


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """Yields a temporary path to write to, then moves it to `path` after an fsync.

    If the body raises or the process dies, `path` is unchanged. The file gets the umask's default
    permissions, even if the writer sets others: safetensors makes files readable by the owner only.

    Raises:
        UserError: Writing fails, for example because the disk is full, or `path` isn't a regular file.
    """
    if os.path.lexists(path) and not path.is_file():
        raise UserError(f"{path}: is no file, and is not replaced by one; choose another name")
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        for left in filter(_is_abandoned, path.parent.glob(f".{glob.escape(path.name)}.*.tmp")):
            left.unlink(missing_ok=True)
        temporary.touch()
        mode = temporary.stat().st_mode
        yield temporary
        if temporary.stat().st_mode != mode:
            temporary.chmod(mode)
        with open(temporary, "r+b") as file:  # on Windows, fsync needs a file open for writing
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except Exception as error:
        refusal = _refusal(error)
        if refusal is None:
            raise
        if refusal.filename == str(temporary):
            refusal.filename = str(path)
        raise system_error(refusal, path) from error
    finally:
        with suppress(OSError):  # the disk may have become read-only
            temporary.unlink(missing_ok=True)


def _refusal(error: BaseException | None) -> OSError | None:
    """The operating system's error that caused a library's exception, if any."""
    while error is not None and not isinstance(error, UserError):
        if isinstance(error, OSError) and error.strerror:
            return error
        if said := re.search(r"\(os error (\d+)\)", str(error)):  # from Rust, as in safetensors
            return OSError(int(said[1]), os.strerror(int(said[1])))
        error = error.__context__  # torch keeps the cause there
    return None


def _is_abandoned(temporary: Path) -> bool:
    """Whether the writing process seems dead; it may also run on another machine."""
    process = temporary.name.split(".")[-2]
    if not process.isdigit() or not Path("/proc/self").exists() or Path("/proc", process).exists():
        return False
    with suppress(FileNotFoundError):  # moved to its final path just now
        return time.time() - temporary.stat().st_mtime > _IDLE
    return False


def remove_unfinished(folder: Path) -> None:
    """Removes temporary files of killed `written_whole` calls; no process may be writing to the folder."""
    for path in folder.glob(".*.tmp"):
        if re.fullmatch(r"\..+\.\d+\.tmp", path.name):
            path.unlink(missing_ok=True)


@contextmanager
def locked(path: Path, busy: str, wait: bool = False) -> Iterator[None]:
    """Holds a lock file until the block or the process ends, then removes it.

    Args:
        path: The lock file.
        busy: Message if another process holds the lock.
        wait: Whether to wait for the lock.

    Raises:
        UserError: Another process holds the lock, and `wait` is false.
    """
    from filelock import FileLock, Timeout  # not needed to read weights

    if path.parent.is_file():
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(path.parent))
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        if not wait:
            raise UserError(busy) from None
        print(f"{busy}; waiting for it", flush=True)
        lock.acquire(poll_interval=0.2)
    try:
        yield
    finally:
        with suppress(OSError):
            # waiting processes notice; on Windows only `release` can remove the file, and does
            path.unlink(missing_ok=True)
        lock.release()


def refuse_stand_in(path: Path, what: str = "") -> None:
    """Refuses a Git LFS pointer or a web page in place of weights.

    Args:
        path: The file.
        what: Its name in the message; by default the path.

    Raises:
        UserError: The file is a pointer or a web page.
    """
    with open(path, "rb") as file:
        start = file.read(64)
    if start.lstrip().lower().startswith((b"<!doctype", b"<html", b"<?xml")):
        raise UserError(f"{what or path}: this is a web page, not a checkpoint; download the file itself")
    if start.startswith(b"version https://git-lfs"):
        raise UserError(f"{what or path}: this is a Git LFS pointer, not the checkpoint; run `git lfs pull`")


def sha256_of(path: Path, on_read: Callable[[int], None] = lambda size: None) -> str:
    """Returns a file's SHA-256 in hex; calls `on_read` with the size in bytes of each block read."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
            on_read(len(block))
    return digest.hexdigest()


def write_text(path: Path, text: str) -> None:
    """Writes a UTF-8 text file atomically; file names in the text may contain undecodable bytes."""
    with written_whole(path) as temporary:
        temporary.write_text(text, encoding="utf-8", errors="surrogateescape")


def write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Writes a CSV file atomically, with text escaped against formula injection; see `csv_cell`."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows([csv_cell(cell) for cell in row] for row in rows)
    write_text(path, text.getvalue())


def csv_cell(value: Any) -> Any:
    """Prefixes a CSV cell with an apostrophe if spreadsheets would read it as a formula."""
    if isinstance(value, str) and _FORMULA.match(value) and not _NUMBER.fullmatch(value):
        return f"'{value}"
    return value


def csv_text(cell: str) -> str:
    """Reverses `csv_cell`."""
    return cell[1:] if cell.startswith("'") and _FORMULA.match(cell) else cell
