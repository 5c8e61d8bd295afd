"""The forecast: sums and products of what was measured; what was not is said to be unknown."""

import json
from dataclasses import replace

import pytest

from open_diht.pipelines.pilot.forecast import (
    Forecast,
    Measured,
    Whole,
    add_run,
    forecast,
    render,
    render_run,
)

WHOLE = Whole(
    units=100,
    recut=False,
    rows=100_000,
    exact_rows=True,
    stages=("captions", "spotting", "export"),
    has_images=True,
)
URLS = replace(WHOLE, has_images=False)


def _unit(n: int, kept: int = 200, images: int = 300) -> Measured:
    outcomes = {"kept": kept, "action": 1_000 - kept - 10, "dead_letter": 10}
    seconds = {"captions": 1.0, "spotting": 10.0 if images else 0.01, "decide": 0.5}
    stored = {"work": 5_000, "kept": 1_000, "shards": 6_000 if images else 0}
    seen = {"images": images, "image_bytes": images * 20, "exported": kept if images else 0}
    return Measured(
        unit=str(n),
        rows=1_000,
        to_fetch=300,
        outcomes=outcomes,
        seconds=seconds,
        stored=stored,
        **seen,
    )


def _forecast(*units: Measured, whole: Whole = WHOLE) -> Forecast:
    return forecast(units, whole)


def test_what_was_measured_is_scaled_to_the_whole() -> None:
    found = _forecast(*(_unit(n, 190 + n) for n in range(20)))
    kept = found.rows["kept"]
    assert kept.basis == "measured" and kept.estimate and kept.estimate.low is not None
    assert kept.estimate.value == pytest.approx(19_950)
    assert kept.estimate.low < 19_950 < (kept.estimate.high or 0) < 21_500
    lines = {
        11.5 * 100 / 3600: found.core_hours["all"],
        30_000 * 20: found.images["bytes"],
        19_950: found.images["exported"],
        1_200_000: found.stored["all"],
    }
    for value, line in lines.items():
        assert (
            line.basis == "measured"
            and line.estimate
            and line.estimate.value == pytest.approx(value)
        )


def test_hours_of_downloads_are_said_to_be_by_the_clock() -> None:
    units = [replace(_unit(n), seconds={**_unit(n).seconds, "download": 7.0}) for n in range(5)]
    hours = _forecast(*units).core_hours
    assert "clock" in hours["download"].note and not hours["spotting"].note


@pytest.mark.parametrize(("on_gpu", "cores"), [(True, 11.5), (False, 18.5)])
def test_hours_of_a_gpu_are_no_core_hours(on_gpu: bool, cores: float) -> None:
    units = [replace(_unit(n), seconds={**_unit(n).seconds, "score": 7.0}) for n in range(5)]
    hours = _forecast(*units, whole=replace(WHOLE, score_on_gpu=on_gpu)).core_hours
    values = {
        name: line.estimate.value * 3600 / 100 for name, line in hours.items() if line.estimate
    }
    assert (values["score"], values["all"]) == pytest.approx((7, cores))
    assert ("GPU" in hours["score"].note) is on_gpu


def test_without_images_what_depends_on_them_is_unknown() -> None:
    found = _forecast(_unit(0, 0, 0), _unit(1, 0, 0), whole=URLS)
    assert found.rows["kept"].basis == "unknown"
    kept = found.rows["kept"].estimate
    assert kept and kept.low == 0 and kept.high is not None and kept.high >= 30_000
    assert found.images["fetched"].basis == found.core_hours["captions"].basis == "measured"
    for line in (found.images["bytes"], found.core_hours["spotting"], found.stored["shards"]):
        assert line.basis == "unknown" and line.estimate is None
    assert (
        found.core_hours["all"].basis == "unknown"
        and "unknown parts" in found.core_hours["all"].note
    )


@pytest.mark.parametrize(
    ("stages", "images"), [(WHOLE.stages, 300), (("captions", "download", "export"), 0)]
)
def test_shards_are_unknown_where_the_sample_has_none(stages: tuple[str, ...], images: int) -> None:
    """Images were read and no row was kept, or no stage reads images."""
    units = [replace(_unit(n, 0, images), stored={"work": 5_000}) for n in range(2)]
    assert _forecast(*units, whole=replace(URLS, stages=stages)).stored["shards"].basis == "unknown"


def test_one_unit_gives_no_interval_of_costs() -> None:
    found = _forecast(_unit(0))
    assert found.core_hours["all"].estimate == replace(
        found.core_hours["all"].estimate, low=None, high=None
    )  # type: ignore[type-var]
    assert "(too few units)" in render(found)


def test_an_empty_sample_is_refused() -> None:
    with pytest.raises(ValueError, match="no unit"):
        _forecast()


def test_the_table_is_plain_and_json_is_json() -> None:
    found = _forecast(*(_unit(n, 190 + n) for n in range(5)))
    assert render(found).isascii()
    content = json.loads(json.dumps(found.as_dict(), allow_nan=False))
    assert (
        content["rows"]["kept"]["basis"] == "measured" and content["core_hours"]["all"]["value"] > 0
    )


def _run(whole: Whole, cores: int | None, price: float | None) -> Forecast:
    units = [replace(_unit(n), seconds={**_unit(n).seconds, "score": 7.0}) for n in range(5)]
    found = _forecast(*units, whole=whole)
    add_run(found, whole, cores, price)
    return found


def test_a_run_is_answered_by_rows_hours_bytes_and_money() -> None:
    found = _run(replace(WHOLE, rows=10**9, units=10**4), 64, 0.04)
    values = {name: line.estimate.value for name, line in found.run.items() if line.estimate}
    hours = 18.5 * 10**6 / 3600
    assert values == pytest.approx(
        {
            "kept": 2e8,
            "core_hours": hours,
            "hours": hours / 64,
            "bytes": 12_000 * 10**6,
            "money": hours * 0.04,
        }
    )
    money = found.run["money"].estimate
    all_hours = found.core_hours["all"].estimate
    assert money and all_hours and all_hours.low is not None and all_hours.high is not None
    assert (money.low, money.high) == pytest.approx((all_hours.low * 0.04, all_hours.high * 0.04))
    assert "1,000,000,000 rows" in render_run(found, 10**9)
    assert list(_run(WHOLE, None, None).run) == ["kept", "core_hours", "bytes"]


@pytest.mark.parametrize(("cores", "working"), [(99, 99), (100, 100), (101, 100)])
def test_cores_without_a_unit_save_no_hours(cores: int, working: int) -> None:
    found = _run(WHOLE, cores, None).run
    assert found["hours"].estimate and found["core_hours"].estimate
    assert found["hours"].estimate.value == pytest.approx(
        found["core_hours"].estimate.value / working
    )
    assert ("units for 100" in found["hours"].note) is (cores > 100)


def test_hours_of_a_gpu_are_not_in_the_answer_and_it_says_so() -> None:
    found = _run(replace(WHOLE, score_on_gpu=True), 2, 1.0).run
    values = [found[name].estimate for name in ("core_hours", "hours", "money")]
    assert [one.value * 36 for one in values if one] == pytest.approx([11.5, 5.75, 11.5])
    assert all("GPU" in found[name].note for name in ("core_hours", "hours", "money"))
    assert "GPU" not in found["bytes"].note


def test_an_answer_without_its_unknown_parts_is_unknown() -> None:
    found = _forecast(_unit(0, 0, 0), _unit(1, 0, 0), whole=URLS)
    add_run(found, URLS, 2, 3.0)
    assert {line.basis for line in found.run.values()} == {"unknown"}


def test_a_sample_of_all_rows_is_exact_for_them_alone() -> None:
    units = [_unit(n, 190 + n) for n in range(5)]
    exact, larger = (
        _forecast(*units, whole=replace(WHOLE, rows=rows)).rates["kept"] for rows in (5_000, 10_000)
    )
    assert exact.low == exact.high == exact.value == larger.value
    assert larger.low is not None and larger.high is not None
    assert larger.low < larger.value < larger.high
