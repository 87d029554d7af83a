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

import base64
import contextlib
import hashlib
import json
import re
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

TOKEN = "hf_of_the_tests"
USER = "lab"
LARGE = (".safetensors", ".bin", ".pth", ".tar")  # what goes to LFS, whatever its size, as on the hub
CHUNK = 1 << 16
HANG = 60.0  # seconds; a client gives up sooner


@dataclass(frozen=True)
class File:
    """One file of a revision."""

    content: bytes
    large: bool

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


class Hub:
    """The hub; it answers from when it is entered until it is left or `close` is called.

    Args:
        folder: Where Xet's storage is; made if need be.
        part_size: Send large files of more than this many bytes in parts.

    Attributes:
        url: What `HF_ENDPOINT` is set to.
        repositories: By name, ``namespace/name``.
        requests: Those made so far.
        collections: Title, description and items of each collection, by slug.
    """

    def __init__(self, folder: Path, part_size: int | None = None) -> None:
        self.folder = folder
        self.part_size = part_size
        self.repositories: dict[str, Repository] = {}
        self.requests: list[Request] = []
        self.collections: dict[str, dict[str, Any]] = {}
        self.objects: dict[str, bytes] = {}
        self.parts: dict[str, dict[int, bytes]] = {}
        self._faults: list[tuple[re.Pattern[str], str | int, int]] = []
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler_of(self))
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
        if not self._stopping.is_set():
            self._stopping.set()
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
        with self._lock:
            repository = self.repositories.get(name) or self._create(name, private)
            added = {path: File(content, path.endswith(LARGE)) for path, content in files.items()}
            return self._commit(repository, {**repository.head.files, **added}, message)

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
            fault: ``"flip"`` a bit in the middle of the body; ``"truncate"`` the file to half, length and all;
                ``"cut"`` the connection after half of the body; ``"drop"`` it without an answer; ``"hang"``;
                ``"html"``: send a web page; or an HTTP status to answer.
            times: How often it goes wrong, before all is well.
        """
        self._faults.append((re.compile(pattern), fault, times))

    def heal(self) -> None:
        """Takes all faults back."""
        self._faults.clear()

    def said(self, pattern: str = "") -> list[str]:
        """Method and path of the requests made so far in which the pattern is found."""
        return [str(request) for request in self.requests if re.search(pattern, str(request))]

    def _next_fault(self, request: str) -> str | int | None:
        with self._lock:
            for index, (pattern, fault, times) in enumerate(self._faults):
                if pattern.search(request):
                    self._faults[index] = (pattern, fault, times - 1)
                    if times == 1:
                        del self._faults[index]
                    return fault
        return None

    def _create(self, name: str, private: bool) -> Repository:
        repository = self.repositories[name] = Repository(private, [])
        attributes = "".join(f"*{ending} filter=lfs diff=lfs merge=lfs -text\n" for ending in LARGE)
        self._commit(repository, {".gitattributes": File(attributes.encode(), False)}, "initial commit")
        return repository

    def _commit(self, repository: Repository, files: dict[str, File], message: str) -> str:
        content = [f"{path} {file.etag}" for path, file in sorted(files.items())]
        seed = "\n".join([str(id(repository)), str(len(repository.commits)), message, *content])
        repository.commits.append(Commit(hashlib.sha1(seed.encode()).hexdigest(), message, files))
        return repository.head.oid


class _Refused(Exception):
    """An error to answer with."""

    def __init__(self, status: int, code: str = "", message: str = "") -> None:
        self.status = status
        self.headers = {"X-Error-Code": code, "X-Error-Message": message or code}


def _handler_of(the_hub: Hub) -> type[BaseHTTPRequestHandler]:
    class Handler(_Handler):
        hub = the_hub

    return Handler


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        pass

    def _answer(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.headers.get("Transfer-Encoding") == "chunked":
            self.body = self._chunks()
        token = (self.headers.get("Authorization") or "").removeprefix("Bearer ") or None
        self.hub.requests.append(Request(self.command, path, token, _parsed(self.body)))
        self.token = token
        self.broken = self.hub._next_fault(f"{self.command} {path}")
        try:
            if isinstance(self.broken, int):
                raise _Refused(self.broken)
            if self.broken in ("drop", "hang"):
                if self.broken == "hang":
                    self.hub._stopping.wait(HANG)
                self.close_connection = True
                return
            for method, pattern, answer in _ROUTES:
                found = re.fullmatch(pattern, path)
                if found and self.command in method.split():
                    answer(self, *found.groups())
                    return
            raise _Refused(404, "", f"no such page: {self.command} {path}")
        except _Refused as error:
            self._send(error.status, b'{"error": "refused"}', error.headers)

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = _answer  # noqa: N815

    def _chunks(self) -> bytes:
        parts = []
        while size := int(self.rfile.readline(), 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def _send(
        self,
        status: int,
        content: bytes = b"",
        headers: Mapping[str, str] | None = None,
        length: int | None = None,
    ) -> None:
        if self.broken == "html":
            content = b"<!DOCTYPE html><html>Please log in to the hotel's network</html>"
            headers = {**(headers or {}), "Content-Type": "text/html"}
        elif self.broken == "truncate":
            content = content[: len(content) // 2]
        elif self.broken == "flip" and content:
            middle = len(content) // 2
            content = content[:middle] + bytes([content[middle] ^ 0x10]) + content[middle + 1 :]
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", **(headers or {})}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content) if length is None else length))
        self.end_headers()
        if self.command == "HEAD":
            return
        if self.broken == "cut":
            content, self.close_connection = content[: len(content) // 2], True
        with contextlib.suppress(ConnectionError):
            self.wfile.write(content)

    def _send_json(self, value: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> None:
        self._send(status, json.dumps(value).encode(), headers)

    # who, and repositories

    def _needs_user(self) -> None:
        if self.token != TOKEN:
            raise _Refused(
                401, "", "Invalid credentials in Authorization header" if self.token else "No token"
            )

    def _repository(self, name: str) -> Repository:
        repository = self.hub.repositories.get(name)
        if repository is None or (repository.private and self.token != TOKEN):
            raise _Refused(404 if self.token == TOKEN else 401, "RepoNotFound", "Repository not found")
        return repository

    def _revision(self, name: str, revision: str) -> Commit:
        commit = self._repository(name).at(revision)
        if commit is None:
            raise _Refused(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        return commit

    def who_am_i(self) -> None:
        self._needs_user()
        self._send_json(
            {"name": USER, "type": "user", "orgs": [], "auth": {"accessToken": {"role": "write"}}}
        )

    def create(self) -> None:
        self._needs_user()
        wanted = json.loads(self.body)
        name = f"{wanted.get('organization') or USER}/{wanted['name']}"
        if not name.startswith(f"{USER}/"):
            raise _Refused(403, "", "You don't have the rights to create a model under this namespace")
        if name in self.hub.repositories:
            self._send_json(
                {"error": "You already created this model repo", "url": f"{self.hub.url}/{name}"}, 409
            )
            return
        private = wanted.get("visibility") == "private" or bool(wanted.get("private"))
        with self.hub._lock:
            self.hub._create(name, private)
        self._send_json({"url": f"{self.hub.url}/{name}", "name": name})

    def delete(self) -> None:
        self._needs_user()
        wanted = json.loads(self.body)
        name = f"{wanted.get('organization') or USER}/{wanted['name']}"
        self._repository(name)
        del self.hub.repositories[name]
        self._send_json({})

    def info(self, name: str, revision: str | None = None) -> None:
        commit = self._revision(name, revision or "main")
        repository = self.hub.repositories[name]
        siblings = [
            {
                "rfilename": path,
                "size": len(file.content),
                **(
                    {"lfs": {"sha256": file.etag, "size": len(file.content), "pointerSize": 134}}
                    if file.large
                    else {}
                ),
            }
            for path, file in sorted(commit.files.items())
        ]
        about = {"id": name, "modelId": name, "sha": commit.oid, "private": repository.private, "tags": []}
        self._send_json({**about, "siblings": siblings, "downloads": 0, "likes": 0, "gated": False})

    def tree(self, name: str, revision: str, _: str | None = None) -> None:
        files = self._revision(name, revision).files
        self._send_json(
            [
                {
                    "type": "file",
                    "path": path,
                    "size": len(file.content),
                    "oid": file.etag[:40],
                    **(
                        {"lfs": {"oid": file.etag, "size": len(file.content), "pointerSize": 134}}
                        if file.large
                        else {}
                    ),
                }
                for path, file in sorted(files.items())
            ]
        )

    # files down

    def resolve(self, name: str, revision: str, path: str) -> None:
        commit = self._revision(name, revision)
        headers = {"X-Repo-Commit": commit.oid}
        file = commit.files.get(path)
        if file is None:
            error = _Refused(404, "EntryNotFound", "Entry not found")
            error.headers.update(headers)
            raise error
        if not file.large:
            length = len(file.content) if self.command == "HEAD" else None
            self._send(200, file.content, {**headers, "ETag": f'"{file.etag}"'}, length)
            return
        linked = {"X-Linked-Etag": f'"{file.etag}"', "X-Linked-Size": str(len(file.content))}
        location = f"{self.hub.storage_url}/storage/{name}/{commit.oid}/{path}"
        self._send(302, b"", {**headers, **linked, "Location": location})

    def storage(self, name: str, revision: str, path: str) -> None:
        commit = self.hub.repositories[name].at(revision)
        assert commit is not None
        content, status, headers = commit.files[path].content, 200, {}
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or "")
        if asked:
            first, last = int(asked[1]), int(asked[2] or len(content) - 1)
            headers["Content-Range"] = f"bytes {first}-{last}/{len(content)}"
            content, status = content[first : last + 1], 206
        self._send(status, content, {"ETag": f'"{commit.files[path].etag}"', **headers})

    # files up

    def validate_card(self) -> None:
        self._send_json({"errors": [], "warnings": []})

    def preupload(self, name: str, revision: str) -> None:
        self._needs_user()
        held = self._revision(name, revision).files
        files = json.loads(self.body)["files"]
        self._send_json(
            {
                "files": [
                    {
                        "path": file["path"],
                        "uploadMode": "lfs" if file["path"].endswith(LARGE) else "regular",
                        "shouldIgnore": False,
                        **({"oid": held[file["path"]].etag} if file["path"] in held else {}),
                    }
                    for file in files
                ]
            }
        )

    def lfs_batch(self, name: str) -> None:
        self._needs_user()
        self._repository(name)
        objects = [self._lfs_actions(wanted) for wanted in json.loads(self.body)["objects"]]
        self._send_json({"transfer": "basic", "objects": objects})

    def _lfs_actions(self, wanted: dict[str, Any]) -> dict[str, Any]:
        oid, size, part = wanted["oid"], wanted["size"], self.hub.part_size
        if oid in self.hub.objects:
            return {"oid": oid, "size": size}
        upload: dict[str, Any] = {"href": f"{self.hub.storage_url}/upload/{oid}"}
        if part and size > part:
            count = -(-size // part)
            numbered = {str(n): f"{self.hub.storage_url}/upload/{oid}/{n}" for n in range(1, count + 1)}
            upload = {
                "href": f"{self.hub.url}/complete/{oid}",
                "header": {"chunk_size": str(part), **numbered},
            }
        verify = {"href": f"{self.hub.url}/verify/{oid}"}
        return {"oid": oid, "size": size, "actions": {"upload": upload, "verify": verify}}

    def upload(self, oid: str) -> None:
        if hashlib.sha256(self.body).hexdigest() != oid:
            raise _Refused(400, "", "the content is not what its name says")
        self.hub.objects[oid] = self.body
        self._send(200)

    def upload_part(self, oid: str, number: str) -> None:
        self.hub.parts.setdefault(oid, {})[int(number)] = self.body
        self._send(200, b"", {"ETag": f'"{number}"'})

    def complete(self, oid: str) -> None:
        parts = self.hub.parts.pop(oid)
        self.body = b"".join(parts[number] for number in sorted(parts))
        self.upload(oid)

    def verify(self, oid: str) -> None:
        wanted = json.loads(self.body)
        held = self.hub.objects.get(oid)
        if held is None or len(held) != wanted["size"]:
            raise _Refused(404, "", "no such object")
        self._send_json({})

    def xet_token(self, name: str, mode: str, revision: str) -> None:
        if mode == "write":
            self._needs_user()
        self._revision(name, revision)
        storage = f"local://{self.hub.folder / 'xet'}"
        expires = int(time.time()) + 3600
        headers = {
            "X-Xet-Cas-Url": storage,
            "X-Xet-Access-Token": "xet",
            "X-Xet-Token-Expiration": str(expires),
        }
        self._send_json({"casUrl": storage, "accessToken": "xet", "exp": expires}, headers=headers)

    def commit(self, name: str, revision: str) -> None:
        self._needs_user()
        head = self._revision(name, revision)
        lines = [json.loads(line) for line in self.body.splitlines()]
        header = lines[0]["value"]
        if header.get("parentCommit") not in (None, head.oid):
            raise _Refused(412, "", "A commit has happened since")
        files = dict(head.files)
        for line in lines[1:]:
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = File(base64.b64decode(value["content"]), False)
            elif line["key"] == "lfsFile":
                if value["oid"] not in self.hub.objects:
                    raise _Refused(400, "", f"{value['path']} was not uploaded")
                files[value["path"]] = File(self.hub.objects[value["oid"]], True)
            elif line["key"] == "deletedFile":
                del files[value["path"]]
        with self.hub._lock:
            oid = self.hub._commit(self.hub.repositories[name], files, header["summary"])
        answer = {"success": True, "commitOid": oid, "commitUrl": f"{self.hub.url}/{name}/commit/{oid}"}
        self._send_json({**answer, "pullRequestUrl": None})

    # collections

    def create_collection(self) -> None:
        self._needs_user()
        wanted = json.loads(self.body)
        slug = f"{wanted['namespace']}/{re.sub(r'[^a-z0-9]+', '-', wanted['title'].lower())}-0123456789abcdef01234567"
        if slug in self.hub.collections:
            self._send_json({"error": "exists", "slug": slug}, 409)
            return
        self.hub.collections[slug] = {**wanted, "items": []}
        self._send_json(self._collection(slug))

    def get_collection(self, slug: str) -> None:
        self._send_json(self._collection(slug))

    def add_to_collection(self, slug: str) -> None:
        self._needs_user()
        wanted, items = json.loads(self.body), self.hub.collections[slug]["items"]
        if any(item["item"] == wanted["item"] for item in items):
            self._send_json({"error": "exists"}, 409)
            return
        items.append(wanted)
        self._send_json(self._collection(slug))

    def _collection(self, slug: str) -> dict[str, Any]:
        held = self.hub.collections[slug]
        return {
            "slug": slug,
            "title": held["title"],
            "owner": {"name": held["namespace"]},
            "items": [],
            "lastUpdated": "2026-01-01T00:00:00.000Z",
            "position": 0,
            "private": held.get("private", False),
            "theme": "orange",
            "upvotes": 0,
            "description": held.get("description"),
        }


def _parsed(body: bytes) -> Any:
    """JSON as what it says, lines of JSON as a list, the size of anything else."""
    for parse in (json.loads, lambda text: [json.loads(line) for line in text.splitlines()]):
        with contextlib.suppress(ValueError):
            return parse(body) if body else None
    return len(body)


_NAME, _REV = r"([\w.-]+/[\w.-]+)", r"([^/]+)"
_ROUTES: tuple[tuple[str, str, Callable[..., None]], ...] = (
    ("GET", "/api/whoami-v2", _Handler.who_am_i),
    ("POST", "/api/repos/create", _Handler.create),
    ("DELETE", "/api/repos/delete", _Handler.delete),
    ("POST", "/api/validate-yaml", _Handler.validate_card),
    ("GET", f"/api/models/{_NAME}", _Handler.info),
    ("GET", f"/api/models/{_NAME}/revision/{_REV}", _Handler.info),
    ("GET", f"/api/models/{_NAME}/tree/{_REV}(/.*)?", _Handler.tree),
    ("GET HEAD", f"/{_NAME}/resolve/{_REV}/(.+)", _Handler.resolve),
    ("GET HEAD", f"/storage/{_NAME}/{_REV}/(.+)", _Handler.storage),
    ("POST", f"/api/models/{_NAME}/preupload/{_REV}", _Handler.preupload),
    ("POST", rf"/{_NAME}\.git/info/lfs/objects/batch", _Handler.lfs_batch),
    ("PUT", r"/upload/(\w+)", _Handler.upload),
    ("PUT", r"/upload/(\w+)/(\d+)", _Handler.upload_part),
    ("POST", r"/complete/(\w+)", _Handler.complete),
    ("POST", r"/verify/(\w+)", _Handler.verify),
    ("GET", f"/api/models/{_NAME}/xet-(read|write)-token/{_REV}", _Handler.xet_token),
    ("POST", f"/api/models/{_NAME}/commit/{_REV}", _Handler.commit),
    ("POST", "/api/collections", _Handler.create_collection),
    ("GET", r"/api/collections/([\w./-]+)", _Handler.get_collection),
    ("POST", r"/api/collections/([\w./-]+)/items?", _Handler.add_to_collection),
)
