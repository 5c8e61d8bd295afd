"""Measure how well our presets and simpler rules find stated actions and complex captions, on the
test part of the labels.

    python -m benchmarks.weights.verifier [--captions FOLDER]
    python -m benchmarks.weights.verifier --part development --weights FOLDER
    python -m benchmarks.weights.verifier --folds   # choose the threshold of details

FOLDER of `--weights` is that of `train_verifier --train-part`.

No weights have seen the test part, a uniform sample of the 10,000 rows (labels/GUIDE.md). Each
annotation is counted by itself, without rows whose two readings of it differ. `--folds`
cross-validates the verifier on the other parts, in five folds that share no host, and scores the
complexity of captions of shops and of other captions.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
from sklearn.metrics import average_precision_score, precision_recall_curve

from benchmarks.measuring import parser_of
from benchmarks.weights.label_set import (
    Bools,
    Labelled,
    Truth,
    cc3m_labels,
    double_readings,
    laion_hosts,
    laion_labels,
    samples_folder,
    truths,
)
from benchmarks.weights.train_verifier import graphs_of, train
from open_diht.filters.captions.annotate import table_of
from open_diht.filters.captions.graph import CaptionGraph
from open_diht.filters.captions.numpy_spacy.encoder import Floats
from open_diht.filters.captions.opinion import WEIGHTS, Opinion
from open_diht.filters.captions.parse import CaptionParser, Parse
from open_diht.filters.captions.rules import CaptionDecisions, CaptionRule, decide_captions
from open_diht.filters.captions.verifier import Scorer, Verifier
from open_diht.filters.presets import load_preset

CELLS = "precision | recall | F1 | negatives rejected"


def numbers(found: Bools, truth: Truth) -> dict[str, float]:
    """Return precision, recall, F1 and specificity, the fraction of negatives rejected."""
    found, says = found[truth.counted], truth.says[truth.counted]
    hits = int((found & says).sum())
    return {
        "precision": hits / max(int(found.sum()), 1),
        "recall": hits / max(int(says.sum()), 1),
        "F1": 2 * hits / max(int(found.sum() + says.sum()), 1),
        "specificity": int((~found & ~says).sum()) / max(int((~says).sum()), 1),
    }


def measure(found: Bools, truth: Truth) -> str:
    """Return `numbers` as table cells."""
    return " | ".join(f"{one:.2f}" for one in numbers(found, truth).values())


def has_subject(graph: CaptionGraph) -> bool:
    parse = graph.parse
    verbs = {action.token for action in graph.actions if action.tagged}
    return any(
        dep == "nsubj" and parse.heads[token] in verbs for token, dep in enumerate(parse.deps)
    )


def has_children(graph: CaptionGraph) -> bool:
    parse = graph.parse
    return any(
        head != token and parse.deps[token] != "punct" for token, head in enumerate(parse.heads)
    )


BARS = (0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.45, 0.5, 0.6, 0.75)
PRESETS = ("paper", "balanced", "strict", "precise")


def print_table(what: str, readers: Mapping[str, Truth], finders: Mapping[str, Bools]) -> None:
    """Print how well each finder agrees with each guideline."""
    columns = (f"{reader} annotation ({truth}): {CELLS}" for reader, truth in readers.items())
    print(f"\n| {what} | {' | '.join(columns)} |")
    print(f"|{'---|' * (1 + 4 * len(readers))}")
    for name, found in finders.items():
        print(f"| {name} | {' | '.join(measure(found, truth) for truth in readers.values())} |")


def agreement(readings: Sequence[tuple[bool, ...]]) -> str:
    """Return the raw agreement of two readings and Cohen's kappa."""
    first, second = np.array(readings).T
    raw = float((first == second).mean())
    # Agreement by chance, for kappa.
    chance = float(first.mean() * second.mean() + (1 - first.mean()) * (1 - second.mean()))
    return f"{raw:.3f}, kappa {(raw - chance) / (1 - chance):.3f} ({len(readings):,} rows)"


SHOPS = (
    "shopify|bigcommerce|ebay|zcache|zazzle|cpcache|cafepress|amazon|etsy|ali(?:img|cdn|express)|wfrcdn|wayfair|scene7"
    "|ostkcdn|overstock|walmart|target|redbubble|rbl|made-in-china|wanelo|houzz|homedepot|nordstrom|macys|kohls|imagesbn"
    "|bosscdn|dhresource|fashion|shop|store"
)
"""Expression for the hosts of shops."""
FOLDS = 5


class Remembering(CaptionParser):
    """A parser that parses each text once."""

    def __init__(self) -> None:
        super().__init__()
        self._known: dict[str, Parse] = {}

    def parse(self, texts: Sequence[str]) -> list[Parse]:
        new = [text for text in dict.fromkeys(texts) if text not in self._known]
        self._known.update(zip(new, super().parse(new), strict=True))
        return [self._known[text] for text in texts]


def by_shops(labelled: Sequence[Labelled], folder: Path, parser: CaptionParser) -> None:
    """Print how well complexity is found on captions of shops and on others, by threshold."""
    hosts = laion_hosts(folder)
    names = [".".join(host.split(".")[-2:]) for host in hosts]
    is_shop = [re.search(SHOPS, host) is not None for host in hosts]
    fold_of = {name: place % FOLDS for place, name in enumerate(dict.fromkeys(names))}
    cc3m = cc3m_labels(folder)
    rows = list[Labelled]()
    tables = list[pa.Table]()
    for fold in range(FOLDS):
        tables_of = train(
            [one for one in labelled if fold_of[names[one.row]] != fold], cc3m, parser
        )
        verifier = Verifier(*(Scorer.of(tables_of[part]) for part in ("actions", "details")))
        own = [one for one in labelled if fold_of[names[one.row]] == fold]
        rows += own
        tables.append(annotated(own, parser, verifier))
    table = pa.concat_tables(tables)
    shop = np.array([is_shop[one.row] for one in rows])
    strict = load_preset("strict").captions
    truth = truths(rows)[1]["lenient"]
    for what, which in (("shops", shop), ("others", ~shop)):
        shops = len({names[row.row] for row, mine in zip(rows, which, strict=True) if mine})
        mine = Truth(truth.says[which], truth.counted[which])
        found = {
            f"threshold {bar}": decide_captions(
                table, replace(strict, min_attribute_score=bar, min_relation_score=bar)
            )
            for bar in BARS
        }
        print_table(
            f"complexity, {what} ({shops} hosts)",
            {"lenient": mine},
            {n: (f.complexity > 0)[which] for n, f in found.items()},
        )


def annotated(
    labelled: Sequence[Labelled],
    parser: CaptionParser,
    verifier: Verifier,
    opinion: Opinion | None = None,
) -> pa.Table:
    graphs = graphs_of(labelled, parser)
    return table_of(
        [one.caption for one in labelled],
        [one.parse.text for one in graphs],
        graphs,
        verifier,
        opinion,
    )


def highest(table: pa.Table, columns: Sequence[str]) -> Floats:
    """Return the highest score among the candidates of each caption, or 0 for none."""
    rows = zip(*(table[name].to_pylist() for name in columns), strict=True)
    return np.array(
        [max([one["score"] for part in row for one in part], default=0.0) for row in rows]
    )


def ranked(scores: Floats, truth: Truth) -> str:
    """Return average precision, best F1, and specificity at recalls of at least .90 and .92, as
    table cells."""
    scores, says = scores[truth.counted], truth.says[truth.counted]
    precision, recall, bars = precision_recall_curve(says, scores)
    best = float((2 * precision * recall / np.maximum(precision + recall, 1e-9)).max())
    at = [
        float((scores[~says] < bars[np.flatnonzero(recall[:-1] >= least)[-1]]).mean())
        for least in (0.9, 0.92)
    ]
    return f"{average_precision_score(says, scores):.3f} | {best:.3f} | {at[0]:.3f} | {at[1]:.3f}"


def main() -> None:
    arguments = parser_of("benchmarks.weights.verifier", __doc__)
    arguments.add_argument("--captions", help="folder of the caption samples")
    arguments.add_argument("--part", choices=("development", "test"), default="test")
    arguments.add_argument(
        "--weights", type=Path, help="of `train_verifier --train-part`; by default those that ship"
    )
    arguments.add_argument(
        "--folds", action="store_true", help="captions of shops, by cross-validation"
    )
    options = arguments.parse_args()
    if options.part == "development" and not options.weights:
        arguments.error(
            "the weights that ship saw the development part; make others with `python -m"
            " benchmarks.weights.train_verifier --out FOLDER --train-part`, and name them:"
            " --weights FOLDER"
        )
    folder = samples_folder(options.captions)
    parser = Remembering()
    labelled = laion_labels(folder)
    if options.folds:
        by_shops([one for one in labelled if one.part != "test"], folder, parser)
        return
    weights = options.weights or WEIGHTS.parent
    tables = json.loads((weights / "verifier.json").read_text(encoding="utf-8"))
    verifier = Verifier(*(Scorer.of(tables[part]) for part in ("actions", "details")))
    test = [entry for entry in labelled if entry.part == options.part]
    graphs = graphs_of(test, parser)
    file = weights / WEIGHTS.name
    sides = {
        "verifier": annotated(test, parser, verifier),
        "with second opinion": annotated(test, parser, verifier, Opinion(file)),
        "asked about all": annotated(test, parser, verifier, Opinion(file, unsure=(0.0, 1.0))),
    }

    def each(rule: Callable[[CaptionGraph], bool]) -> Bools:
        return np.array([rule(graph) for graph in graphs], bool)

    def decided(rule: CaptionRule) -> CaptionDecisions:
        return decide_captions(
            sides["with second opinion" if rule.second_opinion else "verifier"], rule
        )

    known = {f"preset `{name}`": load_preset(name).captions for name in PRESETS}
    for name in ("strict", "precise"):
        rule = load_preset(name).captions
        known |= {
            f"`{name}` at {bar}": replace(
                rule, min_action_score=bar, min_attribute_score=bar, min_relation_score=bar
            )
            for bar in BARS
        }
    found = {name: decided(rule) for name, rule in known.items()}
    for who, readings in double_readings(labelled).items():
        print(f"one language model, twice: {who}: {agreement(readings)}")
    print(f"\n{len(test):,} LAION captions of the {options.part} part")
    actions, complexity = truths(test)
    print(
        "\n| scores | labels | average precision | best F1 | specificity at .90 | at .92"
        " |\n|---|---|---|---|---|---|"
    )
    for side, table in sides.items():
        for what, columns, readers in (
            ("action", ("actions",), actions),
            ("complexity", ("attributes", "relations"), complexity),
        ):
            for reader, truth in readers.items():
                print(f"| {side} | {what}, {reader} | {ranked(highest(table, columns), truth)} |")
    print("\n| preset | Complexity (%) | Action (%) | both (%) |\n|---|--:|--:|--:|")
    for name in PRESETS:
        one = found[f"preset `{name}`"]
        passed = one.complexity > 0, one.n_actions > 0, (one.complexity > 0) & (one.n_actions > 0)
        print(f"| `{name}` | {' | '.join(f'{100 * mask.mean():.1f}' for mask in passed)} |")
    simple = {
        "any verb (data-juicer)": each(lambda g: any(a.tagged for a in g.actions)),
        "verb with an nsubj (Fondant)": each(has_subject),
    }
    print_table(
        "action", actions, simple | {name: one.n_actions > 0 for name, one in found.items()}
    )
    simple = {"a token with a child (dependency degree)": each(has_children)}
    print_table(
        "complexity", complexity, simple | {name: one.complexity > 0 for name, one in found.items()}
    )


if __name__ == "__main__":
    main()
