"""A small Hugging Face hub on loopback: as much of its protocol as `huggingface_hub` needs, and faults."""

import base64
import hashlib
import json
import re
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from huggingface_hub import constants

TOKEN = "hf_of_the_tests"
USER = "lab"  # whose token it is; another namespace's is refused
NAME, REVISION = r"([\w.-]+/[\w.-]+)", r"([^/]+)"


class Refused(Exception):  # noqa: N818
    """An error to answer with, as the hub writes it."""

    def __init__(self, status: int, code: str = "", message: str = "", **headers: str) -> None:
        self.status = status
        self.headers = {"X-Error-Code": code, "X-Error-Message": message or code or "refused", **headers}


def is_large(path: str) -> bool:
    return path.endswith(".safetensors")


def etag(path: str, content: bytes) -> str:
    """SHA-256 of a large file, git's SHA-1 of another."""
    if is_large(path):
        return hashlib.sha256(content).hexdigest()
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


class Repository:
    """Files by path, of each commit by its id."""

    def __init__(self, private: bool) -> None:
        self.private = private
        self.commits: dict[str, dict[str, bytes]] = {}
        self.commit({".gitattributes": b"*.safetensors filter=lfs\n"})

    @property
    def head(self) -> str:
        return list(self.commits)[-1]

    @property
    def files(self) -> dict[str, bytes]:
        return self.commits[self.head]

    def commit(self, files: Mapping[str, bytes]) -> str:
        """Adds files, and returns the commit's id."""
        held = {**(self.files if self.commits else {}), **files}
        seed = f"{id(self)} {len(self.commits)}".encode()
        self.commits[hashlib.sha1(seed).hexdigest()] = held
        return self.head


class Hub:
    """The hub; it answers until `close` is called."""

    def __init__(self) -> None:
        self.repositories: dict[str, Repository] = {}  # by name, ``namespace/name``
        self.uploaded: dict[str, bytes] = {}
        self.requests: list[str] = []  # method and path of each
        # patterns of requests, and what goes wrong: "flip" a bit or a 429's headers, once; "drip"; a status
        self.faults: list[tuple[str, str | int | dict[str, str]]] = []
        self.renamed: dict[str, str] = {}  # repositories, from their old names
        self.gated: set[str] = set()
        self.pages = False  # whether a list has no end
        self.names: dict[str, str] = {}  # an "etag" or a "commit" that it answers instead of the true one
        handler = type("Handler", (_Handler,), {"hub": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def close(self) -> None:
        """Lets the hub die: connections to it are refused."""
        self._server.shutdown()
        self._server.server_close()

    def use(self, monkeypatch: Any) -> None:
        """Has this process use the hub."""
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        for name in ("NO_PROXY", "no_proxy"):
            monkeypatch.setenv(name, "127.0.0.1,localhost")
        for name, setting in {
            "ENDPOINT": self.url,
            "HUGGINGFACE_CO_URL_TEMPLATE": self.url + "/{repo_id}/resolve/{revision}/{filename}",
            "HF_HUB_OFFLINE": False,
            "HF_HUB_DISABLE_XET": True,
            "HF_HUB_DISABLE_TELEMETRY": True,
        }.items():
            monkeypatch.setattr(constants, name, setting)

    def add(self, name: str, files: Mapping[str, bytes], private: bool = False) -> str:
        """Adds a commit to a repository, which is made if need be, and returns its id."""
        return self.repositories.setdefault(name, Repository(private)).commit(files)

    def repository(self, name: str) -> Repository | None:
        """The repository of a name, which is compared without case."""
        return next((held for each, held in self.repositories.items() if each.lower() == name.lower()), None)

    def said(self, pattern: str = "") -> list[str]:
        """Method and path of the requests made so far in which the pattern is found."""
        return [request for request in self.requests if re.search(pattern, request)]

    def fault_of(self, request: str) -> str | int | dict[str, str] | None:
        found = next((each for each in self.faults if re.search(each[0], request)), None)
        if found and (found[1] == "flip" or isinstance(found[1], dict)):
            self.faults.remove(found)
        return found and found[1]


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        pass

    def _answer(self) -> None:
        path = unquote(urlsplit(self.path).path)
        request = f"{self.command} {path}"
        self.body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.token = (self.headers.get("Authorization") or "").removeprefix("Bearer ") or None
        self.hub.requests.append(request)
        self.fault = self.hub.fault_of(request)
        try:
            if isinstance(self.fault, int):
                raise Refused(self.fault)
            if isinstance(self.fault, dict):
                raise Refused(429, **self.fault)
            if self.token not in (None, TOKEN):
                raise Refused(401, message="Invalid credentials in Authorization header")
            for old, new in self.hub.renamed.items():
                if f"/{old}/" in f"{path}/":
                    self._send(b"", 307, Location=self.path.replace(old, new))
                    return
            if self.command in ("POST", "DELETE") and self.token != TOKEN:
                raise Refused(401)
            for pattern, answer in _ROUTES.items():
                found = re.fullmatch(pattern, request)
                if found:
                    answer(self, *found.groups())
                    return
            raise Refused(404)
        except Refused as error:
            self._send(b"{}", error.status, **error.headers)

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = _answer  # noqa: N815

    def _send(self, content: bytes, status: int = 200, **headers: str) -> None:
        if self.fault == "flip":
            content = content[:-1] + bytes([content[-1] ^ 0x10])
        self.send_response(status)
        for name, value in {"Content-Length": str(len(content)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            step = 1 if self.fault == "drip" else len(content) + 1
            with suppress(OSError):  # whoever asked has given up
                for place in range(0, len(content), step):
                    self.wfile.write(content[place : place + step])
                    time.sleep(0.05 if step == 1 else 0)

    def _json(self, **value: Any) -> None:
        self._send(json.dumps(value).encode(), **{"Content-Type": "application/json"})

    def _files(self, name: str, revision: str) -> tuple[str, dict[str, bytes]]:
        repository = self.hub.repository(name)
        if repository is None or (repository.private and self.token != TOKEN):
            raise Refused(404 if self.token == TOKEN else 401, "RepoNotFound")
        if name in self.hub.gated:
            raise Refused(403, "GatedRepo")
        commit = repository.head if revision == "main" else revision
        if commit not in repository.commits:
            raise Refused(404, "RevisionNotFound")
        return commit, repository.commits[commit]

    # repositories

    def create(self) -> None:
        wanted = json.loads(self.body)
        name = f"{wanted.get('organization') or USER}/{wanted['name']}"
        if not name.startswith(f"{USER}/"):
            raise Refused(403)
        private = wanted.get("visibility") == "private" or bool(wanted.get("private"))
        self.hub.repositories[name] = Repository(private)
        self._json(url=f"{self.hub.url}/{name}", name=name)

    def delete(self) -> None:
        wanted = json.loads(self.body)
        del self.hub.repositories[f"{wanted.get('organization') or USER}/{wanted['name']}"]
        self._json()

    def list_models(self) -> None:
        asked = parse_qs(urlsplit(self.path).query)
        found = [
            {"id": name, "modelId": name}
            for name in sorted(self.hub.repositories)
            if name.startswith(f"{asked['author'][0].lower()}/") and asked["search"][0] in name
        ]
        following = {"Link": f'<{self.hub.url}{self.path}>; rel="next"'} if self.hub.pages else {}
        self._send(json.dumps(found).encode(), **following)

    def info(self, name: str, revision: str | None) -> None:
        commit, files = self._files(name, revision or "main")
        siblings = [{"rfilename": path} for path in files]
        private = self.hub.repository(name).private
        self._json(id=name, modelId=name, sha=commit, private=private, tags=[], siblings=siblings)

    # files down

    def resolve(self, name: str, revision: str, path: str) -> None:
        commit, files = self._files(name, revision)
        if path not in files:
            raise Refused(404, "EntryNotFound")
        said = self.hub.names.get("etag", etag(path, files[path]))
        headers = {"X-Repo-Commit": self.hub.names.get("commit", commit), "ETag": f'"{said}"'}
        if not is_large(path):
            self._send(files[path], **headers)
            return
        elsewhere = self.hub.url.replace("127.0.0.1", "localhost")  # another host, to a client
        headers["Location"] = f"{elsewhere}/storage/{name}/{commit}/{path}"
        headers |= {"X-Linked-Etag": headers["ETag"], "X-Linked-Size": str(len(files[path]))}
        self._send(b"", 302, **headers)

    def storage(self, name: str, commit: str, path: str) -> None:
        self._send(self.hub.repository(name).commits[commit][path])

    # files up

    def validate_card(self) -> None:
        self._json(errors=[], warnings=[])

    def preupload(self, name: str, revision: str) -> None:
        _, held = self._files(name, revision)
        files = json.loads(self.body)["files"]
        for file in files:
            path = file["path"]
            file |= {"uploadMode": "lfs" if is_large(path) else "regular", "shouldIgnore": False}
            file["oid"] = etag(path, held[path]) if path in held else None
        self._json(files=files)

    def lfs_batch(self, _: str) -> None:
        objects = json.loads(self.body)["objects"]
        for wanted in objects:
            wanted["actions"] = {"upload": {"href": f"{self.hub.url}/upload/{wanted['oid']}"}}
        self._json(transfer="basic", objects=objects)

    def upload(self, oid: str) -> None:
        self.hub.uploaded[oid] = self.body
        self._send(b"")

    def commit(self, name: str, revision: str) -> None:
        head, _ = self._files(name, revision)
        header, *lines = [json.loads(line) for line in self.body.splitlines()]
        if header["value"].get("parentCommit") not in (None, head):
            raise Refused(412)
        files = {
            line["value"]["path"]: base64.b64decode(line["value"]["content"])
            if line["key"] == "file"
            else self.hub.uploaded[line["value"]["oid"]]
            for line in lines
        }
        commit = self.hub.repositories[name].commit(files)
        self._json(commitOid=commit, commitUrl=f"{self.hub.url}/{name}/commit/{commit}")


_ROUTES = {
    "POST /api/repos/create": _Handler.create,
    "DELETE /api/repos/delete": _Handler.delete,
    "POST /api/validate-yaml": _Handler.validate_card,
    "GET /api/models": _Handler.list_models,
    f"GET /api/models/{NAME}(?:/revision/{REVISION})?": _Handler.info,
    f"(?:GET|HEAD) /{NAME}/resolve/{REVISION}/(.+)": _Handler.resolve,
    f"GET /storage/{NAME}/{REVISION}/(.+)": _Handler.storage,
    f"POST /api/models/{NAME}/preupload/{REVISION}": _Handler.preupload,
    rf"POST /{NAME}\.git/info/lfs/objects/batch": _Handler.lfs_batch,
    r"PUT /upload/(\w+)": _Handler.upload,
    f"POST /api/models/{NAME}/commit/{REVISION}": _Handler.commit,
}
