"""Captions per core-second: our caption stage against `nlp.pipe` and against one `nlp(text)` per
row, with equal annotations.

    python -m benchmarks.captions [--captions FOLDER] [--rows N] [--prove]

The captions are real LAION captions, each processed once in `cold` or `warm`, as in a run. All
sides work on the same blocks of captions in turn (one `nlp(text)` per row on the first twentieth of
each), on one thread; models are loaded before the clock starts, which counts CPU time. `cold` are
the first 2,000 captions after the start, `warm` the ones after them, `seen` all of them a second
time (which no run does). `plain nlp.pipe` is what a careful user of spaCy writes for these filters:
tagger, parser and attribute ruler (for `pos_`), no entities, no lemmas, batches of 256; one
`nlp(text)` per row is how peers do it. The stage is timed as a whole: normalize, parse, graph,
verifier, Arrow table. `--prove` compares the annotations of 10,000 LAION and 5,000 CC3M captions,
row by row, with those made from spaCy's own parses.
"""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Iterator, Sequence

import pyarrow as pa
import spacy
from threadpoolctl import threadpool_info

from benchmarks.measuring import parser_of, print_table, processor, ratios
from benchmarks.weights.label_set import cc3m_captions, laion_captions, samples_folder
from open_diht.filters.captions.annotate import CaptionAnnotator, table_of
from open_diht.filters.captions.graph import build_graph
from open_diht.filters.captions.normalize import normalize
from open_diht.filters.captions.parse import (
    CaptionParser,
    Parse,
    find_model,
    load_model,
    parse_with_spacy,
)
from open_diht.filters.captions.verifier import load_verifier

BLOCK = 2_000  # block size of the stage
COLD = 2_000
BASE = "plain `nlp.pipe`"
PHASES = ("cold", "warm", "seen")
Side = Callable[[Sequence[str], Sequence[str]], object]
"""A function of two arguments: captions, and the same captions normalized."""


def annotated(captions: Sequence[str], parses: Sequence[Parse]) -> pa.Table:
    """Return annotations of `captions` from the parses of their normalized forms."""
    return table_of(
        captions, [parse.text for parse in parses], list(map(build_graph, parses)), load_verifier()
    )


def sides() -> dict[str, Side]:
    """Return the compared sides, each with a spaCy model of its own."""
    peers = [spacy.load(find_model(), exclude=["ner", "lemmatizer"]) for _ in range(2)]
    bare = load_model()
    parser = CaptionParser()
    annotator = CaptionAnnotator()
    lean = CaptionAnnotator(lean=True)
    asking = CaptionAnnotator(second_opinion=True)
    return {
        "one `nlp(text)` per row": lambda _, texts: [
            peers[0](text) for text in texts[: BLOCK // 20]
        ],
        BASE: lambda _, texts: list(peers[1].pipe(texts, batch_size=256)),
        "`nlp.pipe` without attribute ruler": lambda _, texts: list(
            bare.pipe(texts, batch_size=256)
        ),
        "our parse": lambda _, texts: parser.parse(texts),
        "our caption stage, whole": lambda captions, _: annotator.annotate(captions),
        "our caption stage, `--lean`": lambda captions, _: lean.annotate(captions),
        "our caption stage, preset `precise`": lambda captions, _: asking.annotate(captions),
    }


def measure(captions: Sequence[str]) -> dict[str, dict[str, list[float]]]:
    """Return CPU seconds per caption of each block, by phase and side."""
    texts = [normalize(caption) for caption in captions]
    compared = sides()
    gc.collect()
    gc.freeze()  # a worker of the stage does this too
    seconds: dict[str, dict[str, list[float]]] = {
        phase: {name: [] for name in compared} for phase in PHASES
    }
    for again in (False, True):
        for first in range(0, len(captions), BLOCK):
            block = captions[first : first + BLOCK]
            normalized = texts[first : first + BLOCK]
            phase = "seen" if again else "cold" if first < COLD else "warm"
            for name, work in compared.items():
                began = time.process_time()
                done = work(block, normalized)
                rows = len(done) if isinstance(done, list) else len(block)
                seconds[phase][name].append((time.process_time() - began) / rows)
    return seconds


def rows(seconds: dict[str, dict[str, list[float]]]) -> Iterator[list[str]]:
    """Yield each side's rate and median ratios to plain `nlp.pipe`; for `warm` also yield the
    lowest and highest."""
    for name, warm in seconds["warm"].items():
        cells = (f"{ratios(seconds[phase][BASE], seconds[phase][name])[1]:.2f}" for phase in PHASES)
        low, _, high = ratios(seconds["warm"][BASE], warm)
        yield [name, f"{1 / statistics.median(warm):,.0f}", *cells, f"{low:.2f}", f"{high:.2f}"]


def kernels() -> str:
    """Return the processor, and its kernels in OpenBLAS: the speed of the parse depends on them."""
    found = {
        f"{pool['internal_api']} {pool['version']} {pool.get('architecture')}"
        for pool in threadpool_info()
    }
    return f"{processor()}; {', '.join(sorted(found))}"


def prove(captions: Sequence[str]) -> int:
    """Return the number of rows whose annotations differ from those made from spaCy's own
    parses."""
    ours = CaptionAnnotator().annotate(captions)
    theirs = annotated(
        captions, parse_with_spacy(load_model(), [normalize(caption) for caption in captions])
    )
    return sum(
        one != other for one, other in zip(ours.to_pylist(), theirs.to_pylist(), strict=True)
    )


def main() -> None:
    """Print the table, or the proof."""
    arguments = parser_of("benchmarks.captions", __doc__)
    arguments.add_argument("--captions", help="folder of the caption samples")
    arguments.add_argument("--rows", type=int, default=10_000)
    arguments.add_argument(
        "--prove", action="store_true", help="compare annotations instead of speed"
    )
    options = arguments.parse_args()
    folder = samples_folder(options.captions)
    if options.prove:
        captions = [*laion_captions(folder), *cc3m_captions(folder)[:5_000]]
        print(
            f"rows with other annotations than from spaCy's own parses: {prove(captions):,} of"
            f" {len(captions):,}"
        )
        return
    captions = list(dict.fromkeys(laion_captions(folder)))[: options.rows]
    if len(captions) <= COLD:
        arguments.error(
            f"--rows {options.rows}: the first {COLD:,} captions are the cold ones; give more, such"
            f" as {COLD + BLOCK:,}"
        )
    print(
        f"{len(captions):,} LAION captions, blocks of {BLOCK} in turn, CPU seconds of one thread;"
        f" ratios to {BASE}"
    )
    seconds = measure(captions)
    print(kernels())
    print_table(
        ["side", "captions per core-second, warm", *PHASES, "warm, lowest", "highest"],
        rows(seconds),
    )


if __name__ == "__main__":
    main()
