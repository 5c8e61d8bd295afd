"""Who finds the stated actions and the complex captions: our presets against simpler rules, on the test half of the
hand labels.

    python -m benchmarks.verifier [--captions FOLDER]

`strict` is measured with weights trained on the train half alone (the weights that ship are trained on both). The
labelled rows are those with a verb candidate and a tenth of others (see labels/GUIDE.md): the hard ones. Precision on
all rows of the web is higher for every rule alike.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Sequence

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from benchmarks.label_set import Labelled, cc3m_labels, laion_labels, samples_folder
from benchmarks.train_verifier import graphs_of, train
from filters.captions.annotate import SCHEMA, row_of
from filters.captions.graph import CaptionGraph
from filters.captions.parse import CaptionParser
from filters.captions.rules import decide_captions
from filters.captions.verifier import Scorer, Verifier
from filters.presets import load_preset

Bools = NDArray[np.bool_]


def half_trained(folder_labels: Sequence[Labelled], cc3m: Sequence[Labelled], parser: CaptionParser) -> Verifier:
    """The verifier trained without the test half."""
    tables = train([entry for entry in folder_labels if not entry.test], cc3m, parser)
    scorers = [Scorer(tables[part]["bias"], tables[part]["weights"]) for part in ("actions", "details")]  # type: ignore[arg-type]
    return Verifier(*scorers)


def measure(found: Bools, truth: Bools) -> str:
    """Precision, recall, F1 and the share of negatives rejected, as table cells."""
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


def main() -> None:
    """Print the two tables."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--captions", help="folder of the caption samples")
    folder = samples_folder(arguments.parse_args().captions)
    parser, labelled = CaptionParser(), laion_labels(folder)
    verifier = half_trained(labelled, cc3m_labels(folder), parser)
    test = [entry for entry in labelled if entry.test]
    graphs = graphs_of(test, parser)
    rows = [row_of(graph, verifier.score(graph, entry.caption)) for graph, entry in zip(graphs, test, strict=True)]
    table = pa.Table.from_pylist(rows, schema=SCHEMA)
    decided = {name: decide_captions(table, load_preset(name).captions) for name in ("paper", "strict")}

    def each(rule: Callable[[CaptionGraph], bool]) -> Bools:
        return np.array([rule(graph) for graph in graphs], bool)

    actions, complex_ = np.array([e.action for e in test]), np.array([e.complex for e in test])
    print(
        f"{len(test):,} labelled LAION captions of the test half: {actions.sum()} "
        f"state an action, {complex_.sum()} are complex\n"
    )
    cells = "| precision | recall | F1 | negatives rejected |"
    print(f"| action {cells}\n|---|---|---|---|---|")
    for name, decisions in decided.items():
        print(f"| preset `{name}` | {measure(decisions.n_actions > 0, actions)} |")
    print(f"| any verb (data-juicer) | {measure(each(lambda g: any(a.tagged for a in g.actions)), actions)} |")
    print(f"| verb with an nsubj (Fondant) | {measure(each(_has_subject), actions)} |")
    bare = ~complex_ & np.array([is_bare(entry.caption) for entry in test])
    print(f"\n| complexity {cells} of them {bare.sum()} bare names, codes, lists |\n|---|---|---|---|---|---|")
    rules = {f"preset `{name}`": decisions.complexity > 0 for name, decisions in decided.items()}
    rules["a token with a child (dependency degree)"] = each(_has_children)
    for name, found in rules.items():
        print(f"| {name} | {measure(found, complex_)} | {(~found & bare).sum() / max(int(bare.sum()), 1):.2f} |")


if __name__ == "__main__":
    main()
