"""A model on a hub: one commit of all files, against a server on this machine that speaks the calls
that it takes."""

import pickle
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import save

from open_diht.trainer.hub import main
from open_diht.trainer.stores import FsspecStore
from tests.hub_server import Hub

FILES = {
    "open_clip_model.safetensors": save({"a": torch.ones(50)}),
    "open_clip_config.json": b"{}",
    "README.md": b"# Card\n",
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "export"
    path.mkdir()
    for name, content in FILES.items():
        (path / name).write_bytes(content)
    return path


def test_all_files_come_in_one_commit(
    hub: Hub, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(folder), "hf://me/small", "--private"]) == 0
    repository = hub.repositories["me/small"]
    assert repository.private and len(repository.commits) == 2
    assert repository.files().items() >= FILES.items()
    assert (
        f"published: {hub.address}/me/small/commit/{repository.at('main')}"
        in capsys.readouterr().out
    )
    assert main([str(folder), "hf://me/small"]) == 0, "the same once more"
    assert len(repository.commits) == 2, "what is there is not published again"
    (folder / "README.md").write_text("# Another card\n")
    assert main([str(folder), "hf://me/small"]) == 0, "once more: the repository is there"
    assert len(repository.commits) == 3 and repository.files()["README.md"] == b"# Another card\n"


def test_a_model_in_a_store(hub: Hub, capsys: pytest.CaptureFixture[str]) -> None:
    store = FsspecStore("memory://run/export")
    for name, content in FILES.items():
        store.write(content, name)
    assert main([str(store), "hf://me/small"]) == 0
    assert hub.repositories["me/small"].files().items() >= FILES.items()
    assert main(["memory://run/none", "hf://me/small"]) == 2
    assert (
        "error: memory://run/none is not an exported model (open_clip_model.safetensors is missing)"
        in (capsys.readouterr().err)
    )


@pytest.mark.parametrize(
    ("target", "token", "says"),
    [
        ("me/small", "hf_good", "'me/small' is not hf://owner/name"),
        ("hf://small", "hf_good", "is not hf://owner/name"),
        ("hf://me/small/deep", "hf_good", "is not hf://owner/name"),
        ("hf://me/small", "", "HF_TOKEN is not set"),
    ],
)
def test_wrong_words(target, token, says, hub, folder, monkeypatch, capsys):
    monkeypatch.setenv("HF_TOKEN", token)
    assert main([str(folder), target]) == 2
    assert says in capsys.readouterr().err and not hub.repositories


def test_a_file_that_cannot_be_read_is_named(hub, folder, monkeypatch, capsys):
    def denied() -> None:
        raise PermissionError(13, "Permission denied", str(folder / "README.md"))

    monkeypatch.setattr("open_diht.trainer.hub.client", denied)
    assert main([str(folder), "hf://me/small"]) == 1
    error = capsys.readouterr().err
    assert (
        f"error: {folder}/README.md cannot be read (Permission denied); mend it" in error
        and error.count("\n") == 1
    )


def test_a_folder_that_is_no_export(
    hub: Hub, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "README.md").unlink()
    assert main([str(folder), "hf://me/small"]) == 2
    assert "(README.md is missing); name WORKDIR/export" in capsys.readouterr().err


def test_a_token_that_may_not_and_a_hub_that_is_not_there(hub, folder, monkeypatch, capsys):
    monkeypatch.setenv("HF_TOKEN", "hf_bad")
    assert main([str(folder), "hf://me/small"]) == 1
    said = capsys.readouterr().err
    assert "401" in said and "hf_bad" not in said and "Run the same command to try again" in said
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    assert main([str(folder), "hf://me/small"]) == 1
    assert "hf://me/small: http://127.0.0.1:9 cannot be reached (" in capsys.readouterr().err
    assert not hub.repositories


def test_what_the_hub_answers_is_in_the_message(hub, folder, monkeypatch, capsys):
    """The first line of the client's error may hold a request id alone, and some errors have no
    text at all."""
    hub.before = lambda asked: "/commit/" not in asked
    assert main([str(folder), "hf://me/small"]) == 1
    assert re.search(r"answers 400 \(.*out of order\); the model is kept", capsys.readouterr().err)

    def failed(*arguments: object, **options: object) -> None:
        raise TimeoutError

    monkeypatch.setattr("huggingface_hub.HfApi.create_repo", failed)
    assert main([str(folder), "hf://me/small"]) == 1
    assert (
        "(TimeoutError: no message); check the network, or HF_ENDPOINT; the model is kept"
        in capsys.readouterr().err
    )


@pytest.mark.parametrize(
    "content", [b"", FILES["open_clip_model.safetensors"][:-1], pickle.dumps({"a": 1}), b"PK\3\4"]
)
def test_only_whole_safetensors_are_published(content, hub, folder, capsys):
    (folder / "open_clip_model.safetensors").write_bytes(content)
    assert main([str(folder), "hf://me/small"]) == 2
    error = capsys.readouterr().err
    assert (
        f"{folder}/open_clip_model.safetensors" in error
        and error.count("\n") == 1
        and not hub.repositories
    )


@pytest.mark.parametrize("name", ["open_clip_pytorch_model.bin", "a.pt", "b.ckpt", "items.npz"])
def test_no_pickled_file_is_published(name, hub, folder, capsys):
    (folder / name).write_bytes(pickle.dumps({}))
    assert main([str(folder), "hf://me/small"]) == 2
    assert f"{folder} holds {name}" in capsys.readouterr().err and not hub.repositories
