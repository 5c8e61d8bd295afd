"""Core-seconds for 1,000 pairs whose images are fetched already: whole CAT next to a CLIP score of
every pair.

Captions are LAION's alt texts, so CAT reads as many images as LAION's captions leave; images are
the sample's, every second with text, which takes OCR longer. All sides decode the same files. The
scores are those of open_clip's ViT-B/32 and of MobileCLIP2-S0, its smallest model, with branches
merged as for inference; weights are random, because time does not depend on them. Before the clock
starts, a side finds the batch, the threads and the precision with which a score costs it least.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from functools import partial
from importlib.metadata import version
from itertools import product
from pathlib import Path
from typing import Any

from PIL import Image

from benchmarks.figures.answering import peak_mib
from benchmarks.figures.figure import Figure
from benchmarks.figures.parts.ocr import SAMPLE, readable
from benchmarks.figures.turns import Entrant, Process, sides_of, take_turns
from benchmarks.measuring import cpu_of_all
from benchmarks.weights.label_set import laion_captions, samples_folder
from open_diht.common.devices import has_bf16

MINUTES = 5
PEERS = None
TURN = 100
OURS = 'ours, Cat("paper")'
BASE = "open_clip, ViT-B/32"
MODELS = {BASE: "ViT-B-32", "open_clip, MobileCLIP2-S0": "MobileCLIP2-S0"}
NOTE = (
    "A user of open_clip writes this loop, with torch.inference_mode(), bfloat16 weights where the"
    " processor has it, and timm's reparameterize_model. This is the cost without a GPU."
)
Pairs = list[tuple[str, str]]
"""Captions and paths of images."""


def scorer(model: str, quick: bool) -> Callable[[Pairs], Any]:
    """Return a function that scores pairs. The first ones it scores in many ways, and returns the
    cheapest."""
    import open_clip
    import torch
    from timm.utils.model import reparameterize_model

    net, _, transform = open_clip.create_model_and_transforms(model)
    net = reparameterize_model(net).eval()
    # Autocast would convert the weights for each batch.
    nets = {"fp32": net, "bf16": copy.deepcopy(net).bfloat16()}
    tokenizer = open_clip.get_tokenizer(model)
    chosen: dict[str, Any] = {}

    def score(pairs: Pairs, batch: int, threads: int, precision: str) -> list[float]:
        torch.set_num_threads(threads)
        scores: list[float] = []
        for first in range(0, len(pairs), batch):
            captions, files = zip(*pairs[first : first + batch], strict=True)
            images = torch.stack([transform(Image.open(file)) for file in files])
            texts = tokenizer(list(captions))
            with torch.inference_mode():
                half = images.bfloat16() if precision == "bf16" else images
                x, y, *_ = nets[precision](half, texts)
            scores += (x * y).sum(dim=1).tolist()
        return scores

    def cheapest(pairs: Pairs) -> dict[str, Any]:
        best = float("inf")
        precisions = ("fp32", "bf16") if has_bf16() and not quick else ("fp32",)
        score(pairs[:1], 1, 1, "fp32")
        for batch, threads, precision in product((8, 32), (1, 2), precisions):
            began = time.process_time()
            score(pairs, batch, threads, precision)
            if (cost := time.process_time() - began) < best:
                best = cost
                chosen.update(batch=batch, threads=threads, precision=precision)
        return chosen

    return lambda pairs: score(pairs, **chosen) if chosen else cheapest(pairs)


def cat(preset: str) -> tuple[Callable[[Pairs], Any], Callable[[], float], Callable[[], float]]:
    """Return a function that decides pairs. The clock counts the OCR process too."""
    from open_diht.cat import Cat

    decide = Cat(preset)

    def keep(pairs: Pairs) -> list[bool]:
        captions, files = zip(*pairs, strict=True)
        return decide(captions, files).keep

    return keep, cpu_of_all, peak_mib


def measure(quick: bool, work: Path) -> list[Figure]:
    turns, turn, warm = (1, 2, 12) if quick else (4, TURN, 32)
    captions = list(dict.fromkeys(laion_captions(samples_folder())))
    files = readable(SAMPLE)
    texts, others = (
        [str(file) for file in files if file.stem.startswith("overlay_") == wanted]
        for wanted in (True, False)
    )

    def pairs(first: int, count: int) -> Pairs:
        return [
            (captions[n], (others if n % 2 else texts)[n // 2 % min(len(texts), len(others))])
            for n in range(first, first + count)
        ]

    known = {
        OURS: Entrant("", {"threads": 1}, partial(Process, __name__, "cat", preset="paper")),
        **{
            name: Entrant(
                f"{version('open_clip_torch')}, torch {version('torch')}",
                {},
                partial(Process, __name__, "scorer", model=model, quick=quick),
            )
            for name, model in MODELS.items()
        },
    }
    asked = [pairs(0, warm), *(pairs(warm + n * turn, turn) for n in range(turns))]
    answers = take_turns(known, asked)
    for name in MODELS:
        known[name] = known[name]._replace(settings=answers[name][0].value)
    seconds = {
        name: [1_000 * one.cpu_s / turn for one in given[1:]] for name, given in answers.items()
    }
    what = f"{turns * turn:,} pairs of LAION's alt texts and images of data/sample"
    unit = "core-seconds for 1,000 pairs"
    return [Figure("score", unit, what, sides_of(known, seconds), BASE, NOTE)]
