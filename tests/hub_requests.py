"""What the hub on loopback answers: see `hub_server`."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import re
import time
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, unquote, urlsplit

from hub_repository import LARGE, TOKEN, USER, Commit, File, Repository, Request

if TYPE_CHECKING:
    from hub_server import Hub

HANG = 60.0  # seconds; a client gives up sooner


class RefusedError(Exception):
    """An error to answer with."""

    def __init__(self, status: int, code: str = "", message: str = "") -> None:
        self.status = status
        self.headers = {"X-Error-Code": code, "X-Error-Message": message or code}


def handler_of(the_hub: Hub) -> type[BaseHTTPRequestHandler]:
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
        self.broken = self.hub.next_fault(f"{self.command} {path}")
        try:
            if isinstance(self.broken, int):
                raise RefusedError(self.broken)
            if self.broken in ("drop", "hang"):
                if self.broken == "hang":
                    self.hub.stopping.wait(HANG)
                self.close_connection = True
                return
            for method, pattern, answer in _ROUTES:
                found = re.fullmatch(pattern, path)
                if found and self.command in method.split():
                    answer(self, *found.groups())
                    return
            raise RefusedError(404, "", f"no such page: {self.command} {path}")
        except RefusedError as error:
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
        if self.broken == "lose":
            self.close_connection = True
            return
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
            raise RefusedError(
                401, "", "Invalid credentials in Authorization header" if self.token else "No token"
            )

    def _repository(self, name: str) -> Repository:
        repository = self.hub.repositories.get(name)
        if repository is None or (repository.private and self.token != TOKEN):
            raise RefusedError(404 if self.token == TOKEN else 401, "RepoNotFound", "Repository not found")
        return repository

    def _revision(self, name: str, revision: str) -> Commit:
        commit = self._repository(name).at(revision)
        if commit is None:
            raise RefusedError(404, "RevisionNotFound", f"Invalid rev id: {revision}")
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
            raise RefusedError(403, "", "You don't have the rights to create a model under this namespace")
        if name in self.hub.repositories:
            self._send_json(
                {"error": "You already created this model repo", "url": f"{self.hub.url}/{name}"}, 409
            )
            return
        private = wanted.get("visibility") == "private" or bool(wanted.get("private"))
        with self.hub.lock:
            self.hub.create(name, private)
        self._send_json({"url": f"{self.hub.url}/{name}", "name": name})

    def delete(self) -> None:
        self._needs_user()
        wanted = json.loads(self.body)
        name = f"{wanted.get('organization') or USER}/{wanted['name']}"
        self._repository(name)
        del self.hub.repositories[name]
        self._send_json({})

    def list_models(self) -> None:
        asked = parse_qs(urlsplit(self.path).query)
        author, words = asked.get("author", [""])[0], asked.get("search", [""])[0].lower()
        self._send_json(
            [
                {"id": name, "modelId": name, "private": repository.private, "tags": []}
                for name, repository in sorted(self.hub.repositories.items())
                if name.startswith(f"{author}/") and words in name.lower()
                if self.token == TOKEN or not repository.private
            ]
        )

    def info(self, name: str, revision: str | None = None) -> None:
        commit = self._revision(name, revision or "main")
        repository = self.hub.repositories[name]
        siblings = [
            {
                "rfilename": path,
                "size": len(file.content),
                "blobId": file.etag[:40],
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
            error = RefusedError(404, "EntryNotFound", "Entry not found")
            error.headers.update(headers)
            raise error
        if not file.large:
            length = len(file.content) if self.command == "HEAD" else None
            self._send(200, file.content, {**headers, "ETag": f'"{file.etag}"'}, length)
            return
        linked = {"X-Linked-Etag": f'"{file.etag}"', "X-Linked-Size": str(len(file.content))}
        if file.xet_name:
            route = f"{self.hub.url}/api/models/{name}/xet-read-token/{commit.oid}"
            linked |= {"X-Xet-Hash": file.xet_name, "X-Xet-Refresh-Route": route}
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
            raise RefusedError(400, "", "the content is not what its name says")
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
            raise RefusedError(404, "", "no such object")
        self._send_json({})

    def xet_token(self, name: str, mode: str, revision: str) -> None:
        if mode == "write":
            self._needs_user()
        self._revision(name, revision)
        storage = f"local://{self.hub.xet_storage}"
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
            raise RefusedError(412, "", "A commit has happened since")
        files = dict(head.files)
        for line in lines[1:]:
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = File(base64.b64decode(value["content"]), large=False)
            elif line["key"] == "lfsFile":
                uploaded = self.hub.uploaded(value["oid"])
                if uploaded is None:
                    raise RefusedError(400, "", f"{value['path']} was not uploaded")
                files[value["path"]] = uploaded
            elif line["key"] == "deletedFile":
                del files[value["path"]]
        with self.hub.lock:
            oid = self.hub.commit(self.hub.repositories[name], files, header["summary"])
        answer = {"success": True, "commitOid": oid, "commitUrl": f"{self.hub.url}/{name}/commit/{oid}"}
        self._send_json({**answer, "pullRequestUrl": None})

    # collections

    def create_collection(self) -> None:
        self._needs_user()
        wanted = json.loads(self.body)
        words = re.sub("[^a-z0-9]+", "-", wanted["title"].lower())
        slug = f"{wanted['namespace']}/{words}-{'0' * 24}"
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
    ("GET", "/api/models", _Handler.list_models),
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
