"""What the hub on loopback holds, and what it was asked: see `hub_server`."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import Any

TOKEN = "hf_of_the_tests"
USER = "lab"  # whose token it is; another namespace's is refused
LARGE = (".safetensors", ".bin", ".pth", ".tar")  # what goes to LFS, whatever its size, as on the hub


@dataclass(frozen=True)
class File:
    """One file of a revision."""

    content: bytes
    large: bool
    xet_name: str | None = None

    @property
    def etag(self) -> str:
        """SHA-256 of a large file, git's SHA-1 of another."""
        if self.large:
            return hashlib.sha256(self.content).hexdigest()
        return hashlib.sha1(b"blob %d\0" % len(self.content) + self.content).hexdigest()


@dataclass(frozen=True)
class Commit:
    oid: str
    message: str
    files: dict[str, File]


@dataclass
class Repository:
    private: bool
    commits: list[Commit]

    @property
    def head(self) -> Commit:
        return self.commits[-1]

    def at(self, revision: str) -> Commit | None:
        """The commit of a branch or of an id, None if there is none."""
        if revision == "main":
            return self.head
        return next(
            (each for each in self.commits if len(revision) > 6 and each.oid.startswith(revision)), None
        )


@dataclass(frozen=True)
class Request:
    """One request that was made: what, with which token, and what was sent with it, parsed if it is JSON."""

    method: str
    path: str
    token: str | None
    body: Any = field(repr=False, default=None)

    def __str__(self) -> str:
        return f"{self.method} {self.path}"
