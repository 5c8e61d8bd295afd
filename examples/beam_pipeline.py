"""CAT as steps of a Beam pipeline: read Parquet, annotate, decide and write Parquet, with Beam's
own sources and sinks.

The rows equal those of `make filter` with the same preset, except that duplicates are not looked
for. You choose the steps before and after, and the runner; unknown arguments are passed to Beam as
options.

    .venv/bin/python examples/beam_pipeline.py --output out/own-pipeline
"""

from __future__ import annotations

import argparse
import csv
import logging
from collections.abc import Iterator
from pathlib import Path

import apache_beam as beam
import pyarrow as pa
import pyarrow.parquet as pq
from apache_beam.io.filesystems import FileSystems
from apache_beam.options.pipeline_options import PipelineOptions

from open_diht.filters.presets import load_preset
from open_diht.pipelines import AnnotateCaptions, ApplyCat, SpotText

SAMPLE = Path(__file__).resolve().parents[1] / "data" / "sample"
ROWS = 256
"""Rows of a batch. The parser is fastest from a few hundred on, and the images of a batch are in
memory together."""


def sample(path: Path) -> str:
    """Write the sample of this repository as Parquet, with the bytes of its images, and return the
    path."""
    with open(SAMPLE / "manifest.tsv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
    for row in rows:
        image = SAMPLE / row["image_path"]
        row["image"] = image.read_bytes() if image.is_file() else None
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=ROWS)
    return str(path)


def split(row_group: pa.Table) -> Iterator[pa.Table]:
    """Split a row group, which Beam reads as a whole, into batches."""
    for batch in row_group.to_batches(max_chunksize=ROWS):
        yield pa.Table.from_batches([batch])


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument(
        "--input",
        help="Parquet files with columns caption and image (bytes); by default the sample's",
    )
    parser.add_argument(
        "--output", default="out/own-pipeline", help="folder for kept, rejected and dead_letter"
    )
    parser.add_argument(
        "--preset", default="paper", help="a preset without CLIP scores, or a YAML file"
    )
    parser.add_argument(
        "--runner", default="FnApiRunner", help="a runner of Beam, such as FlinkRunner"
    )
    options, words = parser.parse_known_args()
    pattern = options.input or sample(Path(options.output, "input", "sample.parquet"))
    with FileSystems.open(FileSystems.match([pattern])[0].metadata_list[0].path) as first:
        columns = pq.read_schema(first)

    preset = load_preset(options.preset)
    cat = ApplyCat(preset)
    with beam.Pipeline(options=PipelineOptions([f"--runner={options.runner}", *words])) as pipeline:
        decided = (
            pipeline
            | "Read" >> beam.io.ReadFromParquetBatched(pattern)
            | "Split" >> beam.FlatMap(split)
            | "Annotate" >> AnnotateCaptions(second_opinion=preset.captions.second_opinion)
            | "Spot" >> SpotText(preset=preset)  # only the images of captions that pass
            | "Decide" >> cat
        )
        for name, schema in cat.schemas(columns).items():
            path = f"{options.output}/{name}/part"
            sink = beam.io.WriteToParquetBatched(path, schema, file_name_suffix=".parquet")
            decided[name] | f"Write {name}" >> sink
    print(f"kept, rejected and dead_letter in {options.output}/")


if __name__ == "__main__":
    logging.basicConfig(level=logging.ERROR)
    main()
