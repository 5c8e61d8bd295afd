"""Images per second of our guarded download unit against plain img2dataset, on the same addresses.

    python -m benchmarks.download [--images 1000] [--repeats 3] [--threads 32]

A server on this machine, a process of its own, answers from memory. Each side is a process of its own with one
download unit as a worker has it; the sides take turns, and the table has the medians. Both reduce to 512 pixels on the
longest side and leave small JPEGs as they are. CPU time is the side's own, without the server's.

The second table asks what the sides store of images that are not what they seem: cut off, turned by their EXIF
orientation, in CMYK, HTML, and those whose server says noai.
"""

from __future__ import annotations

import argparse
import asyncio
import io
import json
import os
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from open_diht.common.run_command import ONE_THREAD

SIDES = ("plain img2dataset", "ours")
SIZES = ((320, 240), (480, 360), (640, 480), (800, 600), (1280, 960))


def photo(size: tuple[int, int], seed: int) -> Image.Image:
    """Smooth colours with grain: compresses about as a photograph does."""
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(0, 256, (12, 16, 3), dtype=np.uint8)).resize(size, Image.Resampling.BICUBIC)
    grain = rng.normal(0, 6, (size[1], size[0], 1))
    return Image.fromarray((np.asarray(small) + grain).clip(0, 255).astype(np.uint8))


def _saved(image: Image.Image, kind: str = "JPEG", **more: Any) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **more)
    return out.getvalue()


def pages() -> dict[str, tuple[bytes, str]]:
    """Body and more headers by name."""
    found = {f"good-{n}": (_saved(photo(SIZES[n % len(SIZES)], n), quality=85), "") for n in range(25)}
    exif = Image.Exif()
    exif[0x0112] = 6
    whole = _saved(photo((640, 480), 99))
    return {
        **found,
        "cut off": (whole[: len(whole) // 2], ""),
        "turned": (_saved(photo((640, 480), 99), exif=exif), ""),
        "cmyk": (_saved(photo((640, 480), 99).convert("CMYK"), "TIFF"), ""),
        "gif": (_saved(photo((320, 240), 99).convert("P"), "GIF"), ""),
        "html": (b"<!DOCTYPE html><html></html>", ""),
        "noai": (whole, "X-Robots-Tag: noai\r\n"),
        "noai for us": (whole, "X-Robots-Tag: otherbot: noindex, img2dataset: noai\r\n"),
    }


async def serve() -> None:
    """Answers from memory until standard input is closed; says its port."""
    answers = {
        name: f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\n{more}Connection: close\r\n\r\n".encode() + body
        for name, (body, more) in pages().items()
    }

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            name = head.split(b" ", 2)[1].decode()[1:].partition("?")[0].replace("%20", " ")
            writer.write(answers[name])
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
    """One unit of one side; seconds exclude the loading of the tools."""
    from open_diht.pipelines.fetch import DownloadSettings, Fetcher
    from open_diht.pipelines.fetch.records import ASKED
    from open_diht.pipelines.fetch.shard import fetch_shard
    from open_diht.pipelines.fetch.tool import load_tool

    load_tool()
    rows = [{"ordinal": n, "uid": f"{n:032x}", "caption": "An image", "url": url} for n, url in enumerate(urls)]
    table = pa.Table.from_pylist(rows, ASKED)
    began, cpu = time.monotonic(), time.process_time()
    if side == "ours":
        settings = DownloadSettings(threads=threads, allow=(place,))
        records, _ = fetch_shard(table, folder, "unit", settings, Fetcher(settings))
        statuses = records["status"].to_pylist()
    else:
        statuses = plain(table.select(["ordinal", "uid", "caption", "url"]), folder, threads)
    return {
        "seconds": time.monotonic() - began,
        "cpu_s": time.process_time() - cpu,
        "rss_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "statuses": statuses,
    }


def plain(table: pa.Table, folder: Path, threads: int) -> list[str]:
    """img2dataset as its command line sets it up, opt-out headers obeyed."""
    from img2dataset.downloader import Downloader
    from img2dataset.resizer import Resizer
    from img2dataset.writer import WebDatasetSampleWriter

    with pa.OSFile(str(folder / "asked.arrow"), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
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
    written = pq.read_table(folder / "00000.parquet").sort_by("ordinal").to_pylist()
    return [
        f"stored {row['width']}x{row['height']}" if row["status"] == "success" else row["status"] for row in written
    ]


def run_side(side: str, urls: list[str], threads: int, place: str) -> dict[str, Any]:
    """One side in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.download", "--side", side, "--place", place]
    command += ["--threads", str(threads)]
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            [*command, "--folder", folder],
            input="\n".join(urls),
            stdout=subprocess.PIPE,
            text=True,
            check=True,
            env={**os.environ, **ONE_THREAD},
        )
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
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
        print(json.dumps(download(options.side, urls, Path(options.folder), options.threads, options.place)))
    else:
        compare(options.images, options.repeats, options.threads)


def compare(images: int, repeats: int, threads: int) -> None:
    """Prints both tables."""
    with subprocess.Popen(
        [sys.executable, "-m", "benchmarks.download", "--serve"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as server:
        assert server.stdout is not None and server.stdin is not None
        place = f"127.0.0.1:{int(server.stdout.readline())}"
        urls = [f"http://{place}/good-{n % 25}?{n}" for n in range(images)]
        runs: dict[str, list[dict[str, Any]]] = {side: [] for side in SIDES}
        for repeat in range(repeats):
            for side in random.Random(repeat).sample(SIDES, len(SIDES)):
                runs[side].append(run_side(side, urls, threads, place))
        print(f"{images} images, {threads} threads, median of {repeats} runs")
        print(f"{'side':<20}{'stored':>8}{'images/s':>12}{'per core-s':>12}{'ratio':>8}{'peak MiB':>10}")
        base = statistics.median(run["cpu_s"] for run in runs[SIDES[0]])
        for side, done in runs.items():
            seconds, cpu, rss = (
                statistics.median(run[name] for run in done) for name in ("seconds", "cpu_s", "rss_mib")
            )
            stored = Counter(status == "ok" or status.startswith("stored") for status in done[0]["statuses"])[True]
            rates = f"{images / seconds:>12.0f}{images / cpu:>12.0f}{base / cpu:>8.2f}"
            print(f"{side:<20}{stored:>8}{rates}{rss:>10.0f}")
        odd = [name for name in pages() if not name.startswith("good")]
        verdicts = {
            side: run_side(side, [f"http://{place}/{name}".replace(" ", "%20") for name in odd], 4, place)
            for side in SIDES
        }
        print(f"\n{'an image that is':<20}{SIDES[0]:>24}{SIDES[1]:>20}")
        for name, *theirs in zip(odd, *(verdicts[side]["statuses"] for side in SIDES), strict=True):
            print(f"{name:<20}{theirs[0]:>24}{theirs[1]:>20}")
        server.stdin.close()


if __name__ == "__main__":
    main()
