"""Images per second of our guarded download unit against plain img2dataset, on the same addresses.

    python -m benchmarks.download [--images 1000] [--repeats 3] [--threads 32]

A server process on this machine answers from memory. Each side is a separate process with one
download unit, as in a worker; the sides take turns, and rates and memory are medians. Both sides
reduce images to 512 pixels on the longest side and leave small JPEGs unchanged. CPU time excludes
the server and the loading of the tools.
"""

from __future__ import annotations

import argparse
import asyncio
import io
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from benchmarks.measuring import apart, memory_mib, parser_of, print_table

SIDES = ("plain img2dataset", "ours")
KINDS = 25
SIZES = ((320, 240), (480, 360), (640, 480), (800, 600), (1280, 960))


def photo(size: tuple[int, int], seed: int) -> Image.Image:
    """Return smooth colors with grain, which compress about as well as a photograph."""
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(0, 256, (12, 16, 3), dtype=np.uint8)).resize(
        size, Image.Resampling.BICUBIC
    )
    grain = rng.normal(0, 6, (size[1], size[0], 1))
    return Image.fromarray((np.asarray(small) + grain).clip(0, 255).astype(np.uint8))


def bodies() -> list[bytes]:
    found = []
    for seed in range(KINDS):
        photo(SIZES[seed % len(SIZES)], seed).save(out := io.BytesIO(), "JPEG", quality=85)
        found.append(out.getvalue())
    return found


async def serve() -> None:
    """Print the port, and answer requests from memory until standard input is closed."""
    answers = [
        f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n".encode()
        + body
        for body in bodies()
    ]

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            writer.write(answers[int(head.split(b" ", 2)[1][1:]) % KINDS])
            await writer.drain()
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0, backlog=512)
    print(server.sockets[0].getsockname()[1], flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    server.close()


def download(side: str, urls: list[str], folder: Path, threads: int, place: str) -> dict[str, Any]:
    """Run one download unit of a side. The seconds exclude the loading of the tools. `place` is a
    host and port from which our side may read although the address is local."""
    from open_diht.pipelines.fetch.fetcher import Fetcher
    from open_diht.pipelines.fetch.records import REQUESTED
    from open_diht.pipelines.fetch.settings import DownloadSettings
    from open_diht.pipelines.fetch.shard import fetch_shard
    from open_diht.pipelines.fetch.tool import load_tool

    load_tool()  # before the clock starts
    rows = [
        {"ordinal": n, "uid": f"{n:032x}", "caption": "An image", "url": url}
        for n, url in enumerate(urls)
    ]
    table = pa.Table.from_pylist(rows, REQUESTED)
    began = time.monotonic()
    cpu = time.process_time()
    if side == "ours":
        settings = DownloadSettings(threads=threads, allow=(place,))
        records, _ = fetch_shard(table, folder, "unit", settings, Fetcher(settings))
        stored = records["status"].to_pylist().count("ok")
    else:
        stored = plain(table.select(["ordinal", "uid", "caption", "url"]), folder, threads)
    return {
        "seconds": time.monotonic() - began,
        "cpu_s": time.process_time() - cpu,
        "rss_mib": memory_mib(),
        "stored": stored,
    }


def plain(table: pa.Table, folder: Path, threads: int) -> int:
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
        thread_count=threads,
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


def run_side(side: str, urls: list[str], threads: int, place: str) -> dict[str, Any]:
    """Run one side in its own process."""
    with tempfile.TemporaryDirectory() as folder:
        words = ["--side", side, "--place", place, "--threads", threads, "--folder", folder]
        said = apart("-m", "benchmarks.download", *words, given="\n".join(urls))
    answer: dict[str, Any] = json.loads(said.splitlines()[-1])
    return answer


def main() -> None:
    parser = parser_of("benchmarks.download", __doc__)
    parser.add_argument("--images", type=int, default=1_000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=32)
    for hidden in ("--side", "--folder", "--place"):
        parser.add_argument(hidden, help=argparse.SUPPRESS)
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        asyncio.run(serve())
    elif options.side:
        urls = sys.stdin.read().splitlines()
        print(
            json.dumps(
                download(options.side, urls, Path(options.folder), options.threads, options.place)
            )
        )
    else:
        compare(options.images, options.repeats, options.threads)


def compare(images: int, repeats: int, threads: int) -> None:
    command = [sys.executable, "-m", "benchmarks.download", "--serve"]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as server:
        assert server.stdout is not None and server.stdin is not None
        place = f"127.0.0.1:{int(server.stdout.readline())}"
        urls = [f"http://{place}/{n}" for n in range(images)]
        runs: dict[str, list[dict[str, Any]]] = {side: [] for side in SIDES}
        for _ in range(repeats):
            for side, done in runs.items():
                done.append(run_side(side, urls, threads, place))
        base = statistics.median(run["cpu_s"] for run in runs[SIDES[0]])

        def cells(side: str) -> list[str]:
            names = ("seconds", "cpu_s", "rss_mib")
            seconds, cpu, rss = (
                statistics.median(run[name] for run in runs[side]) for name in names
            )
            stored = str(runs[side][0]["stored"])
            return [
                side,
                stored,
                f"{images / seconds:.0f}",
                f"{images / cpu:.0f}",
                f"{base / cpu:.2f}",
                f"{rss:.0f}",
            ]

        print(f"{images} images, {threads} threads, median of {repeats} runs\n")
        print_table(
            ["side", "stored", "images/s", "per core-second", "ratio", "peak, MiB"],
            map(cells, SIDES),
        )
        server.stdin.close()


if __name__ == "__main__":
    main()
