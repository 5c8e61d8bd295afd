"""The manifest's hashes: what a row expects, and whose image a file is."""

from __future__ import annotations

import hashlib
from typing import Any

import pytest

from open_diht.pipelines.fetch.opener import Expected, digests_of, expected_of, is_nobodys

BODY = b"an image"
SHA, MD5 = hashlib.sha256(BODY).hexdigest(), hashlib.md5(BODY).hexdigest()
OURS, OTHER = Expected("sha256", SHA), Expected("sha256", "0" * 64)


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"sha256": SHA, "md5": "0" * 32}, OURS),
        ({"sha256": f"\t{SHA.upper()} ", "md5": None}, OURS),
        ({"sha256": " ", "md5": MD5.upper()}, Expected("md5", MD5)),
        ({"sha256": None, "md5": MD5}, Expected("md5", MD5)),
        ({"sha256": None, "md5": None}, None),
        ({"sha256": "", "md5": " "}, None),
    ],
)
def test_what_a_row_expects(row: dict[str, Any], expected: Expected | None) -> None:
    assert expected_of(row) == expected


def test_digests_are_those_that_rows_need() -> None:
    assert digests_of(BODY, []) == digests_of(BODY, [None, OTHER]) == {"sha256": SHA}
    assert digests_of(BODY, [Expected("md5", "0" * 32)]) == {"sha256": SHA, "md5": MD5}


@pytest.mark.parametrize(
    ("rows", "nobodys"),
    [
        ([OTHER], True),
        ([OTHER, Expected("md5", "0" * 32)], True),
        ([OTHER, Expected("md5", MD5)], False),
        ([OTHER, OURS], False),
        ([OTHER, None], False),
        ([], False),
    ],
)
def test_a_file_that_is_the_image_of_no_row(rows: list[Expected | None], nobodys: bool) -> None:
    assert is_nobodys(digests_of(BODY, rows), rows) is nobodys
