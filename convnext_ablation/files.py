"""Files that are written atomically, and names from outside that stay below their folder."""

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

_IDLE = 5.0  # seconds without a write from which on a file of no process was abandoned
_LONGEST = 250  # bytes of a name; file systems take 255, and files are written as <name>.tmp
_OUTSIDE = re.compile(r"[a-zA-Z]:|~(/|$)|.*[\\\0]", re.DOTALL)  # a drive, a home, Windows' own slash
CONTROLS = "\0-\x1f\x7f-\x9f\u2028\u2029"  # control characters and whatever else ends a line, for a set
_UNPRINTABLE = re.compile(f"[{CONTROLS}\ud800-\udfff]")
_FORMULA = re.compile("'*[=+\\-@\t\r]")
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?|[+-](inf|nan)?")
_RESERVED = re.compile(r"(con|prn|aux|nul|com[0-9¹²³]|lpt[0-9¹²³])\s*(\..*)?", re.IGNORECASE)


def leads_out(name: str) -> bool:
    """Whether a path with forward slashes may lead out of the folder that it is joined to, on any system."""
    path = PurePosixPath(name)
    return path.is_absolute() or ".." in path.parts or bool(_OUTSIDE.match(name))


def check_path(name: str, where: str) -> str:
    """Returns a path from outside, with forward slashes, if every system can have such a file below a folder.

    Args:
        name: What a hub, an archive, a list, a release or a YAML file calls a file.
        where: What says so; the message begins with it.

    Raises:
        UserError: It is empty, may lead out of its folder, or is no file's name on some system.
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
    """Returns a name from outside that is to be a file's or a folder's; as `check_path`, without slashes."""
    if "/" in check_path(name, where):
        raise UserError(f"{where}: {shown(name)} is a path, and must be a name")
    return name


def below(folder: Path, name: str, where: str) -> Path:
    """The file below a folder that a name from outside stands for; see `check_path`.

    Raises:
        UserError: Its path can't be used, or a link leads out of the folder.
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
    """The absolute path without links.

    Raises:
        OSError: They lead in a circle, of which Python made a RuntimeError up to 3.12.
    """
    try:
        return path.resolve()
    except RuntimeError as error:
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(path)) from error


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """Gives a temporary path to write to, and puts it in place of `path` once it is safely on disk.

    If the body raises, or the process dies, whatever stood at `path` before stands there still. The file gets
    the permissions that the umask gives, whatever the writer sets: safetensors lets the owner alone read.

    Raises:
        UserError: The system refuses, for example since the disk is full, or there is no file at `path`.
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
        with open(temporary, "r+b") as file:  # Windows puts only what is open for writing on disk
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
        with suppress(OSError):  # a disk may be read-only now
            temporary.unlink(missing_ok=True)


def _refusal(error: BaseException | None) -> OSError | None:
    """The system's error that is behind one of a library that writes, if one is."""
    while error is not None and not isinstance(error, UserError):
        if isinstance(error, OSError) and error.strerror:
            return error
        if said := re.search(r"\(os error (\d+)\)", str(error)):  # Rust's, as of safetensors
            return OSError(int(said[1]), os.strerror(int(said[1])))
        error = error.__context__  # where torch's error has it
    return None


def _is_abandoned(temporary: Path) -> bool:
    """Whether its process was killed, as far as can be told: others may write from other machines."""
    process = temporary.name.split(".")[-2]
    if not process.isdigit() or not Path("/proc/self").exists() or Path("/proc", process).exists():
        return False
    with suppress(FileNotFoundError):  # put in its place just now
        return time.time() - temporary.stat().st_mtime > _IDLE
    return False


def remove_unfinished(folder: Path) -> None:
    """Removes what `written_whole` leaves when its process is killed; nobody may write there now."""
    for path in folder.glob(".*.tmp"):
        if re.fullmatch(r"\..+\.\d+\.tmp", path.name):
            path.unlink(missing_ok=True)


@contextmanager
def locked(path: Path, busy: str, wait: bool = False) -> Iterator[None]:
    """Keeps a lock, a file that is there meanwhile, to this process until the block or the process ends.

    Args:
        path: The lock's file.
        busy: What is said if another process has it.
        wait: Whether it is waited for.

    Raises:
        UserError: Another process has it, and it is not waited for.
    """
    from filelock import FileLock, Timeout  # reading weights needs none

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
            # those who wait notice; on Windows it can be removed by `release` alone, which does so
            path.unlink(missing_ok=True)
        lock.release()


def refuse_stand_in(path: Path, what: str = "") -> None:
    """Refuses a file of Git LFS, or a web page, that stands where weights should be.

    Args:
        path: The file.
        what: What it is called in the message; its path if not given.

    Raises:
        UserError: It is one.
    """
    with open(path, "rb") as file:
        start = file.read(64)
    if start.lstrip().lower().startswith((b"<!doctype", b"<html", b"<?xml")):
        raise UserError(f"{what or path}: this is a web page, not a checkpoint; download the file itself")
    if start.startswith(b"version https://git-lfs"):
        raise UserError(f"{what or path}: this is a Git LFS pointer, not the checkpoint; run `git lfs pull`")


def sha256_of(path: Path, on_read: Callable[[int], None] = lambda size: None) -> str:
    """Returns the SHA-256 of a file's content, in hex; calls back with the bytes that it has read."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
            on_read(len(block))
    return digest.hexdigest()


def write_text(path: Path, text: str) -> None:
    """Writes a text file in UTF-8, atomically; names of files in it need not be in UTF-8."""
    with written_whole(path) as temporary:
        temporary.write_text(text, encoding="utf-8", errors="surrogateescape")


def write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Writes a CSV file, atomically; words in it are no formulas, see `csv_cell`."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows([csv_cell(cell) for cell in row] for row in rows)
    write_text(path, text.getvalue())


def csv_cell(value: Any) -> Any:
    """A value for a CSV file: behind an apostrophe if spreadsheets would take it for a formula."""
    if isinstance(value, str) and _FORMULA.match(value) and not _NUMBER.fullmatch(value):
        return f"'{value}"
    return value


def csv_text(cell: str) -> str:
    """What `csv_cell` has made a cell of."""
    return cell[1:] if cell.startswith("'") and _FORMULA.match(cell) else cell
