"""Time and peak memory of the contrastive losses against the batch size n: InfoNCE, open_clip's
ClipLoss, and HN-NCE eager and in tiles.

    python -m benchmarks.losses [--n 512 1024 2048 4096] [--d 512] [--repeats 5]

It runs forward and backward passes on one thread of the CPU, float32, scale 1/0.07. The losses take
turns; times are medians of processor time, which includes drawing the features, and ratios to ClipLoss
are medians over the rounds. Peak memory (Linux) is the growth of a separate process for each loss and
n, features and their gradients included.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial

import torch
from open_clip.loss import ClipLoss
from torch import Tensor
from torch.nn.functional import normalize

from benchmarks.measuring import apart, in_turn, memory_mib, parser_of, print_table, ratios, start_peak
from open_diht.trainer.losses import HnNce, InfoNce

Loss = Callable[[Tensor, Tensor, Tensor], Tensor]
ANCHOR = "open_clip ClipLoss"
LOSSES: dict[str, Loss] = {
    ANCHOR: lambda x, y, t: ClipLoss()(normalize(x, dim=-1), normalize(y, dim=-1), t),
    "InfoNCE": lambda x, y, t: InfoNce(implementation="eager")(x, y, t)[0],
    "HN-NCE eager": lambda x, y, t: HnNce(beta=0.25, implementation="eager")(x, y, t)[0],
    "HN-NCE tiles": lambda x, y, t: HnNce(beta=0.25, implementation="tiles", chunk=256)(x, y, t)[0],
}


def once(name: str, n: int, d: int) -> None:
    """Draw features, and run one forward and backward pass.

    Args:
        name: a name in `LOSSES`.
        n: number of pairs.
        d: width of the features.
    """
    generator = torch.Generator().manual_seed(n)
    x, y = (torch.randn(n, d, generator=generator, requires_grad=True) for _ in range(2))
    LOSSES[name](x, y, torch.tensor(1 / 0.07, requires_grad=True)).backward()


def peak_mib(name: str, n: int, d: int) -> float:
    """Return the growth of this process's peak memory by one pass. Only the first call in a process
    is exact.

    Args:
        name: a name in `LOSSES`.
        n: number of pairs.
        d: width of the features.
    """
    once(name, 64, d)  # load code and start threads before the peak is counted
    start_peak()
    before = memory_mib()
    once(name, n, d)
    return memory_mib() - before


def rows(options: argparse.Namespace) -> Iterator[list[str]]:
    """Yield the table row of each loss at each n."""
    for n in options.n:
        sides = {name: partial(once, name, n, options.d) for name in LOSSES}
        times = in_turn(sides, options.repeats, time.process_time, warm=True)
        for name, seconds in times.items():
            peak = apart("-m", "benchmarks.losses", "--peak", name, "--n", n, "--d", options.d)
            _, ratio, _ = ratios(seconds, times[ANCHOR])
            yield [name, str(n), f"{1e3 * statistics.median(seconds):.0f}", f"{ratio:.2f}", f"{float(peak):.0f}"]


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table."""
    parser = parser_of("benchmarks.losses", __doc__)
    parser.add_argument("--n", type=int, nargs="+", default=[512, 1024, 2048, 4096])
    parser.add_argument("--d", type=int, default=512)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--peak", choices=list(LOSSES), help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    if options.peak:
        print(peak_mib(options.peak, options.n[0], options.d))
    else:
        print_table(["loss", "n", "ms", "x ClipLoss", "peak, MiB"], rows(options))


if __name__ == "__main__":
    main()
