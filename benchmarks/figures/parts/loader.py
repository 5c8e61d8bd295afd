"""Pairs per second of our loader, of open_clip's webdataset pipeline on the same shards, and of
`torch.utils.data` over files.

The shards hold photographs (scikit-image's, cropped at random, JPEG). All sides get the same crop,
tokenizer, batch size and number of worker processes; rates count the pairs that a side returns, and
processor time is that of all its processes. A first epoch, which starts workers and fills caches,
is not measured. Ours has three forms: float32 images by open_clip's transform; bytes, which the
training normalizes on its device; and bytes with `decode_side`, which decodes large JPEGs at a
fraction of their size. "open_clip" is `get_wds_dataset` of open_clip_train, called as a library,
and the files are read by its `CsvDataset`.
"""

from __future__ import annotations

import csv
import json
import random
import tarfile
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import open_clip
import psutil
import skimage.data
import torch
from PIL import Image

from benchmarks.figures.answering import peak_mib
from benchmarks.figures.figure import Figure
from benchmarks.figures.turns import Entrant, Process, sides_of, take_turns
from open_diht.eval.fetch.archives import Sample, jpeg, write_tar
from open_diht.trainer.config import TransformSettings
from open_diht.trainer.data import DataSettings, ShardLoader, Source
from open_diht.trainer.data.sources import find_shards
from open_diht.trainer.transforms import transform as bytes_of

MINUTES = 4
PEERS = None
BATCH = 64
SIZE = 224
ANCHOR = "open_clip, webdataset"
OURS = "ours, bytes"
NOTE = (
    "A user of open_clip_train sets --workers and --batch-size; its webdataset pipeline is what"
    " --dataset-type webdataset runs, and its CsvDataset what --dataset-type csv runs, here with"
    " workers that stay from epoch to epoch."
)
Epoch = Callable[[int], int]
Started = tuple[Epoch, Callable[[], float], Callable[[], float]]


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


def braces(urls: list[str]) -> str:
    """Return the shards, which must be numbered without gaps, as a brace pattern for open_clip."""
    first = Path(urls[0]).stem
    last = Path(urls[-1]).stem
    return f"{Path(urls[0]).parent}/{{{first}..{last}}}.tar"


def write_files(shards: Path, folder: Path) -> Path:
    """Write the pairs of shards as files, and return a table of their paths and captions."""
    folder.mkdir()
    with (folder / "pairs.csv").open("w", newline="") as table:
        rows = csv.writer(table)
        rows.writerow(["filepath", "title"])
        for shard in sorted(shards.glob("*.tar")):
            with tarfile.open(shard) as tar:
                contents = {member.name: tar.extractfile(member).read() for member in tar}  # type: ignore[union-attr]
            for name, content in contents.items():
                if name.endswith(".jpg"):
                    (folder / name).write_bytes(content)
                    caption = contents[name.removesuffix("jpg") + "txt"].decode()
                    rows.writerow([folder / name, caption])
    return folder / "pairs.csv"


def count(batches: Iterable[Any], images: Callable[[Any], torch.Tensor]) -> int:
    found = sum(len(images(batch)) for batch in batches)
    if not found:
        raise RuntimeError("a side read nothing")
    return found


def webdataset(shards: str, pairs: int, workers: int, batch: int) -> Started:
    from open_clip_train.data import get_wds_dataset

    urls = find_shards(shards).urls
    given = SimpleNamespace(
        train_data=urls[0] if len(urls) == 1 else braces(urls),
        train_num_samples=pairs,
        train_data_upsampling_factors=None,
        dataset_resampled=False,
        seed=0,
        batch_size=batch,
        workers=workers,
        world_size=1,
    )
    info = get_wds_dataset(
        given,
        open_clip.image_transform(SIZE, is_train=True),
        is_train=True,
        floor=True,
        tokenizer=open_clip.get_tokenizer("ViT-B-32"),
    )

    def epoch(number: int) -> int:
        info.set_epoch(number)
        return count(info.dataloader, lambda batch: batch[0])

    return epoch, processor_s, peak_mib


def files(table: str, workers: int, batch: int) -> Started:
    from open_clip_train.data import CsvDataset
    from torch.utils.data import DataLoader

    transform = open_clip.image_transform(SIZE, is_train=True)
    tokenizer = open_clip.get_tokenizer("ViT-B-32")
    loader = DataLoader(
        CsvDataset(table, transform, "filepath", "title", ",", tokenizer),
        batch_size=batch,
        shuffle=True,
        num_workers=workers,
        drop_last=True,
        persistent_workers=True,
    )
    return lambda _: count(loader, lambda batch: batch[0]), processor_s, peak_mib


def ours(shards: str, workers: int, batch: int, form: str) -> Started:
    transform = (
        open_clip.image_transform(SIZE, is_train=True)
        if form == "float32"
        else bytes_of(TransformSettings(), SIZE, training=True)
    )
    reduced: dict[str, Any] = {"decode_side": SIZE} if form == "bytes, decode_side" else {}
    loader = ShardLoader(
        DataSettings(sources=(Source(path=shards),), workers=workers, **reduced),
        batch_size=batch,
        transform=transform,
        tokenizer=open_clip.get_tokenizer("ViT-B-32"),
    )
    return (
        lambda number: count(loader.epoch(number), lambda batch: batch.images),
        processor_s,
        peak_mib,
    )


def entrants(folder: Path, pairs: int, side: int, workers: int, batch: int) -> dict[str, Entrant]:
    """Write the pairs to a folder, and return the sides that read them. `side` is the longest side
    of the images in pixels."""
    shards = folder / "shards"
    shards.mkdir(parents=True)
    write_shards(shards, pairs, side, 4)
    common: dict[str, Any] = {"workers": workers, "batch": batch}
    own = partial(Process, __name__, **common)
    peer = f"{version('open_clip_torch')}, webdataset {version('webdataset')}"
    table = write_files(shards, folder / "files")
    return {
        ANCHOR: Entrant(peer, common, partial(own, "webdataset", shards=shards, pairs=pairs)),
        "torch.utils.data over files": Entrant(
            torch.__version__, {**common, "shuffle": True}, partial(own, "files", table=table)
        ),
        **{
            f"ours, {form}": Entrant(
                "", {**common, "form": form}, partial(own, "ours", shards=shards, form=form)
            )
            for form in ("float32", "bytes", "bytes, decode_side")
        },
    }


def measure(quick: bool, work: Path) -> list[Figure]:
    workers, batch, epochs = (1, 2, 1) if quick else (2, BATCH, 3)
    figures = []
    for side, pairs in ((32, 8),) if quick else ((256, 1_280), (512, 768)):
        known = entrants(work / str(side), pairs, side, workers, batch)
        if quick:
            known = {name: known[name] for name in (ANCHOR, OURS)}
        answers = {name: given[1:] for name, given in take_turns(known, range(epochs + 1)).items()}
        wall = {name: [one.value / one.wall_s for one in given] for name, given in answers.items()}
        cpu = {name: [one.value / one.cpu_s for one in given] for name, given in answers.items()}
        what = f"{pairs:,} photographs of {side} px to {SIZE} px, {workers} worker processes"
        figures += [
            Figure(f"loader-{side}", "pairs per second", what, sides_of(known, wall), ANCHOR, NOTE),
            Figure(
                f"loader-{side}-cpu",
                "pairs per core-second",
                what,
                sides_of(known, cpu),
                ANCHOR,
                NOTE,
            ),
        ]
    return figures
