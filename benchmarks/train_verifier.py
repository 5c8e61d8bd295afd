"""Trains the verifier of caption candidates from the hand labels, and writes its weights.

    python -m benchmarks.train_verifier                           # on all labels: filters/captions/verifier.json
    python -m benchmarks.train_verifier --out FILE --train-part   # on the train part, as benchmarks/verifier.py does

Two logistic regressions (L2). Actions: a verb candidate is positive where its word is among the labelled verbs; CC3M
captions join with less weight, they are cleaner than LAION's. Details (attributes and relations): the label is the
caption's, so of a complex caption every candidate counts as positive at first, then only those that the model itself
believes in (three rounds). Deterministic.
"""

from __future__ import annotations

import argparse
import json
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from sklearn.feature_extraction import DictVectorizer
from sklearn.linear_model import LogisticRegression

from benchmarks.label_set import Labelled, cc3m_labels, laion_labels, samples_folder
from filters.captions import verifier
from filters.captions.features import (
    CaptionContext,
    Features,
    action_parts,
    attribute_parts,
    merged,
    relation_parts,
)
from filters.captions.graph import CaptionGraph, build_graph
from filters.captions.normalise import normalise
from filters.captions.parse import CaptionParser

STRENGTH = {"actions": 0.3, "details": 0.1}  # inverse of the L2 penalty, by cross-validation without the test part
CC3M_WEIGHT = 0.3
MIN_COUNT = 3  # captions in which a feature must occur
MIN_WEIGHT = 0.01  # smaller weights are dropped: they decide nothing and would fill the file


def graphs_of(labelled: Sequence[Labelled], parser: CaptionParser) -> list[CaptionGraph]:
    """One graph per labelled caption."""
    return [build_graph(parse) for parse in parser.parse([normalise(entry.caption) for entry in labelled])]


def train(laion: Sequence[Labelled], cc3m: Sequence[Labelled], parser: CaptionParser) -> dict[str, dict[str, object]]:
    """The two tables of weights."""
    graphs = graphs_of(laion, parser)
    return {
        "actions": _train_actions([*laion, *cc3m], [*graphs, *graphs_of(cc3m, parser)], len(laion)),
        "details": _train_details(laion, graphs),
    }


def _train_actions(labelled: Sequence[Labelled], graphs: Sequence[CaptionGraph], laion: int) -> dict[str, object]:
    rows: list[Features] = []
    positive, weights = [], []
    for index, (entry, graph) in enumerate(zip(labelled, graphs, strict=True)):
        context = CaptionContext(graph, entry.caption)
        verbs = {_letters(verb) for verb in entry.verbs}
        for action in graph.actions:
            is_stated = _letters(action.verb) in verbs
            if index >= laion and not (action.tagged or is_stated or action.verb.endswith("ing")):
                continue  # CC3M was read for what the tagger calls a verb and for words in -ing
            rows.append(merged(context.parts) | merged(action_parts(context, action)))
            positive.append(is_stated)
            weights.append(1.0 if index < laion else CC3M_WEIGHT)
    return _fit(rows, positive, weights, STRENGTH["actions"])


def _letters(verb: str) -> str:
    return re.sub(r"[^a-z]", "", verb.lower())


def _train_details(labelled: Sequence[Labelled], graphs: Sequence[CaptionGraph]) -> dict[str, object]:
    rows: list[Features] = []
    owner: list[int] = []
    for place, (entry, graph) in enumerate(zip(labelled, graphs, strict=True)):
        context = CaptionContext(graph, entry.caption)
        found = [attribute_parts(context, attribute) for attribute in graph.attributes]
        found += [relation_parts(context, relation) for relation in graph.relations]
        rows += [merged(context.parts) | merged(parts) for parts in found]
        owner += [place] * len(found)
    is_complex = np.array([labelled[place].complex for place in owner])
    positive = is_complex.copy()
    table = _fit(rows, positive, np.ones(len(rows)), STRENGTH["details"])
    for _ in range(2):
        scorer = verifier.Scorer(table["bias"], table["weights"])  # type: ignore[arg-type]
        scores = np.array([scorer(row) for row in rows])
        best: dict[int, int] = {}
        for place, score in enumerate(scores):
            if owner[place] not in best or score > scores[best[owner[place]]]:
                best[owner[place]] = place
        believed = scores >= 0.5
        # Something makes a complex caption complex: at least its likeliest candidate.
        believed[list(best.values())] = True
        keep = ~is_complex | believed
        kept = np.flatnonzero(keep)
        table = _fit([rows[place] for place in kept], positive[kept], np.ones(len(kept)), STRENGTH["details"])
    return table


def _fit(
    rows: Sequence[Features], positive: Iterable[bool], weights: Iterable[float], strength: float
) -> dict[str, object]:
    counts = Counter(name for row in rows for name, value in row.items() if value)
    kept = [{name: value for name, value in row.items() if counts[name] >= MIN_COUNT} for row in rows]
    vectorizer = DictVectorizer()
    model = LogisticRegression(C=strength, max_iter=5_000, tol=1e-5)
    model.fit(vectorizer.fit_transform(kept), np.array(list(positive)), np.array(list(weights)))
    named = zip(vectorizer.get_feature_names_out(), model.coef_[0], strict=True)
    return {
        "bias": round(float(model.intercept_[0]), 4),
        "weights": {str(name): round(float(weight), 3) for name, weight in named if abs(weight) >= MIN_WEIGHT},
    }


def main() -> None:
    """Command line; see the module's docstring."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--captions", help="folder of the caption samples")
    arguments.add_argument("--out", type=Path, default=Path(verifier.__file__).with_name(verifier.WEIGHTS))
    arguments.add_argument("--train-part", action="store_true", help="leave the development and test parts out")
    options = arguments.parse_args()
    folder = samples_folder(options.captions)
    laion = [entry for entry in laion_labels(folder) if entry.part == "train" or not options.train_part]
    tables = train(laion, cc3m_labels(folder), CaptionParser())
    options.out.write_text(json.dumps(tables, indent=0, sort_keys=True) + "\n", encoding="utf-8")
    sizes = [f"{len(table['weights'])} weights for {part}" for part, table in tables.items()]  # type: ignore[arg-type]
    print(f"{options.out}: {', '.join(sizes)}")


if __name__ == "__main__":
    main()
