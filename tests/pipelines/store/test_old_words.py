"""Outputs of versions that called an image a picture are read, decided again and reported."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.fetch.records import FETCHED
from pipelines.stages.decisions import DOWNLOAD_FAILED
from pipelines.stages.downloads import STAGE, load_downloads
from pipelines.stages.image_records import image_records
from pipelines.store.commit import publish_json, publish_table
from pipelines.store.layout import Layout
from pipelines.store.names import generation_name, image_unit_name
from pipelines.store.old_words import WORDS

Filtering = Callable[..., Any]
OLD = {new: old for old, new in WORDS.items()}
STAGES = ("captions", "spotting", "dedup")


def in_old_words(output: Path) -> None:
    """Makes a finished output what an earlier version has left: its words, and decisions of its own."""
    work = output / "work"
    for path in work.rglob("*.parquet"):
        table = pq.read_table(path)
        if "status" in table.schema.names:
            statuses = [OLD.get(status, status) for status in table["status"].to_pylist()]
            column = pa.array(statuses, pa.string())
            pq.write_table(table.set_column(table.schema.get_field_index("status"), "status", column), path)
    for path in output.rglob("*.json"):
        value = json.loads(path.read_text(), object_hook=lambda found: {OLD.get(key, key): found[key] for key in found})
        if path.parent.name == "commits":
            value["files"] = {name: (output / name).stat().st_size for name in value["files"]}
        if path.parent.name == "commits" and path.parent.parent.name in ("decide", "image_keys", "image_duplicates"):
            value["fingerprint"] = "older"
        path.write_text(json.dumps(value))
    for stage in ("image_keys", "image_duplicates"):
        (work / stage).rename(work / OLD[stage])


@pytest.fixture(scope="module")
def ran(
    with_images: Callable[..., Any],
    tsv: Callable[..., Path],
    tmp_path_factory: pytest.TempPathFactory,
    filtering: Filtering,
    ocr_models: None,
) -> tuple[Path, Any]:
    """A manifest with an image that is none, one that is missing, one too small, one twice and a row without any."""
    folder = tmp_path_factory.mktemp("old")
    rows = with_images(folder / "images", 16)
    for row, name in zip(rows[::2], ("html.png", "gone.png", "", "dot.png", "one.png", "two.png"), strict=False):
        row.update(caption="A dog runs with a red ball", image_path=name and f"images/{name}")
    (folder / "images" / "html.png").write_bytes(b"<html>")
    from PIL import Image

    Image.new("RGB", (1, 1)).save(folder / "images" / "dot.png")
    for name in ("one.png", "two.png"):
        Image.new("RGB", (90, 90), "green").save(folder / "images" / name)
    for number, row in enumerate(rows):
        row["url"] = f"https://example.org/{number}"
    (folder / "dedup.yaml").write_text("dedup: {images: true}\n")
    manifest = tsv(folder / "pairs.tsv", rows)
    return manifest, filtering(manifest, folder / "out", stages=STAGES, preset=str(folder / "dedup.yaml"))


def test_an_old_output_is_decided_again_and_nothing_is_read_anew(
    ran: tuple[Path, Any], tmp_path: Path, filtering: Filtering
) -> None:
    manifest, new = ran
    reasons = {row["reason"] for row in new.rows("rejected")} | {row["error"] for row in new.rows("dead_letter")}
    assert reasons >= {"not_an_image", "image_missing", "image_not_available", "image_too_small", "duplicate_image"}
    output = Path(shutil.copytree(new.output, tmp_path / "out"))
    in_old_words(output)
    read = {path: path.read_bytes() for path in output.glob("work/spotting/data/*")}
    assert b"not_a_picture" in b"".join(read.values()), "it is an old one"
    again = filtering(manifest, output, stages=STAGES, preset=str(manifest.parent / "dedup.yaml"))
    assert again.tables() == new.tables()
    assert again.funnel["rejected"] == new.funnel["rejected"]
    assert {path: path.read_bytes() for path in output.glob("work/spotting/data/*")} == read, "no image was read again"


def test_images_that_an_old_version_could_not_fetch_have_the_reasons_of_today(tmp_path: Path) -> None:
    layout, unit = Layout(tmp_path), "00000-00000"
    record = {**dict.fromkeys(FETCHED.names), "ordinal": 0, "status": "not_a_picture", "message": "HTML"}
    name = image_unit_name(unit, 0)
    publish_table(layout.data(STAGE, generation_name(name, 0)), pa.Table.from_pylist([record], FETCHED))
    publish_json(layout.commit(STAGE, name), {"generations": 1})
    found = load_downloads(layout, name)
    assert found is not None and found["status"].to_pylist() == ["not_an_image"]
    judged = image_records(layout, unit, [0], [STAGE])
    assert judged is not None and judged["status"].to_pylist() == [f"{DOWNLOAD_FAILED}not_an_image"]
