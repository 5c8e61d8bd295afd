"""croissant.json: valid and loaded by the reference implementation, with the provenance of the
run's records."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

CAPTIONS = ["A dog runs over a green meadow", "Sale", None]


def described(filtering: Callable[..., Any], folder: Path, **settings: Any) -> Path:
    content = {
        "caption": pa.array(CAPTIONS),
        "score": pa.array([0.5, 1.5, None]),
        "a/b <c>": pa.array([[1, 2], [], None]),
        "raw": pa.array([b"\xff", b"", None]),
        "box": pa.array([{"x": 1}, None, {"x": 2}]),
    }
    (folder / "in").mkdir()
    pq.write_table(pa.table(content), folder / "in" / "0.parquet")
    done = filtering(
        f"{folder}/in/*.parquet", folder / "out", stages=("captions", "export"), **settings
    )
    assert done.status == 0
    return folder / "out"


def values(properties: list[dict[str, Any]]) -> dict[str, Any]:
    return {one["propertyID"]: one["value"] for one in properties}


@pytest.mark.parametrize("license", [None, "cc-by-4.0"])
def test_the_reference_validator_accepts_and_loads_it(
    license: str | None, filtering: Callable[..., Any], tmp_path: Path
) -> None:
    mlcroissant = pytest.importorskip("mlcroissant", reason="not installed: pip install '.[dev]'")
    output = described(filtering, tmp_path, license=license)
    loaded = mlcroissant.Dataset(output / "croissant.json")
    assert not loaded.metadata.ctx.issues.errors
    assert loaded.metadata.ctx.conforms_to.value == "http://mlcommons.org/croissant/1.1"
    for kind in ("kept", "rejected"):
        rows = pq.read_table(output / kind).to_pylist()
        found = [*loaded.records(kind)]
        assert [one[f"{kind}/caption"] for one in found] == [
            row["caption"] and row["caption"].encode() for row in rows
        ]
        assert [one[f"{kind}/uid"].decode() for one in found] == [row["uid"] for row in rows]
    (kept,) = loaded.records("kept")
    assert kept["kept/score"] == 0.5 and [*kept["kept/column~1"]] == [1, 2]
    assert not {"kept/raw", "kept/box", "kept/attributes"} & kept.keys()


def test_provenance_is_that_of_the_records(filtering: Callable[..., Any], tmp_path: Path) -> None:
    output = described(filtering, tmp_path)
    run, funnel, found = (
        json.loads((output / f"{name}.json").read_text()) for name in ("run", "funnel", "croissant")
    )
    made = found["prov:wasGeneratedBy"]
    facts = values(made["additionalProperty"])
    assert (facts["rows in"], facts["rows kept"]) == (3, 1) == (funnel["rows_in"], funnel["kept"])
    assert facts["captions.min_complexity"] == run["preset"]["captions"]["min_complexity"]
    assert facts["fingerprint of the input"] == run["plan"]["fingerprint"]
    assert found["prov:wasDerivedFrom"][0]["identifier"] == f"{tmp_path}/in/*.parquet"
    parts = {part["prov:label"]: part for part in made["dct:hasPart"]}
    assert [*parts] == run["stages"]
    used = values(parts["captions"]["prov:used"]["additionalProperty"])
    assert used == run["models"]["captions"] and len(used["verifier"]) > 32
    assert f"verifier `{used['verifier']}`" in (output / "README.md").read_text()
    rejected = values(parts["captions"]["additionalProperty"])
    assert rejected["rejected: no_caption"] == 1 and sum(rejected.values()) == 2
