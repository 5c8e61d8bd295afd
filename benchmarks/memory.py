"""The memory of a pair, and the settings that follow from it: the table of `docs/howto/train.md`.

    python -m benchmarks.memory [CONFIG ...]

For each configuration, without concept heads, it prints: weights; gradients, moments, images and
features of a rank; MiB that a pair takes from the forward to the backward pass; and, for GPUs of
several sizes, the `schedule.micro_batches` that the configuration's batch needs on eight such GPUs,
or "no" if it does not fit. `open_diht.trainer.memory` counts all but the weights. This takes
seconds, on tensors without memory (torch's FakeTensorMode for a CPU, in the configuration's
precision).
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from torch._subclasses.fake_tensor import FakeTensorMode

from open_diht.common.command_line import WrongUse
from open_diht.trainer.architecture import input_shape, tokenizer
from open_diht.trainer.config_files import load_config
from open_diht.trainer.memory import need
from open_diht.trainer.model import build_student

CONFIGS = ("vit-b-32", "vit-b-16", "vit-l-14", "vit-l-14-336")
GPUS_GIB = (24, 40, 80, 141)
RANKS = 8


def row(name: str) -> str:
    config = load_config(name, ["data.sources=[{path: none}]"])
    pairs = config.schedule.batch_size // RANKS
    with FakeTensorMode(allow_non_fake_inputs=True):
        student, architecture, _ = build_student(
            config.model, config.concepts, {}, config.transform, config.run.precision
        )
        student.train()
        shape = input_shape(student.clip, architecture)
        tokens = tokenizer(architecture)(["a caption"])
        needed = need(student, shape, tokens, pairs, RANKS)
    weights = 4 * sum(parameter.numel() for parameter in student.parameters())
    cells = []
    for gib in GPUS_GIB:
        try:
            parts = needed.parts(pairs, gib * 2**30 - weights)
            cells.append(str(parts))
        except WrongUse:
            cells.append("no")
    sizes = f"{weights / 2**30:.1f} | {needed.fixed / 2**30:.1f} | {needed.per_pair / 2**20:.0f}"
    return f"| `{name}` | {sizes} | {' | '.join(cells)} |"


def main(names: Sequence[str]) -> None:
    gpus = " | ".join(f"{gib} GiB" for gib in GPUS_GIB)
    print(f"| config | weights (GiB) | fixed (GiB) | pair (MiB) | {gpus} |")
    print(f"|---|{'--:|' * (3 + len(GPUS_GIB))}")
    for name in names or CONFIGS:
        print(row(name), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
