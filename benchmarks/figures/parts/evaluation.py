"""The evaluation next to CLIP_benchmark: images per core-second, and memory against the number of
captions.

For the rates both sides get the same model, the same data on disk in the webdataset layout, the
same batch and one loader process, in turn, from images on disk to the number; their numbers must
agree, or the part fails. For the memory both encode and rank made-up features in both directions,
and the growth of their peak is measured.
"""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from webdataset import ShardWriter

from benchmarks.figures.answering import peak_mib
from benchmarks.figures.figure import Figure
from benchmarks.figures.turns import ROOT, Entrant, Process, sides_of, take_turns
from benchmarks.measuring import memory_mib, start_peak
from open_diht.common.cpu_time import cpu_seconds
from open_diht.eval.data import DataSet, Memo
from open_diht.eval.features import FeatureCache
from open_diht.eval.fetch.archives import Sample, jpeg
from open_diht.eval.models import Model, OpenClipModel, load_model
from open_diht.eval.retrieval import evaluate_retrieval
from open_diht.eval.session import open_task
from open_diht.eval.tasks import Source, Task
from open_diht.eval.templates import look_up
from open_diht.eval.zeroshot import evaluate_classification

MINUTES = 4
PEERS = None
PEER = "CLIP_benchmark"
OURS = "ours"
MODEL = "ViT-S-32-alt"
CLASSES = 10
BATCH = 64
IMAGES = 1000
"""Images of the memory."""
NOTE = (
    "A user of CLIP_benchmark sets --batch_size 64 --num_workers 1 --no_amp; both sides profit from"
    " more loader processes and threads."
)
SAMPLE = ROOT / "data" / "sample" / "images"
CAPTIONS = 5
WIDTH = 512
TASK = Task(
    name="speed",
    kind="classification",
    title="Sample",
    metric="top1",
    license="see data/sample",
    get="",
    sources=(Source(layout="webdataset", path="classes"),),
)
TOLD = dataclasses.replace(
    TASK,
    name="told",
    kind="retrieval",
    metric="recall@1",
    direction="text_to_image",
    sources=(Source(layout="webdataset", path="captions"),),
)


def evaluating(
    side: str, root: str, model: str
) -> tuple[Callable[[str], float], Callable[[], float], Callable[[], float]]:
    """Return a function that evaluates a model with random weights on a task of `root`, by name."""
    loaded = load_model(model, data=Path("."), pretrained="random")
    assert isinstance(loaded, OpenClipModel)
    evaluate = ours if side == OURS else theirs
    return lambda task: round(evaluate(task, Path(root), loaded), 4), cpu_seconds, peak_mib


def ours(task: str, root: Path, model: Model) -> float:
    told = TASK if task == "classification" else TOLD
    cache = FeatureCache(Path(tempfile.mkdtemp(dir=root)), model, batch=BATCH, workers=1)
    evaluate: Any = evaluate_classification if task == "classification" else evaluate_retrieval
    data = open_task(told, root, Memo(root / "hashes"))
    return evaluate(told, data, cache).results[0].value or 0.0


def theirs(task: str, root: Path, model: OpenClipModel) -> float:
    from clip_benchmark.datasets.builder import build_wds_dataset
    from clip_benchmark.metrics import zeroshot_classification, zeroshot_retrieval
    from torch.utils.data import DataLoader

    name = "classes" if task == "classification" else "captions"
    data = build_wds_dataset(name, model.preprocess, "test", str(root / name))
    loader = DataLoader(data.batched(BATCH), batch_size=None, shuffle=False, num_workers=1)
    given = (model._model, loader, model._tokenizer)
    if task == "classification":
        names, templates = class_lists()
        found = zeroshot_classification.evaluate(
            *given, device="cpu", amp=False, classnames=names, templates=templates
        )
        return float(found["acc1"])
    found = zeroshot_retrieval.evaluate(*given, device="cpu", amp=False, recall_k_list=[1])
    return float(found["image_retrieval_recall@1"])


def class_lists() -> tuple[list[str], list[str]]:
    """Return the names of the classes, and the templates."""
    names = look_up("class_names", "clip_benchmark:imagenet1k")[:CLASSES]
    return list(names), list(look_up("templates", "clip_benchmark:cifar10"))


def write_sets(root: Path, images: int) -> None:
    names, templates = class_lists()
    labelled = (
        (key, {"jpg": shot, "cls": str(index % CLASSES)})
        for index, (key, shot) in enumerate(shots(images))
    )
    lists = {"classnames.txt": names, "zeroshot_classification_templates.txt": templates}
    write_set(root / "classes", labelled, lists)
    write_set(root / "captions", captioned(images), {"dataset_type.txt": ["retrieval"]})


def growing(side: str) -> Callable[[int], float]:
    return partial(peak_of, side)


def measure(quick: bool, work: Path) -> list[Figure]:
    model, images, repeats = (MODEL, 8, 1) if quick else (MODEL, 128, 3)
    write_sets(work, images)

    def entrants(function: str, settings: dict[str, Any], **given: Any) -> dict[str, Entrant]:
        return {
            side: Entrant(
                version("clip_benchmark") if side == PEER else "",
                settings,
                partial(Process, __name__, function, side=side, **given),
            )
            for side in (PEER, OURS)
        }

    settings = {"threads": 1, "loader processes": 1, "batch": BATCH}
    known = entrants("evaluating", settings, root=work, model=model)
    tasks = ("classification", "retrieval")
    answers = take_turns(known, tasks * (repeats + 1))
    figures = []
    for place, task in enumerate(tasks):
        mine = {name: given[place :: len(tasks)] for name, given in answers.items()}
        numbers = {one.value for given in mine.values() for one in given}
        if len(numbers) > 1:
            raise RuntimeError(f"the sides and rounds of {task} found different numbers: {numbers}")
        # The first of each is a warm-up.
        rates = {name: [images / one.cpu_s for one in given[1:]] for name, given in mine.items()}
        what = f"{task} of {images} images by {model}: both find {numbers.pop():.4f}"
        unit = "images per core-second"
        figures.append(Figure(f"evaluation-{task}", unit, what, sides_of(known, rates), PEER, NOTE))
    for captions in () if quick else (5_000, 25_000, 100_000):
        rankers = entrants("growing", {"threads": 1})
        grown = {name: [given[0].value] for name, given in take_turns(rankers, [captions]).items()}
        what = f"{captions:,} captions of {IMAGES:,} images, width {WIDTH}"
        name = f"evaluation-memory-{captions}"
        figures.append(Figure(name, "MiB above the start", what, sides_of(rankers, grown), PEER))
    return figures


def write_set(folder: Path, samples: Iterable[Sample], lists: Mapping[str, Sequence[str]]) -> None:
    """Write samples and lists of lines in CLIP_benchmark's webdataset layout."""
    (folder / "test").mkdir(parents=True)
    with ShardWriter(str(folder / "test" / "%d.tar"), maxcount=1000, verbose=0) as writer:
        for key, members in samples:
            writer.write({"__key__": key, **members})
    shards = len(list((folder / "test").iterdir()))
    for name, lines in {"test/nshards.txt": [str(shards)], **lists}.items():
        (folder / name).write_text("\n".join(lines), encoding="utf-8")


def shots(count: int) -> Iterator[tuple[str, bytes]]:
    """Yield photographs of the sample, at most 320 pixels on the longer edge. If there are too few,
    yield them again, every second time mirrored."""
    paths = sorted(path for path in SAMPLE.glob("*.jpg") if path.stem.isdecimal())
    for index in range(count):
        with Image.open(paths[index % len(paths)]) as found:
            image = found.convert("RGB")
        image.thumbnail((320, 320))
        if index // len(paths) % 2:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        yield f"p{index:06d}", jpeg(image, 85)


def captioned(count: int) -> Iterator[Sample]:
    """Yield the photographs of `shots` with five made-up captions each."""
    words = look_up("class_names", "clip_benchmark:imagenet1k")
    for index, (key, shot) in enumerate(shots(count)):
        lines = (
            f"a photo of {words[(7 * index + 131 * n) % 1000]} and {index} more"
            for n in range(CAPTIONS)
        )
        yield key, {"jpg": shot, "txt": "\n".join(lines)}


def vectors(start: int, stop: int) -> torch.Tensor:
    """Return (stop - start, WIDTH) unit vectors that depend only on their index, so none are kept
    in memory."""
    index = torch.arange(start, stop, dtype=torch.float64)[:, None]
    wave = torch.arange(1, WIDTH + 1, dtype=torch.float64)
    return torch.nn.functional.normalize(torch.sin(index * wave.sqrt()).float(), dim=1)


def peak_of(side: str, count: int) -> float:
    """Return the MiB by which the peak of this process grows while `side` encodes and ranks
    `count` captions. The captions themselves, whose number is a multiple of IMAGES, are in
    memory before."""
    per_image = count // IMAGES
    if side == OURS:
        captions = tuple(
            tuple(f"a made-up caption, number {n} of image {i}" for n in range(per_image))
            for i in range(IMAGES)
        )
        data = DataSet(images=_Numbered(), layout="webdataset", place="captions", captions=captions)
        with tempfile.TemporaryDirectory() as scratch:
            cache = FeatureCache(Path(scratch), _Told())
            before = settled_mib()
            for way in ("text_to_image", "image_to_text"):
                evaluate_retrieval(dataclasses.replace(TOLD, direction=way), data, cache)
    else:
        from clip_benchmark.metrics import zeroshot_retrieval

        batches = [
            (
                torch.arange(start, start + 50)[:, None],
                [[str(i)] * per_image for i in range(start, start + 50)],
            )
            for start in range(0, IMAGES, 50)
        ]
        model = _Waves(per_image)
        before = settled_mib()
        zeroshot_retrieval.evaluate(
            model, batches, model.tokens, device="cpu", amp=False, recall_k_list=[5]
        )
    return memory_mib() - before


class _Numbered:
    """Images of one pixel each, whose color is their number."""

    keys = tuple(f"p{index:06d}" for index in range(IMAGES))
    fingerprint = "numbered"

    def open(self, index: int) -> Image.Image:
        return Image.new("RGB", (1, 1), (0, index >> 8, index & 255))

    def stored_hash(self, index: int) -> None:
        return None

    content = stored_hash


class _Told(Model):
    """A model with made-up features: `vectors` at the number of an image, or at a text's place in
    reading order."""

    def __init__(self) -> None:
        self.name = "told"
        self.width = WIDTH
        self.logit_scale = 1.0
        self._read = 0
        self.preprocess = lambda image: torch.from_numpy(np.array(image).astype(np.int64))
        self.preprocessing = {}
        self.record = {"device": "cpu", "precision": "fp32"}

    def _images(self, batch: torch.Tensor) -> torch.Tensor:
        first, last = (int(one[0, 0, 1] << 8 | one[0, 0, 2]) for one in (batch[0], batch[-1]))
        return vectors(first, last + 1)

    def _texts(self, texts: Sequence[str]) -> torch.Tensor:
        start, self._read = self._read, self._read + len(texts)
        return vectors(start, self._read)

    def truncated(self, texts: Sequence[str]) -> int:
        return 0


class _Waves:
    """A model whose features are `vectors` of the given index."""

    def __init__(self, per_image: int):
        self._next = 0
        self._per_image = per_image

    def tokens(self, texts: list[str]) -> torch.Tensor:
        start, self._next = self._next, self._next + len(texts)
        return torch.arange(start, self._next)[:, None]

    def encode_image(self, index: torch.Tensor) -> torch.Tensor:
        return vectors(int(index[0]), int(index[-1]) + 1)

    encode_text = encode_image


def settled_mib() -> float:
    """Start counting the peak of this process, and return its present memory."""
    start_peak()
    return memory_mib("VmRSS")
