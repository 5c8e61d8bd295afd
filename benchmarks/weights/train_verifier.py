"""Train the verifier of caption candidates and its second opinion on the labels, and write their
weights.

    python -m benchmarks.weights.train_verifier       # the weights that ship, into filters/captions
    python -m benchmarks.weights.train_verifier --out FOLDER --train-part  # without development

No training sees the test part of the labels, so `benchmarks.weights.verifier` measures the weights
that ship. A row that is removed from the files in benchmarks/labels is removed from training. The
number of the rows that the weights saw and a hash of the row numbers are stored with them. The
second opinion is a transformer, see `benchmarks/weights/train_opinion.py`; it takes some minutes on
one core.

The verifier is two logistic regressions (L2) on the fraction of positive readings. Actions: the
examples are verb candidates; CC3M captions, which are cleaner than LAION's, and captions written
for training have less weight; the parser's vector of the verb is added as a linear probe. Details
(attributes and relations): only the caption has a label. In captions that most readings call
complex, all candidates count at first; in two further rounds, only those that the model itself
believes in and the most likely one. Deterministic.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix, hstack
from sklearn.feature_extraction import DictVectorizer
from sklearn.linear_model import LogisticRegression

from benchmarks.measuring import parser_of
from benchmarks.weights.label_set import (
    Labelled,
    cc3m_labels,
    laion_labels,
    samples_folder,
    written_labels,
)
from open_diht.filters.captions import verifier
from open_diht.filters.captions.feature_names import Features
from open_diht.filters.captions.features import Captions
from open_diht.filters.captions.graph import Action, CaptionGraph, build_graph
from open_diht.filters.captions.normalize import normalize
from open_diht.filters.captions.numpy_spacy.encoder import Floats
from open_diht.filters.captions.parse import CaptionParser

# Inverse of the L2 penalty, by cross-validation without the test part.
STRENGTH = {
    "actions": 0.15,
    "details": 0.1,
}
CC3M_WEIGHT = 0.15
WRITTEN_WEIGHT = 0.1
VECTOR_SPREAD = 0.3  # standard deviation of a vector's column, next to features of 0 and 1
MIN_COUNT = 3  # candidates in which a feature must occur
MIN_WEIGHT = (
    0.01  # smaller weights of features are dropped: they hardly matter and would fill the file
)


def graphs_of(labelled: Sequence[Labelled], parser: CaptionParser) -> list[CaptionGraph]:
    return [
        build_graph(parse)
        for parse in parser.parse([normalize(entry.caption) for entry in labelled])
    ]


def train(
    laion: Sequence[Labelled], cc3m: Sequence[Labelled], parser: CaptionParser
) -> dict[str, dict[str, Any]]:
    """Return the two tables of weights, from LAION's captions and, for actions only, CC3M's."""
    graphs = graphs_of(laion, parser)
    written = written_labels()
    examples = [
        *_action_examples(laion, graphs, 1.0),
        # CC3M was labelled only for words that the tagger calls verbs and for words in -ing.
        *(
            one
            for one in _action_examples(cc3m, graphs_of(cc3m, parser), CC3M_WEIGHT)
            if one.action.tagged or one.share or one.action.verb.endswith("ing")
        ),
        *_action_examples(written, graphs_of(written, parser), WRITTEN_WEIGHT),
    ]
    return {
        "actions": _fit(
            [one.features for one in examples],
            [one.share for one in examples],
            [one.weight for one in examples],
            STRENGTH["actions"],
            np.array([one.vector for one in examples]),
        ),
        "details": _train_details(laion, graphs),
    }


class _Example(NamedTuple):
    action: Action
    features: Features
    vector: Floats
    share: float
    """Fraction of the readings that call it stated."""
    weight: float


def _action_examples(
    labelled: Sequence[Labelled], graphs: Sequence[CaptionGraph], weight: float
) -> Iterator[_Example]:
    captions = Captions(graphs, [entry.caption for entry in labelled])
    columns = captions.actions
    actions = (action for graph in graphs for action in graph.actions)
    for place, (caption, action) in enumerate(zip(columns.captions, actions, strict=True)):
        entry = labelled[caption]
        features = captions.facts.features(caption) | columns.features(place)
        vector = graphs[caption].parse.vectors[action.token]
        yield _Example(action, features, vector, entry.share(action.verb), weight)


def _train_details(labelled: Sequence[Labelled], graphs: Sequence[CaptionGraph]) -> dict[str, Any]:
    captions = Captions(graphs, [entry.caption for entry in labelled])
    details = [
        (caption, place, columns)
        for columns in (captions.attributes, captions.relations)
        for place, caption in enumerate(columns.captions)
    ]
    # For each caption its attributes, then its relations.
    details.sort(key=lambda detail: detail[0])
    rows = [
        captions.facts.features(caption) | columns.features(place)
        for caption, place, columns in details
    ]
    owner = [caption for caption, *_ in details]
    shares = np.array([labelled[place].complex_share for place in owner])

    def fit(places: NDArray[np.int64]) -> dict[str, Any]:
        return _fit(
            [rows[place] for place in places],
            shares[places],
            np.ones(len(places)),
            STRENGTH["details"],
        )

    table = fit(np.arange(len(rows)))
    for _ in range(2):
        scorer = verifier.Scorer.of(table)
        scores = np.array([scorer(row) for row in rows])
        best: dict[int, int] = {}
        for place, score in enumerate(scores):
            if owner[place] not in best or score > scores[best[owner[place]]]:
                best[owner[place]] = place
        believed = scores >= 0.5
        # Something makes a complex caption complex, at least its most likely candidate.
        believed[list(best.values())] = True
        table = fit(np.flatnonzero(believed | (shares < 0.5)))
    return table


def _fit(
    rows: Sequence[Features],
    shares: Iterable[float],
    weights: Iterable[float],
    strength: float,
    vectors: Floats | None = None,
) -> dict[str, Any]:
    counts = Counter(name for row in rows for name, value in row.items() if value)
    kept = [
        {name: value for name, value in row.items() if counts[name] >= MIN_COUNT} for row in rows
    ]
    vectorizer = DictVectorizer()
    columns = vectorizer.fit_transform(kept)
    if vectors is not None:
        # Scaled to one spread, so that the penalty affects all its columns equally.
        scale = VECTOR_SPREAD / (vectors.std(axis=0) + 1e-6)
        columns = hstack([columns, csr_matrix((vectors - vectors.mean(axis=0)) * scale)]).tocsr()
    # Use each row twice: weighted by the fraction of positive readings, and by that of negative
    # ones.
    yes = np.array(list(shares), float)
    weight = np.array(list(weights), float)
    said = np.flatnonzero(yes > 0), np.flatnonzero(yes < 1)
    model = LogisticRegression(C=strength, max_iter=5_000, tol=1e-5)
    model.fit(
        columns[np.concatenate(said)],
        np.repeat([True, False], [len(some) for some in said]),
        np.concatenate(((weight * yes)[said[0]], (weight * (1 - yes))[said[1]])),
    )
    bias = float(model.intercept_[0])
    learned = model.coef_[0]
    names = vectorizer.get_feature_names_out()
    table: dict[str, Any] = {
        "weights": {
            str(name): round(float(weight), 3)
            for name, weight in zip(names, learned[: len(names)], strict=True)
            if abs(weight) >= MIN_WEIGHT
        }
    }
    if vectors is not None:
        probe = learned[len(names) :] * scale
        bias -= float(probe @ vectors.mean(axis=0))
        table["probe"] = [round(float(weight), 4) for weight in probe]
    return table | {"bias": round(bias, 4)}


def rows_seen(labelled: Mapping[str, Sequence[Labelled]]) -> dict[str, Any]:
    """Return the record of the rows that the weights saw, by file of the labels."""
    return {
        name: {
            "rows": len(rows),
            "parts": sorted({row.part for row in rows}),
            "sha256 of the row numbers": (
                hashlib.sha256(" ".join(str(row.row) for row in rows).encode()).hexdigest()
            ),
        }
        for name, rows in labelled.items()
    }


def main() -> None:
    arguments = parser_of("benchmarks.weights.train_verifier", __doc__)
    arguments.add_argument("--captions", help="folder of the caption samples")
    arguments.add_argument(
        "--out", type=Path, default=Path(verifier.__file__).parent, help="folder of the weights"
    )
    arguments.add_argument(
        "--train-part", action="store_true", help="leave the development part out"
    )
    arguments.add_argument("--only", choices=("verifier", "opinion"), help="train one of the two")
    options = arguments.parse_args()
    folder = samples_folder(options.captions)
    parts = ("train",) if options.train_part else ("train", "development")
    laion = [entry for entry in laion_labels(folder) if entry.part in parts]
    cc3m = cc3m_labels(folder)
    parser = CaptionParser()
    labelled = {
        "laion400m_sample.tsv": laion,
        "cc3m_validation.tsv": cc3m,
        "written.tsv": written_labels(),
    }
    seen = rows_seen(labelled)
    options.out.mkdir(parents=True, exist_ok=True)
    if options.only != "opinion":
        tables = train(laion, cc3m, parser)
        out = options.out / verifier.WEIGHTS
        out.write_text(
            json.dumps(tables | {"trained on": seen}, indent=0, sort_keys=True) + "\n",
            encoding="utf-8",
        )
        sizes = [f"{len(table['weights'])} weights for {part}" for part, table in tables.items()]
        print(f"{out}: {', '.join(sizes)}")
    if options.only != "verifier":
        from benchmarks.weights.train_opinion import train_opinion  # torch is slow to import

        labelled["scenes.tsv"] = written_labels("scenes.tsv")  # the verifier has seen none of them
        seen = rows_seen(labelled)
        train_opinion(
            [(rows, graphs_of(rows, parser)) for rows in labelled.values()], seen, options.out
        )


if __name__ == "__main__":
    main()
