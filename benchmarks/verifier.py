"""How well our presets and simpler rules find stated actions and complex captions, on the test part
of the hand labels.

    python -m benchmarks.verifier [--captions FOLDER] [--part development] [--weights FILE]

`strict` and `balanced` are measured with weights trained on the train part alone (the weights that
ship are trained on all rows). The test part is a uniform sample of the 10,000 rows
(labels/GUIDE.md). Each kind of reading has its own columns; rows whose two readings of that kind
differ are left out there.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from benchmarks.label_set import (
    Bools,
    Labelled,
    Truth,
    cc3m_labels,
    double_readings,
    laion_labels,
    samples_folder,
    truths,
)
from benchmarks.measuring import parser_of
from benchmarks.train_verifier import graphs_of, train
from open_diht.filters.captions.annotate import table_of
from open_diht.filters.captions.graph import CaptionGraph
from open_diht.filters.captions.parse import CaptionParser
from open_diht.filters.captions.rules import decide_captions
from open_diht.filters.captions.verifier import Scorer, Verifier
from open_diht.filters.presets import load_preset

CELLS = "precision | recall | F1 | negatives rejected"


def part_trained(folder_labels: Sequence[Labelled], cc3m: Sequence[Labelled], parser: CaptionParser) -> Verifier:
    """Return the verifier trained on the train part.

    Args:
        folder_labels: labelled LAION captions.
        cc3m: labelled CC3M captions.
        parser: the parser.
    """
    tables = train([entry for entry in folder_labels if entry.part == "train"], cc3m, parser)
    return Verifier(*(Scorer.of(tables[part]) for part in ("actions", "details")))


def measure(found: Bools, truth: Truth) -> str:
    """Return precision, recall, F1 and the fraction of negatives rejected, as table cells.

    Args:
        found: the mask of captions that a rule finds.
        truth: the labels.
    """
    found, says = found[truth.counted], truth.says[truth.counted]
    hits = int((found & says).sum())
    precision, recall = hits / max(int(found.sum()), 1), hits / max(int(says.sum()), 1)
    f1 = 2 * hits / max(int(found.sum() + says.sum()), 1)
    rejected = int((~found & ~says).sum()) / max(int((~says).sum()), 1)
    return f"{precision:.2f} | {recall:.2f} | **{f1:.2f}** | {rejected:.2f}"


def _has_subject(graph: CaptionGraph) -> bool:
    parse = graph.parse
    verbs = {action.token for action in graph.actions if action.tagged}
    return any(dep == "nsubj" and parse.heads[token] in verbs for token, dep in enumerate(parse.deps))


def _has_children(graph: CaptionGraph) -> bool:
    parse = graph.parse
    return any(head != token and parse.deps[token] != "punct" for token, head in enumerate(parse.heads))


BARS = (0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.45, 0.5, 0.6, 0.75)
PRESETS = ("paper", "balanced", "strict")


def print_table(what: str, readers: Mapping[str, Truth], finders: Mapping[str, Bools]) -> None:
    """Print how well each finder agrees with each kind of reading.

    Args:
        what: the header of the first column.
        readers: kind of reading -> labels.
        finders: name -> mask of captions found.
    """
    print(f"\n| {what} | {' | '.join(f'{reader} readers ({truth}): {CELLS}' for reader, truth in readers.items())} |")
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


def main() -> None:
    """Print the tables."""
    arguments = parser_of("benchmarks.verifier", __doc__)
    arguments.add_argument("--captions", help="folder of the caption samples")
    arguments.add_argument("--part", choices=("development", "test"), default="test")
    arguments.add_argument("--weights", type=Path, help="of `train_verifier --train-part`, in place of training here")
    options = arguments.parse_args()
    folder = samples_folder(options.captions)
    parser, labelled = CaptionParser(), laion_labels(folder)
    if options.weights:
        tables = json.loads(options.weights.read_text(encoding="utf-8"))
        verifier = Verifier(*(Scorer.of(tables[part]) for part in ("actions", "details")))
    else:
        verifier = part_trained(labelled, cc3m_labels(folder), parser)
    test = [entry for entry in labelled if entry.part == options.part]
    graphs = graphs_of(test, parser)
    table = table_of([entry.caption for entry in test], [graph.parse.text for graph in graphs], graphs, verifier)

    def each(rule: Callable[[CaptionGraph], bool]) -> Bools:
        return np.array([rule(graph) for graph in graphs], bool)

    strict = load_preset("strict").captions
    rules = {f"preset `{name}`": load_preset(name).captions for name in PRESETS} | {
        f"`strict` at a bar of {bar}": replace(
            strict, min_action_score=bar, min_attribute_score=bar, min_relation_score=bar
        )
        for bar in BARS
    }
    decided = {name: decide_captions(table, rule) for name, rule in rules.items()}
    for who, found in double_readings(labelled).items():
        print(f"two {who} agree: {agreement(found)}")
    print(f"\n{len(test):,} LAION captions of the {options.part} part")
    actions, complexity = truths(test)
    simple = {
        "any verb (data-juicer)": each(lambda g: any(a.tagged for a in g.actions)),
        "verb with an nsubj (Fondant)": each(_has_subject),
    }
    print_table("action", actions, simple | {name: one.n_actions > 0 for name, one in decided.items()})
    simple = {"a token with a child (dependency degree)": each(_has_children)}
    print_table("complexity", complexity, simple | {name: one.complexity > 0 for name, one in decided.items()})


if __name__ == "__main__":
    main()
