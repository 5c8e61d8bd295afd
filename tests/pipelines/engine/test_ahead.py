"""Batches that are prepared ahead of who asks for them."""

import pytest

from open_diht.pipelines.engine.ahead import prepared_ahead


@pytest.mark.parametrize("threads", [0, 1, 3])
def test_batches_and_items_stay_in_order(threads: int) -> None:
    batches = [(name, list(range(name, name + 3))) for name in range(7)]
    found = list(prepared_ahead(batches, lambda item: item * item, threads))
    assert found == [(name, [item * item for item in items]) for name, items in batches]
    assert list(prepared_ahead([], lambda item: item, threads)) == []


@pytest.mark.parametrize("threads", [0, 2])
def test_what_cannot_be_prepared_is_raised_where_its_batch_is_asked_for(threads: int) -> None:
    asked = prepared_ahead([("good", [1]), ("bad", [0])], lambda item: 1 / item, threads)
    assert next(asked) == ("good", [1.0])
    with pytest.raises(ZeroDivisionError):
        next(asked)
