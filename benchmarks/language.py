"""How often the language of a caption is identified rightly, and what it costs.

Texts whose language is known: English captions (CC3M's, COCO's) and short texts in other languages (the translations
of Django's messages, where the package `django` is installed); and rows of LAION-400M, English for the most part.

    python -m benchmarks.language --samples FOLDER
"""

from __future__ import annotations

import argparse
import gettext
import importlib.util
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq

from open_diht.filters.language import identify, provenance


def texts(samples: Path) -> Iterator[tuple[str, list[str]]]:
    """The sets that are there, by name."""
    cc3m = samples / "cc3m_validation" / "Validation_GCC-1.1.0-Validation.tsv"
    coco = samples / "sugarcrepe" / "replace_att.json"
    laion = samples / "img2dataset" / "test_10000.parquet"
    if cc3m.exists():
        lines = cc3m.read_text(encoding="utf-8").splitlines()
        yield "CC3M captions (English)", [line.split("\t")[0] for line in lines]
    if coco.exists():
        yield "COCO captions (English)", [one["caption"] for one in json.loads(coco.read_text()).values()]
    if laion.exists():
        yield "LAION-400M rows", pq.read_table(laion)["TEXT"].to_pylist()
    if importlib.util.find_spec("django") is not None:
        yield "Django's messages (not English)", sorted(set(_translations()))


def _translations() -> Iterator[str]:
    spec = importlib.util.find_spec("django")
    assert spec is not None and spec.origin is not None
    for path in Path(spec.origin).parent.glob("**/locale/*/LC_MESSAGES/django.mo"):
        if path.parts[-3].startswith("en"):
            continue
        with open(path, "rb") as file:
            catalogue = gettext.GNUTranslations(file)._catalog  # type: ignore[attr-defined]
        for message, translated in catalogue.items():
            marked = isinstance(translated, str) and any(mark in translated for mark in "%{<")
            if isinstance(translated, str) and 20 <= len(translated) <= 120 and message != translated and not marked:
                yield translated


def main() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=Path, required=True, help="folder with captions of CC3M, COCO, LAION")
    options = parser.parse_args()
    found = list(texts(options.samples))
    if not found:
        print(f"error: {options.samples} holds none of the sets, and django is not installed", file=sys.stderr)
        return 2
    print(f"{provenance()}\n\n| texts | how many | English | none | microseconds a text |\n|---|---|---|---|---|")
    for name, captions in found:
        began = time.process_time()
        codes = [code for code, _ in identify(captions)]
        cost = (time.process_time() - began) / len(captions) * 1e6
        english, none = codes.count("en") / len(codes), codes.count(None) / len(codes)
        print(f"| {name} | {len(captions):,} | {100 * english:.2f} % | {100 * none:.2f} % | {cost:.0f} |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
