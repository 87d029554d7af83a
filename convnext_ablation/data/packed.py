"""Reads files inside tar and zip archives without extracting them; damaged archives are refused.

A tar is listed once; its files are then read at their offsets by any number of threads. No file is extracted
under a name from the archive. A compressed tar is first decompressed to a scratch folder. The archive type is
determined by the first bytes.
"""

from __future__ import annotations

import bz2
import gzip
import importlib
import lzma
import os
import posixpath
import stat
import struct
import sys
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from convnext_ablation.console import Progress
from convnext_ablation.data.walk import Piece
from convnext_ablation.errors import UserError, in_one_line
from convnext_ablation.files import leads_out, written_whole

_BLOCK = 1 << 20
_ZEROS = 512  # minimum bytes of a tar's end marker
# Decompression bombs: images are already compressed, so the official archives grow by only a tenth. An
# archive may grow by this factor plus `_TABLES` bytes, an allowance for tables in small archives.
_GROWTH = 8
_TABLES = 64 << 20


def _zstd() -> Any:
    name = "compression.zstd" if sys.version_info >= (3, 14) else "backports.zstd"
    try:
        return importlib.import_module(name).ZstdDecompressor()
    except ImportError as error:
        what = f"a .tar.zst needs {name}; pip install backports.zstd, or unpack it, and name the folder"
        raise UserError(what) from error


_DECODERS: dict[bytes, Callable[[], Any] | None] = {  # by magic bytes
    b"\x1f\x8b": None,  # read by `gzip`, which alone refuses trailing garbage
    b"BZh": bz2.BZ2Decompressor,
    b"\xfd7zXZ\0": lzma.LZMADecompressor,
    b"\x28\xb5\x2f\xfd": _zstd,
}
_UTF8 = 0x800  # zip flag of a UTF-8 name
_UNICODE_PATH = 0x7075  # id of Info-ZIP's Unicode path extra field
_ZIP = (b"PK\3\4", b"PK\5\6", b"PK\7\x08")


def list_archive(path: Path, scratch: Path, encoding: str | None = None) -> Mapping[str, Piece]:
    """Lists the files of an archive by path; a compressed tar is decompressed to `scratch`.

    `encoding` is the encoding of names whose encoding isn't declared.

    Raises:
        UserError: The archive is damaged, truncated, encrypted, a decompression bomb or of an unknown type,
            or holds entries that `find_pieces` refuses.
    """
    head = _head(path)
    if head.startswith(_ZIP):
        pieces = _list_zip(path, encoding)
    else:
        decoders = [make for magic, make in _DECODERS.items() if head.startswith(magic)]
        tar = _unpack(path, scratch, decoders[0]) if decoders else path
        pieces = find_pieces(tar, path, encoding=encoding)
    print(f"{path}: {len(pieces)} files")
    return pieces


def is_archive(path: Path) -> bool:
    """Whether a file is a zip or a tar, compressed or not, judged by its first bytes."""
    return _head(path).startswith((*_ZIP, *_DECODERS)) or tarfile.is_tarfile(path)


def _head(path: Path) -> bytes:
    with in_one_line(f"{path} can't be read"), open(path, "rb") as file:
        return file.read(6)


def find_pieces(
    tar: Path, shown: Path | None = None, within: Piece | None = None, encoding: str | None = None
) -> dict[str, Piece]:
    """Lists the files of a tar, or of the tar at `within`, by path.

    Hard links resolve to their target within the tar. Messages call the archive `shown`.

    Raises:
        UserError: The tar is damaged, truncated or followed by other data. Or it holds symbolic links,
            devices, sparse files, repeated names, or paths that are absolute or contain ``..``.
    """
    shown = shown or tar
    start, end = (within.offset, within.offset + within.size) if within else (0, tar.stat().st_size)
    pieces: dict[str, Piece] = {}
    after = start
    with open(tar, "rb") as file:
        file.seek(start)
        try:
            with tarfile.open(
                fileobj=file, mode="r:", encoding=encoding or "utf-8", errors="surrogateescape"
            ) as archive:
                for member in archive:
                    if member.offset >= end:  # beyond the nested tar
                        break
                    _add(pieces, member, tar, end, shown)
                    has_data = member.isreg() or member.type not in tarfile.SUPPORTED_TYPES
                    size = member.size if has_data else 0
                    after = member.offset_data + -(-size // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE
        except UserError:
            raise
        except Exception as error:  # for malicious headers tarfile raises many kinds
            reason = f"can't be read as a tar ({' '.join(str(error).split())[:200]})"
            hint = "it may be damaged or cut short: get it again"
            if after == start:
                hint = f"it is another kind of archive: unpack it, and name the folder; or {hint[3:]}"
            raise UserError(f"{shown} {reason}; {hint}") from error
        if not pieces:
            raise UserError(f"{shown} holds no files; get it again")
        _check_end(file, after, end, f"{shown}: after {len(pieces)} files")
    return pieces


def _check_end(file: BinaryIO, after: int, end: int, where: str) -> None:
    """Checks that only zeros follow the last file, since `tarfile` takes a damaged header for the end."""
    if end - after < _ZEROS:
        raise UserError(f"{where} the end of the tar is missing; it is cut short: get it again")
    file.seek(after)
    while (left := end - file.tell()) > 0:
        if file.read(min(_BLOCK, left)).strip(b"\0"):
            what = "a damaged header, or another archive behind this one"
            raise UserError(f"{where} there is {what}; get it again, or pack it as one tar")


def _add(pieces: dict[str, Piece], member: tarfile.TarInfo, tar: Path, end: int, shown: Path) -> None:
    """Adds a member or refuses it; stricter than `tarfile.data_filter`, which repairs what it can."""
    outside = leads_out(member.name)
    name = posixpath.normpath(member.name)
    if (member.isdir() and not outside) or member.type == b"V":  # GNU volume label
        return
    target = pieces.get(posixpath.normpath(member.linkname)) if member.islnk() else None
    reasons = {
        "leads out of the archive": outside,
        "is a link or a device; pack what it stands for": not member.isreg() and target is None,
        "is stored as a sparse file; pack it without --sparse": member.issparse(),
        "is cut short; get the archive again": member.isreg() and member.offset_data + member.size > end,
        "appears twice; pack it once": name in pieces,
    }
    _refuse(shown, member.name, reasons)
    pieces[name] = target or Piece(tar, member.offset_data, member.size)


def _refuse(shown: Path, name: str, reasons: Mapping[str, bool]) -> None:
    for reason, holds in reasons.items():
        if holds:
            said = ascii(name) if not name.isprintable() else repr(name)
            raise UserError(f"{shown} can't be used: {said[:200]} {reason}")


def _unpack(path: Path, scratch: Path, decoder: Callable[[], Any] | None) -> Path:
    """Decompresses a tar to `scratch`, unless that was done before for the same size and mtime."""
    size = path.stat().st_size
    unpacked = scratch / f"{path.name}-{size}-{path.stat().st_mtime_ns}.tar"
    if unpacked.exists():
        return unpacked
    scratch.mkdir(parents=True, exist_ok=True)
    with (
        written_whole(unpacked) as temporary,
        open(temporary, "wb") as to,
        open(path, "rb") as raw,
        Progress(f"unzipping {path.name}", size, "B") as progress,
    ):
        for chunk in _decoded(raw, decoder, path):
            to.write(chunk)
            progress.move(raw.tell())
            _check_growth(path, to.tell())
    return unpacked


def _check_growth(path: Path, size: int) -> None:
    """Raises a `UserError` if the content is far larger than the archive."""
    if size > _GROWTH * path.stat().st_size + _TABLES:
        what = f"{path} unzips to more than {_GROWTH} times its size"
        raise UserError(f"{what}; if it is the right one, unpack it, and name the folder")


def _decoded(raw: BinaryIO, make: Callable[[], Any] | None, path: Path) -> Iterator[bytes]:
    """Yields the decompressed blocks of all concatenated streams, skipping zero padding in between."""
    decoder = make() if make else None
    try:
        if decoder is None:
            with gzip.GzipFile(fileobj=raw) as file:
                while block := file.read(_BLOCK):
                    yield block
            return
        data = raw.read(_BLOCK)
        while data:
            yield decoder.decompress(data, _BLOCK)
            while not decoder.eof and not decoder.needs_input:
                yield decoder.decompress(b"", _BLOCK)
            data = decoder.unused_data.lstrip(b"\0") if decoder.eof else b""
            while not data and (block := raw.read(_BLOCK)):
                data = block.lstrip(b"\0") if decoder.eof else block
            if data and decoder.eof:
                decoder = type(decoder)()
        if not decoder.eof:
            raise EOFError("its end is missing")
    except Exception as error:  # each decoder raises its own kinds
        raise UserError(f"{path} can't be unzipped ({error}); it may be cut short: get it again") from error


class _Zip:
    """A zip that each process opens itself, since forked processes share a file's read position."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._opened: tuple[int, zipfile.ZipFile] | None = None

    def __reduce__(self) -> tuple[type[_Zip], tuple[Path]]:
        return _Zip, (self.path,)

    @property
    def file(self) -> zipfile.ZipFile:
        if self._opened is None or self._opened[0] != os.getpid():
            self._opened = os.getpid(), zipfile.ZipFile(self.path)
        return self._opened[1]


@dataclass(frozen=True)
class _Zipped(Piece):
    """A file in a zip; can be read by several threads and processes at once."""

    archive: _Zip = field(repr=False)
    member: zipfile.ZipInfo

    def read(self, most: int | None = None) -> bytes:
        """Reads the file with its checksum verified, or only its first `most` bytes."""
        where = f"{self.path}: {ascii(self.member.filename)[:200]} can't be read; get the archive again"
        try:
            with self.archive.file.open(self.member) as file:
                data = file.read(-1 if most is None else most)
        except Exception as error:  # for damaged data each decoder raises its own kinds
            raise UserError(f"{where} ({error})") from error
        if most is None and len(data) != self.size:
            raise UserError(f"{where} (it is cut short)")
        return data


def _name_in_zip(member: zipfile.ZipInfo, encoding: str | None) -> tuple[str, bool]:
    """Decodes a member's name; returns it, and whether it falls back to `zipfile`'s code page 437.

    In order of precedence: declared UTF-8, Info-ZIP's Unicode path field, then `encoding` or else UTF-8,
    which macOS writes without declaring it.
    """
    if member.flag_bits & _UTF8 or member.orig_filename.isascii():
        return member.filename, False
    stored, extra = member.orig_filename.encode("cp437"), member.extra
    while len(extra) >= 4:
        kind, size = struct.unpack_from("<HH", extra)
        field_, extra = extra[4 : 4 + size], extra[4 + size :]
        if kind == _UNICODE_PATH and field_[1:5] == zlib.crc32(stored).to_bytes(4, "little"):
            return field_[5:].decode(errors="surrogateescape"), False
    try:
        return stored.decode(encoding or "utf-8"), False
    except (LookupError, UnicodeError) as error:
        if not encoding:
            return member.filename, True
        what = f"--names-encoding {encoding}: {member.filename!r}"
        raise UserError(f"{what} can't be read ({error})") from error


def _list_zip(path: Path, encoding: str | None) -> dict[str, Piece]:
    pieces: dict[str, Piece] = {}
    unsure = []
    try:
        archive = _Zip(path)
        members = archive.file.infolist()
    except Exception as error:  # for malicious directories zipfile raises many kinds
        hint = "it may be cut short, or a part of several: get it whole"
        raise UserError(f"{path} can't be read as a zip ({error}); {hint}") from error
    _check_growth(path, sum(member.file_size for member in members))
    for member in members:
        decoded, guessed = _name_in_zip(member, encoding)
        unsure += [decoded] * guessed
        name = decoded.replace("\\", "/")  # some Windows programs write backslashes
        outside = leads_out(name)
        if name.endswith("/") and not outside:
            continue
        name = posixpath.normpath(name)
        kind = stat.S_IFMT(member.external_attr >> 16)
        reasons = {
            "leads out of the archive": outside,
            "is encrypted; unpack it, and name the folder": bool(member.flag_bits & 1),
            "is a link or a device; pack what it stands for": kind not in (0, stat.S_IFREG),
            "appears twice; pack it once": name in pieces,
        }
        _refuse(path, member.filename, reasons)
        try:
            archive.file.open(member).close()  # compares the local and central headers
        except NotImplementedError:
            how = f"is compressed by method {member.compress_type}, which can't be read; unpack it"
            _refuse(path, member.filename, {f"{how}, and name the folder": True})
        except Exception as error:
            _refuse(path, member.filename, {f"can't be read ({error}); get the archive again": True})
        pieces[name] = _Zipped(path, member.header_offset, member.file_size, archive, member)
    if not pieces:
        raise UserError(f"{path} holds no files; get it again")
    if unsure:
        what = f"{len(unsure)} names are read by code page 437, such as {unsure[0]!a}"
        print(f"{path}: {what}; if that is wrong, give --names-encoding, such as cp932 for Japanese")
    return pieces
