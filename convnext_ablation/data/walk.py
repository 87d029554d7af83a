"""Walks folders, reads files, and decides which files are images and why others are skipped."""

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

# names of files and folders that aren't part of a data set, by the reason for skipping
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
# unsupported formats of cameras, microscopes and graphics programs
_UNREAD = tuple(
    ".heic .heif .jxl .jxr .cr2 .cr3 .nef .arw .dng .orf .raf .rw2 .tga .dcm .svs .ndpi .czi .nd2"
    " .svg .exr .hdr .xcf .fits .nii .npy".split()
)
UNREAD = "picture of a format that isn't read; convert it"

SKIPPED = "skipped.csv"
_NAMED = 10  # file names shown per reason
_TIMES = 100  # maximum visits of a folder through links, which can multiply exponentially


@dataclass(frozen=True)
class Piece:
    """A file, or a byte range of an archive that holds one; offset and size in bytes."""

    path: Path
    offset: int
    size: int

    def read(self, most: int | None = None) -> bytes:
        """Reads the content, or only its first `most` bytes."""
        size = self.size if most is None else min(most, self.size)
        with in_one_line(f"{self.path} can't be read"), open(self.path, "rb") as file:
            file.seek(self.offset)
            data = file.read(size)
        if len(data) != size:
            raise UserError(f"{self.path} has changed while it was read; start again")
        return data


def walk(root: Path, top: str = "", dangling: bool = False) -> Iterator[tuple[str, list[str], list[str]]]:
    """Yields each folder from `top` down: its path below `root`, subfolders and files, sorted; follows links.

    Raises:
        UserError: A folder is unreadable, part of a link loop or linked to too often. Or an entry is a pipe,
            a device or, unless `dangling`, a broken link. Hidden and metadata files are exempt.
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
    """Yields the paths below `root` of all files that `walk` finds from `top` down."""
    for below, _, names in walk(root, top, dangling):
        yield from (joined(below, name) for name in names)


def joined(below: str, name: str) -> str:
    """Joins a folder's path from `walk`, possibly empty, and a name."""
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
    except OSError as error:  # for example, a link to itself
        wrong = f"can't be read ({error.strerror})"
    if not skipped_by_name(name):
        raise UserError(f"{entry.path} {wrong}; fix or remove it")
    return False


def skipped_by_name(name: str) -> str:
    """Reason for skipping a file because of its path, whatever its content; empty if none."""
    found = _NAMES.search(name)
    return list(_LITTER)[found.lastindex - 1] if found and found.lastindex else ""


def piece_of(file: Path) -> Piece:
    """A whole file as a `Piece`; of size 0 if it is a broken link."""
    try:
        return Piece(file, 0, file.stat().st_size)
    except OSError:
        return Piece(file, 0, 0)


def why_skipped(name: str, place: Piece | Path) -> str:
    """Reason for skipping a file; empty if its extension, or else its content, is that of an image."""
    if (reason := skipped_by_name(name)) or is_called_picture(name):
        return reason
    piece = place if isinstance(place, Piece) else piece_of(place)
    if piece.size and is_picture(piece.read):
        return ""
    if name.lower().endswith(_UNREAD):
        return UNREAD
    return "licence or notes" if _NOTES.fullmatch(name.rpartition("/")[2]) else "not a picture"


def write_skipped(folder: Path, skipped: Mapping[str, str]) -> None:
    """Writes ``skipped.csv`` with names and reasons, unless `skipped` is empty."""
    if skipped:
        write_csv(folder / SKIPPED, ("name", "reason"), sorted(skipped.items()))


def read_skipped(folder: Path) -> dict[str, str]:
    """Reads reasons by name from a folder's ``skipped.csv``; empty if there is none."""
    if not (folder / SKIPPED).exists():
        return {}
    with open(folder / SKIPPED, encoding="utf-8", errors="surrogateescape", newline="") as file:
        return {csv_text(row["name"]): csv_text(row["reason"]) for row in csv.DictReader(file)}


def skipped_lines(skipped: Mapping[str, str]) -> list[str]:
    """Formats a line per reason: the number of files by extension, and some names."""
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
