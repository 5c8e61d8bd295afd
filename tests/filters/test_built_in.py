"""Each threshold of the built-in filters, at its bound: which values are rejected is a promise."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from open_diht.filters.base import CaptionEvidence, ImageEvidence
from open_diht.filters.built_in import (
    Action,
    CaptionLength,
    Complexity,
    ImageTooSmall,
    NoCaption,
    TextSpotting,
)


def captions(texts: list[str | None], **counts: list[Any]) -> Any:
    arrays = {name: np.array(values) for name, values in counts.items()}
    return CaptionEvidence(pa.table({"caption": pa.array(texts, pa.string())}),
                           SimpleNamespace(**arrays))  # type: ignore[arg-type]  # fmt: skip


def images(sides: list[tuple[int, int]], overlaps: list[int]) -> ImageEvidence:
    records = pa.table({"width": [w for w, _ in sides], "height": [h for _, h in sides]})
    return ImageEvidence([""] * len(sides), records, np.array(overlaps))


@pytest.mark.parametrize(
    ("one", "evidence", "rejected"),
    [
        (NoCaption(), captions([None, "", "a"]), [True, False, False]),
        (CaptionLength(max_chars=3), captions([None, "abc", "abcd"]), [False, False, True]),
        (
            Complexity(min_complexity=2),
            captions([""] * 3, parsed=[True, True, False], complexity=[1, 2, 0]),
            [True, False, False],
        ),
        (Action(min_actions=2), captions([""] * 2, n_actions=[1, 2]), [True, False]),
        (
            ImageTooSmall(min_side=10),
            images([(9, 10), (10, 9), (10, 10)], [0] * 3),
            [True, True, False],
        ),
        (TextSpotting(min_chars=5), images([(10, 10)] * 3, [4, 5, 6]), [False, True, True]),
    ],
)
def test_the_bound_of_a_threshold(one: Any, evidence: Any, rejected: list[bool]) -> None:
    assert one.rejects(evidence).tolist() == rejected
