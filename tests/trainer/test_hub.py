"""A model on a hub: one commit of all files, against a server on this machine that speaks the calls that it takes."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from trainer.hub import main
from trainer.remote import RemoteFolder

FILES = {"open_clip_model.safetensors": b"\x01\x00\xff" * 50, "open_clip_config.json": b"{}", "README.md": b"# Card\n"}


class Hub(ThreadingHTTPServer):
    """Repositories of one owner."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.repositories: dict[str, dict[str, Any]] = {}
        self.commits: list[tuple[str, dict[str, bytes]]] = []


class _Handler(BaseHTTPRequestHandler):
    server: Hub

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.headers["Authorization"] != "Bearer hf_good":
            return self._answer(401, {"error": "Invalid credentials"})
        if self.path == "/api/repos/create":
            asked = json.loads(body)
            name = f"{asked['organization']}/{asked['name']}"
            known = name in self.server.repositories
            self.server.repositories.setdefault(name, asked)
            return self._answer(409 if known else 200, {"url": f"https://huggingface.co/{name}", "id": name})
        if self.path == "/api/validate-yaml":  # of the card
            return self._answer(200, {"errors": [], "warnings": []})
        repository = self.path.removeprefix("/api/models/").split("/")
        name, call = "/".join(repository[:2]), repository[2]
        if call == "preupload":
            files = [
                {"path": file["path"], "uploadMode": "regular", "shouldIgnore": False}
                for file in json.loads(body)["files"]
            ]
            return self._answer(200, {"files": files})
        lines = [json.loads(line) for line in body.splitlines()]
        found = {
            line["value"]["path"]: base64.b64decode(line["value"]["content"]) for line in lines if line["key"] == "file"
        }
        self.server.commits.append((name, found))
        address = f"https://huggingface.co/{name}/commit/abc"
        return self._answer(200, {"commitUrl": address, "commitOid": "abc", "success": True})

    def _answer(self, status: int, value: Any) -> None:
        content = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *arguments: Any) -> None:
        pass


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    server = Hub()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setenv("HF_TOKEN", "hf_good")
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """What a training exports."""
    path = tmp_path / "export"
    path.mkdir()
    for name, content in FILES.items():
        (path / name).write_bytes(content)
    return path


def test_all_files_come_in_one_commit(hub: Hub, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(folder), "hf://me/small", "--private"]) == 0
    assert hub.commits == [("me/small", FILES)]
    asked = hub.repositories["me/small"]
    assert asked.get("private") or asked.get("visibility") == "private"
    assert "published: https://huggingface.co/me/small/commit/abc" in capsys.readouterr().out
    assert main([str(folder), "hf://me/small"]) == 0, "once more: the repository is there"
    assert len(hub.commits) == 2


def test_a_model_in_a_store(hub: Hub, capsys: pytest.CaptureFixture[str]) -> None:
    store = RemoteFolder("memory://run/export")
    for name, content in FILES.items():
        store.write(content, name)
    assert main([str(store), "hf://me/small"]) == 0 and hub.commits == [("me/small", FILES)]
    assert main(["memory://run/none", "hf://me/small"]) == 2
    assert "error: memory://run/none is no exported model, open_clip_model.safetensors is missing" in (
        capsys.readouterr().err
    )


@pytest.mark.parametrize(
    ("target", "token", "says"),
    [
        ("me/small", "hf_good", "'me/small' is no hf://owner/name"),
        ("hf://small", "hf_good", "is no hf://owner/name"),
        ("hf://me/small/deep", "hf_good", "is no hf://owner/name"),
        ("hf://me/small", "", "HF_TOKEN is not set"),
    ],
)
def test_wrong_words(
    target: str, token: str, says: str, hub: Hub, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.setenv("HF_TOKEN", token)
    assert main([str(folder), target]) == 2
    assert says in capsys.readouterr().err and not hub.commits


def test_a_folder_that_is_no_export(hub: Hub, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "README.md").unlink()
    assert main([str(folder), "hf://me/small"]) == 2
    assert "README.md is missing; name the folder WORKDIR/export" in capsys.readouterr().err


def test_a_token_that_may_not_and_a_hub_that_is_not_there(
    hub: Hub, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_bad")
    assert main([str(folder), "hf://me/small"]) == 1
    said = capsys.readouterr().err
    assert "401" in said and "hf_bad" not in said and "the same command tries again" in said
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    assert main([str(folder), "hf://me/small"]) == 1
    assert "hf://me/small at http://127.0.0.1:9 cannot be written: " in capsys.readouterr().err
    assert not hub.commits
