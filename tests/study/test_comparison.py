"""Differences of arms: over seeds and images alike, ranks by their geometric mean."""

import math

import numpy as np
import pytest

from study.comparison import HITS, R10, RANK, Compared, Measure, Side, compare, corrected
from study.rows import BrokenRows, Rows
from tests.study.conftest import CAPTIONS, IMAGES, MakeRows

ITEMS = "flickr8k-test/t2i"


def sides(rows: Rows, *arms: str) -> list[Side]:
    found = rows.read("cat")
    return [{row.arm.seed: row for row in found if row.arm.arm == arm} for arm in arms]


def compared(rows: Rows, a: str, b: str, measure: Measure) -> Compared | None:
    first, second = sides(rows, a, b)
    return compare(rows, first, second, ITEMS, measure)


def ranks(rows: Rows, side: Side) -> np.ndarray:
    """(seeds, images) mean logarithm of the ranks of an image's captions."""
    kept = [np.log(rows.items(side[seed].arm)[ITEMS].astype(float)) for seed in sorted(side)]
    return np.stack(kept).reshape(len(kept), IMAGES, CAPTIONS).mean(axis=2)


def test_a_rank_that_is_a_fifth_lower_is_found(make_rows: MakeRows) -> None:
    rows = make_rows({"all": 0.0, "kept": -math.log(0.8)})
    found = compared(rows, "all", "kept", RANK)
    assert found is not None and found.difference == pytest.approx(-20, abs=4)
    assert found.low < found.difference < found.high < 0 and found.p < 1e-3
    assert found.b == pytest.approx(0.8 * found.a, rel=0.05)
    assert (found.seeds, found.images) == (5, IMAGES)


def test_more_is_better_of_shares_and_less_of_ranks(make_rows: MakeRows) -> None:
    rows = make_rows({"all": 0.0, "kept": 0.3, "same": 0.0})
    for measure in (RANK, R10):
        for arm, verdict in (("kept", "better"), ("same", "open")):
            found = compared(rows, "all", arm, measure)
            assert found is not None and corrected([found])[0].verdict == verdict
        back = compared(rows, "kept", "all", measure)
        assert back is not None and corrected([back])[0].verdict == "worse"


def test_the_interval_is_that_of_a_crossed_bootstrap_where_seeds_are_many(
    make_rows: MakeRows,
) -> None:
    rows = make_rows({"all": 0.0, "kept": 0.05}, seeds=range(20))
    a, b = sides(rows, "all", "kept")
    found = compare(rows, a, b, ITEMS, RANK)
    generator = np.random.default_rng(0)
    differences = ranks(rows, b) - ranks(rows, a)
    drawn = []
    for _ in range(2000):
        seeds, images = (generator.integers(0, count, count) for count in differences.shape)
        drawn.append(differences[seeds].mean(axis=0)[images].mean())
    low, high = 100 * np.expm1(np.quantile(drawn, [0.025, 0.975]))
    assert found is not None
    assert found.high - found.low == pytest.approx(high - low, rel=0.2)
    assert (found.low, found.high) == pytest.approx((low, high), abs=0.25 * (high - low))


def test_captions_of_one_image_are_no_observations_of_their_own(make_rows: MakeRows) -> None:
    rows = make_rows({"all": 0.0, "kept": 0.05})
    a, b = sides(rows, "all", "kept")
    of_images = compare(rows, a, b, ITEMS, RANK)
    difference = (ranks(rows, b) - ranks(rows, a)).mean(axis=0)
    assert of_images is not None and of_images.images == IMAGES
    assert (
        math.log1p(of_images.high / 100) - math.log1p(of_images.low / 100)
        > 2 * difference.std() / IMAGES**0.5
    )


def test_two_seeds_say_too_little(make_rows: MakeRows) -> None:
    rows = make_rows({"all": 0.0, "kept": 0.5}, seeds=(0, 1))
    assert compared(rows, "all", "kept", RANK) is None


def test_only_common_seeds_are_compared(make_rows: MakeRows) -> None:
    make_rows({"all": 0.0}, seeds=range(4))
    rows = make_rows({"kept": 0.5}, seeds=range(1, 6))
    found = compared(rows, "all", "kept", RANK)
    assert found is not None and found.seeds == 3


def test_arms_that_were_measured_on_other_items_are_refused(make_rows: MakeRows) -> None:
    rows = make_rows({"all": 0.0, "kept": 0.5})
    a, b = sides(rows, "all", "kept")
    row = b[0]
    (rows.folder / "items" / f"{row.arm.key}.npz").unlink()
    few = {ITEMS: np.ones(10, int), "flickr8k-test/i2t": np.ones(2, int)}
    rows.write(row.arm, row.metrics, few, 1.0, row.notes)
    with pytest.raises(BrokenRows, match="other items"):
        compare(rows, a, b, ITEMS, RANK)
    with pytest.raises(BrokenRows, match="no items 'web-held/t2i'"):
        compare(rows, a, b, "web-held/t2i", RANK)


def test_a_table_is_corrected_for_all_that_it_compares(make_rows: MakeRows) -> None:
    rows = make_rows({"all": 0.0, "kept": 0.1})
    found = compared(rows, "all", "kept", RANK)
    assert found is not None and 0.05 / 60 < found.p < 0.05
    assert corrected([found])[0].verdict == "better"
    assert {one.verdict for one in corrected([found] * 60)} == {"open"}
    # What would have been seen is a fall of the rank, and larger than what the correction leaves
    # unseen.
    alone, among = (corrected([found] * tests)[0].detectable for tests in (1, 60))
    assert among < found.difference < alone < 0
    assert alone == pytest.approx(100 * math.expm1(-(found.paired.detectable or math.nan)))


@pytest.mark.parametrize(
    ("measure", "value", "shown"), [(RANK, math.log(30), 30), (R10, 0.25, 25), (HITS, 1.0, 100)]
)
def test_people_read_ranks_and_percent(measure: Measure, value: float, shown: float) -> None:
    assert measure.shown(value) == pytest.approx(shown)
