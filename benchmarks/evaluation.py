"""The evaluation compared with clip-benchmark: images per second, and memory against the number of
captions.

For the rates both sides get the same model, the same data on disk in the webdataset layout and the
same number of loader processes, in turn in one run; their numbers must agree, or the benchmark
fails. Absolute rates are those of this machine; the ratios are more general. Run
`python -m benchmarks.evaluation`, or `python -m benchmarks.evaluation --help`.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import io
import statistics
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader
from webdataset import ShardWriter

from benchmarks.measuring import (
    apart,
    in_turn,
    memory_mib,
    parser_of,
    print_table,
    ratios,
    start_peak,
)
from open_diht.eval.data import DataSet, Memo
from open_diht.eval.features import FeatureCache
from open_diht.eval.fetch.archives import Sample, jpeg
from open_diht.eval.models import Model, OpenClipModel, load_model
from open_diht.eval.retrieval import evaluate_retrieval
from open_diht.eval.session import open_task
from open_diht.eval.tasks import Source, Task
from open_diht.eval.templates import look_up
from open_diht.eval.zeroshot import evaluate_classification

SAMPLE = Path(__file__).resolve().parents[1] / "data" / "sample" / "images"
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


def main() -> int:
    """Print the tables. Return 1 if the two sides disagree on a number."""
    parser = parser_of("benchmarks.evaluation", __doc__)
    parser.add_argument(
        "--model", default="ViT-S-32-alt", help="architecture of open_clip, random weights"
    )
    parser.add_argument("--images", type=int, default=128)
    parser.add_argument("--classes", type=int, default=10)
    parser.add_argument("--workers", type=int, default=1, help="loader processes of both sides")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument(
        "--captions",
        type=int,
        nargs="+",
        default=[5_000, 25_000, 100_000],
        help="of the memory table",
    )
    parser.add_argument("--only", choices=("speed", "memory"))
    parser.add_argument("--measure", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        print(peak_of(options.measure[0], int(options.measure[1])))
        return 0
    agree = True
    if options.only != "memory":
        agree = speed(options)
    if options.only != "speed":
        memory(options.captions)
    return 0 if agree else 1


def write_set(folder: Path, samples: Iterable[Sample], lists: Mapping[str, Sequence[str]]) -> None:
    """Write samples and lists of lines in CLIP_benchmark's webdataset layout."""
    (folder / "test").mkdir(parents=True)
    with ShardWriter(str(folder / "test" / "%d.tar"), maxcount=1000, verbose=0) as writer:
        for key, members in samples:
            writer.write({"__key__": key, **members})
    shards = len(list((folder / "test").iterdir()))
    for name, lines in {"test/nshards.txt": [str(shards)], **lists}.items():
        (folder / name).write_text("\n".join(lines), encoding="utf-8")


def speed(options: argparse.Namespace) -> bool:
    """Print the table of rates. Return whether both sides found the same numbers."""
    from clip_benchmark.datasets.builder import build_wds_dataset
    from clip_benchmark.metrics import zeroshot_classification, zeroshot_retrieval

    model = load_model(options.model, data=Path("."), pretrained="random")
    assert isinstance(model, OpenClipModel)
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        templates = look_up("templates", "clip_benchmark:cifar10")
        names = look_up("class_names", "clip_benchmark:imagenet1k")[: options.classes]
        labelled = (
            (key, {"jpg": shot, "cls": str(i % len(names))})
            for i, (key, shot) in enumerate(shots(options.images))
        )
        lists = {"classnames.txt": names, "zeroshot_classification_templates.txt": templates}
        write_set(root / "classes", labelled, lists)
        write_set(root / "captions", captioned(options.images), {"dataset_type.txt": ["retrieval"]})
        task, told = (open_task(one, root, Memo(root / "hashes")) for one in (TASK, TOLD))

        def theirs(
            name: str, evaluate: Callable[..., dict[str, float]], **arguments: Any
        ) -> dict[str, float]:
            data = build_wds_dataset(name, model.preprocess, "test", str(root / name))
            loader = DataLoader(
                data.batched(options.batch),
                batch_size=None,
                shuffle=False,
                num_workers=options.workers,
            )
            with contextlib.redirect_stderr(io.StringIO()):  # its progress bars
                return evaluate(
                    model._model, loader, model._tokenizer, device="cpu", amp=False, **arguments
                )

        def cache() -> FeatureCache:
            return FeatureCache(
                Path(tempfile.mkdtemp(dir=root)),
                model,
                batch=options.batch,
                workers=options.workers,
            )

        works: dict[tuple[str, str], Callable[[], float]] = {
            ("zero-shot classification", "ours"): lambda: (
                evaluate_classification(TASK, task, cache()).results[0].value or 0.0
            ),
            ("zero-shot classification", "clip-benchmark"): lambda: theirs(
                "classes", zeroshot_classification.evaluate, classnames=names, templates=templates
            )["acc1"],
            ("retrieval", "ours"): lambda: (
                evaluate_retrieval(TOLD, told, cache()).results[0].value or 0.0
            ),
            ("retrieval", "clip-benchmark"): lambda: theirs(
                "captions", zeroshot_retrieval.evaluate, recall_k_list=[1]
            )["image_retrieval_recall@1"],
        }
        found: dict[str, set[float]] = {what: set() for what, _ in works}

        def run(what: str, side: str) -> None:
            found[what].add(round(works[what, side](), 4))

        times = in_turn({", ".join(each): partial(run, *each) for each in works}, options.repeats)
        kept = cache()
        evaluate_classification(TASK, task, kept)
        (again,) = in_turn({"again": lambda: evaluate_classification(TASK, task, kept)}, 1)["again"]
    print(
        f"\n{options.model}, {options.images} images, {len(names)} classes x {len(templates)}"
        f" templates, {CAPTIONS} captions an image, batch {options.batch}, {options.workers} loader"
        f" process(es), {torch.get_num_threads()} threads, median of {options.repeats} in turn,"
        " from images on disk to the number\n"
    )
    rows = []
    for name, seconds in times.items():
        anchor = times[name.replace("ours", "clip-benchmark")]
        rows.append(
            [
                name,
                f"{options.images / statistics.median(seconds):.1f}",
                f"{ratios(anchor, seconds)[1]:.2f}",
            ]
        )
    rows.append(
        ["zero-shot classification, features kept, ours", f"{options.images / again:.1f}", ""]
    )
    print_table(["task and side", "images/s", "ratio"], rows)
    agree = all(len(values) == 1 for values in found.values())
    print(f"\nnumbers of both sides: {'equal' if agree else f'DIFFERENT: {found}'}")
    return agree


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


IMAGES = 1000


def memory(counts: Sequence[int]) -> None:
    """Print by how much encoding and retrieval in both directions raise the peak memory. Each side
    runs in its own process."""
    sides = ("ours", "clip-benchmark")

    def cells(count: int) -> list[str]:
        said = (apart("-m", "benchmarks.evaluation", "--measure", side, count) for side in sides)
        return [f"{count:,}", *(f"{float(text.split()[-1]):.0f}" for text in said)]

    print(f"\nMiB, {IMAGES:,} images, width {WIDTH}\n")
    print_table(["captions", *sides], map(cells, counts))


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
    if side == "ours":
        captions = tuple(
            tuple(f"a made-up caption, number {n} of image {i}" for n in range(per_image))
            for i in range(IMAGES)
        )
        data = DataSet(images=_Numbered(), layout="webdataset", place="captions", captions=captions)
        with tempfile.TemporaryDirectory() as scratch:
            cache = FeatureCache(Path(scratch), _Told())
            before = settled_mib()
            values = [
                evaluate_retrieval(dataclasses.replace(TOLD, direction=way), data, cache)
                .results[1]
                .value
                for way in ("text_to_image", "image_to_text")
            ]
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
        given = zeroshot_retrieval.evaluate(
            model, batches, model.tokens, device="cpu", amp=False, recall_k_list=[5]
        )
        values = list(given.values())
    print("recall@5", values)
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


if __name__ == "__main__":
    raise SystemExit(main())
