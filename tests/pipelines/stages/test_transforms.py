"""The public transforms, in a pipeline of Beam's own: the decisions of a run, whatever is wrong
with a row."""

import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from apache_beam.runners.portability.fn_api_runner.fn_runner import FnApiRunner

from open_diht.filters import base
from open_diht.filters.base import (
    CaptionEvidence,
    CaptionFilter,
    ImageEvidence,
    ImageFilter,
    register_filter,
)
from open_diht.filters.presets import BadPreset, Preset, load_preset
from open_diht.pipelines import AnnotateCaptions, ApplyCat, SpotText
from open_diht.pipelines.datasets import DatasetError
from tests.pipelines.conftest import Filtered

Tables = dict[str, list[dict[str, Any]]]
DOG = "a brown dog runs"


def applied(
    folder: Path,
    batches: Sequence[pa.Table],
    *steps: beam.PTransform[Any, Any],
    cat: ApplyCat | None = None,
) -> Tables:
    """The rows of the three outputs, written by Beam's own sink and read back, sorted."""
    cat = cat or ApplyCat()
    schemas = cat.schemas(batches[0].schema)
    with beam.Pipeline(runner=FnApiRunner()) as pipeline:
        rows = pipeline | beam.Create(batches, reshuffle=False)
        for step in steps:
            rows |= step
        found = rows | cat
        for name, schema in schemas.items():
            found[name] | name >> beam.io.WriteToParquetBatched(str(folder / name / "part"), schema)
    return {
        name: sorted(
            (
                row
                for path in (folder / name).glob("part*")
                for row in pq.read_table(path).to_pylist()
            ),
            key=repr,
        )
        for name in schemas
    }


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory, with_images: Callable[..., Any]) -> Path:
    """Captions of the sample with images of which some are broken or not there, and rows without
    caption."""
    folder = tmp_path_factory.mktemp("rows")
    rows = with_images(folder / "images", 24)
    images: list[bytes | None] = [(folder / row["image_path"]).read_bytes() for row in rows]
    captions: list[str | None] = [row["caption"] for row in rows]
    images[3:7] = [
        b"<html>not here</html>",
        None,
        b"",
        images[6][: len(images[6] or b"") // 2] if images[6] else None,
    ]
    captions[3:7] = [DOG] * 4
    captions[8], captions[9] = None, "nan"
    table = {
        "n": range(24),
        "caption": captions,
        "uid": [f"row {n % 20}" for n in range(24)],
        "stage": ["mine"] * 24,
    }
    columns = {name: pa.array(list(values)) for name, values in table.items()}
    pq.write_table(
        pa.table({**columns, "image": pa.array(images, pa.binary())}), folder / "rows.parquet"
    )
    return folder / "rows.parquet"


@pytest.fixture(scope="module")
def run(manifest: Path, filtering: Callable[..., Filtered], ocr_models: None) -> Filtered:
    return filtering(
        manifest, manifest.parent / "out", stages=("captions", "spotting"), max_dead_share=1.0
    )


def without(rows: Sequence[dict[str, Any]], *names: str) -> list[dict[str, Any]]:
    return sorted(
        ({key: value for key, value in row.items() if key not in names} for row in rows), key=repr
    )


@pytest.mark.slow
@pytest.mark.parametrize("preset", [None, "paper"])
def test_they_decide_as_a_run_does(
    preset: str | None, manifest: Path, run: Filtered, tmp_path: Path
) -> None:
    """Also where images are read of those rows alone whose caption passes, as a run does it."""
    table = pq.read_table(manifest)
    batches = [table.slice(0, 14), table.slice(14, 0), table.slice(14)]
    found = applied(tmp_path, batches, AnnotateCaptions(), SpotText(preset=preset))
    assert found["kept"] == run.tables()["kept"]
    assert found["rejected"] == without(
        run.rows("rejected"), "duplicate_of", "duplicate_similarity"
    )
    dead = {(row["n"], row["error"]) for row in found["dead_letter"]}
    assert {row["error"] for row in run.rows("dead_letter")} == {error for _, error in dead}
    assert len(run.rows("dead_letter")) == len(found["dead_letter"]) == 3
    assert {row["stage"] for row in found["dead_letter"]} == {"spotting"} and all(
        row["message"] and row["original_stage"] == "mine" and row["caption"] == DOG
        for row in found["dead_letter"]
    )
    everything = [row["n"] for rows in found.values() for row in rows]
    assert sorted(everything) == list(range(24)), "each row is in one output"
    assert {row["n"]: row["reason"] for row in found["rejected"]}[4] == "image_not_available"


def test_captions_alone(tmp_path: Path, manifest: Path, filtering: Callable[..., Filtered]) -> None:
    table = (
        pq.read_table(manifest).drop_columns("image").rename_columns(["n", "text", "id", "stage"])
    )
    pq.write_table(table, tmp_path / "rows.parquet")
    alone = filtering(
        tmp_path / "rows.parquet", tmp_path / "out", stages=("captions",), preset="strict"
    )
    cat = ApplyCat("strict", caption="text", stages=["captions"], uid="id")
    found = applied(tmp_path, [table], AnnotateCaptions("text"), cat=cat)
    assert found["kept"] == alone.tables()["kept"] and found["kept"][0]["text"]
    assert found["rejected"] == without(
        alone.rows("rejected"), "duplicate_of", "duplicate_similarity"
    )
    assert found["dead_letter"] == []


def test_conditions_find_their_columns_as_a_run_does(
    tmp_path: Path, filtering: Callable[..., Filtered]
) -> None:
    ascending = [0.1 * n for n in range(6)]
    columns = {
        "punsafe": ascending,
        "width": ascending[::-1],
        "height": ascending,
        "original_width": ascending,
    }
    table = pa.table(
        {"caption": [f"a brown dog catches a red ball {n}" for n in range(6)], **columns}
    )
    table = table.append_column("original_height", table["height"])
    pq.write_table(table, tmp_path / "rows.parquet")
    preset = tmp_path / "own.yaml"
    preset.write_text("base: paper\ncolumns:\n  width: {min: 0.15}\n  unsafe: {max: 0.35}\n")
    alone = filtering(
        tmp_path / "rows.parquet", tmp_path / "out", stages=("captions",), preset=str(preset)
    )
    found = applied(
        tmp_path, [table], AnnotateCaptions(), cat=ApplyCat(str(preset), stages=["captions"])
    )
    assert found["kept"] == alone.tables()["kept"]
    assert found["rejected"] == without(
        alone.rows("rejected"), "duplicate_of", "duplicate_similarity"
    )
    assert sorted(row["reason"] for row in found["rejected"]) == [
        "unsafe",
        "unsafe",
        "width",
        "width",
    ]


@register_filter
@dataclass(frozen=True, kw_only=True)
class Shouted(CaptionFilter):
    reason = "shouted"
    explanation = "The caption is written in capitals."

    def rejects(self, captions: CaptionEvidence) -> base.Bools:
        return np.array(
            [bool(text) and text.isupper() for text in captions.rows["caption"].to_pylist()], bool
        )


@register_filter
@dataclass(frozen=True, kw_only=True)
class LargeFile(ImageFilter):
    reason = "large_file"
    explanation = "The image's file is large."
    max_bytes: int = 1_000

    def rejects(self, images: ImageEvidence) -> base.Bools:
        return np.asarray(images.records["bytes"]) > self.max_bytes


@pytest.fixture
def own(tmp_path: Path) -> Preset:
    path = tmp_path / "mine.yaml"
    path.write_text(
        "captions: {min_complexity: 0}\nshouted: {}\nlarge_file: {max_bytes: 2000}\n",
        encoding="utf-8",
    )
    return load_preset(str(path))


@pytest.fixture(autouse=True, scope="module")
def forget() -> Iterator[None]:
    yield
    for kind in (Shouted, LargeFile):
        del base._registered[kind.reason]


@pytest.mark.slow
def test_filters_of_ones_own_decide(
    own: Preset, draw: Callable[..., Path], tmp_path: Path, ocr_models: None
) -> None:
    small, large = (
        draw(tmp_path / f"{side}.png", "SALE", (side, side)).read_bytes() for side in (80, 600)
    )
    assert len(small) < 2_000 < len(large)
    captions = [DOG, DOG.upper(), DOG]
    batch = pa.table({"caption": captions, "image": [small, small, large], "reason": [1, 2, 3]})
    found = applied(tmp_path, [batch], AnnotateCaptions(), SpotText(preset=own), cat=ApplyCat(own))
    assert [row["original_reason"] for row in found["kept"]] == [1]
    assert {(row["original_reason"], row["stage"], row["reason"]) for row in found["rejected"]} == {
        (2, "captions", "shouted"),
        (3, "spotting", "large_file"),
    }


@pytest.mark.slow
def test_a_text_that_cannot_be_read_is_a_dead_letter(tmp_path: Path) -> None:
    batch = pa.table({"caption": pa.array([DOG, "x" * (16 * 2**20 + 1)]), "n": [1, 2]})
    found = applied(tmp_path, [batch], AnnotateCaptions(), cat=ApplyCat(stages=["captions"]))
    assert [row["n"] for row in found["kept"]] == [1] and found["rejected"] == []
    (lost,) = found["dead_letter"]
    assert (lost["n"], lost["stage"], lost["error"]) == (
        2,
        "manifest",
        "oversized",
    ) and "more than" in lost["message"]


def ran(batch: pa.Table, *steps: beam.PTransform[Any, Any]) -> None:
    with beam.Pipeline(runner=FnApiRunner()) as pipeline:
        rows = pipeline | beam.Create([batch])
        for step in steps:
            rows |= step


@pytest.mark.parametrize(
    ("columns", "steps", "message"),
    [
        (["text"], [AnnotateCaptions()],
         r"no column 'caption', only text; name the column with the captions"),
        (["caption"], [SpotText()],
         r"no column 'image', only caption; name the column with the bytes of the images"),
        (["caption", "image"], [SpotText()],
         r"column 'image' is string; SpotText reads the bytes of image files"),
        (["caption"], [ApplyCat()],
         r"no column 'annotations', only caption; put AnnotateCaptions before"),
        (["caption", "annotations"], [AnnotateCaptions()],
         r"a column 'annotations' already; rename or drop it"),
        (["caption"], [AnnotateCaptions(), ApplyCat()],
         r"no column 'spotting', .*; put SpotText before, or pass"),
        (["text"], [ApplyCat(stages=[])], r"no column 'caption', only text"),
    ],
)  # fmt: skip
def test_what_is_missing_is_named(
    columns: list[str], steps: list[beam.PTransform[Any, Any]], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        ran(pa.table({name: [DOG] for name in columns}), *steps)


def test_images_that_were_read_for_another_preset(
    draw: Callable[..., Path], tmp_path: Path, ocr_models: None
) -> None:
    batch = pa.table(
        {"caption": ["wedding picture"], "image": [draw(tmp_path / "one.png").read_bytes()]}
    )
    lenient = Preset(
        name="lenient", captions=replace(Preset(name="x").captions, min_complexity=0, min_actions=0)
    )
    with pytest.raises(
        ValueError,
        match="captions pass preset lenient whose images SpotText has not read; give it the same",
    ):
        ran(batch, AnnotateCaptions(), SpotText(preset="strict"), ApplyCat(lenient))


def test_wrong_use_is_said_when_the_pipeline_is_made() -> None:
    with pytest.raises(BadPreset, match="unknown preset 'papre'"):
        ApplyCat("papre")
    with pytest.raises(ValueError, match="unknown stage ocr; choose captions, spotting"):
        ApplyCat(stages=["captions", "ocr"])
    with pytest.raises(DatasetError, match="unknown role 'ulr'"):
        ApplyCat(ulr="link")
    with pytest.raises(
        ValueError,
        match=r"preset 'tmars' needs CLIP scores, which ApplyCat does not .*--score-model",
    ):
        ApplyCat("tmars")


@pytest.mark.slow
def test_importing_pipelines_stays_light() -> None:
    code = (
        "import sys, open_diht.pipelines as pipelines\nassert not {'apache_beam', 'pyarrow',"
        " 'spacy'} & set(sys.modules)\nassert pipelines.ApplyCat.__module__ =="
        " 'open_diht.pipelines.stages.transforms' and 'apache_beam' in sys.modules\nassert not"
        " hasattr(pipelines, 'ApplyDog')"
    )
    subprocess.run(
        [sys.executable, "-c", code], check=True, cwd=Path(__file__).resolve().parents[3]
    )
