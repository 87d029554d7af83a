"""Files where they lie, and the one rule by which a file is a picture, or why it is skipped."""

from __future__ import annotations

import csv
import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from convnext_ablation.data.pictures import is_called_picture, is_picture
from convnext_ablation.errors import UserError, in_one_line, shown
from convnext_ablation.files import csv_text, write_csv

# names of files and folders that are no part of a data set, by the reason to skip them
_LITTER = {
    "notebook checkpoint": r"\.ipynb_checkpoints",
    "macOS metadata": r"__MACOSX|Icon\r|\.DS_Store|\.AppleDouble|\._[^/]*",
    "Windows metadata": r"thumbs\.db|ehthumbs\w*\.db|desktop\.ini|\$recycle\.bin|system volume information",
    "metadata of a file server": r"@eaDir|[^/]*@SynoEAStream|[#@]recycle|#snapshot|lost\+found",
    "hidden": r"\.[^/]*",
}
_NAMES = re.compile(f"(?:^|/)(?:{'|'.join(f'({names})' for names in _LITTER.values())})(?:$|/)", re.I)
_NOTES = re.compile(
    r"(licen[cs]e|copying|readme|notice|citation)[^/]*|[^/]*\.(txt|md|rst|pdf|rtf|html?)", re.I
)
# of cameras and drawing programs
_UNREAD = tuple(
    ".heic .heif .jxl .jxr .cr2 .cr3 .nef .arw .dng .orf .raf .rw2 .tga .dcm .svs .ndpi .czi .nd2"
    " .svg .exr .hdr .xcf .fits .nii .npy".split()
)
UNREAD = "picture of a format that isn't read; convert it"

SKIPPED = "skipped.csv"
_NAMED = 10  # of each reason
_TIMES = 100  # that a folder may be reached by links; links to links to links double at each step


@dataclass(frozen=True)
class Piece:
    """A file, or the part of a file that holds one; offset and size in bytes."""

    path: Path
    offset: int
    size: int

    def read(self, most: int | None = None) -> bytes:
        """Reads it, or so many of its first bytes."""
        size = self.size if most is None else min(most, self.size)
        with in_one_line(f"{self.path} can't be read"), open(self.path, "rb") as file:
            file.seek(self.offset)
            data = file.read(size)
        if len(data) != size:
            raise UserError(f"{self.path} has changed while it was read; start again")
        return data


def walk(root: Path, top: str = "", dangling: bool = False) -> Iterator[tuple[str, list[str], list[str]]]:
    """Every folder from `top` down: its path below `root`, its folders and its files, sorted; follows links.

    Raises:
        UserError: A folder can't be read, links to one that it is in, or is linked to far too often; a link
            leads nowhere, unless those are `dangling` files; or something is a pipe or a device. Hidden ones
            and litter may be so.
    """
    pending: list[tuple[str, tuple[tuple[int, int], ...]]] = [(top, ())]
    times: Counter[tuple[int, int]] = Counter()
    while pending:
        below, above = pending.pop()
        folders: list[str] = []
        files: list[str] = []
        try:
            stat = os.stat(root / below)
            with os.scandir(root / below) as found:
                entries = sorted(found, key=lambda entry: entry.name)
        except OSError as error:
            if skipped_by_name(below):
                continue
            raise UserError(f"folder {root / below} can't be read ({error.strerror}); fix it") from error
        identity = (stat.st_dev, stat.st_ino)
        if identity in above:
            raise UserError(f"{root / below} is a link to a folder that it is in; remove it")
        times[identity] += 1
        if times[identity] > _TIMES:
            raise UserError(f"{root / below} is a folder that more than {_TIMES} links lead to; remove some")
        for entry in entries:
            is_folder = _is_folder(entry, joined(below, entry.name), dangling)
            (folders if is_folder else files).append(entry.name)
        yield below, folders, files
        pending += [(joined(below, name), (*above, identity)) for name in reversed(folders)]


def files_below(root: Path, top: str = "", dangling: bool = False) -> Iterator[str]:
    """The paths below `root` of all files that `walk` finds from `top` down."""
    for below, _, names in walk(root, top, dangling):
        yield from (joined(below, name) for name in names)


def joined(below: str, name: str) -> str:
    """The path of what lies in a folder that `walk` gives."""
    return f"{below}/{name}" if below else name


def _is_folder(entry: os.DirEntry[str], name: str, dangling: bool) -> bool:
    try:
        if entry.is_dir():
            return True
        if entry.is_file() or (dangling and not os.path.exists(entry.path)):
            return False
        wrong = "is neither a file nor a folder"
        if not os.path.exists(entry.path):
            wrong = f"is a link to {os.readlink(entry.path)!r}, which is not there"
    except OSError as error:  # such as a link to itself
        wrong = f"can't be read ({error.strerror})"
    if not skipped_by_name(name):
        raise UserError(f"{entry.path} {wrong}; fix or remove it")
    return False


def skipped_by_name(name: str) -> str:
    """Why a file of a data set is skipped for its path, whatever it holds: the reason, or nothing."""
    found = _NAMES.search(name)
    return list(_LITTER)[found.lastindex - 1] if found and found.lastindex else ""


def piece_of(file: Path) -> Piece:
    """A file; without content if it is a link to nothing."""
    try:
        return Piece(file, 0, file.stat().st_size)
    except OSError:
        return Piece(file, 0, 0)


def why_skipped(name: str, place: Piece | Path) -> str:
    """Why a file is skipped, or nothing if it is a picture, by its extension or else its content."""
    if (reason := skipped_by_name(name)) or is_called_picture(name):
        return reason
    piece = place if isinstance(place, Piece) else piece_of(place)
    if piece.size and is_picture(piece.read):
        return ""
    if name.lower().endswith(_UNREAD):
        return UNREAD
    return "licence or notes" if _NOTES.fullmatch(name.rpartition("/")[2]) else "not a picture"


def write_skipped(folder: Path, skipped: Mapping[str, str]) -> None:
    """Writes ``skipped.csv`` with names and reasons, if there are any."""
    if skipped:
        write_csv(folder / SKIPPED, ("name", "reason"), sorted(skipped.items()))


def read_skipped(folder: Path) -> dict[str, str]:
    """What a folder's ``skipped.csv`` says, reasons by name; nothing without one."""
    if not (folder / SKIPPED).exists():
        return {}
    with open(folder / SKIPPED, encoding="utf-8", errors="surrogateescape", newline="") as file:
        return {csv_text(row["name"]): csv_text(row["reason"]) for row in csv.DictReader(file)}


def skipped_lines(skipped: Mapping[str, str]) -> list[str]:
    """A line for each reason: how many of each extension, and some of their names."""
    by_reason: dict[str, list[str]] = defaultdict(list)
    for name, reason in sorted(skipped.items()):
        by_reason[reason.partition(":")[0]].append(name)
    lines = []
    for reason, names in sorted(by_reason.items(), key=lambda item: (-len(item[1]), item[0])):
        endings = Counter(ascii(os.path.splitext(name)[1].lower())[1:-1][:20] for name in names)
        counts = ", ".join(f"{count} {ending}".strip() for ending, count in endings.most_common())
        more = ", ..." if len(names) > _NAMED else ""
        lines.append(f"{reason}: {counts} ({', '.join(map(shown, names[:_NAMED]))}{more})")
    return lines
