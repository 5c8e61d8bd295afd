"""What a filter must be to be registered."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from open_diht.filters.base import (
    Bools,
    CaptionEvidence,
    CaptionFilter,
    register_filter,
    registered_filters,
)


def _all(captions: CaptionEvidence) -> Bools:
    return np.ones(len(captions), bool)


def test_a_registered_filter_is_known_by_its_reason():
    @register_filter
    @dataclass(frozen=True, kw_only=True)
    class TestOnly(CaptionFilter):
        reason = "test_only"
        explanation = "For a test."

        def rejects(self, captions: CaptionEvidence) -> Bools:
            return _all(captions)

    assert registered_filters()["test_only"] is TestOnly
    assert TestOnly().rejects(
        CaptionEvidence(pa.table({"caption": ["a", "b"]}), None)
    ).tolist() == [True, True]

    @dataclass(frozen=True)
    class Other(TestOnly):
        pass

    with pytest.raises(ValueError, match="'test_only' of Other belongs to TestOnly"):
        register_filter(Other)


def test_what_cannot_be_set_from_a_preset_is_refused():
    class Plain(CaptionFilter):
        reason = "plain"
        explanation = ""

        def rejects(self, captions: CaptionEvidence) -> Bools:
            return _all(captions)

    with pytest.raises(TypeError, match="Plain is not a frozen dataclass"):
        register_filter(Plain)

    for text in ("Two words", "4k"):
        named: Any = dataclass(frozen=True)(
            type("Named", (Plain,), {"reason": text, "__module__": __name__})
        )
        with pytest.raises(
            ValueError, match="use lower case letters, digits and underscores, the first a letter"
        ):
            register_filter(named)


def test_annotations_that_were_not_made_are_not_guessed():
    with pytest.raises(RuntimeError, match="not annotated"):
        _ = CaptionEvidence(pa.table({"caption": ["a"]}), None).counts
