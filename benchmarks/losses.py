"""Time and peak memory of the contrastive losses against the batch size n: InfoNCE, open_clip's ClipLoss, HN-NCE eager
and by tiles.

    python -m benchmarks.losses [--n 512 1024 2048 4096] [--d 512] [--repeats 5]

Forward and backward on one thread of the CPU, float32, scale 1/0.07. The losses take turns; times are medians with the
quartiles, and as a ratio to ClipLoss of the same run. Peak memory (Linux) is the growth of a process of its own for
each loss and n, features and their gradients included. The slope is that of log memory over log n between the two
largest n; it nears 2 where matrices of similarities are held, 1 where only features and tiles are.
"""

from __future__ import annotations

import argparse
import math
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from open_clip.loss import ClipLoss
from torch import Tensor
from torch.nn.functional import normalize

from open_diht.trainer.losses import HnNce, InfoNce

Loss = Callable[[Tensor, Tensor, Tensor], Tensor]


def _clip_loss(x: Tensor, y: Tensor, scale: Tensor) -> Tensor:
    return ClipLoss()(normalize(x, dim=-1), normalize(y, dim=-1), scale)


LOSSES: dict[str, Loss] = {
    "open_clip ClipLoss": _clip_loss,
    "InfoNCE": lambda x, y, t: InfoNce(implementation="eager")(x, y, t)[0],
    "HN-NCE eager": lambda x, y, t: HnNce(beta=0.25, implementation="eager")(x, y, t)[0],
    "HN-NCE tiles": lambda x, y, t: HnNce(beta=0.25, implementation="tiles", chunk=256)(x, y, t)[0],
}


def once(name: str, n: int, d: int) -> float:
    """Processor seconds of one forward and backward: what else the machine does is not in them."""
    generator = torch.Generator().manual_seed(n)
    x, y = (torch.randn(n, d, generator=generator, requires_grad=True) for _ in range(2))
    scale = torch.tensor(1 / 0.07, requires_grad=True)
    began = time.process_time()
    LOSSES[name](x, y, scale).backward()
    return time.process_time() - began


def peak_bytes(name: str, n: int, d: int) -> int:
    """Growth of this process's peak memory by one forward and backward. Only the first call in a process means
    anything."""
    once(name, 64, d)
    Path("/proc/self/clear_refs").write_text("5")  # the peak so far is that of the imports: begin anew
    before = _highest()
    once(name, n, d)
    return _highest() - before


def _highest() -> int:
    """Peak resident memory of this process, in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith("VmHWM:"))) * 1024


def in_a_process_of_its_own(name: str, n: int, d: int) -> int:
    """`peak_bytes` there."""
    command = [sys.executable, "-m", "benchmarks.losses", "--peak", name, "--n", str(n), "--d", str(d)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return int(subprocess.run(command, check=True, capture_output=True, text=True, env=environment).stdout)


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, nargs="+", default=[512, 1024, 2048, 4096])
    parser.add_argument("--d", type=int, default=512)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--peak", choices=list(LOSSES), help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    if options.peak:
        print(peak_bytes(options.peak, options.n[0], options.d))
        return 0
    print(f"d {options.d}, one thread, {options.repeats} repeats; torch {torch.__version__}, {os.cpu_count()} cores")
    print(f"{'loss':<20}{'n':>7}{'median':>10}{'quartiles':>18}{'x ClipLoss':>12}{'peak MiB':>10}")
    memory: dict[str, list[int]] = {name: [] for name in LOSSES}
    for n in options.n:
        times: dict[str, list[float]] = {name: [] for name in LOSSES}
        for name in LOSSES:
            once(name, n, options.d)  # warm
        for _ in range(options.repeats):
            for name in LOSSES:
                times[name].append(once(name, n, options.d))
        for name, seconds in times.items():
            low, middle, high = statistics.quantiles(seconds, n=4)
            ratio = statistics.median(a / b for a, b in zip(seconds, times["open_clip ClipLoss"], strict=True))
            memory[name].append(in_a_process_of_its_own(name, n, options.d))
            print(
                f"{name:<20}{n:>7}{middle * 1e3:>8.0f}ms{low * 1e3:>9.0f}-{high * 1e3:.0f}ms".ljust(55)
                + f"{ratio:>12.2f}{memory[name][-1] / 2**20:>10.0f}"
            )
    if len(options.n) > 1:
        grown = math.log(options.n[-1] / options.n[-2])
        slopes = (f"{name} {math.log(max(m[-1], 1) / max(m[-2], 1)) / grown:.2f}" for name, m in memory.items())
        print("slope of memory: " + ", ".join(slopes))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
