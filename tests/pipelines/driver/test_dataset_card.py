"""The card of a data set: what its head tells programs, that foreign text is text, and that it is
of all parts."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from open_diht.filters.presets import load_preset
from open_diht.pipelines.datasets import load_dataset
from open_diht.pipelines.driver.dataset_card import Config, features, render_card
from open_diht.pipelines.manifests.plan import Plan
from open_diht.pipelines.settings import RunSettings
from open_diht.pipelines.store.layout import CARD_MARK
from tests.pipelines.results import funnel

CAPTION = "A dog runs over a green meadow"
FUNNEL = funnel(
    rows_in=100,
    kept=40,
    keep_rate=0.4,
    steps=[
        {"stage": "captions", "reason": "complexity", "rejected": 50, "left": 50},
        {"stage": "columns", "reason": "a|b <script>", "rejected": 5, "left": 45},
    ],
)
KEPT = Config("kept", 40, pa.schema([("uid", pa.string()), ("a|b`c", pa.float32())]))
TYPES = {
    **{
        "text": pa.string(),
        "long_text": pa.large_string(),
        "small": pa.int8(),
        "count": pa.uint64(),
    },
    **{
        "half": pa.float16(),
        "single": pa.float32(),
        "double": pa.float64(),
        "yes": pa.bool_(),
        "raw": pa.binary(),
    },
    **{
        "long_raw": pa.large_binary(),
        "when": pa.timestamp("us", tz="UTC"),
        "then": pa.timestamp("ms"),
    },
    **{"day": pa.date32(), "nothing": pa.null(), "words": pa.list_(pa.string())},
    "pairs": pa.list_(pa.struct([("object", pa.string()), ("scores", pa.list_(pa.float32()))])),
    "nested": pa.list_(pa.list_(pa.int64())),
    "box": pa.struct([("x", pa.int32()), ("name", pa.struct([("first", pa.string())]))]),
}


def card(
    *configs: Config,
    title: str = "Pairs",
    source: str = "unknown",
    pins: dict[str, str] | None = None,
    **changes: Any,
) -> str:
    dataset = replace(
        load_dataset("custom"), title=title, homepage="https://example.org", license=source
    )
    common: dict[str, Any] = {
        "input": "/data/*.tsv",
        "output": Path("out"),
        "preset": load_preset("paper"),
    }
    settings = RunSettings(dataset=dataset, stages=("captions",), **{**common, **changes})
    plan = Plan("f00d", (), 32, False, (), 100, (), pins=pins or {})
    return render_card(FUNNEL, settings, plan, configs, {})


def head_of(text: str) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(text.split("---\n")[1])
    return found


def test_its_head_says_what_to_read() -> None:
    found = head_of(card(KEPT, Config("rejected", 55, pa.schema([("reason", pa.string())]))))
    kept, rejected = found["configs"]
    data = [{"split": "train", "path": "kept/*.parquet"}]
    assert kept == {"config_name": "kept", "default": True, "data_files": data}
    assert rejected["config_name"] == "rejected" and "default" not in rejected
    assert [one["config_name"] for one in found["dataset_info"]] == ["kept", "rejected"]


def test_nothing_is_offered_where_nothing_is() -> None:
    assert head_of(card()).keys().isdisjoint({"configs", "dataset_info"})


@pytest.mark.parametrize(
    ("license", "says"),
    [
        (None, {"license": "unknown"}),
        ("CC-BY-4.0", {"license": "cc-by-4.0"}),
        ("Ours: ask #1", {"license": "other", "license_name": "ours-ask-1"}),
    ],
)
def test_licenses(license: str | None, says: dict[str, str]) -> None:
    text = card(KEPT, license=license)
    assert (
        says.items() <= head_of(text).items()
        and "License of the source: unknown: Pairs states none" in text
    )
    assert (license is None) == ("Unknown: its publisher has not stated one" in text)
    assert "License of the source: CC0-1.0." in card(KEPT, license=license, source="CC0-1.0")


def test_where_only_the_source_has_a_license_the_card_points_to_it() -> None:
    text = card(KEPT, source="CC0-1.0")
    assert {"license": "other", "license_name": "as-the-source"}.items() <= head_of(text).items()
    assert (
        "Its publisher has named no other than the source's. License of the source: CC0-1.0."
        in text
    )


def test_the_body_has_funnel_columns_and_provenance() -> None:
    text = card(KEPT, pins={"hf://datasets/o/n": "c0ffee"})
    assert "40 of 100 image-text pairs (40.0%)" in text and CARD_MARK in text
    assert (
        "| captions | complexity | 50 | 50 |" in text
        and "| `uid` | `string` | 128 bits in hex |" in text
    )
    assert "`python -m open_diht.pipelines.verify FOLDER`" in text
    assert "| commit of `hf://datasets/o/n` | `c0ffee` |" in text
    assert "| input | `/data/*.tsv` |" in text
    assert (
        yaml.safe_load(text.split("```yaml\n")[1].split("```")[0])["captions"]["min_actions"] == 1
    )


def test_foreign_text_stays_text() -> None:
    text = card(KEPT, title="<b>Pairs</b>\n---\n# [x](y)", license="*free*", input="a`b|c")
    assert head_of(text)["pretty_name"] == "<b>Pairs</b>\n---\n# [x](y), filtered by preset paper"
    body = text.partition("\n---\n\n")[2]
    assert "# \\<b\\>Pairs\\</b\\> --- # \\[x\\](y)" in body and "\\*free\\*" in body
    assert (
        "| columns | a\\|b \\<script\\> | 5 | 45 |" in body
        and "| `a\\|b'c` |" in body
        and "`a'b\\|c`" in body
    )


def test_types_have_the_words_that_datasets_has_for_them() -> None:
    datasets = pytest.importorskip("datasets", reason="not installed: pip install '.[dev]'")
    schema = pa.schema(TYPES.items())
    assert features(schema) == datasets.Features.from_arrow_schema(schema)._to_yaml_list()
    assert (
        features(pa.schema([("n", pa.int64()), ("map", pa.map_(pa.string(), pa.int64()))])) is None
    )


def head(output: Path) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((output / "README.md").read_text().split("---\n")[1])
    return found


def run(
    filtering: Callable[..., Any], folder: Path, *columns: dict[str, pa.Array], **settings: Any
) -> Path:
    (folder / "in").mkdir(exist_ok=True)
    for n, more in enumerate(columns):
        pq.write_table(
            pa.table({"caption": [CAPTION, "Sale"], **more}), folder / "in" / f"{n}.parquet"
        )
    done = filtering(
        f"{folder}/in/*.parquet", folder / "out", stages=("captions", "export"), **settings
    )
    assert done.status == 0
    return folder / "out"


def test_columns_of_all_files_and_their_common_types(
    filtering: Callable[..., Any], tmp_path: Path
) -> None:
    ints = pa.array([1, 2])
    floats = pa.array([0.5, 1.5])
    output = run(filtering, tmp_path, {"score": ints}, {"score": floats, "more": ints})
    types = {one["name"]: one.get("dtype") for one in head(output)["dataset_info"][0]["features"]}
    assert (types["score"], types["more"], types["uid"]) == ("float64", "int64", "string")
    assert [one["config_name"] for one in head(output)["configs"]] == ["kept", "rejected"]


def test_types_that_cannot_be_one_do_no_harm(filtering: Callable[..., Any], tmp_path: Path) -> None:
    output = run(filtering, tmp_path, {"score": pa.array([1, 2])}, {"score": pa.array(["a", "b"])})
    assert (
        "dataset_info" not in head(output)
        and "Types of columns differ" in (output / "README.md").read_text()
    )


def test_another_license_is_another_card_and_ones_own_card_stays(
    filtering: Callable[..., Any], tmp_path: Path
) -> None:
    assert head(run(filtering, tmp_path, {}))["license"] == "unknown"
    output = run(filtering, tmp_path, {}, license="mit")
    assert head(output)["license"] == "mit"
    (output / "README.md").write_text("# Mine")
    run(filtering, tmp_path, {}, license="cc0-1.0")
    assert (output / "README.md").read_text() == "# Mine"
    (output / "README.md").unlink()
    assert head(run(filtering, tmp_path, {}, license="cc0-1.0"))["license"] == "cc0-1.0", (
        "it is made again"
    )
