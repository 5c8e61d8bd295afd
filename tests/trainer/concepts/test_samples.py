"""Which samples a head sees: three parts, rare concepts more often, any pool at once."""

from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from open_diht.trainer.concepts import samples as module
from open_diht.trainer.concepts.samples import HeadSamples, Part, repeat_factors
from open_diht.trainer.concepts.store import ConceptStore
from tests.trainer.concepts.conftest import LISTS, labels_of


def samples_of(store: ConceptStore, holdout: float = 0.2, threshold: float = 0.001) -> HeadSamples:
    return HeadSamples(store, "objects", holdout=holdout, threshold=threshold, seed=(0, 0))


@given(lists=LISTS, rows=st.lists(st.integers(0, 11), max_size=6))
def test_labels_of_some_samples(lists: list[list[int]], rows: list[int]) -> None:
    rows = [row for row in rows if row < len(lists)]
    found = labels_of(lists).of(np.array(rows, np.int64))
    expected = labels_of([lists[row] for row in rows])
    assert (
        found.offsets.tolist() == expected.offsets.tolist()
        and found.ids.tolist() == expected.ids.tolist()
    )


@given(lists=LISTS, threshold=st.floats(0, 1))
def test_a_sample_repeats_as_its_rarest_concept_asks(
    lists: list[list[int]], threshold: float
) -> None:
    frequencies = np.array([0.5, 0.2, 0.1, 0.01, 0.001, 0.0001])
    factors = repeat_factors(labels_of(lists), frequencies, threshold)
    for factor, concepts in zip(factors, lists, strict=True):
        expected = max((max(1, (threshold / frequencies[c]) ** 0.5) for c in concepts), default=0)
        assert factor == pytest.approx(expected)


def test_parts_share_nothing_and_stay_when_shards_come(store: Any) -> None:
    found = {}
    for shards in (2, 3):
        samples = samples_of(store(shards=shards))
        for part in Part:
            keys = [some.shard.keys[row] for some in samples.usable(part) for row in some.rows]
            assert len(keys) == len({*keys})
            found[shards, part] = {*keys}
    assert all(found[2, part] < found[3, part] for part in Part)
    sizes = [len(found[3, part]) for part in (Part.TRAIN, Part.VALIDATION, Part.TEST)]
    assert sum(sizes) == len(set().union(*(found[3, part] for part in Part))) == 3 * (120 - 6 - 12)
    assert 15 < sizes[1] < 50 and 15 < sizes[2] < 50


def test_an_epoch_holds_rare_concepts_more_often(store: Any) -> None:
    samples = samples_of(store(rows=400), threshold=0.5)
    frequencies = np.array([1.0, 0.25, 0.12, 0.06, 0.03, 0.03])
    drawn: Counter[int] = Counter()
    for _, batches in samples.pools(0, 256, frequencies):
        for _, ids, weights in batches:
            drawn.update(ids[weights > 0].tolist())
    usual: Counter[int] = Counter()
    for some in samples.usable(Part.TRAIN):
        usual.update(some.labels.ids.tolist())
    for concept in range(1, 6):
        assert drawn[concept] / usual[concept] == pytest.approx(
            (0.5 / frequencies[concept]) ** 0.5, rel=0.15
        )
    many = sum(len(f) for _, batches in samples.pools(0, 256, frequencies) for f, *_ in batches)
    assert samples.expected(frequencies) == pytest.approx(many, rel=0.05)


def test_any_pool_is_what_the_whole_has_there(store: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "POOL_ROWS", 50)
    samples = samples_of(store())
    frequencies = np.full(6, 0.1)

    def pools(first: int) -> dict[int, list[bytes]]:
        return {
            number: [b"".join(array.tobytes() for array in batch) for batch in batches]
            for number, batches in samples.pools(4, 32, frequencies, first)
        }

    whole = pools(0)
    assert len(whole) == 3
    assert pools(1) == {number: batches for number, batches in whole.items() if number >= 1}
    assert pools(3) == {}


def test_a_shard_of_nothing_but_bad_images_is_no_matter(store: Any) -> None:
    """The first half cannot say how wide their features are."""
    known = store()
    folder = known.folder.folder / "work/features/data"
    np.save(folder / "00001.npy", np.zeros((120, 0), np.float16))
    with np.load(folder / "00001.npz") as status:
        keys = status["keys"]
    np.savez(folder / "00001.npz", keys=keys, good=np.zeros(120, np.bool_))
    samples = samples_of(known)
    assert samples.statistics().samples > 100
    assert len(samples.measured(Part.TEST)) > 5
    assert known.load(known.shards[1]).features.shape == (120, 16)
