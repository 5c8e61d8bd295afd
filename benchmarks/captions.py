"""Captions per core-second: our caption stage against `nlp.pipe` and against one `nlp(text)` per row, with equal
decisions.

    python -m benchmarks.captions [--captions FOLDER] [--rows N] [--repeats K]

All sides work on the same normalised texts of real LAION captions, one thread, model load and warm-up outside the
clock, in turn, CPU time; the median of the repeats is given. `plain pipe` is what a careful user of spaCy writes for
these filters: tagger, parser and attribute ruler (for `pos_`), no entities, no lemmas, batches of 256. `one by one` is
how peers do it. The stage is timed whole: normalise, parse, graph, verifier, Arrow table. The proof: tags, labels and
heads of every caption equal those of the plain pipe, and so do both presets' decisions made from them.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Sequence

import pyarrow as pa
import spacy
from spacy.tokens import Doc

from benchmarks.label_set import laion_captions, samples_folder
from filters.captions.annotate import SCHEMA, CaptionAnnotator, row_of
from filters.captions.graph import build_graph
from filters.captions.normalise import normalise
from filters.captions.parse import CaptionParser, Parse, find_model
from filters.captions.rules import decide_captions
from filters.captions.verifier import load_verifier
from filters.presets import load_preset


def plain_parse(doc: Doc) -> Parse:
    """A document of spaCy's own pipeline in our form."""
    return Parse(
        text=doc.text,
        words=[token.text for token in doc],
        starts=[token.idx for token in doc],
        tags=[token.tag_ for token in doc],
        deps=[token.dep_ for token in doc],
        heads=[token.head.i for token in doc],
    )


def annotated(captions: Sequence[str], parses: Sequence[Parse]) -> pa.Table:
    """Annotations from given parses."""
    verifier = load_verifier()
    rows = []
    for caption, parse in zip(captions, parses, strict=True):
        graph = build_graph(parse)
        rows.append(row_of(graph, verifier.score(graph, caption)))
    return pa.Table.from_pylist(rows, schema=SCHEMA)


def main() -> None:
    """Print the table."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--captions", help="folder of the caption samples")
    arguments.add_argument("--rows", type=int, default=10_000)
    arguments.add_argument("--repeats", type=int, default=3)
    options = arguments.parse_args()
    captions = laion_captions(samples_folder(options.captions))[: options.rows]
    texts = [normalise(caption) for caption in captions]
    nlp = spacy.load(find_model(), exclude=["ner", "lemmatizer"])
    bare = spacy.load(find_model(), exclude=["ner", "lemmatizer", "attribute_ruler"])
    annotator, parser = CaptionAnnotator(), CaptionParser()
    sides: dict[str, tuple[Callable[[], object], int]] = {
        "one `nlp(text)` per row": (lambda: [nlp(text) for text in texts[:1_500]], len(texts[:1_500])),
        "plain `nlp.pipe`": (lambda: list(nlp.pipe(texts, batch_size=256)), len(texts)),
        "`nlp.pipe` without attribute ruler": (lambda: list(bare.pipe(texts, batch_size=256)), len(texts)),
        "our parse": (lambda: parser.parse(texts), len(texts)),
        "our caption stage, whole": (lambda: annotator.annotate(captions), len(captions)),
    }
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    annotator.annotate(captions[:500])
    for _ in range(options.repeats):
        for name, (work, _) in sides.items():
            began = time.process_time()
            work()
            seconds[name].append(time.process_time() - began)
    rates = {name: rows / statistics.median(seconds[name]) for name, (_, rows) in sides.items()}
    base = rates["plain `nlp.pipe`"]
    print(f"{len(captions):,} LAION captions, {options.repeats} repeats in turn, CPU seconds of one thread\n")
    print("| side | captions per core-second | ratio to plain `nlp.pipe` |\n|---|---|---|")
    for name, rate in rates.items():
        print(f"| {name} | {rate:,.0f} | {rate / base:.2f} |")
    plain = [plain_parse(doc) for doc in nlp.pipe(texts, batch_size=256)]
    ours = parser.parse(texts)
    same = sum(a == b for a, b in zip(plain, ours, strict=True))
    print(f"\nequal parses: {same:,} of {len(texts):,}")
    ours_table, plain_table = annotated(captions, ours), annotated(captions, plain)
    for name in ("paper", "strict"):
        rule = load_preset(name).captions
        one, other = decide_captions(ours_table, rule), decide_captions(plain_table, rule)
        equal = (one.complexity == other.complexity) & (one.n_actions == other.n_actions)
        kept = ((one.complexity >= rule.min_complexity) & (one.n_actions >= rule.min_actions)).mean()
        print(
            f"equal decisions, preset {name}: {int(equal.sum()):,} of {len(texts):,} (keeps {kept:.1%} after C and A)"
        )


if __name__ == "__main__":
    main()
