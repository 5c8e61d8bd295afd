"""Who finds the stated actions and the complex captions: our presets against simpler rules, on the test part of the
hand labels.

    python -m benchmarks.verifier [--captions FOLDER] [--part development]

`strict` is measured with weights trained on the train part alone (the weights that ship are trained on all rows). The
test part is a uniform sample of the 10,000 rows (labels/GUIDE.md). "Clear" negatives are those of which not even a
generous reader finds anything said (a sample was read so); the generous recall counts what that reader finds, too.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from benchmarks.label_set import Labelled, cc3m_labels, generous_readings, laion_labels, readings, samples_folder
from benchmarks.train_verifier import graphs_of, train
from filters.captions.annotate import SCHEMA, row_of
from filters.captions.graph import CaptionGraph
from filters.captions.parse import CaptionParser
from filters.captions.rules import decide_captions
from filters.captions.verifier import Scorer, Verifier
from filters.presets import load_preset

Bools = NDArray[np.bool_]


def part_trained(folder_labels: Sequence[Labelled], cc3m: Sequence[Labelled], parser: CaptionParser) -> Verifier:
    """The verifier trained on the train part."""
    tables = train([entry for entry in folder_labels if entry.part == "train"], cc3m, parser)
    scorers = [Scorer(tables[part]["bias"], tables[part]["weights"]) for part in ("actions", "details")]  # type: ignore[arg-type]
    return Verifier(*scorers)


def measure(found: Bools, truth: Bools) -> str:
    """Precision, recall, F1 and the proportion of negatives rejected, as table cells."""
    hits = int((found & truth).sum())
    precision, recall = hits / max(int(found.sum()), 1), hits / max(int(truth.sum()), 1)
    f1 = 2 * hits / max(int(found.sum() + truth.sum()), 1)
    rejected = int((~found & ~truth).sum()) / max(int((~truth).sum()), 1)
    return f"{precision:.2f} | {recall:.2f} | **{f1:.2f}** | {rejected:.2f}"


_CODE = re.compile(r"\.(?:jpe?g|png)\b|_")


def is_bare(caption: str) -> bool:
    """Short, a list of few words, or a file name: of captions that are not complex, the names, codes and noun lists."""
    words = caption.split()
    return len(words) <= 4 or ("," in caption and len(words) < 8) or _CODE.search(caption) is not None


def _has_subject(graph: CaptionGraph) -> bool:
    parse = graph.parse
    verbs = {action.token for action in graph.actions if action.tagged}
    return any(dep == "nsubj" and parse.heads[token] in verbs for token, dep in enumerate(parse.deps))


def _has_children(graph: CaptionGraph) -> bool:
    parse = graph.parse
    return any(head != token and parse.deps[token] != "punct" for token, head in enumerate(parse.heads))


BARS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.75)


def operating_points(table: pa.Table, actions: Bools, complex_: Bools) -> None:
    """Print what `strict` would do at other bars."""
    strict = load_preset("strict").captions
    print(
        "\n| bar | action: precision | recall | F1 | negatives rejected | complexity: precision | recall | F1 | ... |"
    )
    print("|---|---|---|---|---|---|---|---|---|")
    for bar in BARS:
        rule = replace(strict, min_action_score=bar, min_attribute_score=bar, min_relation_score=bar)
        decided = decide_captions(table, rule)
        found = measure(decided.n_actions > 0, actions), measure(decided.complexity > 0, complex_)
        print(f"| {bar} | {' | '.join(found)} |")


def agreement(pairs: Sequence[tuple[bool, bool]]) -> str:
    """Raw agreement of two readers and Cohen's kappa."""
    first, second = np.array(pairs).T
    raw = float((first == second).mean())
    chance = float(first.mean() * second.mean() + (1 - first.mean()) * (1 - second.mean()))
    return f"{raw:.3f}, kappa {(raw - chance) / (1 - chance):.3f}"


def main() -> None:
    """Print the tables."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--captions", help="folder of the caption samples")
    arguments.add_argument("--part", choices=("development", "test"), default="test")
    options = arguments.parse_args()
    folder = samples_folder(options.captions)
    parser, labelled = CaptionParser(), laion_labels(folder)
    verifier = part_trained(labelled, cc3m_labels(folder), parser)
    test = [entry for entry in labelled if entry.part == options.part]
    graphs = graphs_of(test, parser)
    rows = [row_of(graph, verifier.score(graph, entry.caption)) for graph, entry in zip(graphs, test, strict=True)]
    table = pa.Table.from_pylist(rows, schema=SCHEMA)
    decided = {name: decide_captions(table, load_preset(name).captions) for name in ("paper", "strict")}

    def each(rule: Callable[[CaptionGraph], bool]) -> Bools:
        return np.array([rule(graph) for graph in graphs], bool)

    for question, pairs in zip(("action", "complex"), zip(*readings(), strict=True), strict=True):
        print(f"two readers agree on `{question}`: {agreement(pairs)}")
    actions, complex_ = np.array([e.action for e in test]), np.array([e.complex for e in test])
    print(
        f"\n{len(test):,} LAION captions of the {options.part} part: {actions.sum()} "
        f"state an action, {complex_.sum()} are complex\n"
    )
    cells = "| precision | recall | F1 | negatives rejected |"
    print(f"| action {cells}\n|---|---|---|---|---|")
    for name, decisions in decided.items():
        print(f"| preset `{name}` | {measure(decisions.n_actions > 0, actions)} |")
    print(f"| any verb (data-juicer) | {measure(each(lambda g: any(a.tagged for a in g.actions)), actions)} |")
    print(f"| verb with an nsubj (Fondant) | {measure(each(_has_subject), actions)} |")
    generous = generous_readings()
    clear = np.array([generous.get(entry.row) is False for entry in test])
    said = np.array([generous.get(entry.row) is True for entry in test])
    bare = ~complex_ & np.array([is_bare(entry.caption) for entry in test])
    print(
        f"\n| complexity {cells} of them {bare.sum()} bare names, codes, lists | {clear.sum()} clear negatives "
        f"rejected | {said.sum()} generous positives kept |\n|---|---|---|---|---|---|---|---|"
    )
    rules = {f"preset `{name}`": decisions.complexity > 0 for name, decisions in decided.items()}
    rules["a token with a child (dependency degree)"] = each(_has_children)
    for name, found in rules.items():
        shares = [(~found)[bare].mean(), (~found)[clear].mean(), found[said].mean()]
        print(f"| {name} | {measure(found, complex_)} | {' | '.join(f'{share:.2f}' for share in shares)} |")
    operating_points(table, actions, complex_)


if __name__ == "__main__":
    main()
