"""Run and measure the whole GPU path of the training.

    python -m benchmarks.gpu [--parts steps losses ...] [--output gpu.json] [--tiny]

Each part is a separate process, ended after ten minutes; if one fails, the report says so and the
others still run:

    precisions  steps in fp32, bf16 and fp16 learn a batch; optimizer, non-finite steps, syncs a
    step waits for steps       ViT-B/32 and B/16 and open_clip's in the same run, with and without
    compile: seconds, MFU, memory losses      HN-NCE eager, tiled and by the kernels, open_clip's
    loss: time, peak memory, HN-NCE's error to float64 memory      memory of a pair by the probe,
    and the peak of steps in one and in two micro-batches loader      a training on shards with 1,
    2, 4, 8 workers: pairs per second, data wait resume      whether a training resumed halfway ends
    with the weights of one that ran through nccl        one rank: gather with gradient, DDP
    concepts    the default teacher in float32 and bf16: images per second, agreement

The program prints Markdown for RESULTS.md and with --output writes JSON, both with the name of the
device. --tiny is a smoke test: it runs the parts at tiny sizes in one process (a minute for all),
and a part that fails ends the run. Parts that need CUDA report if it is missing.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks import gpu_parts
from benchmarks.measuring import parser_of

LIMIT_S = 600
Row = dict[str, Any]


def device() -> str:
    if torch.cuda.is_available():
        about = torch.cuda.get_device_properties(0)
        return f"{about.name}, {about.total_memory / 2**30:.0f} GiB, CUDA {torch.version.cuda}"
    return f"CPU, {os.cpu_count()} cores, {platform.machine()}"


def here(name: str, tiny: bool) -> Row:
    """Run one part in this process, and return its rows and seconds."""
    began = time.perf_counter()
    rows = gpu_parts.PARTS[name](gpu_parts.TINY if tiny else gpu_parts.Sizes())
    return {
        "part": name,
        "seconds": round(time.perf_counter() - began, 1),
        "rows": rows,
        "error": "",
    }


def apart(name: str) -> Row:
    """Run one part in its own process. Return its rows and seconds, and the error if it failed."""
    began = time.perf_counter()
    with tempfile.NamedTemporaryFile("r", suffix=".json") as found:
        command = [sys.executable, "-m", "benchmarks.gpu", "--part", name, "--output", found.name]
        try:
            done = subprocess.run(command, stderr=subprocess.PIPE, text=True, timeout=LIMIT_S)
            error = (
                ""
                if done.returncode == 0
                else (done.stderr.strip().splitlines() or ["ended without a word"])[-1]
            )
        except subprocess.TimeoutExpired:
            error = f"not done within {LIMIT_S} s"
        content = found.read()
    if content and not error:
        result: Row = json.loads(content)
        return result
    return {
        "part": name,
        "seconds": round(time.perf_counter() - began, 1),
        "rows": [],
        "error": error,
    }


def markdown(results: Sequence[Row], about: str) -> str:
    lines = [f"`python -m benchmarks.gpu`, {about}, torch {torch.__version__}."]
    for result in results:
        lines += ["", f"**{result['part']}** ({result['seconds']:.0f} s)", ""]
        columns = list(dict.fromkeys(key for row in result["rows"] for key in row))
        if columns:
            lines += [f"| {' | '.join(columns)} |", "|" + "---|" * len(columns)]
            lines += [
                f"| {' | '.join(_cell(row.get(column)) for column in columns)} |"
                for row in result["rows"]
            ]
        if result["error"]:
            lines += ["", f"failed: {result['error']}"]
    return "\n".join(lines)


def _cell(value: Any) -> str:
    return "" if value is None else f"{value:.3g}" if isinstance(value, float) else str(value)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line. Return 1 if a part in its own process failed."""
    parser = parser_of("benchmarks.gpu", __doc__)
    parser.add_argument(
        "--parts", nargs="+", choices=list(gpu_parts.PARTS), default=list(gpu_parts.PARTS)
    )
    parser.add_argument("--output", type=Path, help="file for the results as JSON")
    parser.add_argument("--tiny", action="store_true", help="sizes that a CPU does in a minute")
    parser.add_argument("--part", choices=list(gpu_parts.PARTS), help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if not options.tiny and not torch.cuda.is_available():
        parser.error("torch sees no GPU; --tiny runs it at tiny sizes on the CPU")
    if options.part:
        options.output.write_text(json.dumps(here(options.part, tiny=False)))
        return 0
    results = []
    for name in options.parts:
        results.append(here(name, tiny=True) if options.tiny else apart(name))
        print(
            f"{name}: {results[-1]['error'] or 'done'} ({results[-1]['seconds']:.0f} s)",
            file=sys.stderr,
            flush=True,
        )
    print(markdown(results, device()))
    if options.output:
        content = {
            "device": device(),
            "torch": torch.__version__,
            "tiny": options.tiny,
            "parts": results,
        }
        options.output.write_text(json.dumps(content, indent=1) + "\n")
    return int(any(result["error"] for result in results))


if __name__ == "__main__":
    raise SystemExit(main())
