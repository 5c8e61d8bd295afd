"""Estimate the core-hours of LAION-2B-en: captions, OCR and decisions, without the download.

    python -m benchmarks.laion2b [--captions FOLDER] [--rows 2.32e9] [--caption-rate R] [--image-ms
    WITHOUT WITH]

A run of preset `paper` reads an image if its caption passes `paper` or a preset that the run
foresees, so this counts the captions of 10,000 LAION rows that pass any of these presets. Rates are
CPU time of one warm thread, measured here or given: captions after the first 2,000, decisions and
export of a real run, and OCR of the sample's images. How many of LAION's images hold text is not
known, so OCR is a range, from none to half of them.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.figures.parts.ocr import OURS, SAMPLE, entrants, readable, split
from benchmarks.measuring import parser_of, print_table, processor
from benchmarks.weights.label_set import laion_captions, samples_folder
from open_diht.filters.captions.annotate import CaptionAnnotator
from open_diht.filters.captions.rules import decide_captions
from open_diht.filters.presets import load_preset
from open_diht.pipelines.store.commit import read_json

CORES = 16
COLD = 2_000
"""Captions after the start that are slower, because few words are known."""
WORKERS = (1, 10, 100)


def annotated(captions: Sequence[str]) -> tuple[pa.Table, float]:
    """Return the annotations, and the captions per CPU second after the first `COLD` ones."""
    annotator = CaptionAnnotator()
    tables = [annotator.annotate(captions[:COLD])]
    began = time.process_time()
    tables.append(annotator.annotate(captions[COLD:]))
    rate = len(captions[COLD:]) / (time.process_time() - began)
    return pa.concat_tables(tables, promote_options="permissive").combine_chunks(), rate


def passing(annotations: pa.Table, preset: str) -> np.ndarray:
    """Return the mask of the captions that pass Complexity and Action of a preset."""
    rule = load_preset(preset).captions
    found = decide_captions(annotations, rule)
    return (found.complexity >= rule.min_complexity) & (found.n_actions >= rule.min_actions)


def decision_rate(captions: Sequence[str]) -> float:
    """Return the rows per CPU second that a real run decides and writes."""
    with tempfile.TemporaryDirectory(prefix="laion2b-") as folder:
        urls = [f"https://example.org/some/path/of/a/image-{n}.jpg" for n in range(len(captions))]
        pq.write_table(pa.table({"URL": urls, "TEXT": captions}), Path(folder) / "laion.parquet")
        words = [
            "--dataset",
            "laion2b",
            "--input",
            f"{folder}/laion.parquet",
            "--output",
            f"{folder}/out",
        ]
        words += [
            "--stages",
            "captions,export",
            "--workers",
            "1",
            "--unit-rows",
            str(len(captions)),
        ]
        subprocess.run(
            [sys.executable, "-m", "open_diht.pipelines", *words],
            check=True,
            stdout=subprocess.DEVNULL,
        )
        records = (Path(folder) / "out" / "work" / "decide" / "commits").glob("*.json")
        return len(captions) / sum(read_json(path)["cpu_seconds"] for path in records)


def image_ms() -> list[float]:
    """Return the CPU milliseconds of OCR for an image of the sample without text, and for one with
    text."""
    ours = entrants(None)[OURS]
    groups = split(readable(SAMPLE), ours, 40)
    with ours.start() as spotter:
        spotter.ask([file for files in groups.values() for file in files[:8]])
        return [1e3 * spotter.ask(files).cpu_s / len(files) for files in groups.values()]


def main() -> None:
    parser = parser_of("benchmarks.laion2b", __doc__)
    parser.add_argument("--captions", help="folder of the caption samples")
    parser.add_argument("--rows", type=float, default=2.32e9)
    parser.add_argument(
        "--caption-rate", type=float, help="captions per core-second (default: measured)"
    )
    parser.add_argument(
        "--image-ms",
        type=float,
        nargs=2,
        metavar=("WITHOUT", "WITH"),
        help="milliseconds of OCR for an image without and with text (default: measured)",
    )
    options = parser.parse_args()
    captions = laion_captions(samples_folder(options.captions))
    annotations, rate = annotated(captions)
    rate, decisions = options.caption_rate or rate, decision_rate(captions)
    without, with_text = options.image_ms or image_ms()
    paper = load_preset("paper")
    own = passing(annotations, "paper")
    read = np.logical_or.reduce([own, *(passing(annotations, name) for name in paper.foresee)])
    print(
        f"{processor()}\n{options.rows:,.0f} rows; {own.mean():.1%} pass paper, {read.mean():.1%}"
        " paper or one that"
    )
    print(
        f"it foresees ({', '.join(paper.foresee)}); a core-second: {rate:,.0f} captions,"
        f" {decisions:,.0f} decisions;"
    )
    print(f"OCR: {without:.1f} ms without text, {with_text:.1f} ms with text\n")
    images = options.rows * read.mean()
    hours = {
        "captions": [options.rows / rate / 3600] * 2,
        "OCR": [images * ms / 3.6e6 for ms in (without, (without + with_text) / 2)],
        "decisions, export": [options.rows / decisions / 3600] * 2,
    }
    hours["all"] = [sum(ends) for ends in zip(*hours.values(), strict=True)]
    print_table(
        ["core-hours", "low", "high"],
        ([name, *(f"{end:,.0f}" for end in ends)] for name, ends in hours.items()),
    )
    print()
    whole = [
        [f"{workers}", *(f"{end / workers / CORES:,.1f}" for end in hours["all"])]
        for workers in WORKERS
    ]
    print_table([f"workers of {CORES} cores", "hours, low", "hours, high"], whole)


if __name__ == "__main__":
    main()
