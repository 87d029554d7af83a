"""A small Hugging Face hub on loopback: model repositories with revisions, both ways to upload, and faults.

It speaks as much of the hub's protocol as `huggingface_hub` needs to publish and to load: repositories are
made and deleted, files go up by commits (small ones inside them, large ones by LFS or by Xet before), and
come down by branch or commit, large ones by a redirect to another host, as from the hub's storage.

    with Hub(tmp_path / "hub") as hub:
        hub.add("lab/model_iv.in1k_112", {"config.json": b"{}", "model.safetensors": weights})
        subprocess.run(command, env={**os.environ, **hub.environment(tmp_path / "cache")})
        assert hub.said("GET") == [...]
"""

from __future__ import annotations

import hashlib
import re
import threading
from collections.abc import Mapping
from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import Any

import hub_xet
from hub_repository import LARGE, TOKEN, Commit, File, Repository, Request
from hub_requests import handler_of


class Hub:
    """The hub; it answers from when it is entered until it is left or `close` is called.

    Args:
        folder: Where Xet's storage is.
        part_size: Send large files of more than this many bytes in parts.

    Attributes:
        url: What `HF_ENDPOINT` is set to.
        repositories: By name, ``namespace/name``.
        requests: Those made so far.
        collections: Title, description and items of each collection, by slug.
    """

    def __init__(self, folder: Path, part_size: int | None = None) -> None:
        self.xet_storage = folder / "xet"
        self.part_size = part_size
        self.repositories: dict[str, Repository] = {}
        self.requests: list[Request] = []
        self.collections: dict[str, dict[str, Any]] = {}
        self.objects: dict[str, bytes] = {}
        self.parts: dict[str, dict[int, bytes]] = {}
        self._faults: list[tuple[re.Pattern[str], str | int, int]] = []
        self.lock = threading.Lock()
        self.stopping = threading.Event()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler_of(self))
        self._server.daemon_threads = True
        self.port = self._server.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.storage_url = f"http://localhost:{self.port}"  # another host, to a client

    def __enter__(self) -> Hub:
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Lets the hub die: connections to it are refused."""
        if not self.stopping.is_set():
            self.stopping.set()
            self._server.shutdown()
            self._server.server_close()

    def environment(self, cache: Path, token: str | None = TOKEN, xet: bool = False) -> dict[str, str]:
        """Environment variables by which a process uses this hub, and nothing that another left behind.

        Args:
            cache: Its own `HF_HOME`.
            token: Its token; None for one that isn't logged in.
            xet: Let it upload by Xet rather than by LFS.
        """
        return {
            "HF_ENDPOINT": self.url,
            "HF_HOME": str(cache),
            "HF_HUB_CACHE": str(cache / "hub"),
            "HF_XET_CACHE": str(cache / "xet"),
            "HF_TOKEN_PATH": str(cache / "token"),
            "HF_TOKEN": token or "",
            "HF_HUB_DISABLE_XET": "0" if xet else "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HUB_OFFLINE": "0",
            "TORCH_HOME": str(cache / "torch"),
            "NO_PROXY": "127.0.0.1,localhost",
            "no_proxy": "127.0.0.1,localhost",
        }

    def add(
        self, name: str, files: Mapping[str, bytes], private: bool = False, message: str = "Add files"
    ) -> str:
        """Adds a commit to a repository, which is made if need be, without any request.

        Returns:
            The commit's id.
        """
        with self.lock:
            repository = self.repositories.get(name) or self.create(name, private)
            added = {path: File(content, path.endswith(LARGE)) for path, content in files.items()}
            return self.commit(repository, {**repository.head.files, **added}, message)

    def files(self, name: str, revision: str = "main") -> dict[str, bytes]:
        """What a repository holds, by path."""
        commit = self.repositories[name].at(revision)
        assert commit is not None, revision
        return {path: file.content for path, file in commit.files.items()}

    def fault(self, pattern: str, fault: str | int, times: int = 1 << 30) -> None:
        """Has requests go wrong.

        Args:
            pattern: Regular expression, found in ``"METHOD /path"``. The content of a large file is sent for
                ``"GET /storage/<path>"``.
            fault: ``"flip"`` a bit in the middle of the body; ``"truncate"`` it to half, its length too;
                ``"cut"`` the connection after half of it; ``"drop"`` it without an answer; ``"lose"``
                the answer, but do what was asked; ``"hang"``; ``"html"``: send a web page; or an HTTP status
                to answer.
            times: How often it goes wrong, before all is well.
        """
        self._faults.append((re.compile(pattern), fault, times))

    def heal(self) -> None:
        """Takes all faults back."""
        self._faults.clear()

    def said(self, pattern: str = "") -> list[str]:
        """Method and path of the requests made so far in which the pattern is found."""
        return [str(request) for request in self.requests if re.search(pattern, str(request))]

    def uploaded(self, sha256: str) -> File | None:
        """A large file that was uploaded by LFS or by Xet, None if none was."""
        if sha256 in self.objects:
            return File(self.objects[sha256], large=True)
        found = hub_xet.find(self.xet_storage, sha256)
        return File(found[1], large=True, xet_name=found[0]) if found else None

    def next_fault(self, request: str) -> str | int | None:
        with self.lock:
            for index, (pattern, fault, times) in enumerate(self._faults):
                if pattern.search(request):
                    self._faults[index] = (pattern, fault, times - 1)
                    if times == 1:
                        del self._faults[index]
                    return fault
        return None

    def create(self, name: str, private: bool) -> Repository:
        repository = self.repositories[name] = Repository(private, [])
        attributes = "".join(f"*{ending} filter=lfs diff=lfs merge=lfs -text\n" for ending in LARGE)
        self.commit(repository, {".gitattributes": File(attributes.encode(), False)}, "initial commit")
        return repository

    def commit(self, repository: Repository, files: dict[str, File], message: str) -> str:
        content = [f"{path} {file.etag}" for path, file in sorted(files.items())]
        seed = "\n".join([str(id(repository)), str(len(repository.commits)), message, *content])
        repository.commits.append(Commit(hashlib.sha1(seed.encode()).hexdigest(), message, files))
        return repository.head.oid
