"""Samples per second of our loader against open_clip's webdataset pipeline on the same shards.

    python -m benchmarks.loader [--workers 1 2 4] [--samples N] [--side 256] [--image-size 224]
    [--repeats 5]
                                [--data DIR]

Without --data, shards of photographs (scikit-image's, cropped at random, `--side` pixels on the
longer side, JPEG) are written to a temporary folder. With --data, the shards of that folder are
read. Both sides get the same crop, tokenizer, batch size and number of worker processes; rates
count the samples that a side returns. Each side runs one warm-up epoch, which starts workers and
fills caches, then the sides take turns. Ours has three rows: float32 images by open_clip's
transform; bytes, which the training normalizes on its device; and bytes with `decode_side`, which
decodes large JPEGs at a fraction of their size. Samples per second of processor time (of all
processes of a side) depend less on other work on the machine.

"open_clip" is `get_wds_dataset` of the installed open_clip_train, called as a library.
"""

from __future__ import annotations

import json
import random
import tempfile
import time
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import open_clip
import psutil
import skimage.data
import torch
from open_clip_train import data as open_clip_data
from PIL import Image

from benchmarks.measuring import parser_of, print_table
from open_diht.eval.fetch.archives import Sample, jpeg, write_tar
from open_diht.trainer.config import TransformSettings
from open_diht.trainer.data import DataSettings, ShardLoader, Source
from open_diht.trainer.data.sources import find_shards
from open_diht.trainer.transforms import transform as bytes_of

PHOTOGRAPHS = ("astronaut", "chelsea", "coffee", "rocket", "camera")


def write_shards(folder: Path, samples: int, side: int, shards: int) -> None:
    """Write equally large shards of random crops of photographs. `side` is the longest side in
    pixels."""
    photographs = [
        Image.fromarray(getattr(skimage.data, name)()).convert("RGB") for name in PHOTOGRAPHS
    ]
    draw = random.Random(0)
    per_shard = samples // shards

    def pairs(shard: int) -> Iterator[Sample]:
        for number in range(per_shard):
            photograph = draw.choice(photographs)
            scale = draw.uniform(0.5, 1)
            width, height = (int(length * scale) for length in photograph.size)
            left = draw.randint(0, photograph.width - width)
            top = draw.randint(0, photograph.height - height)
            cut = photograph.crop((left, top, left + width, top + height))
            factor = side / max(cut.size)
            cut = cut.resize(
                (max(1, round(cut.width * factor)), max(1, round(cut.height * factor)))
            )
            about = json.dumps({"uid": f"{shard * per_shard + number:032x}", "about": "0" * 250})
            content = {"jpg": jpeg(cut, 90), "txt": "a brown dog runs past a house", "json": about}
            yield f"{shard:05d}{number:05d}", content

    for shard in range(shards):
        write_tar(folder / f"{shard:05d}.tar", pairs(shard))


def processor_s() -> float:
    """Return the processor time so far of this process and its workers."""
    this = psutil.Process()
    return sum(sum(process.cpu_times()[:2]) for process in (this, *this.children(recursive=True)))


def drained(batches: Iterator[Any], images: Callable[[Any], torch.Tensor]) -> tuple[float, float]:
    """Return samples per second and per processor-second of a whole epoch, from the request of the
    first batch on."""
    began = time.perf_counter()
    processor = processor_s()
    samples = 0
    for batch in batches:
        samples += len(images(batch))
    if not samples:
        raise RuntimeError("a side read nothing; see the warnings")
    return samples / (time.perf_counter() - began), samples / (processor_s() - processor)


def main() -> None:
    parser = parser_of("benchmarks.loader", __doc__)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--samples", type=int, default=2_000)
    parser.add_argument("--side", type=int, default=256, help="longest side of the images")
    parser.add_argument("--image-size", type=int, default=224)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--data", help="folder of shards to read instead")
    options = parser.parse_args()
    transform = open_clip.image_transform(options.image_size, is_train=True)
    tokenizer = open_clip.get_tokenizer("ViT-B-32")
    with tempfile.TemporaryDirectory() as folder:
        if not options.data:
            write_shards(Path(folder), options.samples, options.side, max(4, *options.workers))
        urls = find_shards(options.data or folder).urls
        print(
            f"{len(urls)} shards, batch {options.batch_size}, {options.image_size} px, torch"
            f" {torch.__version__}, webdataset {version('webdataset')}, median of {options.repeats}"
            " in turn; ratios to the first side\n"
        )
        head = ["workers", "side", "samples/s", "ratio", "samples/CPU-s", "ratio of CPU time"]
        rows = (
            row
            for workers in options.workers
            for row in measure(options, urls, workers, transform, tokenizer)
        )
        print_table(head, rows)


def measure(
    options: Any, urls: list[str], workers: int, transform: Any, tokenizer: Any
) -> Iterator[list[str]]:
    """Yield the rows of all sides with one number of workers."""
    folder = str(Path(urls[0]).parent)

    def ours(to_pixels: Any, **settings: Any) -> ShardLoader:
        return ShardLoader(
            DataSettings(sources=(Source(path=folder),), workers=workers, **settings),
            batch_size=options.batch_size,
            transform=to_pixels,
            tokenizer=tokenizer,
        )

    own = bytes_of(TransformSettings(), options.image_size, training=True)
    plain = ours(transform)
    as_bytes = ours(own)
    reduced = ours(own, decode_side=options.image_size)
    info = open_clip_data.get_wds_dataset(
        SimpleNamespace(
            train_data=urls[0] if len(urls) == 1 else braces(urls),
            train_num_samples=plain.samples_per_epoch,
            train_data_upsampling_factors=None,
            dataset_resampled=False,
            seed=0,
            batch_size=options.batch_size,
            workers=workers,
            world_size=1,
        ),
        transform,
        is_train=True,
        floor=True,
        tokenizer=tokenizer,
    )
    epochs = iter(range(10**6))

    def theirs() -> Iterator[Any]:
        info.set_epoch(next(epochs))
        return iter(info.dataloader)

    sides: dict[str, Callable[[], tuple[float, float]]] = {
        "open_clip webdataset": lambda: drained(theirs(), lambda batch: batch[0]),
        "ours, float32": lambda: drained(plain.epoch(next(epochs)), lambda batch: batch.images),
        "ours, bytes": lambda: drained(as_bytes.epoch(next(epochs)), lambda batch: batch.images),
        "ours, bytes, decode_side": lambda: drained(
            reduced.epoch(next(epochs)), lambda batch: batch.images
        ),
    }
    rates: dict[str, list[tuple[float, float]]] = {side: [] for side in sides}
    for repeat in range(options.repeats + 1):
        for side, run in sides.items():
            rate = run()  # a whole epoch
            if repeat:  # the first starts workers and fills caches
                rates[side].append(rate)
    anchor = np.median(rates["open_clip webdataset"], axis=0)
    for side, values in rates.items():
        wall, processor = np.median(values, axis=0)
        compared = f"{wall / anchor[0]:.2f}", f"{processor:.0f}", f"{processor / anchor[1]:.2f}"
        yield [str(workers), side, f"{wall:.0f}", *compared]
    for loader in (plain, as_bytes, reduced):
        loader.close()


def braces(urls: list[str]) -> str:
    """Return the shards, which must be numbered without gaps, as a brace pattern for open_clip."""
    first = Path(urls[0]).stem
    last = Path(urls[-1]).stem
    return f"{Path(urls[0]).parent}/{{{first}..{last}}}.tar"


if __name__ == "__main__":
    main()
