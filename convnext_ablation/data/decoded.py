"""The images of a split decoded once, for all processes and runs that read them.

They are in a file in ``.decoded`` beside the split's folder, or in the folder that `CONVNEXT_ABLATION_CACHE`
names where nothing may be written there. Its name holds a hash over the manifest, or where there is none over
the names, sizes and times of the images, so that another content is another file. It is written under another
name and renamed when it is on the disk.
"""

from __future__ import annotations

import errno
import glob
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from convnext_ablation.data.decoding import Build, SplitFolder, tried
from convnext_ablation.data.pixel_file import CHANNELS, DecodedSplit
from convnext_ablation.errors import UserError

__all__ = ["CACHE_VARIABLE", "FOLDER", "DecodedSplit", "open_decoded"]

FOLDER = ".decoded"
CACHE_VARIABLE = "CONVNEXT_ABLATION_CACHE"

_LOCK = ".lock"
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP)


def open_decoded(folder: Path, mode: str, input_key: str | None = None) -> DecodedSplit:
    """Opens a split's decoded images; decodes them first if nobody has.

    Processes that ask at the same time wait for the one that decodes. Images that can't be decoded keep their
    place and have no pixels.

    Args:
        folder: The split's folder, with a folder a class in it.
        mode: PIL mode that images are converted to, ``RGB`` or ``L``.
        input_key: Extensions of the images as timm takes them, separated by semicolons; timm's own if None.

    Raises:
        UserError: There is no place for the decoded images, or the folder isn't one of images.
        RuntimeError: timm finds no image in it.
    """
    if mode not in CHANNELS:
        raise UserError(f"images of mode {mode} can't be kept decoded; leave --dataset cached out")
    if not folder.is_dir():
        raise UserError(f"{folder} is no folder; leave --dataset cached out, or unpack it")
    source = SplitFolder(folder, mode, input_key)
    places = [folder.parent / FOLDER]
    if os.environ.get(CACHE_VARIABLE):
        places.append(Path(os.environ[CACHE_VARIABLE]))
    for place in places:
        if (found := _find(source, place)) is not None:
            return found
    place = _writable(places)
    with _alone(place) as alone:
        found = _find(source, place)
        if found is None:
            if alone:
                _remove_useless(source, place)
            Build(source, place / source.name).run()
            found = DecodedSplit(place / source.name)
    return found


def _find(source: SplitFolder, place: Path) -> DecodedSplit | None:
    """Opens the file if it is there and whole, and nothing in it has been mended since."""
    try:
        found = DecodedSplit(place / source.name)
    except (OSError, ValueError):
        return None
    for number in found.unreadable:
        reason, _ = tried(source.image, source.folder / found.id(number))
        if not reason:
            return None
    return found


def _writable(places: Sequence[Path]) -> Path:
    """The first place that files can be written to."""
    reasons = {place: _why_not_writable(place) for place in places}
    for place, reason in reasons.items():
        if not reason:
            return place
    listed = ", ".join(f"{place} can't be written to ({reason})" for place, reason in reasons.items())
    raise UserError(f"{listed}; name a folder for decoded images in {CACHE_VARIABLE}")


def _why_not_writable(place: Path) -> str:
    try:
        place.mkdir(parents=True, exist_ok=True)
        with open(place / _LOCK, "a"):
            return ""
    except OSError as error:
        return error.strerror or type(error).__name__


@contextmanager
def _alone(place: Path) -> Iterator[bool]:
    """Waits until no other process decodes into a place; says whether that can be known there."""
    import fcntl  # not on every system

    with open(place / _LOCK, "a") as file:
        try:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if os.environ.get("RANK", "0") == "0":
                    print(f"another process decodes images into {place}; waiting for it", flush=True)
                fcntl.flock(file, fcntl.LOCK_EX)
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
            yield False
        else:
            yield True


def _remove_useless(source: SplitFolder, place: Path) -> None:
    """Removes what killed processes have left, and what the folder held before it changed."""
    for path in place.glob(".*.pixels.*.tmp"):
        path.unlink(missing_ok=True)
    if place == source.folder.parent / FOLDER:  # elsewhere it may be another folder's
        for path in place.glob(f"{glob.escape(source.prefix)}{'[0-9a-f]' * 16}.pixels"):
            path.unlink(missing_ok=True)
