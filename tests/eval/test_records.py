"""Hashes of values: those of their JSON, whatever pieces it is made in."""

import hashlib
import json

import pytest

from open_diht.eval.records import sha256_of, sha256_texts


@pytest.mark.parametrize(
    "value",
    [
        [],
        {"b": [1, {"z": None, "a": ()}], "a": "ü"},
        ["x", None, [["a caption", "another"]] * 9000, list(range(5000))],
        tuple(("one", 1.5) for _ in range(65)),
        [[[]], [0] * 64, [0] * 65, [True] * 4096, [True] * 4097],
    ],
)
def test_the_hash_is_that_of_the_whole_json(value):
    text = json.dumps(value, ensure_ascii=False, sort_keys=True, separators=(",", ":"))
    assert sha256_of(value) == hashlib.sha256(text.encode()).hexdigest()


def test_texts_that_join_to_the_same_have_other_hashes():
    assert (
        len(
            {
                sha256_texts(texts)
                for texts in (["ab"], ["a", "b"], ["a", "b", ""], iter(["b", "a"]))
            }
        )
        == 4
    )
