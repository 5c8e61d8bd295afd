"""Stages over images: they refuse manifests whose images are not known, before a run writes
anything."""

import json
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from open_diht.common.command_line import WrongUse
from open_diht.common.spelling import MAKE_VARIABLES
from open_diht.pipelines.datasets import load_dataset
from open_diht.pipelines.settings import ScoreSettings
from tests.pipelines.conftest import tar_of
from tests.tiny_clip import write_tiny

CUSTOM = load_dataset("custom")
CAPTIONS = ["A brown dog runs after a red ball", "Blue mug"]
EXPORT = ("captions", "export")
READERS: dict[str, dict[str, Any]] = {
    "spotting": {"stages": ("captions", "spotting")},
    "score": {
        "stages": ("captions", "score"),
        "score": ScoreSettings(model="local-dir:clip", device="cpu"),
    },
    "decontaminate": {"stages": ("captions",), "decontaminate": "./sets/"},
    "all": {},
}


def _manifest(kind, folder, **more):
    rows = [
        {"n": n, "caption": caption, "pic": "1.png", **more} for n, caption in enumerate(CAPTIONS)
    ]
    path = folder / f"rows.{kind}"
    mark = {"tsv": "\t", "csv": ","}.get(kind)
    if mark:
        lines = [mark.join(rows[0]), *(mark.join(map(str, row.values())) for row in rows)]
        path.write_text("\n".join(lines) + "\n")
    elif kind == "jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    elif kind == "parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    else:
        tar_of(path, [(f"{row['n']}.json", json.dumps(row).encode()) for row in rows])
    return path


@pytest.mark.parametrize("kind", ["tsv", "csv", "jsonl", "parquet", "tar"])
def test_a_manifest_without_a_known_image_column(kind, tmp_path, filtering, draw, ocr_models):
    draw(tmp_path / "1.png")
    manifest = _manifest(kind, tmp_path)
    output = tmp_path / "out"
    with pytest.raises(WrongUse) as caught:
        filtering(manifest, output)
    for said in (
        "caption, pic",
        "--image-path-column NAME",
        "--image-column NAME",
        "--stages captions,export",
    ):
        assert said in str(caught.value)
    assert not output.exists()
    named = CUSTOM.with_roles(image_path="pic")
    assert [
        row["caption"] for row in filtering(manifest, output, dataset=named).rows("kept")
    ] == CAPTIONS[:1]


@pytest.mark.parametrize("reader", READERS)
def test_every_reader_of_images_refuses_and_captions_alone_are_filtered(
    reader, tmp_path, filtering, draw, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    write_tiny(tmp_path / "clip")
    (tmp_path / "sets").mkdir()
    draw(tmp_path / "sets" / "1.png")
    manifest = _manifest("tsv", tmp_path)
    output = tmp_path / "out"
    with pytest.raises(WrongUse, match="--image-path-column NAME"):
        filtering(manifest, output, **READERS[reader])
    assert not output.exists()
    assert filtering(manifest, output, stages=EXPORT).verdicts() == {"0": "kept", "1": "action"}
    # Naming a column changes what this output was made from.
    with pytest.raises(WrongUse, match=f"another OUTPUT than {output}, or remove"):
        filtering(manifest, output, **READERS[reader])


def test_bytes_in_a_column_of_another_name(tmp_path, filtering, draw, ocr_models):
    images = [draw(tmp_path / "1.png").read_bytes()] * 2
    pq.write_table(pa.table({"caption": CAPTIONS, "pic": images}), tmp_path / "rows.parquet")
    with pytest.raises(WrongUse, match="--image-column NAME"):
        filtering(tmp_path / "rows.parquet", tmp_path / "out")
    named = CUSTOM.with_roles(image="pic")
    assert (
        len(filtering(tmp_path / "rows.parquet", tmp_path / "out", dataset=named).rows("kept")) == 1
    )


def test_one_of_several_files_has_no_images(tmp_path, filtering, draw):
    draw(tmp_path / "1.png")
    for name, column in (("a", "image_path"), ("b", "pic"), ("c", "pic")):
        (tmp_path / f"{name}.tsv").write_text(f"caption\t{column}\n{CAPTIONS[0]}\t1.png\n")
    with pytest.raises(WrongUse, match=r"b\.tsv \(and 1 more file\).* caption, pic"):
        filtering(tmp_path / "*.tsv", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_urls_that_are_not_downloaded(tmp_path, filtering, monkeypatch):
    manifest = _manifest("tsv", tmp_path, url="http://example.org/1.png")
    with pytest.raises(WrongUse, match=r"add download to --stages, or .* --stages captions,export"):
        filtering(manifest, tmp_path / "out", stages=("captions", "spotting", "export"))
    monkeypatch.setenv(MAKE_VARIABLES, "STAGES")
    with pytest.raises(WrongUse, match=r"add download to STAGES, or .* STAGES=captions,export"):
        filtering(manifest, tmp_path / "out", stages=("captions", "spotting", "export"))
    assert not (tmp_path / "out").exists()
