"""What a person is told beside the funnel."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from open_diht.pipelines.datasets import load_dataset
from open_diht.pipelines.driver.notes import types_that_differ
from open_diht.pipelines.manifests.plan import make_plan


@pytest.mark.parametrize(
    ("second", "said"),
    [(pa.array(["high"]), True), (pa.array([2], pa.int32()), False), (pa.nulls(1), False)],
)
def test_a_column_of_two_types_is_named_with_both_files(tmp_path, second, said):
    for name, score in (("a", pa.array([1])), ("b", second)):
        pq.write_table(
            pa.table({"caption": ["a dog"], "score": score}), tmp_path / f"{name}.parquet"
        )
    note = types_that_differ(make_plan(str(tmp_path), load_dataset("custom"), 1).infos)
    assert bool(note) == said
    if note:
        assert note.startswith(
            f"{tmp_path}/b.parquet: column 'score' is string, in {tmp_path}/a.parquet it is int64: "
        )
