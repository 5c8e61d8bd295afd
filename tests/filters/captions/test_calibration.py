"""The presets keep and find what was measured: anchors of filter-landscape.md section 5, and the hand labels."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from numpy.typing import NDArray

from benchmarks.label_set import Labelled, cc3m_labels, laion_labels
from filters.captions import verifier as verifier_module
from filters.captions.annotate import SCHEMA, CaptionAnnotator, row_of
from filters.captions.graph import CaptionGraph, build_graph
from filters.captions.normalise import normalise
from filters.captions.parse import CaptionParser
from filters.captions.rules import decide_captions
from filters.captions.verifier import Scorer, Verifier
from filters.presets import load_preset

Bools = NDArray[np.bool_]
Tables = dict[str, dict[str, Any]]


def test_the_paper_preset_keeps_a_third_of_laion(laion: list[str]) -> None:
    rule = load_preset("paper").captions
    decisions = decide_captions(CaptionAnnotator().annotate(laion[::2]), rule)
    kept = (decisions.complexity >= rule.min_complexity) & (decisions.n_actions >= rule.min_actions)
    assert 0.25 <= kept.mean() <= 0.40


def share_with_a_verb(parser: CaptionParser, captions: list[str]) -> float:
    graphs = [build_graph(parse) for parse in parser.parse(captions)]
    return sum(any(action.tagged for action in graph.actions) for graph in graphs) / len(graphs)


def test_the_plain_verb_rule_on_laion(parser: CaptionParser, laion: list[str]) -> None:
    assert share_with_a_verb(parser, laion) == pytest.approx(0.285, abs=0.02)


def test_the_plain_verb_rule_on_conceptual_captions(parser: CaptionParser, cc3m: list[str]) -> None:
    assert share_with_a_verb(parser, cc3m[:5_000]) == pytest.approx(0.683, abs=0.02)


def trained(laion: list[Labelled], cc3m: list[Labelled], parser: CaptionParser) -> Tables:
    pytest.importorskip("sklearn", reason="the verifier is trained with scikit-learn")
    from benchmarks.train_verifier import train

    tables: Any = train(laion, cc3m, parser)
    return tables


def f1(found: Bools, truth: Bools) -> float:
    return float(2 * (found & truth).sum() / (found.sum() + truth.sum()))


def test_strict_finds_the_stated_actions_of_captions_it_was_not_trained_on(
    samples: Path, parser: CaptionParser
) -> None:
    labelled = laion_labels(samples)
    tables = trained([entry for entry in labelled if entry.part == "train"], cc3m_labels(samples), parser)
    verifier = Verifier(*(Scorer(tables[part]["bias"], tables[part]["weights"]) for part in ("actions", "details")))
    test = [entry for entry in labelled if entry.part == "test"]
    graphs: list[CaptionGraph] = [build_graph(p) for p in parser.parse([normalise(entry.caption) for entry in test])]
    rows = [row_of(graph, verifier.score(graph, entry.caption)) for graph, entry in zip(graphs, test, strict=True)]
    decisions = decide_captions(pa.Table.from_pylist(rows, schema=SCHEMA), load_preset("strict").captions)
    truth = np.array([entry.action for entry in test])
    ours = f1(decisions.n_actions > 0, truth)
    plain = f1(np.array([any(action.tagged for action in graph.actions) for graph in graphs]), truth)
    assert ours >= 0.75
    assert ours > plain


def test_the_weights_in_the_tree_are_those_that_training_gives(samples: Path, parser: CaptionParser) -> None:
    shipped: Tables = json.loads(Path(verifier_module.__file__).with_name(verifier_module.WEIGHTS).read_text("utf-8"))
    fresh = trained(laion_labels(samples), cc3m_labels(samples), parser)
    for part in ("actions", "details"):
        ours, theirs = shipped[part]["weights"], fresh[part]["weights"]
        assert shipped[part]["bias"] == pytest.approx(fresh[part]["bias"], abs=0.02)
        off = {name for name in ours.keys() | theirs.keys() if abs(ours.get(name, 0) - theirs.get(name, 0)) > 0.02}
        assert not off, f"{part}: run python -m benchmarks.train_verifier"
