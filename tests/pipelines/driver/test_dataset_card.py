"""The card that a run writes: of all parts of a kind together."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import yaml

CAPTION = "A dog runs over a green meadow"


def head(output: Path) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((output / "README.md").read_text().split("---\n")[1])
    return found


def types_of(output: Path) -> dict[str, str]:
    described = head(output)["dataset_info"][0]
    return {one["name"]: one["dtype"] for one in described["features"] if "dtype" in one}


def run(filtering: Callable[..., Any], folder: Path, *columns: dict[str, pa.Array], **settings: Any) -> Path:
    """One manifest of two rows for each of `columns`."""
    (folder / "in").mkdir(exist_ok=True)
    for n, more in enumerate(columns):
        pq.write_table(pa.table({"caption": [CAPTION, "Sale"], **more}), folder / "in" / f"{n}.parquet")
    done = filtering(f"{folder}/in/*.parquet", folder / "out", stages=("captions", "export"), **settings)
    assert done.status == 0
    return folder / "out"


def test_columns_of_all_files_and_their_common_types(filtering: Callable[..., Any], tmp_path: Path) -> None:
    ints, floats = pa.array([1, 2]), pa.array([0.5, 1.5])
    output = run(filtering, tmp_path, {"score": ints}, {"score": floats, "more": ints})
    types = types_of(output)
    assert (types["score"], types["more"], types["uid"]) == ("float64", "int64", "string")
    assert [one["config_name"] for one in head(output)["configs"]] == ["kept", "rejected"]


def test_types_that_cannot_be_one_do_no_harm(filtering: Callable[..., Any], tmp_path: Path) -> None:
    output = run(filtering, tmp_path, {"score": pa.array([1, 2])}, {"score": pa.array(["a", "b"])})
    assert "dataset_info" not in head(output) and "Types of columns differ" in (output / "README.md").read_text()


def test_another_licence_is_another_card(filtering: Callable[..., Any], tmp_path: Path) -> None:
    assert head(run(filtering, tmp_path, {}))["license"] == "unknown"
    assert head(run(filtering, tmp_path, {}, licence="mit"))["license"] == "mit"
    (tmp_path / "out" / "README.md").unlink()
    assert head(run(filtering, tmp_path, {}, licence="mit"))["license"] == "mit", "it is made again"
