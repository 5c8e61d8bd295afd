"""The card of a data set: what its head tells programs, and that foreign text is text."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pytest
import yaml

from open_diht.pipelines.report.dataset_card import MARK, Config, Provenance, features, render_card

FUNNEL = {
    "rows_in": 100,
    "kept": 40,
    "rejected": {"complexity": 50, "a|b <script>": 5},
    "steps": [
        {"stage": "captions", "reason": "complexity", "rejected": 50, "left": 50},
        {"stage": "columns", "reason": "a|b <script>", "rejected": 5, "left": 45},
    ],
    "dead_letter": {"rows": 5, "units": 0, "by_error": {}},
}
KEPT = Config("kept", 40, pa.schema([("uid", pa.string()), ("a|b`c", pa.float32())]))
TYPES = {
    "text": pa.string(),
    "long_text": pa.large_string(),
    "small": pa.int8(),
    "count": pa.uint64(),
    "half": pa.float16(),
    "single": pa.float32(),
    "double": pa.float64(),
    "yes": pa.bool_(),
    "raw": pa.binary(),
    "long_raw": pa.large_binary(),
    "when": pa.timestamp("us", tz="UTC"),
    "then": pa.timestamp("ms"),
    "day": pa.date32(),
    "nothing": pa.null(),
    "words": pa.list_(pa.string()),
    "pairs": pa.list_(pa.struct([("object", pa.string()), ("scores", pa.list_(pa.float32()))])),
    "nested": pa.list_(pa.list_(pa.int64())),
    "box": pa.struct([("x", pa.int32()), ("name", pa.struct([("first", pa.string())]))]),
}


def card(*configs: Config, **changes: Any) -> str:
    known: dict[str, Any] = {"title": "Pairs", "homepage": "https://example.org", "source_licence": None}
    known |= {"licence": None, "input": "/data/*.tsv", "commits": {}, "preset": {"name": "paper", "min": (1, 2)}}
    known |= {"stages": ["captions"], "version": "1", "plan": "f00d"}
    return render_card(FUNNEL, Provenance(**{**known, **changes}), configs)


def head(text: str) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(text.split("---\n")[1])
    return found


def test_its_head_says_what_to_read() -> None:
    found = head(card(KEPT, Config("rejected", 55, pa.schema([("reason", pa.string())]))))
    kept, rejected = found["configs"]
    assert kept == {
        "config_name": "kept",
        "default": True,
        "data_files": [{"split": "train", "path": "kept/*.parquet"}],
    }
    assert rejected["config_name"] == "rejected" and "default" not in rejected
    assert [one["config_name"] for one in found["dataset_info"]] == ["kept", "rejected"]


def test_nothing_is_offered_where_nothing_is() -> None:
    assert head(card()).keys().isdisjoint({"configs", "dataset_info"})


def test_types_that_do_not_agree_are_not_promised() -> None:
    text = card(Config("kept", 40, pa.schema([("n", pa.int64())]), agrees=False))
    assert "dataset_info" not in head(text) and "Types of columns differ between its files" in text


@pytest.mark.parametrize(
    ("licence", "says"),
    [
        (None, {"license": "unknown"}),
        ("CC-BY-4.0", {"license": "cc-by-4.0"}),
        ("Ours: ask #1", {"license": "other", "license_name": "ours-ask-1"}),
    ],
)
def test_licences(licence: str | None, says: dict[str, str]) -> None:
    text = card(KEPT, licence=licence)
    assert says.items() <= head(text).items() and "Licence of the source: unknown: Pairs states none" in text
    assert (licence is None) == ("Unknown: its publisher has not said" in text)
    assert "Licence of the source: CC0-1.0." in card(KEPT, licence=licence, source_licence="CC0-1.0")


def test_where_only_the_source_has_a_licence_the_card_points_to_it() -> None:
    text = card(KEPT, source_licence="CC0-1.0")
    assert {"license": "other", "license_name": "as-the-source"}.items() <= head(text).items()
    assert "Its publisher has named no other than the source's. Licence of the source: CC0-1.0." in text


def test_the_body_has_funnel_columns_and_provenance() -> None:
    text = card(KEPT, commits={"hf://datasets/o/n": "c0ffee"})
    assert "40 of 100 image-text pairs (40.0%)" in text and MARK in text
    assert "| captions | complexity | 50 | 50 |" in text and "| `uid` | `string` | 128 bits in hex |" in text
    assert "| commit of `hf://datasets/o/n` | `c0ffee` |" in text and "| input | `/data/*.tsv` |" in text
    assert yaml.safe_load(text.split("```yaml\n")[1].split("```")[0]) == {"name": "paper", "min": [1, 2]}


def test_foreign_text_stays_text() -> None:
    text = card(KEPT, title="<b>Pairs</b>\n---\n# [x](y)", licence="*free*", input="a`b|c")
    assert head(text)["pretty_name"] == "<b>Pairs</b>\n---\n# [x](y), filtered"
    body = text.partition("\n---\n\n")[2]
    assert "# \\<b\\>Pairs\\</b\\> --- # \\[x\\](y)" in body and "\\*free\\*" in body
    assert "| columns | a\\|b \\<script\\> | 5 | 45 |" in body and "| `a\\|b'c` |" in body and "`a'b\\|c`" in body


def test_types_have_the_words_that_datasets_has_for_them() -> None:
    datasets = pytest.importorskip("datasets", reason="not installed: pip install '.[dev]'")
    schema = pa.schema(TYPES.items())
    assert features(schema) == datasets.Features.from_arrow_schema(schema)._to_yaml_list()
    assert features(pa.schema([("n", pa.int64()), ("map", pa.map_(pa.string(), pa.int64()))])) is None
