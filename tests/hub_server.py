"""A hub on this machine: the calls of the Hugging Face hub that the real client makes, over
repositories in memory."""

import base64
import hashlib
import json
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

LARGE = (".parquet", ".tar", ".npy", ".npz", ".safetensors")
"""Endings of files that are stored beside git (LFS), as a new repository's .gitattributes says."""
Files = dict[str, bytes]


@dataclass
class Repository:
    """Branches, and the files of every commit."""

    asked: dict[str, Any]
    """What its maker asked for."""
    commits: dict[str, Files] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    messages: list[str] = field(default_factory=list)
    gated: bool = False
    readers: tuple[str, ...] = ("hf_good", "hf_read")
    """Tokens that may read it where it is private or gated."""

    def commit(self, branch: str, files: Files, message: str = "") -> str:
        """The new head of a branch."""
        parent = self.branches.get(branch, "")
        oid = hashlib.sha1(repr((parent, len(self.commits), sorted(files))).encode()).hexdigest()
        self.commits[oid], self.branches[branch] = dict(files), oid
        self.messages.append(message)
        return oid

    def at(self, revision: str) -> str | None:
        """The commit of a revision."""
        return self.branches.get(revision) or (revision if revision in self.commits else None)

    def files(self, revision: str = "main") -> Files:
        return self.commits[self.at(revision) or ""]

    @property
    def private(self) -> bool:
        return bool(self.asked.get("private")) or self.asked.get("visibility") == "private"


class Hub(ThreadingHTTPServer):
    """Repositories of anybody. The token hf_good may do everything, hf_read only read."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.repositories: dict[str, Repository] = {}
        """By their name; that of a data set begins with `datasets/`."""
        self.requests: list[str] = []
        self.stored: Files = {}
        """Large files by their SHA-256, committed or not."""
        self.sent: list[str] = []
        """SHA-256 of the large files that were sent, in order."""
        self.before: Callable[[str], bool] = lambda _: True
        """Asked before each request, `GET /path`; where it says no, it is refused."""
        self.after: Callable[[str], bool] = lambda _: True
        """The same when it is done: the answer is an error all the same."""

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def add(self, name: str, files: Files | None = None, **settings: Any) -> Repository:
        """A repository with one commit."""
        repository = Repository(settings.pop("asked", {}), **settings)
        repository.commit("main", {".gitattributes": b"*.parquet filter=lfs\n", **(files or {})})
        self.repositories[name] = repository
        return repository

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Those that are killed leave their connections open."""

    def start(self) -> None:
        threading.Thread(
            target=self.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True
        ).start()

    def stop(self) -> None:
        self.shutdown()
        self.server_close()


def git_oid(content: bytes) -> str:
    """How git names a file."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


class _Refused(Exception):
    def __init__(self, status: int, code: str = "", message: str = ""):
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message


class _Handler(BaseHTTPRequestHandler):
    server: Hub
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = (
        True  # else an answer's body waits 40 ms for its head to be acknowledged
    )

    def _do(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        asked = f"{self.command} {self.path}"
        self.server.requests.append(asked)
        try:
            if not self.server.before(asked):
                raise _Refused(400, "", "out of order")
            self._call(body)
        except _Refused as refused:
            self._answer(
                refused.status,
                {"error": refused.message},
                {"X-Error-Code": refused.code} if refused.code else {},
            )

    do_GET = do_HEAD = do_POST = do_PUT = _do

    def _call(self, body: bytes) -> None:
        address = urlsplit(self.path)
        parts = [unquote(part) for part in address.path.strip("/").split("/")]
        query = {name: values[0] for name, values in parse_qs(address.query).items()}
        if parts[:2] == ["api", "validate-yaml"]:
            return self._answer(200, {"errors": [], "warnings": []})
        if parts[:3] == ["api", "repos", "create"]:
            return self._create(json.loads(body))
        if parts[0] == "large":
            return self._large(parts[1], body)
        if parts[0] == "api" and len(parts) >= 4:
            name = "/".join((["datasets"] if parts[1] == "datasets" else []) + parts[2:4])
            return self._api(name, parts[4:], query, body)
        start = 1 if parts[0] == "datasets" else 0
        name = "/".join(parts[: start + 2])
        rest = parts[start + 2 :]
        if rest[:1] == ["resolve"]:
            return self._file(name, rest[1], "/".join(rest[2:]))
        if name.endswith(".git"):
            return self._batch(name.removesuffix(".git"), json.loads(body))
        raise _Refused(404, "", "no such page")

    def _token(self) -> str:
        token = (self.headers.get("Authorization") or "").removeprefix("Bearer ")
        if token not in ("", "hf_good", "hf_read"):
            raise _Refused(401, "", "Invalid credentials")
        return token

    def _may_write(self) -> None:
        token = self._token()
        if token != "hf_good":
            raise _Refused(403 if token else 401, "", "this token may not write")

    def _repository(self, name: str) -> Repository:
        token = self._token()
        found = self.server.repositories.get(name)
        if found is None or (found.private and token not in found.readers):
            raise _Refused(404 if token else 401, "RepoNotFound", "Repository not found")
        return found

    def _at(self, repository: Repository, revision: str) -> str:
        found = repository.at(revision)
        if found is None:
            raise _Refused(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        return found

    def _create(self, asked: dict[str, Any]) -> None:
        self._may_write()
        prefix = "datasets/" if asked.get("type") == "dataset" else ""
        name = f"{prefix}{asked['organization']}/{asked['name']}"
        known = name in self.server.repositories
        if not known:
            self.server.add(name, asked=asked)
        self._answer(409 if known else 200, {"url": f"{self.server.address}/{name}", "id": name})

    def _api(self, name: str, call: list[str], query: dict[str, str], body: bytes) -> None:
        repository = self._repository(name)
        if call[:1] == ["auth-check"]:
            if call[1:] == ["write"]:
                self._may_write()
            elif repository.gated and self._token() not in repository.readers:
                raise _Refused(403, "GatedRepo", "Access is restricted")
            return self._answer(200, {})
        if call[:1] == ["branch"]:
            self._may_write()
            known = call[1] in repository.branches
            start = self._at(repository, json.loads(body).get("startingPoint", "main"))
            repository.branches.setdefault(call[1], start)
            return self._answer(409 if known else 200, {})
        if call[:1] == ["refs"]:
            refs = [
                {"name": name, "ref": f"refs/heads/{name}", "targetCommit": oid}
                for name, oid in repository.branches.items()
            ]
            return self._answer(200, {"branches": refs, "converts": [], "tags": []})
        if call[:1] == ["commits"]:
            known_commits = [*repository.commits]  # of one branch, as far as tests look at them
            about = {"title": "", "message": "", "date": "2026-01-01T00:00:00.000Z", "authors": []}
            latest = known_commits.index(self._at(repository, call[1])) + 1
            return self._answer(
                200, [{"id": oid, **about} for oid in reversed(known_commits[:latest])]
            )
        if call[:1] in ([], ["revision"]):
            oid = self._at(repository, call[1] if call else "main")
            files = [{"rfilename": path} for path in repository.commits[oid]]
            info = {
                "id": name.removeprefix("datasets/"),
                "sha": oid,
                "private": repository.private,
                "siblings": files,
            }
            return self._answer(
                200, {**info, "gated": "manual" if repository.gated else False, "tags": []}
            )
        oid = self._at(repository, call[1])
        files_there = repository.commits[oid]
        if call[0] == "tree":
            return self._answer(
                200, self._tree(files_there, "/".join(call[2:]), query.get("recursive") == "true")
            )
        if call[0] == "paths-info":
            wanted = parse_qs(body.decode())["paths"]
            known_paths = {entry["path"]: entry for entry in self._tree(files_there, "", True)}
            return self._answer(200, [known_paths[path] for path in wanted if path in known_paths])
        self._may_write()
        if call[0] == "preupload":
            return self._answer(
                200,
                {"files": [self._mode(file, files_there) for file in json.loads(body)["files"]]},
            )
        return self._commit(
            name, repository, call[1], [json.loads(line) for line in body.splitlines()]
        )

    def _tree(self, files: Files, folder: str, recursive: bool) -> list[dict[str, Any]]:
        prefix = f"{folder}/" if folder else ""
        found: dict[str, dict[str, Any]] = {}
        for path, content in sorted(files.items()):
            if not path.startswith(prefix):
                continue
            inside = path.removeprefix(prefix).split("/")
            for depth in range(1, len(inside) if recursive else min(len(inside), 2)):
                above = prefix + "/".join(inside[:depth])
                found[above] = {
                    "type": "directory",
                    "oid": git_oid(above.encode()),
                    "size": 0,
                    "path": above,
                }
            if recursive or len(inside) == 1:
                found[path] = _entry(path, content)
        if folder and not found:
            raise _Refused(404, "EntryNotFound", f"{folder} does not exist")
        return list(found.values())

    def _mode(self, file: dict[str, Any], files: Files) -> dict[str, Any]:
        large = file["path"].endswith(LARGE)
        known = files.get(file["path"])
        oid = (
            None
            if known is None
            else hashlib.sha256(known).hexdigest()
            if large
            else git_oid(known)
        )
        mode = "lfs" if large else "regular"
        return {"path": file["path"], "uploadMode": mode, "shouldIgnore": False} | (
            {"oid": oid} if oid else {}
        )

    def _commit(
        self, name: str, repository: Repository, branch: str, lines: list[dict[str, Any]]
    ) -> None:
        header = lines[0]["value"]
        parent = repository.branches[branch]
        if header.get("parentCommit", parent) != parent:
            raise _Refused(412, "", "A commit has happened since. Please refresh and try again.")
        files = dict(repository.commits[parent])
        for line in lines[1:]:
            kind = line["key"]
            value = line["value"]
            if kind == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif kind == "lfsFile":
                files[value["path"]] = self.server.stored[value["oid"]]
            else:
                del files[value["path"]]
        oid = repository.commit(branch, files, header["summary"])
        url = f"{self.server.address}/{name}/commit/{oid}"
        self._answer(200, {"commitUrl": url, "commitOid": oid, "success": True})

    def _batch(self, name: str, asked: dict[str, Any]) -> None:
        self._repository(name)
        self._may_write()
        found = []
        for one in asked["objects"]:
            new = one["oid"] not in self.server.stored
            upload = (
                {"actions": {"upload": {"href": f"{self.server.address}/large/{one['oid']}"}}}
                if new
                else {}
            )
            found.append({"oid": one["oid"], "size": one["size"], **upload})
        self._answer(200, {"transfer": "basic", "objects": found})

    def _large(self, oid: str, body: bytes) -> None:
        assert hashlib.sha256(body).hexdigest() == oid
        self.server.stored[oid] = body
        self.server.sent.append(oid)
        self._answer(200, {})

    def _file(self, name: str, revision: str, path: str) -> None:
        repository = self._repository(name)
        if repository.gated and self._token() not in repository.readers:
            raise _Refused(403, "GatedRepo", "Access is restricted")
        oid = self._at(repository, revision)
        content = repository.commits[oid].get(path)
        if content is None:
            raise _Refused(404, "EntryNotFound", f"{path} does not exist")
        headers = {"X-Repo-Commit": oid, "ETag": f'"{git_oid(content)}"', "Accept-Ranges": "bytes"}
        status = 200
        wanted = self.headers.get("Range")
        if wanted:
            first, _, last = wanted.removeprefix("bytes=").partition("-")
            stop = min(int(last) + 1 if last else len(content), len(content))
            headers["Content-Range"] = f"bytes {first}-{stop - 1}/{len(content)}"
            status, content = 206, content[int(first) : stop]
        self._send(status, content, {"Content-Type": "application/octet-stream", **headers})

    def _answer(self, status: int, value: Any, headers: dict[str, str] | None = None) -> None:
        self._send(
            status,
            json.dumps(value).encode(),
            {"Content-Type": "application/json", **(headers or {})},
        )

    def _send(self, status: int, content: bytes, headers: dict[str, str]) -> None:
        if not self.server.after(f"{self.command} {self.path}"):
            status = 400
            content = b""
            headers = {}
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(content))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def log_message(self, *arguments: Any) -> None:
        pass


def _entry(path: str, content: bytes) -> dict[str, Any]:
    entry: dict[str, Any] = {"type": "file", "size": len(content), "path": path}
    if not path.endswith(LARGE):
        return {**entry, "oid": git_oid(content)}
    pointer = (
        "version https://git-lfs.github.com/spec/v1\noid"
        f" sha256:{hashlib.sha256(content).hexdigest()}\n".encode()
    )
    large = {
        "oid": hashlib.sha256(content).hexdigest(),
        "size": len(content),
        "pointerSize": len(pointer),
    }
    return {**entry, "oid": git_oid(pointer), "lfs": large}
