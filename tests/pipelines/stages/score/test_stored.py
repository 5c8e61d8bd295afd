"""Decisions by stored scores."""

import pyarrow as pa
import pytest

from open_diht.filters.cascade import NotLookedAt
from open_diht.pipelines.datasets import load_dataset
from open_diht.pipelines.manifests.plan import keep_plan, make_plan
from open_diht.pipelines.stages.score.stored import ScoreFilter
from open_diht.pipelines.store.commit import publish_json
from open_diht.pipelines.store.layout import Layout


def test_rows_of_a_unit_that_was_not_scored_are_not_decided(tmp_path):
    manifest = tmp_path / "rows.tsv"
    manifest.write_text("url\tcaption\nhttp://a.example/1.jpg\tA dog\n")
    layout = Layout(tmp_path / "out")
    [unit] = keep_plan(layout.plan, make_plan(str(manifest), load_dataset("custom"), 1)).units
    publish_json(layout.commit("captions", unit.name), {"extent": 1})
    row_filter = ScoreFilter((), rejects=True, masked=False, corrected=False, fingerprint="")
    rows = pa.table({"ordinal": pa.array([0], pa.int64())})
    assert row_filter.reasons(layout, unit.name, rows.slice(0, 0)).tolist() == []
    with pytest.raises(NotLookedAt, match=unit.name):
        row_filter.reasons(layout, unit.name, rows)
