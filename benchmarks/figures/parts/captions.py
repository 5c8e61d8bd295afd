"""Captions per core-second: our caption stage and `Cat`, `nlp.pipe`, one `nlp(text)` per row, and
data-juicer's two operators, on the same captions.

Each caption is processed once, as in a run, because what is kept of words would speed up a second
time. All sides use the same spaCy model, one thread and CPU time, and none can import torch, which
no filter of captions needs; models are loaded and a first turn of captions processed before the
clock starts. "The stage" is normalize, parse, graph, verifier and Arrow table; `Cat` decides too.
"""

from __future__ import annotations

import gc
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import spacy
from spacy.util import get_package_path

from benchmarks.figures.figure import Figure
from benchmarks.figures.turns import (
    PROGRAMS,
    Entrant,
    Process,
    locked,
    peer_python,
    sides_of,
    take_turns,
)
from benchmarks.weights.label_set import cc3m_captions, laion_captions, samples_folder
from open_diht.filters.captions.parse import find_model, model_provenance

MINUTES = 6
PEERS = "captions"
TURN = 500
ROWS = 5_000
PIPE = "spaCy, nlp.pipe"
JUICER = "data-juicer, two operators"
PAPER = 'ours, Cat("paper")'
STRICT = 'ours, Cat("strict")'
PRECISE = 'ours, Cat("precise")'
SETS = {"laion": "LAION alt texts", "cc3m": "captions of CC3M's validation set"}
NOTE = (
    "A user of data-juicer lists the two operators in a recipe; the loop of its executor comes on"
    " top. A user of spaCy excludes the components that are not needed and calls nlp.pipe."
)


def stage(lean: bool) -> Callable[[list[str]], None]:
    from open_diht.filters.captions.annotate import CaptionAnnotator

    annotator = CaptionAnnotator(lean=lean)
    gc.collect()
    gc.freeze()  # a worker of the stage does this too

    def annotate(captions: list[str]) -> None:
        annotator.annotate(captions)

    return annotate


def cat(preset: str) -> Callable[[list[str]], list[bool]]:
    from open_diht.cat import Cat

    decide = Cat(preset)
    return lambda captions: decide(captions).keep


def entrants(peer: Path | None) -> dict[str, Entrant]:
    """Return the sides. `peer` is the interpreter of data-juicer's environment, or None to leave it
    out."""
    common = {"threads": 1, "model": " ".join(list(model_provenance().values())[1:])}
    excluded = {**common, "excluded": "ner, lemmatizer"}
    spacys = partial(Process, PROGRAMS / "captions.py", model=model_folder(), without=["torch"])

    def own(function: str, **given: Any) -> Entrant:
        start = partial(Process, __name__, function, without=["torch"], **given)
        return Entrant("", {**common, **given}, start)

    version = f"{locked(PEERS, 'py-data-juicer')}, spaCy {locked(PEERS, 'spacy')}"
    juicer = Entrant(version, common, partial(spacys, "operators", python=peer))
    return {
        "spaCy, nlp(text) per row": Entrant(spacy.__version__, excluded, partial(spacys, "rows")),
        PIPE: Entrant(spacy.__version__, {**excluded, "batch_size": 256}, partial(spacys, "pipe")),
        **({JUICER: juicer} if peer else {}),
        "ours, caption stage": own("stage", lean=False),
        "ours, caption stage, --lean": own("stage", lean=True),
        PAPER: own("cat", preset="paper"),
        STRICT: own("cat", preset="strict"),
        PRECISE: own("cat", preset="precise"),
    }


def model_folder() -> Path:
    """Return the folder of the spaCy model, for an environment in which it is not installed."""
    name = find_model()
    folder = Path(name) if Path(name).is_dir() else get_package_path(name)
    return next(folder.glob("*/config.cfg"), folder / "config.cfg").parent


def measure(quick: bool, work: Path) -> list[Figure]:
    known = entrants(peer_python(PEERS))
    folder = samples_folder()
    count, turn = (40, 20) if quick else (ROWS, TURN)
    laion = list(dict.fromkeys(laion_captions(folder)))
    sets = {"laion": laion[:count], "cc3m": cc3m_captions(folder)[:count]}
    turns = [
        (name, captions[first : first + turn])
        for name, captions in sets.items()
        for first in range(0, count, turn)
    ]
    answers = take_turns(known, [laion[-turn:], *(captions for _, captions in turns)])
    figures = []
    for name, what in SETS.items():
        # The first answer is the warm-up's.
        mine = {
            side: [one for one, (of, _) in zip(given[1:], turns, strict=True) if of == name]
            for side, given in answers.items()
        }
        work_done = f"{count:,} {what}, each once, in turns of {turn}"
        rates = {side: [turn / one.cpu_s for one in given] for side, given in mine.items()}
        figures.append(
            Figure(
                f"captions-{name}",
                "captions per core-second",
                work_done,
                sides_of(known, rates),
                PIPE,
                NOTE,
            )
        )
        kept = {
            side: [float(sum(sum(one.value) for one in given))]
            for side, given in mine.items()
            if isinstance(given[0].value, list)
        }
        figures.append(
            Figure(f"captions-{name}-kept", "captions", work_done, sides_of(known, kept), PAPER)
        )
    memory = {side: [given[-1].mib] for side, given in answers.items()}
    work_done = f"{2 * count + turn:,} captions"
    return [
        *figures,
        Figure("captions-memory", "MiB, peak", work_done, sides_of(known, memory), PIPE),
    ]
