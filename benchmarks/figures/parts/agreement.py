"""How well presets and simpler rules find stated actions and complex captions, on the test part of
the labels (benchmarks/labels/GUIDE.md): a uniform sample of LAION captions that trained no weights.

One language model made all annotations, so agreement with them proves nothing about people.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from benchmarks.figures.figure import Figure, Side
from benchmarks.weights.label_set import Bools, Truth, laion_labels, samples_folder, truths
from benchmarks.weights.train_verifier import graphs_of
from benchmarks.weights.verifier import (
    PRESETS,
    Remembering,
    annotated,
    has_children,
    has_subject,
    numbers,
)
from open_diht.filters.captions.opinion import WEIGHTS, Opinion
from open_diht.filters.captions.rules import decide_captions
from open_diht.filters.captions.verifier import load_verifier
from open_diht.filters.presets import load_preset

KIND = "quality"
MINUTES = 2
PEERS = None
THRESHOLDS = (0.2, 0.3, 0.5)
SIMPLE = "a verb with an nsubj; a token with a child"
Found = dict[str, tuple[Bools, Bools]]
"""The captions with an action and the complex ones, by side."""


def found_by_sides(quick: bool) -> tuple[Found, dict[str, Truth], dict[str, Truth]]:
    """Return what each side finds, and the annotations of actions and of complexity by
    guideline."""
    labelled = [one for one in laion_labels(samples_folder(None)) if one.part == "test"]
    labelled = labelled[:300] if quick else labelled
    parser = Remembering()
    verifier = load_verifier()
    by_opinion = {
        False: annotated(labelled, parser, verifier),
        True: annotated(labelled, parser, verifier, Opinion(WEIGHTS)),
    }
    rules = {f"`{name}`": load_preset(name).captions for name in PRESETS}
    for name in ("strict", "precise"):
        for threshold in THRESHOLDS:
            rules[f"`{name}` with thresholds of {threshold}"] = replace(
                load_preset(name).captions,
                min_action_score=threshold,
                min_attribute_score=threshold,
                min_relation_score=threshold,
            )
    found: Found = {}
    for side, rule in rules.items():
        decided = decide_captions(by_opinion[rule.second_opinion], rule)
        found[side] = decided.n_actions > 0, decided.complexity > 0
    graphs = graphs_of(labelled, parser)
    found[SIMPLE] = (
        np.array([has_subject(graph) for graph in graphs], bool),
        np.array([has_children(graph) for graph in graphs], bool),
    )
    return found, *truths(labelled)


def measure(quick: bool, work: Path) -> list[Figure]:
    found, actions, complexity = found_by_sides(quick)
    figures = []
    for what, (name, readers, wanted) in enumerate(
        (
            ("action", actions, ("precision", "recall", "F1")),
            ("complexity", complexity, ("recall", "specificity")),
        )
    ):
        for guideline in ("lenient", "strict"):
            truth = readers[guideline]
            each = {side: numbers(masks[what], truth) for side, masks in found.items()}
            about = (
                f"{int(truth.counted.sum()):,} captions, {int(truth.says[truth.counted].sum()):,}"
                f" of them with the label by the {guideline} guideline"
            )
            for unit in wanted:
                sides = [Side(side, "", {}, [one[unit]]) for side, one in each.items()]
                figures.append(Figure(f"{name}, {guideline}", unit, about, sides, ""))
    for unit, passes in (
        ("Complexity", lambda masks: masks[1]),
        ("both", lambda masks: masks[0] & masks[1]),
    ):
        sides = [
            Side(side, "", {}, [100 * float(passes(masks).mean())]) for side, masks in found.items()
        ]
        figures.append(Figure("% passing", unit, "all captions of the part", sides, ""))
    return figures
