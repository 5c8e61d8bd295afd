"""What a small file can make of memory: captions and decisions are bounded in bytes, whatever the
rows hold."""

import json
import resource
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from open_diht.filters.presets import load_preset
from open_diht.pipelines.datasets import load_dataset
from open_diht.pipelines.manifests import UnreadableFile, inspect, read
from open_diht.pipelines.manifests.plan import keep_plan, make_plan
from open_diht.pipelines.stages.captions import CaptionStage
from open_diht.pipelines.stages.decide import DecideStage
from open_diht.pipelines.store.commit import read_json
from open_diht.pipelines.store.layout import Layout
from open_diht.pipelines.store.records import Fingerprints

MIB = 2**20
ROWS = 64
LARGE = 8 * MIB


def whole_path(source: str, output: Path) -> None:
    dataset = load_dataset("custom")
    layout = Layout(output)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    [unit] = keep_plan(layout.plan, make_plan(source, dataset, 1)).units
    captions = CaptionStage(layout, dataset, "x", annotate=False)
    captions.setup()
    captions.do(unit.name)
    known = Fingerprints.published(layout, "decide", {unit.name: "x"})
    DecideStage(layout, dataset, load_preset("paper"), (), known, examples=2).do(unit.name)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    record = read_json(layout.commit("decide", unit.name))
    (output / "measured.json").write_text(json.dumps({**record, "peak": peak * 1024}))


def table_of(kind: str) -> pa.Table:
    captions = pa.array(["a dog runs"] * ROWS)
    large = pa.array(["x" * LARGE] * ROWS)
    urls = pa.array([f"http://{row}" for row in range(ROWS)])
    match kind:
        case "captions":
            return pa.table({"caption": large, "url": urls})
        case "carried texts":
            return pa.table({"caption": captions, "other": large, "url": urls})
        case "carried dictionaries":
            return pa.table({"caption": captions, "other": large.dictionary_encode(), "url": urls})
        case "carried lists":
            return pa.table(
                {"caption": captions, "other": pa.array([["x" * (LARGE // 2)]] * ROWS), "url": urls}
            )
        case _:
            random = np.random.default_rng(0)
            images = pa.chunked_array([pa.array([random.bytes(LARGE)]) for _ in range(ROWS)])
            return pa.table({"caption": captions, "image": images})


@pytest.mark.slow
@pytest.mark.parametrize(
    "kind", ["captions", "carried texts", "carried dictionaries", "carried lists", "images"]
)
def test_large_values_take_bounded_memory(kind, tmp_path, forks):
    path = tmp_path / "a.parquet"
    pq.write_table(table_of(kind), path, compression="zstd")
    forks.call(__file__, "whole_path", str(path), tmp_path / "out", said=tmp_path / "said.txt")
    record: dict[str, Any] = json.loads((tmp_path / "out" / "measured.json").read_text())
    assert record["rows"] == ROWS and record["peak"] < 1024 * MIB


def test_a_page_that_no_memory_is_for_costs_its_row_group(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    custom = load_dataset("custom")
    small = pa.table({"caption": ["a dog"], "boxes": [[1]]})
    with pq.ParquetWriter(path, small.schema, compression="zstd") as writer:
        writer.write_table(small)
        boxes = pa.LargeListArray.from_arrays(
            [0, 80 * MIB], pa.nulls(80 * MIB, pa.int64()).fill_null(0)
        )
        writer.write_table(
            pa.table({"caption": ["a cat"], "boxes": boxes.cast(pa.list_(pa.int64()))})
        )
    assert path.stat().st_size < 2 * MIB
    rows = []
    with pytest.raises(
        UnreadableFile, match=r"OversizedPages.*row group 1 .*rows of up to 13\d{8}.*row_group_size"
    ):
        for batch in read(inspect(str(path), custom), custom):
            rows += batch.captions
    assert rows == ["a dog"]
