"""Measure the presets and the rules of peers against labels that people made, of four public
repositories.

    python -m benchmarks.people [--data FOLDER]

FACTUAL has scene graphs of captions of Visual Genome: an action is any verb but be and have, and
the degree of an object is the number of its tuples. HL has answers to "what is the subject doing?"
and "where is the picture taken?". Noun-verb marks whether an ambiguous word of a sentence is a
verb. Clue judges captions next to their images; it has no license, so its file is read in a
temporary folder and then removed. The other files stay in FOLDER. Captions alone decide, never
images. Intervals are those of the evaluation (95 %), over captions.

The rules of peers are our few lines after their public code, on spaCy's parses of the unchanged
captions. Fondant keeps a caption with a verb that has an nsubj, and a token that has a child.
data-juicer's `text_action_filter` asks for a token whose part of speech and tag are a verb's, its
`text_entity_dependency_filter` for an arc at each noun and pronoun. For a degree of 2, one token
with two children or arcs is asked for.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import re
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import spacy
from spacy.language import Language

from benchmarks.measuring import parser_of
from benchmarks.weights.label_set import Bools
from open_diht.common.command_line import OK, exit_status
from open_diht.common.pinned import check_pinned
from open_diht.eval.errors import FetchFailed
from open_diht.eval.estimates import mean
from open_diht.eval.fetch.download import download
from open_diht.eval.statistics import Estimate
from open_diht.filters.captions.annotate import CaptionAnnotator
from open_diht.filters.captions.graph import NOUN_TAGS, VERB_TAGS
from open_diht.filters.captions.parse import find_model
from open_diht.filters.captions.rules import decide_captions
from open_diht.filters.presets import load_preset

FACTUAL = (
    "zhuang-li/FactualSceneGraph/79effff4f53b9625f2068c585cbc1fe08bc15c50/data/factual_sg_id/random"
)
NOUN_VERB = "google-research-datasets/noun-verb/2c85e46bb6e8c79ff290a99e054aed2a3105eafc"
FILES = {
    "FACTUAL, dev": (
        f"{FACTUAL}/dev.csv",
        "f806bc8c18d3b693055343e7735b83ec230caeefb073eb48f71f41a35c317162",
    ),
    "FACTUAL, test": (
        f"{FACTUAL}/test.csv",
        "ac896db98b4c431317af0f7ce1fe81beb758ea66762db58b3f6b8bbed7b53c72",
    ),
    "HL": (
        "michelecafagna26/HL-dataset/57b94a5b7fffdb769dd6448b82a42d102a530977/annotations/test.jsonl",
        "3367a1b00460c69196b489f9c6f6ff2b08046959f91956161b5083bd62a43f38",
    ),
    "noun-verb, dev": (
        f"{NOUN_VERB}/dev.conll",
        "302afe91121c8cd87a91c9a696b1088a4e498fc1012b707bc936c3d529507647",
    ),
    "noun-verb, test": (
        f"{NOUN_VERB}/test.conll",
        "de2266c0788fc95ccec5a2744def0feb88fba09b82eabdcb22b78ce1bf7cbad0",
    ),
    "Clue": (
        (
            "malihealikhani/Cross-modal_Coherence_Modeling/6d178cc5ca8be2f3ccd148745953120317fb097d/dataset/"
            "data-both-04-08-cleaned.tsv"
        ),
        "5632f4ccc3344d28dc85d282d0e7f223a0c5554d4c86666c16bb4e883e783b5f",
    ),
}
"""Path below the address, and SHA-256, by name."""
PRESETS = ("paper", "balanced", "strict", "precise")
_OF_PHOTOGRAPHY = re.compile(
    r"\b(tak(e|es|en|ing)|took|shoot(s|ing)?|shot|captur(e|es|ed|ing))\b", re.IGNORECASE
)


@dataclass(frozen=True)
class Found:
    """The result of a rule for each of a list of texts."""

    actions: Sequence[set[int]]
    """Indices of the first characters of the verbs that count."""
    complex: Bools
    """True for a complexity, or its counterpart, of 2 or more."""
    kept: Bools

    @property
    def acts(self) -> Bools:
        return np.array([bool(verbs) for verbs in self.actions], bool)


Columns = dict[str, Callable[[Found], Estimate]]
"""The numbers of a set of labels from what a rule finds in its texts, by column."""


@dataclass(frozen=True)
class Labels:
    about: str
    texts: Sequence[str]
    columns: Columns


def fetched(folder: Path, address: str) -> dict[str, str]:
    """Return the content of each file, and leave all but Clue's in the folder. Raises
    `FetchFailed`."""
    with tempfile.TemporaryDirectory() as passing:
        texts = {}
        for name, (path, sha256) in FILES.items():
            file = (Path(passing) if name == "Clue" else folder) / path.replace("/", "-")
            download(f"{address}/{path}", file, f"sha256:{sha256}")
            check_pinned(file, sha256, FetchFailed, "remove it and run the same command again")
            texts[name] = file.read_text(encoding="utf-8")
        return texts


@cache
def models() -> tuple[CaptionAnnotator, CaptionAnnotator, Language]:
    """Return the annotators without and with second opinion, and the parser of the peers."""
    peers = spacy.load(find_model(), exclude=["ner", "lemmatizer"])
    return CaptionAnnotator(), CaptionAnnotator(second_opinion=True), peers


def by_rule(texts: Sequence[str]) -> Iterator[tuple[str, Found]]:
    """Yield what each preset and each peer finds."""
    *annotators, peers = models()
    tables = [annotator.annotate(texts) for annotator in annotators]
    for name in PRESETS:
        rule = load_preset(name).captions
        table = tables[rule.second_opinion]
        done = decide_captions(table, rule)
        rows = zip(table["actions"].to_pylist(), done.accepted.to_pylist(), strict=True)
        verbs = [{one["start"] for one, counts in zip(*row, strict=True) if counts} for row in rows]
        kept = (done.complexity >= rule.min_complexity) & (done.n_actions >= rule.min_actions)
        yield f"`{name}`", Found(verbs, done.complexity >= 2, kept)
    subjects = list[set[int]]()
    verbs = list[set[int]]()
    arcs = list[list[int]]()
    children = list[int]()
    for doc in peers.pipe(texts, batch_size=256):
        subjects.append(
            {one.head.idx for one in doc if one.dep_ == "nsubj" and one.head.pos_ == "VERB"}
        )
        verbs.append({one.idx for one in doc if one.pos_ == "VERB" and one.tag_ in VERB_TAGS})
        entities = [
            one
            for one in doc
            if one.pos_ in ("NOUN", "PROPN", "PRON") and one.tag_ in {*NOUN_TAGS, "PRP"}
        ]
        arcs.append(
            [
                (one.dep_ != "ROOT") + sum(c.pos_ != "PUNCT" for c in one.children)
                for one in entities
            ]
        )
        children.append(max((one.n_lefts + one.n_rights for one in doc), default=0))
    most = np.array(children)
    one_child = np.array(children) >= 1
    yield (
        "Fondant",
        Found(subjects, most >= 2, one_child & np.array(list(map(bool, subjects)), bool)),
    )
    tied = [
        bool(found and counts and min(counts) >= 1)
        for found, counts in zip(verbs, arcs, strict=True)
    ]
    yield (
        "data-juicer",
        Found(verbs, np.array([max(row, default=0) >= 2 for row in arcs]), np.array(tied, bool)),
    )


def f1(found: Bools, truth: Bools) -> Estimate:
    """Return F1, 2 TP / (2 TP + FP + FN), as a mean: a true positive is two items of 1, an error
    one of 0."""
    hits = np.flatnonzero(found & truth)
    errors = np.flatnonzero(found ^ truth)
    return mean(
        np.repeat([1.0, 0.0], [2 * len(hits), len(errors)]), np.concatenate([hits, hits, errors])
    )


def degree(graph: str) -> tuple[bool, int]:
    """Return whether a scene graph has an action, and the most tuples of an object."""
    tuples = [part.split(" , ") for part in re.findall(r"\( (.*?) \)", graph)]
    triples = [part for part in tuples if len(part) == 3]
    acts = any(re.match(r"p?v:(?!(?:be|have)\b)", relation) for _, relation, _ in triples)
    ends = [end for a, relation, b in triples for end in ((a,) if relation == "is" else {a, b})]
    return acts, max(map(ends.count, ends), default=0)


def factual(text: str) -> Labels:
    rows = list(csv.DictReader(io.StringIO(text)))
    acts, degrees = np.array([degree(row["scene_graph"]) for row in rows]).T
    truth = acts.astype(bool)
    complex_ = degrees >= 2
    columns: Columns = {
        "precision": lambda f: mean(truth[f.acts]),
        "recall": lambda f: mean(f.acts[truth]),
        "F1": lambda f: f1(f.acts, truth),
        "F1 of complexity": lambda f: f1(f.complex, complex_),
    }
    least = f"{(degrees >= 1).sum():,} of degree 1 or more, {complex_.sum():,} of 2 or more"
    about = f"{len(rows):,} captions, {truth.sum():,} with an action, {least}"
    return Labels(about, [row["caption"] for row in rows], columns)


def hl(text: str) -> Labels:
    """Read answers to questions, without those about the place that speak of taking a picture."""
    rows = [json.loads(line)["captions"] for line in text.splitlines()]
    doing, where = (
        dict.fromkeys(answer for row in rows for answer in row[kind])
        for kind in ("action", "scene")
    )
    places = [answer for answer in where if not _OF_PHOTOGRAPHY.search(answer)]
    n = len(doing)
    columns: Columns = {"doing": lambda f: mean(f.acts[:n]), "where": lambda f: mean(f.acts[n:])}
    about = f"{n:,} different answers about doing, {len(places):,} about the place"
    return Labels(about, [*doing, *places], columns)


def noun_verb(text: str) -> Labels:
    sentences = list[str]()
    marked = list[tuple[int, bool]]()
    for block in text.strip().split("\n\n"):
        rows = [line.split("\t") for line in block.splitlines() if "\t" in line]
        words = [row[1] for row in rows]
        at = next(number for number, row in enumerate(rows) if row[3] != "_")
        sentences.append(" ".join(words))
        marked.append((len(" ".join([*words[:at], ""])), rows[at][3] == "VERB"))
    about = (
        f"{len(sentences):,} sentences, {sum(verb for _, verb in marked):,} with a verb as the"
        " ambiguous word"
    )

    def right(f: Found) -> Estimate:
        return mean(
            [(at in verbs) == verb for (at, verb), verbs in zip(marked, f.actions, strict=True)]
        )

    return Labels(about, sentences, {"accuracy": right})


def clue(text: str) -> Labels:
    rows = list(csv.DictReader(io.StringIO(text), delimiter="\t", quoting=csv.QUOTE_NONE))
    visible, irrelevant = (
        np.array([row[name] == "1" for row in rows]) for name in ("Visible", "Irrelevant")
    )
    columns: Columns = {
        "kept": lambda f: mean(f.kept),
        "visible": lambda f: mean(visible[f.kept]),
        "irrelevant": lambda f: mean(irrelevant[f.kept]),
    }
    return Labels(f"{len(rows):,} pairs", [row["caption"] for row in rows], columns)


def print_numbers(name: str, labels: Labels) -> None:
    """Print a set's numbers with the ends of their intervals, two numbers a table."""
    print(f"\n{name} ({labels.about}):")
    rules = dict(by_rule(labels.texts))
    if name == "Clue":
        n = len(labels.texts)
        rules["all pairs"] = Found([set()] * n, np.ones(n, bool), np.ones(n, bool))
    columns = list(labels.columns.items())
    for two in (columns[at : at + 2] for at in range(0, len(columns), 2)):
        print(
            f"\n| rule | {' | '.join(f'{column} | from | to' for column, _ in two)}"
            f" |\n|---|{'--:|' * 3 * len(two)}"
        )
        for rule, found in rules.items():
            numbers = [of(found) for _, of in two]
            cells = [
                f"{cell:.3f}" for one in numbers for cell in (one.value, *(one.interval() or ()))
            ]
            print(f"| {rule} | {' | '.join(cells)} |", flush=True)


READERS = {"FACTUAL": factual, "HL": hl, "noun-verb": noun_verb, "Clue": clue}


def measure(options: argparse.Namespace) -> int:
    """Print the tables of all sets; nothing before all are there."""
    for name, text in fetched(options.data, options.address).items():
        print_numbers(name, READERS[name.partition(",")[0]](text))
    return OK


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line. Return 0, or 2 if a file cannot be fetched."""
    parser = parser_of("benchmarks.people", __doc__)
    parser.add_argument(
        "--data", type=Path, default=Path("out/people"), help="folder (default out/people)"
    )
    parser.add_argument(
        "--address",
        default="https://raw.githubusercontent.com",
        help="of GitHub's files, or a copy",
    )
    return exit_status(lambda: measure(parser.parse_args(arguments)), wrong_use=(FetchFailed,))


if __name__ == "__main__":
    sys.exit(main())
