"""Ask the caption filters from Python, without a run: which captions pass, and how many each filter
rejects.

Captions are annotated once; presets without a second opinion then decide on the same annotations.

    .venv/bin/python examples/filter_from_python.py --preset strict
"""

from __future__ import annotations

import argparse
import csv
from collections import Counter

import numpy as np
import pyarrow as pa

from open_diht.filters.base import CaptionEvidence
from open_diht.filters.captions.annotate import CaptionAnnotator
from open_diht.filters.captions.rules import decide_captions
from open_diht.filters.presets import load_preset


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument(
        "--manifest",
        default="data/sample/manifest.tsv",
        help="tab-separated, with a column caption",
    )
    parser.add_argument(
        "--preset", default="paper", help="a preset, such as paper or strict, or a YAML file"
    )
    parser.add_argument("--rows", type=int, default=40, help="as many captions from the beginning")
    options = parser.parse_args()
    preset = load_preset(options.preset)
    with open(options.manifest, encoding="utf-8", newline="") as file:
        rows = csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE)
        captions = [
            row["caption"].strip() or None
            for row, _ in zip(rows, range(options.rows), strict=False)
        ]

    annotator = CaptionAnnotator(second_opinion=preset.captions.second_opinion)
    annotations = annotator.annotate([caption or "" for caption in captions])
    table = annotations.append_column("caption", pa.array(captions, pa.string()))
    decided = decide_captions(table, preset.captions)
    reasons = np.full(len(captions), "kept", object)
    for one in reversed(preset.caption_filters):  # the first filter that applies is written last
        reasons[one.rejects(CaptionEvidence(table, decided))] = one.reason

    for place in np.flatnonzero(reasons == "kept"):
        said = [
            f"{pair['attribute']} {pair['object']}" for pair in decided.attributes[place].as_py()
        ]
        print(captions[place])
        print(
            f"    actions: {', '.join(decided.actions[place].as_py())}; attributes:"
            f" {', '.join(said) or 'none'}"
        )
    print(", ".join(f"{reason}: {count}" for reason, count in sorted(Counter(reasons).items())))


if __name__ == "__main__":
    main()
