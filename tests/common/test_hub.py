"""Addresses of repositories on a hub."""

import pytest

from open_diht.common.hub import HubAddress, is_pinned, parse_address

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.mark.parametrize(
    ("text", "means"),
    [
        ("hf://owner/name", HubAddress("model", "owner/name")),
        ("hf://datasets/owner/name", HubAddress("dataset", "owner/name")),
        (
            "hf://datasets/owner/name@v1/data/*.parquet",
            HubAddress("dataset", "owner/name", "v1", "data/*.parquet"),
        ),
        (
            "hf://datasets/o/n@refs/convert/parquet/a/b",
            HubAddress("dataset", "o/n", "refs/convert/parquet", "a/b"),
        ),
        ("hf://datasets/o/n/what@is/this", HubAddress("dataset", "o/n", None, "what@is/this")),
    ],
)
def test_addresses(text: str, means: HubAddress) -> None:
    assert parse_address(text) == means and str(means) == text


@pytest.mark.parametrize(
    "text", ["hf://name", "hf://datasets/name", "hf://buckets/o/n", "s3://o/n", "hf://o/n@", ""]
)
def test_what_is_none(text: str) -> None:
    assert parse_address(text) is None


def test_a_commit_is_a_pin() -> None:
    assert is_pinned(f"hf://datasets/o/n@{COMMIT}") and is_pinned(
        f"hf://datasets/o/n@{COMMIT}/a.parquet"
    )
    assert not is_pinned("hf://datasets/o/n@main/a") and not is_pinned(
        f"hf://datasets/o/n@{COMMIT}0/a"
    )
    assert not is_pinned(f"s3://o/n@{COMMIT}/a")
