"""The forecast: sums and products of what was measured; what was not is said to be assumed or unknown."""

from __future__ import annotations

from dataclasses import replace

import pytest

from open_diht.pipelines.pilot.forecast import Assumptions, Forecast, Measured, Prices, Whole, forecast
from open_diht.pipelines.pilot.table import render

WHOLE = Whole(
    units=100,
    recut=False,
    rows=100_000,
    exact_rows=True,
    stages=("captions", "spotting", "export"),
    images_at_hand=True,
)


def _unit(n: int, kept: int = 200, images: int = 300) -> Measured:
    return Measured(
        unit=str(n),
        rows=1_000,
        outcomes={"kept": kept, "action": 1_000 - kept - 10, "dead_letter": 10},
        to_fetch=300,
        seconds={"captions": 1.0, "spotting": 10.0 if images else 0.01, "decide": 0.5},
        stored={"work": 5_000, "kept": 1_000, "shards": 6_000 if images else 0},
        images=images,
        image_bytes=images * 20,
    )


def _forecast(
    *units: Measured, whole: Whole = WHOLE, assumed: Assumptions | None = None, prices: Prices | None = None
) -> Forecast:
    return forecast(units, whole, assumed or Assumptions(), prices or Prices(), (1, 16, 1_000))


def test_what_was_measured_is_scaled_to_the_whole() -> None:
    found = _forecast(*(_unit(n, 190 + n) for n in range(20)), prices=Prices(core_hour=0.04, gb_month=1.0))
    kept = found.rows["kept"]
    assert kept.basis == "measured" and kept.estimate and kept.estimate.low is not None
    assert kept.estimate.value == pytest.approx(19_950)
    assert kept.estimate.low < 19_950 < (kept.estimate.high or 0) < 21_500
    hours = found.core_hours["all"].estimate
    assert hours and hours.value == pytest.approx(11.5 * 100 / 3600)
    images = found.images["bytes"].estimate
    assert images and images.value == pytest.approx(30_000 * 20)
    stored = found.stored["all"].estimate
    assert stored and stored.value == pytest.approx(1_200_000)
    cost = found.cost["cores"].estimate
    assert cost and cost.value == pytest.approx(0.04 * hours.value)
    assert "transfer" not in found.cost  # the images are at hand


def test_hours_of_downloads_are_said_to_be_by_the_clock() -> None:
    units = [replace(_unit(n), seconds={**_unit(n).seconds, "download": 7.0}) for n in range(5)]
    hours = _forecast(*units).core_hours
    assert "clock" in hours["download"].note and not hours["spotting"].note


def test_hours_are_bounded_by_units_and_the_longest_of_them() -> None:
    found = _forecast(*(_unit(n) for n in range(5)))
    values = {n: line.estimate.value for n, line in found.hours.items() if line.estimate}
    assert values[1] == pytest.approx(11.5 * 100 / 3600)
    assert values[16] == pytest.approx(values[1] / 16)
    assert values[1_000] == pytest.approx(11.5 / 3600)
    assert "only 100 units" in found.hours[1_000].note


def test_images_of_a_unit_are_distributed_in_image_units() -> None:
    units = [replace(_unit(n), image_units=2) for n in range(5)]
    found = _forecast(*units, whole=replace(WHOLE, image_units=200))
    values = {n: line.estimate.value for n, line in found.hours.items() if line.estimate}
    assert values[16] == pytest.approx(11.5 * 100 / 3600 / 16)
    assert values[1_000] == pytest.approx((1.5 + 10 / 2) / 3600)


@pytest.mark.parametrize(("on_gpu", "cores", "score"), [(True, 11.5 * 0.04, 7 * 2.5), (False, 18.5 * 0.04, None)])
def test_hours_of_a_gpu_have_its_price(on_gpu: bool, cores: float, score: float | None) -> None:
    units = [replace(_unit(n), seconds={**_unit(n).seconds, "score": 7.0}) for n in range(5)]
    prices = Prices(core_hour=0.04, gpu_hour=2.5)
    found = _forecast(*units, whole=replace(WHOLE, score_on_gpu=on_gpu), prices=prices)
    costs = {name: line.estimate.value / 100 * 3600 for name, line in found.cost.items() if line.estimate}
    wanted = {"cores": cores, "all": cores + (score or 0), **({} if score is None else {"score": score})}
    assert costs == pytest.approx(wanted)
    hours = found.hours[16]
    assert hours.estimate and hours.estimate.value == pytest.approx((11.5 if on_gpu else 18.5) * 100 / 3600 / 16)
    assert ("without score" in hours.note) is on_gpu
    most = found.hours[1_000].estimate  # that of the longest unit
    assert most and most.value == pytest.approx((11.5 if on_gpu else 18.5) / 3600)


def test_without_prices_there_is_no_cost() -> None:
    assert _forecast(_unit(0), _unit(1)).cost == {}


def test_without_images_what_depends_on_them_is_unknown() -> None:
    urls = replace(WHOLE, images_at_hand=False, stages=("captions", "spotting", "export"))
    found = _forecast(_unit(0, 0, 0), _unit(1, 0, 0), whole=urls, prices=Prices(core_hour=0.04, gb_transfer=0.1))
    assert found.rows["kept"].basis == "unknown"
    kept = found.rows["kept"].estimate
    assert kept and kept.low == 0 and kept.high is not None and kept.high >= 30_000
    assert found.images["fetched"].basis == "measured"
    for line in (found.images["bytes"], found.core_hours["spotting"], found.stored["shards"], found.cost["transfer"]):
        assert line.basis == "unknown" and line.estimate is None
    assert found.core_hours["all"].basis == found.cost["all"].basis == "unknown"
    assert "give --image-bytes" in render(found)


@pytest.mark.parametrize(("stages", "images"), [(WHOLE.stages, 300), (("captions", "download", "export"), 0)])
def test_assumptions_that_change_nothing_are_not_asked_for(stages: tuple[str, ...], images: int) -> None:
    """Images were read and no row was kept, or no stage reads images."""
    urls = replace(WHOLE, images_at_hand=False, stages=stages)
    units = [replace(_unit(n, 0, images), stored={"work": 5_000}) for n in range(2)]
    assumed = Assumptions(image_bytes=20_000, seconds_per_image=0.05, image_keep_rate=0.7)
    lines = [_forecast(*units, whole=urls, assumed=one).stored["shards"] for one in (Assumptions(), assumed)]
    assert lines[0] == lines[1] and lines[0].basis == "unknown" and "--image" not in lines[0].note


def test_assumptions_fill_the_gaps_and_are_named() -> None:
    urls = replace(WHOLE, images_at_hand=False)
    assumed = Assumptions(image_bytes=20_000, seconds_per_image=0.05, image_keep_rate=0.7)
    prices = Prices(core_hour=0.04, gb_transfer=0.1)
    found = _forecast(_unit(0, 0, 0), _unit(1, 0, 0), whole=urls, assumed=assumed, prices=prices)
    values = {
        "kept": (found.rows["kept"], 21_000),
        "bytes": (found.images["bytes"], 6e8),
        "spotting": (found.core_hours["spotting"], 30_000 * 0.05 / 3600),
        "shards": (found.stored["shards"], 21_000 * 20_000),
        "transfer": (found.cost["transfer"], 0.06),
    }
    for name, (line, value) in values.items():
        assert line.basis == "assumed" and line.estimate and line.estimate.value == pytest.approx(value), name
    assert found.core_hours["captions"].basis == "measured"
    assert found.core_hours["all"].basis == "assumed"


def test_one_unit_gives_no_interval_of_costs() -> None:
    found = _forecast(_unit(0))
    assert found.core_hours["all"].estimate == replace(found.core_hours["all"].estimate, low=None, high=None)  # type: ignore[type-var]
    assert "(too few units)" in render(found)


def test_an_empty_sample_is_refused() -> None:
    with pytest.raises(ValueError, match="no unit"):
        _forecast()


def test_the_table_is_plain_and_json_is_json() -> None:
    import json

    found = _forecast(*(_unit(n, 190 + n) for n in range(5)), prices=Prices(core_hour=0.04))
    assert render(found).isascii()
    content = json.loads(json.dumps(found.as_dict(), allow_nan=False))
    assert content["rows"]["kept"]["basis"] == "measured" and content["hours"]["16"]["value"] > 0
