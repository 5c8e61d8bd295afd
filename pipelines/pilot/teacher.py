"""Measure the cost of a teacher on some images of each unit in a pilot's shards."""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from open_diht.pipelines.concepts.features import Batches, FeatureStage
from open_diht.pipelines.concepts.run import ConceptSettings, Extraction
from open_diht.pipelines.store.layout import Layout
from open_diht.pipelines.store.storage import StorePath


@dataclass(frozen=True, kw_only=True)
class TeacherCost:
    """The cost of a teacher; `images` and `seconds` have one entry for each unit with images."""

    said: str
    """Teacher, device and precision, for messages."""
    on_gpu: bool
    """True if seconds are those of a GPU with its part of the machine's cores; False for CPU seconds."""
    images: Sequence[int]
    seconds: Sequence[float]

    @property
    def unit(self) -> str:
        """The unit of its hours."""
        return "GPU-hours" if self.on_gpu else "core-hours"


def measure_teacher(
    layout: Layout, shards: Mapping[str, Sequence[str]], asked: ConceptSettings, most: int
) -> TeacherCost:
    """Extract features in this process, discard them, and return what they cost.

    Args:
        most: number of images in all; see `options.IMAGES`.
    """
    extraction = Extraction(asked, layout)
    on_gpu = extraction.device != "cpu"
    gpus = max(1, extraction.workers())
    stage = extraction.stage_with(threads=max(1, (os.cpu_count() or 1) // gpus) if on_gpu else 1)
    with_images = {unit: names for unit, names in shards.items() if names}
    each = -(-most // max(1, len(with_images)))  # rounded up
    images, seconds = [], []
    if with_images:
        stage.setup()
        first = next(iter(with_images.values()))
        _extract(stage, _batches(stage, layout, first[:1]), 1)  # warm up: the first batch includes one-time costs
    clock = time.perf_counter if on_gpu else time.process_time
    for names in with_images.values():
        began = clock()
        images.append(_extract(stage, _batches(stage, layout, names), each))
        seconds.append(clock() - began)
    return TeacherCost(said=extraction.said, on_gpu=on_gpu, images=images, seconds=seconds)


def _batches(stage: FeatureStage, layout: Layout, names: Sequence[str]) -> Iterator[Batches]:
    for name in names:
        path: StorePath = layout.root / "shards" / name
        yield Batches(path, stage.batch_size, skip=0)


def _extract(stage: FeatureStage, shards: Iterator[Batches], most: int) -> int:
    """Extract whole batches until `most` images are done. Return the number of images."""
    done = 0
    for keys, _ in itertools.chain.from_iterable(map(stage.features, shards)):
        done += len(keys)
        if done >= most:
            break
    return done
