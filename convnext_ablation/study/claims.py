"""Which process does which run, agreed on through files in the run's folder and nothing else.

A claim is a file ``claim.N``. The one with the highest number counts; who made it holds the run as long as
its process lives and beats, which is to renew the file's time. A claim that has gone stale is taken over by
making the next number. Making a file that must not exist yet succeeds for one process only, so of many that
try at the same moment one wins, and a number is never given twice while the run is unfinished. The winner
removes the older files. A slow owner that comes back finds its file gone, and stops without writing.

What the file system must guarantee, for studies that several machines share: a file is created exclusively
(or linked) by one of all that try; a file that is opened is looked up anew on the server (NFS does so since
version 3, and so do Lustre, GPFS, BeeGFS and CephFS); a rename replaces a file at once; times come from one
clock, or from clocks that agree to some seconds. How long ago a beat was is measured by the times of files
only, never by a machine's own clock. Folders that are synchronised later (Dropbox, rsync) and object stores
mounted as folders guarantee none of this.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import threading
import time
import uuid
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path

from convnext_ablation.study.file_clock import FileClock, uptime

__all__ = ["Claim", "Holder", "LostClaimError", "Seen", "is_held", "newest_claim", "take"]

PREFIX = "claim."
BEAT_SECONDS = 10.0
# must be longer than a file system keeps attributes of files in a cache: 60 s for NFS if nothing else is set
STALE_SECONDS = 120.0
CHECK_SECONDS = 1.0
_RELEASED = 1e9  # a time long ago that no clock says any more: its owner has given the run back


class LostClaimError(Exception):
    """Another process has taken the run over; this one must not write to its folder any more."""


@dataclass(frozen=True)
class Holder:
    """Who holds a claim.

    Attributes:
        token: Chance text that tells this claim from all others.
        host: The machine's name, for people.
        machine: What tells whether a process is one of this machine.
        pid: The process.
        birth: When it was started, by the machine's own count: a number may be given to another process.
        since: When the claim was made, seconds since 1970.
        epochs: Epochs of the run that were finished by then.
        deaths: How many processes before it ended within the same epoch.
    """

    token: str
    host: str
    machine: str
    pid: int
    birth: str
    since: float
    epochs: int = 0
    deaths: int = 0


@dataclass(frozen=True)
class Seen:
    """A claim as another process sees it.

    Attributes:
        number: Which claim of the run it is.
        holder: Who holds it; None if its file says nothing yet.
        beat: When it was last renewed, by the file system's clock.
    """

    number: int
    holder: Holder | None
    beat: float

    @property
    def is_released(self) -> bool:
        """Whether its holder gave the run back."""
        return self.beat < _RELEASED


class Claim:
    """A run that this process holds, for as long as it is entered; it beats meanwhile.

    Args:
        path: The claim's file.
        holder: This process.
    """

    def __init__(self, path: Path, holder: Holder) -> None:
        self.path = path
        self.holder = holder
        self._checked = self._renewed = uptime()
        self._ended = threading.Event()
        self._beating = threading.Thread(target=self._beat, daemon=True)

    def __enter__(self) -> Claim:
        """Begins to beat."""
        self._beating.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Ends beating, and gives the run back."""
        self.release()

    @property
    def is_lost(self) -> bool:
        """Whether another process has taken the run over."""
        try:
            holder = _read(self.path)
        except FileNotFoundError:
            return True
        except OSError:  # the file system is away: so may the claim be, if it stays away
            return uptime() - self._renewed > STALE_SECONDS / 2
        return holder is None or holder.token != self.holder.token

    def check(self, now: bool = False) -> None:
        """Makes sure that this process still holds the run; looks once a second at most.

        Args:
            now: Look in any case.

        Raises:
            LostClaimError: It doesn't.
        """
        if not now and uptime() - self._checked < CHECK_SECONDS:
            return
        if self.is_lost:
            raise LostClaimError(f"{self.path.parent}: another process has taken this run over")
        self._checked = uptime()

    def release(self) -> None:
        """Gives the run back: the next who looks may have it."""
        self._end()
        with contextlib.suppress(OSError):
            if not self.is_lost:
                os.utime(self.path, (0, 0))

    def remove(self) -> None:
        """Removes the claim of a run that is done."""
        self._end()
        with contextlib.suppress(OSError):
            if not self.is_lost:
                self.path.unlink()

    def _end(self) -> None:
        self._ended.set()
        if self._beating.is_alive():
            self._beating.join()

    def _beat(self) -> None:
        while not self._ended.wait(BEAT_SECONDS):
            if self.is_lost:
                return
            with contextlib.suppress(OSError):
                os.utime(self.path)
                self._renewed = uptime()


def newest_claim(folder: Path, names: Iterable[str]) -> Seen | None:
    """The claim that counts.

    Args:
        folder: The run's folder.
        names: What it holds.
    """
    number = max(_numbers(names), default=None)
    if number is None:
        return None
    path = folder / f"{PREFIX}{number}"
    with contextlib.suppress(OSError):
        holder = _read(path)  # opening it has a network file system look at it anew
        return Seen(number, holder, path.stat().st_mtime)
    return Seen(number, None, _RELEASED)  # it was there a moment ago, and is being taken over or done with


def is_held(seen: Seen, now: float) -> bool:
    """Whether the holder of a claim is at work, as far as can be told.

    Args:
        seen: The claim.
        now: The file system's time.
    """
    if seen.is_released or now - seen.beat > STALE_SECONDS:
        return False
    holder = seen.holder
    return holder is None or holder.machine != this_machine() or _birth(holder.pid) == holder.birth


def take(folder: Path, clock: FileClock, unless: str = "", epochs: int = 0) -> Claim | None:
    """Claims a run, if it is free or its holder is gone.

    Args:
        folder: The run's folder, made if need be.
        clock: The file system's clock.
        unless: Name of the file in it that says that the run is done, and need not be.
        epochs: Epochs of the run that are finished.

    Returns:
        The claim, to be entered; None if another process has it, or it is done.
    """
    folder.mkdir(parents=True, exist_ok=True)
    names = os.listdir(folder)
    before = newest_claim(folder, names)
    if unless in names or (before is not None and is_held(before, clock.now())):
        return None
    number = before.number + 1 if before else 0
    path, holder = folder / f"{PREFIX}{number}", _this_process(epochs, _deaths(before, epochs))
    if not _create(path, json.dumps(asdict(holder))):
        return None
    names = os.listdir(folder)
    if unless in names or max(_numbers(names), default=number) > number:
        # it was finished, or taken over more than once, between the two looks
        path.unlink(missing_ok=True)
        return None
    _remove_leftovers(folder, names, number)
    return Claim(path, holder)


def this_machine() -> str:
    """What is the same for processes that see each other, and different on any other machine or boot."""
    return _machine()


@cache
def _machine() -> str:
    parts = [platform.node()]
    with contextlib.suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text().strip())
        parts.append(os.readlink("/proc/self/ns/pid"))  # containers of one machine don't see each other
    return " ".join(parts)


def _this_process(epochs: int, deaths: int) -> Holder:
    return Holder(
        token=uuid.uuid4().hex,
        host=platform.node(),
        machine=this_machine(),
        pid=os.getpid(),
        birth=_birth(os.getpid()) or "",
        since=time.time(),
        epochs=epochs,
        deaths=deaths,
    )


def _deaths(before: Seen | None, epochs: int) -> int:
    if before is None or before.is_released or before.holder is None or before.holder.epochs != epochs:
        return 0
    return before.holder.deaths + 1


def _birth(pid: int) -> str | None:
    """When a process of this machine was started; None if there is none, or a zombie."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return None if state[0] in "ZX" else state[19]
    except (OSError, IndexError):
        if Path("/proc/self/stat").exists():
            return None
    try:  # not Linux
        os.kill(pid, 0)
    except ProcessLookupError:
        return None
    except OSError:
        pass
    return ""


def _create(path: Path, content: str) -> bool:
    """Makes a file with all of its content, if there is none by that name; of many that try, one does."""
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        temporary.write_text(content)
        os.link(temporary, path)
    except FileExistsError:
        with contextlib.suppress(OSError):  # the server made the link, and its answer was lost
            return path.read_text() == content
        return False
    except FileNotFoundError:  # another who took the run over has cleaned up
        return False
    except OSError:  # a file system without links
        return _create_exclusively(path, content)
    finally:
        temporary.unlink(missing_ok=True)
    return True


def _create_exclusively(path: Path, content: str) -> bool:
    try:
        with open(path, "x") as file:
            file.write(content)
    except FileExistsError:
        return False
    return True


def _remove_leftovers(folder: Path, names: Iterable[str], number: int) -> None:
    """Removes older claims, by which their owners know that they lost, and what those had half written."""
    for name in names:
        older = (
            name.startswith(PREFIX) and name[len(PREFIX) :].isdigit() and int(name[len(PREFIX) :]) < number
        )
        half_written = name.startswith(".") and name.endswith(".tmp")
        if older or half_written:
            (folder / name).unlink(missing_ok=True)


def _numbers(names: Iterable[str]) -> list[int]:
    return [
        int(name[len(PREFIX) :])
        for name in names
        if name.startswith(PREFIX) and name[len(PREFIX) :].isdigit()
    ]


def _read(path: Path) -> Holder | None:
    """Who holds a claim; None if its file isn't written yet.

    Raises:
        OSError: The file is gone, or can't be read.
    """
    try:
        return Holder(**json.loads(path.read_text()))
    except (TypeError, ValueError):
        return None
