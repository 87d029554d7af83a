"""What was uploaded by Xet into a folder that stands for its storage."""

from __future__ import annotations

import shutil
import struct
import tempfile
import time
from pathlib import Path

_HEADER = 48  # bytes of a shard's header, and of each entry that follows
_END = b"\xff" * 32
_VERIFIED, _WITH_SHA256 = 1 << 31, 1 << 30


def find(storage: Path, sha256: str) -> tuple[str, bytes] | None:
    """Finds an uploaded file.

    Args:
        storage: The folder that the client was told of as ``local://<folder>``.
        sha256: Of the file's content.

    Returns:
        Its name in Xet, and its content; None if it wasn't uploaded.
    """
    for shard in sorted(storage.glob("xet/xorbs/shards/*.mdb")):
        for name, size, held in _files(shard.read_bytes()):
            if held == sha256:
                return name, _content(storage, name, size)
    return None


def _files(shard: bytes) -> list[tuple[str, int, str | None]]:
    """Name, size and SHA-256 of each file of a shard, whose format is xet-spec's."""
    at, found = _HEADER, []
    while shard[at : at + 32] != _END:
        name = _hash(shard[at : at + 32])
        flags, segments = struct.unpack_from("<II", shard, at + 32)
        size = sum(struct.unpack_from("<I", shard, at + 48 * (1 + n) + 36)[0] for n in range(segments))
        at += 48 * (1 + segments * (2 if flags & _VERIFIED else 1))
        sha256 = None
        if flags & _WITH_SHA256:
            sha256 = _hash(shard[at : at + 32])
            at += 48
        found.append((name, size, sha256))
    return found


def _hash(content: bytes) -> str:
    return "".join(f"{part:016x}" for part in struct.unpack("<4Q", content))


def _content(storage: Path, name: str, size: int) -> bytes:
    import hf_xet  # only where a client has it

    with tempfile.TemporaryDirectory() as folder:
        # a copy: the client that uploaded may still hold the storage's index, and no other may open it
        copy, file = Path(folder, "storage"), Path(folder, "file")
        shutil.copytree(storage, copy)
        with hf_xet.XetSession().new_file_download_group(
            endpoint=f"local://{copy}", token="any", token_expiry_unix_secs=int(time.time()) + 3600
        ) as group:
            group.start_download_file(hf_xet.XetFileInfo(name, size), str(file))
        return file.read_bytes()
