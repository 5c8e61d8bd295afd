"""Images per second of our guarded download unit and of img2dataset, from the same addresses.

A thread of this process answers from memory on a local port: of 25 addresses 21 have a photograph,
and the others answer 404, an HTML page, a truncated JPEG, and first 503. Each side is a process
with one download unit, as in a worker, and both reduce images to 512 pixels on the longest side,
leave small JPEGs unchanged and try twice. CPU time excludes the server and the loading of the
tools.
"""

from __future__ import annotations

import asyncio
import io
import itertools
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from benchmarks.figures.figure import Figure
from benchmarks.figures.turns import Entrant, Process, sides_of, take_turns

MINUTES = 3
PEERS = None
THREADS = 32
KINDS = 25
MISSING = 21
SIZES = ((320, 240), (480, 360), (640, 480), (800, 600), (1280, 960))
PLAIN = "img2dataset"
OURS = "ours"
NOTE = (
    "A user of img2dataset sets --thread_count 32 --retries 1 --resize_mode keep_ratio_largest"
    " --image_size 512 --skip_reencode True and one process. It stores truncated JPEGs, one address"
    " in 25, and we do not: we decode each file to its end."
)


def photo(size: tuple[int, int], seed: int) -> Image.Image:
    """Return smooth colors with grain, which compress about as well as a photograph."""
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(0, 256, (12, 16, 3), dtype=np.uint8)).resize(
        size, Image.Resampling.BICUBIC
    )
    grain = rng.normal(0, 6, (size[1], size[0], 1))
    return Image.fromarray((np.asarray(small) + grain).clip(0, 255).astype(np.uint8))


def answers_of() -> list[bytes]:
    """Return the answer to each kind of address."""
    found = []
    for seed in range(KINDS):
        photo(SIZES[seed % len(SIZES)], seed).save(out := io.BytesIO(), "JPEG", quality=85)
        status, body = "200 OK", out.getvalue()
        if seed == MISSING:
            status, body = "404 Not Found", b"gone"
        elif seed == 22:
            body = b"<!doctype html><title>not an image</title>"
        elif seed == 23:
            body = body[: len(body) // 2]
        head = f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
        found.append(head.encode() + body)
    return found


BUSY = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"


@contextmanager
def server() -> Iterator[str]:
    """Yield the host and port of a server. Of each kind 24 the first request of an address gets
    503."""
    answers = answers_of()
    asked: set[bytes] = set()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            path = (await reader.readuntil(b"\r\n\r\n")).split(b" ", 2)[1]
            if path == b"/robots.txt":
                writer.write(answers[MISSING])
                return
            kind = int(path.rpartition(b"/")[2]) % KINDS
            writer.write(BUSY if kind == 24 and path not in asked else answers[kind])
            asked.add(path)
            await writer.drain()
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    # The loop lives in its thread alone: the caller's thread may have a loop of its own.
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    start = asyncio.start_server(answer, "127.0.0.1", 0, backlog=512)
    listening = asyncio.run_coroutine_threadsafe(start, loop).result()
    try:
        yield f"127.0.0.1:{listening.sockets[0].getsockname()[1]}"
    finally:
        loop.call_soon_threadsafe(listening.close)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()


def downloading(side: str, place: str, work: str) -> Callable[[int], int]:
    """Return a function that downloads one unit, of so many addresses, and returns the number of
    stored images. `place` is the server, from which our side may read although it is local."""
    from open_diht.pipelines.fetch.fetcher import Fetcher
    from open_diht.pipelines.fetch.records import REQUESTED
    from open_diht.pipelines.fetch.settings import DownloadSettings
    from open_diht.pipelines.fetch.shard import fetch_shard
    from open_diht.pipelines.fetch.tool import load_tool

    load_tool()  # before the clock starts
    numbers = itertools.count()

    def unit(count: int) -> int:
        # Each unit has addresses of its own, so that it meets its own first 503.
        folder = Path(work) / f"{side}-{next(numbers)}"
        folder.mkdir()
        rows = [
            {
                "ordinal": n,
                "uid": f"{n:032x}",
                "caption": "An image",
                "url": f"http://{place}/{folder.name}/{n}",
            }
            for n in range(count)
        ]
        table = pa.Table.from_pylist(rows, REQUESTED)
        if side == PLAIN:
            return plain(table.select(["ordinal", "uid", "caption", "url"]), folder)
        settings = DownloadSettings(threads=THREADS, retries=1, allow=(place,))
        records, _ = fetch_shard(table, folder, "unit", settings, Fetcher(settings))
        return int(records["status"].to_pylist().count("ok"))

    return unit


def plain(table: pa.Table, folder: Path) -> int:
    """Download with img2dataset's classes, with one retry; obey opt-out headers. Return the number
    of stored images."""
    from img2dataset.downloader import Downloader
    from img2dataset.resizer import Resizer
    from img2dataset.writer import WebDatasetSampleWriter

    with (
        pa.OSFile(str(folder / "asked.arrow"), "wb") as sink,
        pa.ipc.new_file(sink, table.schema) as writer,
    ):
        writer.write_table(table)
    Downloader(
        WebDatasetSampleWriter,
        Resizer(512, "keep_ratio_largest", True, skip_reencode=True),
        thread_count=THREADS,
        save_caption=True,
        extract_exif=False,
        output_folder=str(folder),
        column_list=table.column_names,
        timeout=10,
        number_sample_per_shard=table.num_rows + 10,
        oom_shard_count=5,
        compute_hash="sha256",
        verify_hash_type=None,
        encode_format="jpg",
        retries=1,
        user_agent_token="img2dataset",
        disallowed_header_directives=["noai", "noimageai", "noindex", "noimageindex"],
    ).download_shard((0, str(folder / "asked.arrow")))
    return int(pq.read_table(folder / "00000.parquet")["status"].to_pylist().count("success"))


def measure(quick: bool, work: Path) -> list[Figure]:
    images, repeats = (50, 1) if quick else (1_000, 3)
    settings = {"processes": 1, "threads": THREADS, "retries": 1}
    with server() as place:
        known = {
            side: Entrant(
                version("img2dataset") if side == PLAIN else "",
                settings,
                partial(
                    Process,
                    __name__,
                    "downloading",
                    side=side,
                    place=place,
                    work=work,
                ),
            )
            for side in (PLAIN, OURS)
        }
        asked = take_turns(known, [KINDS, *[images] * repeats])
    answers = {name: given[1:] for name, given in asked.items()}
    what = f"{images:,} addresses, {images * 22 // KINDS:,} with an image"

    def figure(name: str, unit: str, value: Callable[[Any], float], note: str = "") -> Figure:
        values = {side: [value(one) for one in given] for side, given in answers.items()}
        return Figure(name, unit, what, sides_of(known, values), PLAIN, note)

    return [
        figure("download-cpu", "addresses per core-second", lambda one: images / one.cpu_s, NOTE),
        figure("download", "addresses per second", lambda one: images / one.wall_s, NOTE),
        figure("download-stored", "images stored", lambda one: float(one.value)),
        figure("download-memory", "MiB, peak", lambda one: one.mib),
    ]
