"""Captions per core-second: our caption stage against `nlp.pipe` and against one `nlp(text)` per row, with equal
annotations.

    python -m benchmarks.captions [--captions FOLDER] [--rows N] [--prove]

Real LAION captions, each met once, as in a run: what is kept of words serves other captions, never the same one again.
All sides work on the same blocks of captions in turn, one thread, model load outside the clock, CPU time. `cold` are
the first 2,000 captions after the start, `warm` the ones after them, `seen` all of them once more (which no run does).
`plain nlp.pipe` is what a careful user of spaCy writes for these filters: tagger, parser and attribute ruler (for
`pos_`), no entities, no lemmas, batches of 256; one `nlp(text)` per row is how peers do it, data-juicer twice and with
the whole model (its operators are a side where it is installed: `benchmarks/data_juicer.py`). The stage is timed whole:
normalise, parse, graph, verifier, Arrow table. `--prove` compares the annotations of 10,000 LAION and 5,000 CC3M
captions, row by row, with those made from spaCy's own parses.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before NumPy is loaded

import argparse
import gc
import statistics
import time
from collections.abc import Callable, Sequence

import numpy as np
import pyarrow as pa
import spacy

from benchmarks import data_juicer
from benchmarks.label_set import cc3m_captions, laion_captions, samples_folder
from open_diht.filters.captions.annotate import CaptionAnnotator, table_of
from open_diht.filters.captions.graph import build_graph
from open_diht.filters.captions.normalise import normalise
from open_diht.filters.captions.parse import CaptionParser, Parse, find_model, load_model, parse_with_spacy
from open_diht.filters.captions.verifier import load_verifier

BLOCK = 2_000  # as the stage reads them
COLD = 2_000
BASE = "plain `nlp.pipe`"
PHASES = ("cold", "warm", "seen")
Side = Callable[[Sequence[str], Sequence[str]], object]
"""Works on captions and the same captions normalised."""


def annotated(captions: Sequence[str], parses: Sequence[Parse]) -> pa.Table:
    """Annotations from given parses of the normalised captions."""
    return table_of(captions, [parse.text for parse in parses], list(map(build_graph, parses)), load_verifier())


def blas_kernels() -> str:
    """The kernels by which NumPy and spaCy multiply: a stage with AVX-512 is up to a fifth faster."""
    try:
        from threadpoolctl import threadpool_info
    except ImportError:
        config = np.show_config(mode="dicts")["Build Dependencies"]["blas"]
        return f"NumPy: {config['name']} (which kernel: pip install threadpoolctl)"
    found = [
        f"{one['internal_api']} {one['version']}, {one.get('architecture', '?')}, {one['num_threads']} thread"
        for one in threadpool_info()
        if one["user_api"] == "blas"
    ]
    return "; ".join(found)


def sides() -> dict[str, Side]:
    """What is compared, each with a model and caches of its own."""
    peers = [spacy.load(find_model(), exclude=["ner", "lemmatizer"]) for _ in range(2)]
    bare, parser, annotator, lean = load_model(), CaptionParser(), CaptionAnnotator(), CaptionAnnotator(lean=True)
    return {
        "one `nlp(text)` per row": lambda _, texts: [peers[0](text) for text in texts[: BLOCK // 20]],
        BASE: lambda _, texts: list(peers[1].pipe(texts, batch_size=256)),
        "`nlp.pipe` without attribute ruler": lambda _, texts: list(bare.pipe(texts, batch_size=256)),
        "our parse": lambda _, texts: parser.parse(texts),
        "our caption stage, whole": lambda captions, _: annotator.annotate(captions),
        "our caption stage, `--lean`": lambda captions, _: lean.annotate(captions),
        **data_juicer_side(),
    }


def data_juicer_side() -> dict[str, Side]:
    """data-juicer's operators; none, and a line that says so, where it is not installed."""
    if not data_juicer.is_installed():
        print(data_juicer.MISSING)
        return {}
    counted = data_juicer.operators(spacy.load(find_model()))
    return {"data-juicer's two operators": lambda _, texts: counted(texts[: BLOCK // 20])}


def measure(captions: Sequence[str]) -> dict[str, dict[str, list[float]]]:
    """CPU seconds of a caption, by phase and side, of each block."""
    texts = [normalise(caption) for caption in captions]
    compared = sides()
    gc.collect()
    gc.freeze()  # as a worker of the stage does
    seconds: dict[str, dict[str, list[float]]] = {phase: {name: [] for name in compared} for phase in PHASES}
    for again in (False, True):
        for first in range(0, len(captions), BLOCK):
            block, normalised = captions[first : first + BLOCK], texts[first : first + BLOCK]
            phase = "seen" if again else "cold" if first < COLD else "warm"
            for name, work in compared.items():
                began = time.process_time()
                done = work(block, normalised)
                rows = len(done) if isinstance(done, list) else len(block)
                seconds[phase][name].append((time.process_time() - began) / rows)
    return seconds


def report(seconds: dict[str, dict[str, list[float]]]) -> None:
    """Print the table: rates, and ratios as medians over blocks."""
    print("| side | captions per core-second, warm | cold | warm | seen |\n|---|---|---|---|---|")
    for name in seconds["warm"]:
        ratios = []
        for phase in PHASES:
            pairs = zip(seconds[phase][BASE], seconds[phase][name], strict=True)
            ratios.append(statistics.median([base / ours for base, ours in pairs]))
        rate = 1 / statistics.median(seconds["warm"][name])
        print(f"| {name} | {rate:,.0f} | {' | '.join(f'{ratio:.2f}' for ratio in ratios)} |")


def prove(captions: Sequence[str]) -> int:
    """Rows whose annotations are not those made from spaCy's own parses."""
    ours = CaptionAnnotator().annotate(captions)
    theirs = annotated(captions, parse_with_spacy(load_model(), [normalise(caption) for caption in captions]))
    return sum(one != other for one, other in zip(ours.to_pylist(), theirs.to_pylist(), strict=True))


def main() -> None:
    """Print the table, or the proof."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--captions", help="folder of the caption samples")
    arguments.add_argument("--rows", type=int, default=10_000)
    arguments.add_argument("--prove", action="store_true", help="compare annotations instead of speed")
    options = arguments.parse_args()
    folder = samples_folder(options.captions)
    if options.prove:
        captions = [*laion_captions(folder), *cc3m_captions(folder)[:5_000]]
        print(f"rows with other annotations than from spaCy's own parses: {prove(captions):,} of {len(captions):,}")
        return
    captions = list(dict.fromkeys(laion_captions(folder)))[: options.rows]
    if len(captions) <= COLD:
        arguments.error(
            f"--rows {options.rows}: the first {COLD:,} captions warm up; at least {COLD + BLOCK:,} are needed"
        )
    print(f"{len(captions):,} LAION captions, blocks of {BLOCK} in turn, CPU seconds of one thread; ratios to {BASE}")
    print(f"matrix products: {blas_kernels()}\n")
    report(measure(captions))


if __name__ == "__main__":
    main()
