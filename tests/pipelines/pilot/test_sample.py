"""The sample: units of two sizes where a run's are much larger, of which no row is in two."""

import random
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from open_diht.common.command_line import WrongUse
from open_diht.filters.presets import load_preset
from open_diht.pipelines.datasets import load_dataset
from open_diht.pipelines.manifests import Span
from open_diht.pipelines.manifests.plan import Unit
from open_diht.pipelines.pilot.options import UNITS
from open_diht.pipelines.pilot.sample import FOLDER, LONG, sampling, two_sizes
from open_diht.pipelines.settings import RunSettings


def _units(files: int, each: int, rows: int = 10) -> list[Unit]:
    def unit(file: int, n: int) -> Unit:
        span = Span(
            path=str(file),
            format="parquet",
            start=n * rows,
            stop=(n + 1) * rows,
            rows=rows,
            exact=True,
        )
        return Unit(f"{file:05d}-{n:05d}", span)

    return [unit(file, n) for file in range(files) for n in range(each)]


def _settings(source: Path, output: Path, **more: Any) -> RunSettings:
    how: dict[str, Any] = {
        "dataset": load_dataset("custom"),
        "preset": load_preset("paper"),
        **more,
    }
    return RunSettings(input=str(source), output=output, stages=("captions",), **how)


def _table(path: Path, rows: int) -> Path:
    urls = pa.array(range(rows), pa.int64()).cast(pa.string())
    pq.write_table(pa.table({"url": urls, "caption": urls}), path)
    return path


@pytest.mark.parametrize("seed", range(20))
def test_a_third_are_long_and_none_overlap(seed: int) -> None:
    chosen = two_sizes(_units(10, 9), 20, random.Random(seed))
    assert chosen is not None and len(chosen) == 20
    assert sorted(unit.span.rows for unit in chosen) == [10] * 14 + [10 * LONG] * 6
    assert len({unit.name for unit in chosen}) == 20
    rows = [
        (unit.span.path, row) for unit in chosen for row in range(unit.span.start, unit.span.stop)
    ]
    assert len(rows) == len(set(rows)) == sum(unit.span.rows for unit in chosen)


def test_too_few_units_are_not_oftwo_sizes() -> None:
    assert two_sizes(_units(1, 37), 20, random.Random(0)) is None
    assert two_sizes(_units(100, 1), 20, random.Random(0)) is None
    assert two_sizes(_units(1, 100), 3, random.Random(0)) is None
    assert len(two_sizes(_units(1, 100), 4, random.Random(0)) or []) == 4


def test_units_are_a_runs_where_these_are_small_or_few(tmp_path: Path) -> None:
    def settings(rows: int, **more: int) -> RunSettings:
        return _settings(
            _table(tmp_path / "a.parquet", rows), tmp_path / "out", **{"workers": 1, **more}
        )

    large = sampling(settings(200_000), None, None, 0)
    assert (
        large.recut
        and len(large.whole.units) == 4
        and large.of == 100
        and len(large.plan.units) == UNITS
    )
    for alike in (
        settings(200_000, workers=16),
        settings(200_000, unit_rows=500),
        settings(30_000),
    ):
        drawn = sampling(alike, None, None, 0)
        assert not drawn.recut and set(drawn.plan.units) <= set(drawn.whole.units)
        assert drawn.of == len(drawn.whole.units) and len(drawn.plan.units) == min(UNITS, drawn.of)


@pytest.mark.parametrize("part", [0.2, 0.3, 0.45])
def test_a_fraction_of_the_units_is_that_of_the_rows(part: float, tmp_path: Path) -> None:
    settings = _settings(_table(tmp_path / "a.parquet", 200_000), tmp_path / "out", workers=1)
    drawn = sampling(settings, None, part, 0)
    assert sum(unit.span.rows for unit in drawn.plan.units) == pytest.approx(
        part * 200_000, abs=0.15 * 200_000
    )


def test_results_of_a_run_are_not_sampled(tmp_path: Path) -> None:
    table = pa.table({"url": ["u"], "caption": ["a dog runs"]})
    for file in ("part/a.parquet", "out/kept/00000-00000.parquet"):
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(table, tmp_path / file)
    settings = _settings(tmp_path / "**" / "*.parquet", tmp_path / "out" / FOLDER)
    assert sampling(settings, None, None, 0).whole.rows == 1


def test_without_a_row_the_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.parquet").write_bytes(b"<html>")
    settings = _settings(tmp_path / "*.parquet", tmp_path / "out")
    with pytest.raises(
        WrongUse, match=r"no rows that can be read \(1 file that cannot be, first .*a\.parquet: "
    ):
        sampling(settings, None, None, 0)
