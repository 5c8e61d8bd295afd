"""The arithmetic of an epoch: every sample once, any position at once, the same for any number of
ranks."""

import itertools
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from open_diht.trainer.data.order import EpochOrder, apportion, interleave, permutation

SIZES = st.lists(st.integers(0, 12), min_size=1, max_size=6).filter(any)
COUNTS = st.lists(st.integers(0, 40), min_size=1, max_size=5).filter(any)


def epoch_order(sizes: list[list[int]], **changes: object) -> EpochOrder:
    settings = {"weights": None, "total": None, "seed": 3, "window": 7, "streams": 1, **changes}
    return EpochOrder(sizes, **settings)  # type: ignore[arg-type]


def drawn(
    order: EpochOrder, epoch: int, first: int = 0, last: int | None = None
) -> list[tuple[int, int, int]]:
    sources, shards, rows, _ = order.batch(epoch, first, order.samples if last is None else last)
    return list(zip(sources.tolist(), shards.tolist(), rows.tolist(), strict=True))


def everything(sizes: list[list[int]]) -> list[tuple[int, int, int]]:
    shards = (
        (source, shard, size)
        for source, each in enumerate(sizes)
        for shard, size in enumerate(each)
    )
    return [(source, shard, row) for source, shard, size in shards for row in range(size)]


@pytest.mark.slow
@given(
    sizes=st.lists(SIZES, min_size=1, max_size=3),
    window=st.integers(0, 50),
    streams=st.integers(1, 5),
    epoch=st.integers(0, 3),
    seed=st.integers(0, 2**63 - 1),
)
def test_an_epoch_holds_every_sample_once(sizes, window, streams, epoch, seed):
    order = epoch_order(sizes, window=window, streams=streams, seed=seed)
    assert sorted(drawn(order, epoch)) == everything(sizes)


@given(sizes=st.lists(SIZES, min_size=1, max_size=3), streams=st.integers(1, 4), data=st.data())
def test_a_piece_is_what_the_whole_has_there(
    sizes: list[list[int]], streams: int, data: st.DataObject
) -> None:
    order = epoch_order(sizes, streams=streams)
    first = data.draw(st.integers(0, order.samples))
    last = data.draw(st.integers(first, order.samples))
    sources, shards, rows, positions = order.batch(1, 0, order.samples)
    by_position = {p: x for *x, p in zip(sources, shards, rows, positions, strict=True)}
    again = epoch_order(sizes, streams=streams)  # nothing remembered
    assert Counter(drawn(again, 1, first, last)) == Counter(
        tuple(by_position[p]) for p in range(first, last)
    )


@given(
    sizes=st.integers(1, 4).flatmap(
        lambda rounds: st.lists(st.tuples(*[st.integers(0, 9)] * rounds), min_size=1)
    ),
    streams=st.integers(1, 4),
    window=st.integers(0, 20),
    epoch=st.integers(0, 2),
)
def test_a_pass_takes_one_round_after_another(sizes, streams, window, epoch):
    if not sum(map(sum, sizes)):
        return
    order = epoch_order([sizes], window=window, streams=streams)
    _, shards, rows, positions = order.batch(epoch, 0, order.samples)
    before = np.cumsum(sizes, axis=1)
    rounds = [
        int(np.searchsorted(before[shard], row, side="right"))
        for shard, row in zip(shards, rows, strict=True)
    ]
    assert [rounds[at] for at in np.argsort(positions)] == sorted(rounds)
    assert sorted(drawn(order, epoch)) == everything([list(map(sum, sizes))])
    if len(sizes[0]) == 1:
        plain = epoch_order([[size for (size,) in sizes]], window=window, streams=streams)
        assert drawn(order, epoch) == drawn(plain, epoch)


def test_epochs_and_seeds_differ() -> None:
    order = epoch_order([[20, 30]])
    assert drawn(order, 0) != drawn(order, 1)
    assert drawn(order, 0) != drawn(epoch_order([[20, 30]], seed=4), 0)
    assert drawn(order, 0) == drawn(epoch_order([[20, 30]]), 0)


def test_without_shuffle_samples_come_in_the_order_of_the_shards() -> None:
    assert drawn(epoch_order([[2, 0, 3]], window=0, streams=4), 5) == everything([[2, 0, 3]])


def test_a_window_touches_few_shards() -> None:
    order = epoch_order([[10] * 100], window=30)
    for first in range(0, 1000, 30):
        assert len({shard for _, shard, _ in drawn(order, 0, first, min(first + 30, 1000))}) <= 4


def test_the_window_is_well_mixed() -> None:
    """Neighbours in a shard do not stay neighbours, and shards are not read in their order."""
    samples = drawn(epoch_order([[100] * 20], window=500), 0)
    neighbours = sum(
        a[:2] == b[:2] and abs(a[2] - b[2]) == 1 for a, b in itertools.pairwise(samples)
    )
    assert neighbours < 20
    assert [shard for _, shard, _ in samples] != sorted(shard for _, shard, _ in samples)


def test_ranks_read_shards_of_their_own_with_as_many_streams() -> None:
    order = epoch_order([[10] * 40], streams=4, window=20)
    world = 4
    batch = 8
    read: list[set[int]] = [set() for _ in range(world)]
    for first in range(0, 400 - batch * world, batch * world):
        samples = drawn(order, 0, first, first + batch * world)
        for rank in range(world):
            read[rank] |= {shard for _, shard, _ in samples[rank * batch : (rank + 1) * batch]}
    # A shard at the border of two streams is read by both.
    assert sum(len(each) for each in read) <= 40 + world


@given(counts=COUNTS)
def test_interleave_gives_each_source_its_count_evenly(counts: list[int]) -> None:
    total = sum(counts)
    source, index = interleave(counts, np.arange(total))
    for number, count in enumerate(counts):
        mine = source == number
        assert index[mine].tolist() == list(range(count))
        expected = np.arange(1, total + 1) * count / total
        assert np.abs(np.cumsum(mine) - expected).max(initial=0) < len(counts)


@given(
    sizes=st.lists(st.integers(1, 50), min_size=1, max_size=4),
    total=st.integers(1, 200),
    data=st.data(),
)
def test_shares_are_exact_in_sum(sizes: list[int], total: int, data: st.DataObject) -> None:
    weights = data.draw(st.lists(st.floats(0.01, 10), min_size=len(sizes), max_size=len(sizes)))
    counts = apportion(sizes, weights, total)
    assert sum(counts) == total
    assert all(abs(n - total * w / sum(weights)) <= 1 for n, w in zip(counts, weights, strict=True))


def test_weighted_sources_go_on_where_they_stopped() -> None:
    """After any number of epochs the samples of a source have been drawn equally often, give or
    take one."""
    order = epoch_order([[5, 6], [40]], weights=[3.0, 1.0], total=40, window=4, streams=2)
    assert order.counts == [30, 10]
    seen: Counter[tuple[int, int, int]] = Counter()
    for epoch in range(7):
        samples = drawn(order, epoch)
        seen.update(samples)
        assert Counter(source for source, _, _ in samples) == {0: 30, 1: 10}
        for source, size in ((0, 11), (1, 40)):
            times = [seen[key] for key in everything([[5, 6], [40]]) if key[0] == source]
            assert len(times) == size and max(times) - min(times) <= 1


def test_permutations_are_pinned() -> None:
    """A resumed run may have another NumPy: the order must stay."""
    assert permutation(8, 1, 2).tolist() == [5, 6, 3, 2, 1, 0, 4, 7]
    assert sorted(permutation(1000, 7).tolist()) == list(range(1000))
