"""CAT inside your own Beam pipeline: read pairs, annotate, decide, write Parquet.

You choose the steps before and after, and the runner; unknown arguments are passed to Beam as
options.

    .venv/bin/python examples/cat_in_your_own_beam_pipeline.py --output out/own-pipeline
"""

from __future__ import annotations

import argparse
import logging
from pathlib import Path
from typing import Any

import apache_beam as beam
import pyarrow as pa
from apache_beam.options.pipeline_options import PipelineOptions

from open_diht.pipelines import AnnotateCaptions, ApplyCat, SpotText

PAIRS = pa.schema([("image_path", pa.string()), ("caption", pa.string()), ("image", pa.binary())])


def read_pair(line: str, folder: str) -> dict[str, Any]:
    """Return a line of the manifest with the bytes of its image file.

    Args:
        line: tab-separated image path and caption; other columns are ignored.
        folder: the folder of the image paths.

    Returns:
        A row of `PAIRS`; `image` is None if the file does not exist.
    """
    image_path, caption, *_ = line.split("\t")
    image = Path(folder, image_path)
    return {"image_path": image_path, "caption": caption, "image": image.read_bytes() if image.is_file() else None}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--manifest", default="data/sample/manifest.tsv", help="TSV with header: image path, caption")
    parser.add_argument("--output", default="out/own-pipeline", help="folder for kept, rejected and dead_letter")
    parser.add_argument("--preset", default="paper", help="paper, strict, or a YAML file")
    options, words = parser.parse_known_args()
    cat = ApplyCat(options.preset)
    schemas = cat.schemas(pa.schema([*PAIRS, ("annotations", pa.null()), ("spotting", pa.null())]))
    with beam.Pipeline(options=PipelineOptions(["--runner=FnApiRunner", *words])) as pipeline:
        found = (
            pipeline
            | beam.io.ReadFromText(options.manifest, skip_header_lines=1)
            | beam.Map(read_pair, str(Path(options.manifest).parent))
            | beam.BatchElements(min_batch_size=32, max_batch_size=512)
            | beam.Map(lambda pairs: pa.Table.from_pylist(pairs, PAIRS))
            | AnnotateCaptions()
            | SpotText(preset=options.preset)  # only the images of captions that pass
            | cat
        )
        for name, schema in schemas.items():
            rows = found[name] | f"without images: {name}" >> beam.Map(lambda table: table.drop_columns("image"))
            place, schema = f"{options.output}/{name}/part", schema.remove(schema.get_field_index("image"))
            rows | f"write {name}" >> beam.io.WriteToParquetBatched(place, schema, file_name_suffix=".parquet")
    print(f"kept, rejected and dead_letter in {options.output}/")


if __name__ == "__main__":
    logging.basicConfig(level=logging.ERROR)
    main()
