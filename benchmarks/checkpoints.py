"""The cost of a checkpoint: seconds, bytes, and the fraction of training it takes.

    python -m benchmarks.checkpoints [--model ViT-B-32] [--repeats 3] [--folder DIR]

It writes a student with both heads and its AdamW state as the trainer does (safetensors,
torch.save, SHA-256, fsync, rename), in turn with a bare `torch.save` of the same without hash and
fsync; then it loads and verifies it. `--folder` chooses the disk. The fraction is for the default
schedule, a checkpoint per 20 M samples, at a given speed (`--samples-per-s`; the default is about
what 176 GPUs reach for ViT-B/16 in published runs).
"""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Sequence
from itertools import count
from pathlib import Path
from typing import Any

import torch

from benchmarks.measuring import in_turn, parser_of, print_table
from open_diht.trainer.checkpoint import Checkpoint, Checkpoints
from open_diht.trainer.config import CheckpointSettings, ConceptSettings, ModelSettings, OptimizerSettings
from open_diht.trainer.model import build_student
from open_diht.trainer.optim import build_optimizer
from open_diht.trainer.stores import LocalStore


def trained(model: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the weights, and the states of the heads and AdamW, after one step with gradients of 0."""
    sizes = {"objects": 10_000, "attributes": 10_000}
    student, _, _ = build_student(ModelSettings(name=model), ConceptSettings(), sizes)
    optimizer = build_optimizer(student, OptimizerSettings(), ConceptSettings())
    for parameter in student.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    return student.clip.state_dict(), {"heads": student.heads.state_dict(), "optimizer": optimizer.state_dict()}


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table."""
    parser = parser_of("benchmarks.checkpoints", __doc__)
    parser.add_argument("--model", default="ViT-B-32")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--folder", type=Path, help="where to write (a temporary folder)")
    parser.add_argument("--samples-per-s", type=float, default=56_000)
    options = parser.parse_args(arguments)
    model, training = trained(options.model)
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        checkpoints = Checkpoints(LocalStore(Path(name) / "ours"), CheckpointSettings(keep_last=1))
        steps = count(1)

        def save() -> None:
            step = next(steps)
            checkpoints.save(Checkpoint(step=step, samples=step, model=model, training=training))

        sides = {
            "ours": save,
            "torch.save": lambda: torch.save({"model": model, **training}, Path(name) / "bare.pt"),
            "load, verified": checkpoints.newest,
        }
        times = in_turn(sides, options.repeats)
        size = sum(file.stat().st_size for file in Path(checkpoints.place(checkpoints.steps()[-1])).iterdir())
    print(f"{options.model} with two heads of 10,000: {size / 2**20:,.0f} MiB; median of {options.repeats}\n")
    print_table(
        ["side", "seconds", "least", "most"],
        ([side, *(f"{f(each):.2f}" for f in (statistics.median, min, max))] for side, each in times.items()),
    )
    cost, between = statistics.median(times["ours"]), CheckpointSettings().every_samples / options.samples_per_s
    print(f"\n{cost / (cost + between):.2%} of training, with one each {between:,.0f} s")


if __name__ == "__main__":
    main()
