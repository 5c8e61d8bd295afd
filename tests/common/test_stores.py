"""What the clients of object stores raise, and what is said while they do not answer."""

import threading

import pytest

from open_diht.common.stores import (
    absolute,
    file_system,
    in_words,
    is_of_client,
    is_of_store,
    is_remote,
    said_if_slow,
)


def test_errors_of_clients_are_told_by_their_package() -> None:
    botocore = pytest.importorskip(
        "botocore.exceptions", reason="not installed: pip install '.[cloud]'"
    )
    refused = botocore.EndpointConnectionError(endpoint_url="http://store")
    assert is_of_client(refused) and is_of_client(botocore.NoCredentialsError())
    assert is_of_client(ValueError("Invalid endpoint: 127.0.0.1:9000"))
    assert not is_of_client(ValueError("a bad number")) and not is_of_client(
        PermissionError("denied")
    )
    assert (
        in_words(refused)
        == 'EndpointConnectionError: Could not connect to the endpoint URL: "http://store"'
    )


def test_a_hub_that_is_not_reached_is_a_store_that_does_not_answer() -> None:
    errors = pytest.importorskip("huggingface_hub.errors")
    assert is_of_store(errors.HTTPError("no such host")) and not is_of_store(
        ValueError("a bad number")
    )


def test_words_are_one_line() -> None:
    assert in_words(OSError("two\n lines")) == "OSError: two lines"


def test_paths_of_a_disk_are_no_addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    monkeypatch.chdir("/tmp")
    for path, full in {
        "~/a": "/home/me/a",
        "b/../a": "/tmp/a",
        "file:///a": "/a",
        "local:///a": "/a",
    }.items():
        assert not is_remote(path) and absolute(path) == full == file_system(path)[1]
    assert is_remote("memory://b/a") and absolute("memory://b/a") == "memory://b/a"
    assert file_system("memory://b/a")[0].protocol == "memory"


def test_what_takes_long_is_said() -> None:
    said = list[str]()
    told = threading.Event()

    def say(line: str) -> None:
        said.append(line)
        told.set()

    with said_if_slow(0.01, "still listing", say):
        assert told.wait(10)
    with said_if_slow(60.0, "still listing", say):
        pass
    assert said == ["still listing"]
