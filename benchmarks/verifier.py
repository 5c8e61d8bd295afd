"""Who finds the stated actions and the complex captions: our presets against simpler rules, on the test part of the
hand labels.

    python -m benchmarks.verifier [--captions FOLDER] [--part development] [--weights FILE]

`strict` and `balanced` are measured with weights trained on the train part alone (the weights that ship are trained on
all rows). The test part is a uniform sample of the 10,000 rows (labels/GUIDE.md). "Clear" negatives are those of which
not even a generous reader finds anything said (a sample was read so); the generous recall counts what that reader
finds, too. Actions are counted twice: as the careful readers see them, and as two plain readers do; rows on which those
differ are left out of the second count.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from benchmarks.label_set import (
    Labelled,
    cc3m_labels,
    generous_readings,
    laion_labels,
    plain_readings,
    readings,
    samples_folder,
)
from benchmarks.train_verifier import graphs_of, train
from filters.captions.annotate import table_of
from filters.captions.graph import CaptionGraph
from filters.captions.parse import CaptionParser
from filters.captions.rules import decide_captions
from filters.captions.verifier import Scorer, Verifier
from filters.presets import load_preset

Bools = NDArray[np.bool_]
CELLS = "precision | recall | F1 | negatives rejected"


def part_trained(folder_labels: Sequence[Labelled], cc3m: Sequence[Labelled], parser: CaptionParser) -> Verifier:
    """The verifier trained on the train part."""
    tables = train([entry for entry in folder_labels if entry.part == "train"], cc3m, parser)
    return Verifier(*(Scorer.of(tables[part]) for part in ("actions", "details")))


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


BARS = (0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.45, 0.5, 0.75)
PRESETS = ("paper", "balanced", "strict")


@dataclass(frozen=True)
class Truth:
    """Which captions state an action to some readers, and which are counted."""

    action: Bools
    counted: Bools

    def measure(self, found: Bools) -> str:
        """As `measure`, of the counted captions."""
        return measure(found[self.counted], self.action[self.counted])


def operating_points(table: pa.Table, actions: dict[str, Truth], complex_: Bools) -> None:
    """Print what `strict` would do at other bars."""
    strict = load_preset("strict").captions
    heads = " | ".join(f"action, {reader}: {CELLS}" for reader in actions)
    print(f"\n| bar | {heads} | complexity: {CELLS} |\n|{'---|' * 13}")
    for bar in BARS:
        rule = replace(strict, min_action_score=bar, min_attribute_score=bar, min_relation_score=bar)
        decided = decide_captions(table, rule)
        found = [truth.measure(decided.n_actions > 0) for truth in actions.values()]
        print(f"| {bar} | {' | '.join([*found, measure(decided.complexity > 0, complex_)])} |")


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
    decided = {name: decide_captions(table, load_preset(name).captions) for name in PRESETS}

    def each(rule: Callable[[CaptionGraph], bool]) -> Bools:
        return np.array([rule(graph) for graph in graphs], bool)

    for question, pairs in zip(("action", "complex"), zip(*readings(), strict=True), strict=True):
        print(f"two careful readers agree on `{question}`: {agreement(pairs)}")
    print(f"two plain readers agree on `action`: {agreement(plain_readings())}")
    complex_ = np.array([e.complex for e in test])
    actions = {
        "careful readers": Truth(np.array([e.action for e in test]), np.ones(len(test), bool)),
        "plain readers": Truth(np.array([bool(e.plain) for e in test]), np.array([not e.open for e in test])),
    }
    stated = ", ".join(f"{truth.action.sum()} ({reader})" for reader, truth in actions.items())
    print(
        f"\n{len(test):,} LAION captions of the {options.part} part; an action is stated in {stated}; "
        f"{complex_.sum()} are complex; on {sum(e.open for e in test)} the plain readers differ\n"
    )
    finders = {f"preset `{name}`": decisions.n_actions > 0 for name, decisions in decided.items()}
    finders["any verb (data-juicer)"] = each(lambda g: any(a.tagged for a in g.actions))
    finders["verb with an nsubj (Fondant)"] = each(_has_subject)
    print(f"| action | {' | '.join(f'{reader}: {CELLS}' for reader in actions)} |\n|{'---|' * 9}")
    for name, found in finders.items():
        print(f"| {name} | {' | '.join(truth.measure(found) for truth in actions.values())} |")
    generous = generous_readings()
    clear = np.array([generous.get(entry.row) is False for entry in test])
    said = np.array([generous.get(entry.row) is True for entry in test])
    bare = ~complex_ & np.array([is_bare(entry.caption) for entry in test])
    print(
        f"\n| complexity | {CELLS} | of them {bare.sum()} bare names, codes, lists | {clear.sum()} clear negatives "
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
